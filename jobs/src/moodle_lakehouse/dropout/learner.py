"""The learner: gradient-boosted trees of xgboost.spark, calibrated on what they were not trained on.

Everything that knows how to fit, calibrate and predict stands here, for training and evaluation alike.
A fitted model is a booster and a description of what it expects, both plain JSON.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import Imputer, StandardScaler, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.dropout import features, labels
from moodle_lakehouse.errors import LakehouseError, bullet_list
from moodle_lakehouse.lake import point_in_time

log = logging.getLogger(__name__)

SEED = 20131
FOLDS = 5

# Below this a model would learn noise and its calibration would be luck.
LEAST_COURSES = 2
LEAST_ENROLMENTS = 100
LEAST_OF_EACH = 20

# Few, shallow, well-fed trees: rows of one enrolment in many weeks are alike, so a leaf of fewer rows is a few
# students seen often. Of few rows a leaf needs no more than their LEAVES-th part, else no tree would grow.
XGB_PARAMS: dict[str, Any] = {
    "n_estimators": 200,
    "max_depth": 4,
    "learning_rate": 0.05,
    "min_child_weight": 200.0,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "tree_method": "hist",
    "random_state": SEED,
}

LEAVES = 50

# Processes that learn together agree on every level of every tree: with 100,000 rows two took 10 s, one 6.
ROWS_PER_WORKER = 200_000

CALIBRATION = "Platt's curve, its slope by week"

KEYS = ("userid", "courseid", "week")


class TooLittleDataError(LakehouseError):
    """A model is refused; what says what is missing."""


@dataclass(frozen=True)
class Course:
    """A finished course as training sees it."""

    courseid: int
    shortname: str
    start_at: dt.datetime
    students: int
    positives: int


@dataclass(frozen=True)
class Curve:
    """Platt's calibration: the logistic curve from a booster's margin (log odds) to the probability.

    Its slope changes evenly with the weeks up to last_week: the more of a course is over, the surer is the same margin.
    """

    slope: float = 1.0
    intercept: float = 0.0
    slope_by_week: float = 0.0
    last_week: int = 0

    def probability(self, margin: np.ndarray, week: np.ndarray) -> np.ndarray:
        slope = self.slope + self.slope_by_week * np.minimum(week, self.last_week)
        return np.asarray(1 / (1 + np.exp(-(slope * margin + self.intercept))))

    def rises(self) -> bool:
        """Whether a higher margin is a higher probability in every week."""
        return min(self.slope, self.slope + self.slope_by_week * self.last_week) > 0

    def column(self) -> Column:
        """The same of the columns margin and week."""
        slope = F.lit(self.slope) + F.lit(self.slope_by_week) * F.least(F.col("week"), F.lit(self.last_week))
        return 1 / (1 + F.exp(-(slope * F.col("margin") + F.lit(self.intercept))))


@dataclass(frozen=True)
class Spec:
    """What a booster expects and how its output becomes a probability.

    features in the booster's order; constraints the direction of each; categories the known values of each
    profile column (their place is the number that the booster sees, unknown ones are missing); courses: the ids of
    those it learnt from.
    """

    label: str
    features: tuple[str, ...]
    constraints: tuple[int, ...]
    categories: dict[str, list[str]]
    calibration: Curve = Curve()
    courses: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(document: dict[str, Any]) -> Spec:
        curve = document.get("calibration") or {name: document[name] for name in ("slope", "intercept")}
        return Spec(
            label=document["label"],
            features=tuple(document["features"]),
            constraints=tuple(document["constraints"]),
            categories=document["categories"],
            calibration=Curve(**curve),
            courses=tuple(document.get("courses", ())),
        )


@dataclass(frozen=True)
class Model:
    """A fitted booster (xgboost's JSON) and its spec."""

    booster: bytes
    spec: Spec


def finished_courses(found: labels.Finished) -> list[Course]:
    """The finished courses, a row each: as many as there are courses."""
    rows = (
        found.courses.orderBy("courseid").select("courseid", "shortname", "start_at", "students", "positives").collect()
    )
    return [Course(*row) for row in rows]


def terms(courses: Sequence[Course]) -> list[list[Course]]:
    """Courses by term, earliest first: what starts within 30 days before a term's last start belongs to it."""
    found: list[list[Course]] = []
    rest = sorted(courses, key=lambda course: course.start_at)
    while rest:
        first = rest[-1].start_at - dt.timedelta(days=point_in_time.TERM_DAYS)
        found.insert(0, [course for course in rest if course.start_at >= first])
        rest = [course for course in rest if course.start_at < first]
    return found


def check_enough(courses: Sequence[Course], without_label: Sequence[str], label: str, when: str) -> None:
    """Refuse to learn from too little, saying what is missing."""
    students, positives = sum(c.students for c in courses), sum(c.positives for c in courses)
    missing = []
    if len(courses) < LEAST_COURSES:
        missing.append(f"{len(courses)} finished courses with an outcome ({when}); at least {LEAST_COURSES} are needed")
    if students < LEAST_ENROLMENTS:
        missing.append(f"{students} enrolments in them; at least {LEAST_ENROLMENTS} are needed")
    if min(positives, students - positives) < LEAST_OF_EACH:
        missing.append(
            f"{positives} of them with the outcome {labels.NAMES[label]!r} and {students - positives} without;"
            f" at least {LEAST_OF_EACH} of each are needed"
        )
    if not missing:
        return
    if without_label:
        shown = ", ".join(without_label[:5]) + (f" and {len(without_label) - 5} more" if len(without_label) > 5 else "")
        missing.append(f"over, but with the same outcome for everybody (is completion tracked?): {shown}")
    raise TooLittleDataError(
        "Too little data to learn from:\n" + bullet_list(missing),
        where="the courses' end dates and completions",
        remedy="set end dates in Moodle, track completion, or wait for courses to end; the rest of the lake works without a model",
    )


def teaching_weeks() -> Column:
    """The weeks that rows are taken from: all at first, when most can be done, then every other."""
    return (F.col("week") <= 4) | (F.col("week") % 2 == 0)


def labelled(rows: DataFrame, outcomes: DataFrame) -> DataFrame:
    """Rows of features.enrolment_week with their enrolment's label; rows without one go."""
    return rows.join(outcomes, ["userid", "courseid"], "inner")


def in_courses(courses: Sequence[Course]) -> Column:
    return F.col("courseid").isin([course.courseid for course in courses])


def learn(rows: DataFrame, courses: Sequence[Course], label: str) -> tuple[Model, DataFrame]:
    """A calibrated model of the labelled rows, and what it would have said of rows it was not trained on.

    The latest term calibrates where the others can teach; with one term the courses are held out in turn. The
    booster is then fitted on all courses. The second result has KEYS, label and probability of the held-out
    rows, each calibrated without its own course, so that it can be measured.
    """
    teaching = rows.where(F.col("enrolled") & teaching_weeks())
    held_out = _held_out(teaching, courses, label).persist()
    calibrated = _cross_calibrated(held_out, courses)
    curve = _platt(_margins(held_out))
    final = fit(teaching, label)
    known = tuple(sorted(course.courseid for course in courses))
    spec = dataclasses.replace(final.spec, calibration=curve, courses=known)
    return dataclasses.replace(final, spec=spec), calibrated


def can_hold_out_term(courses: Sequence[Course]) -> bool:
    """Whether the terms before the latest can teach a model that the latest is then kept from."""
    by_term = terms(courses)
    earlier = [course for term in by_term[:-1] for course in term]
    return bool(earlier) and sum(course.students for course in earlier) >= LEAST_ENROLMENTS


def _held_out(teaching: DataFrame, courses: Sequence[Course], label: str) -> DataFrame:
    """KEYS, label and margin of rows that the booster behind the margin has not seen."""
    if can_hold_out_term(courses):
        latest = terms(courses)[-1]
        model = fit(teaching.where(~in_courses(latest)), label)
        return _margin_rows(model, teaching.where(in_courses(latest)))
    parts = []
    for fold in folds(courses):
        model = fit(teaching.where(~in_courses(fold)), label)
        parts.append(_margin_rows(model, teaching.where(in_courses(fold))))
    held_out = parts[0]
    for part in parts[1:]:
        held_out = held_out.unionByName(part)
    return held_out


def folds(courses: Sequence[Course], most: int = FOLDS) -> list[list[Course]]:
    """Whole courses dealt to folds of like size."""
    ordered = sorted(courses, key=lambda course: (-course.students, course.courseid))
    count = min(most, len(ordered))
    return [ordered[i::count] for i in range(count)]


def _margin_rows(model: Model, rows: DataFrame) -> DataFrame:
    return predict(model, rows, keep=(*KEYS, "label")).select(*KEYS, "label", "margin")


def _margins(held_out: DataFrame) -> pd.DataFrame:
    """Counts per course, week, margin (in steps of 0.01) and label: what a calibration needs, however many rows."""
    return (
        held_out.groupBy("courseid", "week", F.round("margin", 2).alias("margin"), "label")
        .agg(F.count("*").alias("rows"))
        .toPandas()
    )


def _platt(counts: pd.DataFrame) -> Curve:
    """The curve of the counts: with a slope by week where that rises everywhere, else one for all weeks, or the base rate."""
    weights = counts["rows"].to_numpy(float)
    rate = float(np.clip((counts["label"] * weights).sum() / weights.sum(), 1e-4, 1 - 1e-4))
    flat = Curve(slope=0.0, intercept=float(np.log(rate / (1 - rate))))
    if counts["label"].nunique() < 2:
        return flat
    rising = (curve for curve in (_curve(counts, int(counts["week"].max())), _curve(counts, 0)) if curve.rises())
    return next(rising, flat)


def _curve(counts: pd.DataFrame, last_week: int) -> Curve:
    """The likeliest curve; one slope for all weeks if the last is 0."""
    from sklearn.linear_model import LogisticRegression as Platt

    margin, scale = counts["margin"].to_numpy(float), max(1, last_week)
    columns = np.column_stack([margin, margin * np.minimum(counts["week"].to_numpy(float), last_week) / scale])
    fitted = Platt(C=1e6).fit(columns, counts["label"].to_numpy(int), sample_weight=counts["rows"].to_numpy(float))
    slope, by_week = (float(value) for value in fitted.coef_[0])
    return Curve(slope, float(fitted.intercept_[0]), by_week / scale, last_week)


def _cross_calibrated(held_out: DataFrame, courses: Sequence[Course]) -> DataFrame:
    """The held-out rows with probabilities; each course's calibration is learnt from the other courses."""
    counts = _margins(held_out)
    present = [course for course in courses if course.courseid in set(counts["courseid"])]
    probability: Column = F.lit(None).cast("double")
    for fold in folds(present):
        inside = counts["courseid"].isin([course.courseid for course in fold])
        curve = _platt(counts[~inside] if (~inside).any() else counts)
        probability = F.when(in_courses(fold), curve.column()).otherwise(probability)
    return held_out.select(*KEYS, "label", probability.alias("probability"))


def fingerprint(rows: DataFrame) -> str:
    """The same for the same rows in any order; figures that differ beyond the sixth digit are the same."""
    values = [F.round(f.name, 6) if f.dataType.typeName() == "double" else F.col(f.name) for f in rows.schema.fields]
    found = rows.agg(F.count("*").alias("rows"), F.sum(F.xxhash64(*values).cast("decimal(38,0)")).alias("sum")).first()
    assert found is not None
    return f"{found['rows']}-{found['sum']}"


def feature_names(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns of the feature table that a model may use, in the table's order of prefixes."""
    own = [feature.name for feature in features.FEATURES]
    site = [name for name in columns if name.startswith((features.ATTRIBUTE, features.PROFILE))]
    return (*own, *site)


def fit(rows: DataFrame, label: str) -> Model:
    """An uncalibrated model of labelled rows."""
    from xgboost.spark import SparkXGBClassifier

    for name in ("XGBoost-PySpark", "SparkXGBClassifier"):
        logging.getLogger(name).setLevel(logging.WARNING)
    names = feature_names(rows.columns)
    spec = Spec(label, names, (), _categories(rows, names))
    spec = dataclasses.replace(spec, constraints=_constraints(rows, names))
    count = rows.count()
    workers = min(_workers(rows.sparkSession), max(1, math.ceil(count / ROWS_PER_WORKER)))
    # Rows in a fixed order on fixed workers: the same data give the same trees.
    prepared = (
        encoded(rows, spec, keep=(*KEYS, "label"))
        .repartition(workers, "userid", "courseid")
        .sortWithinPartitions(*KEYS)
        .drop(*KEYS)
    )
    trees = {**XGB_PARAMS, "min_child_weight": min(XGB_PARAMS["min_child_weight"], count / LEAVES)}
    learner = SparkXGBClassifier(
        features_col=list(names),
        label_col="label",
        num_workers=workers,
        monotone_constraints="(" + ",".join(str(value) for value in spec.constraints) + ")",
        missing=float("nan"),
        verbosity=0,
        verbose=False,
        **trees,
    )
    return Model(bytes(learner.fit(prepared).get_booster().save_raw("json")), spec)


def _workers(spark: SparkSession) -> int:
    """As many tasks as this application can run at once, so that none that wait for one another wait for ever."""
    context = spark.sparkContext._jsc.sc()
    profile = context.resourceProfileManager().resourceProfileFromId(0)
    return max(1, int(context.maxNumConcurrentTasks(profile)))


def _categories(rows: DataFrame, names: Sequence[str]) -> dict[str, list[str]]:
    """The values of each profile column, in alphabetical order: bands of age or income come out in theirs."""
    profile = [name for name in names if name.startswith(features.PROFILE)]
    if not profile:
        return {}
    found = rows.agg(*[F.sort_array(F.collect_set(name)).alias(name) for name in profile]).first()
    assert found is not None
    return {name: list(found[name]) for name in profile}


def _constraints(rows: DataFrame, names: Sequence[str]) -> tuple[int, ...]:
    """Each feature's direction. Of a site's own attribute it is the one it has among the enrolments taught from."""
    known = {feature.name: feature.risk for feature in features.FEATURES}
    own = [name for name in names if name.startswith(features.ATTRIBUTE)]
    if own:
        once = rows.groupBy("userid", "courseid").agg(*[F.first(name).alias(name) for name in (*own, "label")])
        found = once.agg(*[F.corr(name, "label").alias(name) for name in own]).first()
        assert found is not None
        for name in own:
            known[name] = 0 if found[name] is None or np.isnan(found[name]) else int(np.sign(found[name]))
    return tuple(known.get(name, 0) for name in names)


def encoded(rows: DataFrame, spec: Spec, keep: Sequence[str]) -> DataFrame:
    """keep and the model's features as floats, in the model's order; what is missing is NaN."""

    def value(name: str) -> Column:
        if name not in spec.categories:
            return F.col(name).cast("float")
        known = F.array(*[F.lit(value) for value in spec.categories[name]])
        place = F.call_function("array_position", known, F.col(name))
        return F.when(place > 0, place - 1).cast("float")

    absent = [name for name in spec.features if name not in rows.columns]
    if absent:
        raise LakehouseError(
            f"The model needs {', '.join(absent)}, which the features do not hold",
            where="analytics.enrolment_attributes and analytics.profile_fields",
            remedy="train again, or configure what the model was trained with",
        )
    return rows.select(*keep, *[F.coalesce(value(name), F.lit(float("nan"))).alias(name) for name in spec.features])


def predict(model: Model, rows: DataFrame, keep: Sequence[str], contributions: bool = False) -> DataFrame:
    """keep, margin (log odds before calibration) and probability of every row.

    With contributions also an array of doubles in the order of the model's features: exact TreeSHAP values,
    which sum up to the margin with the booster's bias.
    """
    booster, names, curve = model.booster, list(model.spec.features), model.spec.calibration

    def score(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        import xgboost

        trees = xgboost.Booster({"nthread": 1})
        trees.load_model(bytearray(booster))
        for batch in batches:
            matrix = xgboost.DMatrix(batch[names], feature_names=names, nthread=1)
            result = batch[list(keep)].copy()
            result["margin"] = trees.predict(matrix, output_margin=True).astype(float)
            result["probability"] = curve.probability(result["margin"].to_numpy(), batch["week"].to_numpy(float))
            if contributions:
                result["contributions"] = list(trees.predict(matrix, pred_contribs=True)[:, :-1].astype(float))
            yield result

    prepared = encoded(rows, model.spec, list(dict.fromkeys((*keep, "week"))))
    schema = ", ".join(f"`{f.name}` {f.dataType.simpleString()}" for f in prepared.schema if f.name in keep)
    schema += ", margin double, probability double" + (", contributions array<double>" if contributions else "")
    return prepared.mapInPandas(score, schema)


Baseline = Callable[[DataFrame], DataFrame]


def logistic_regression(rows: DataFrame, names: Sequence[str]) -> Baseline:
    """MLlib's logistic regression on the numeric features, means for what is missing, standardised.

    Returns a function: rows -> KEYS, label, probability. With days_since_access alone it is the rule of thumb
    that every site can follow without a model.
    """
    spec = Spec("", tuple(name for name in names if not name.startswith(features.PROFILE)), (), {})
    # A column without any value has no mean to fill in; with nothing to say it would only be in the way.
    present = rows.agg(*[F.count(name).alias(name) for name in spec.features]).first()
    assert present is not None
    columns = [name for name in spec.features if present[name] > 0]
    stages: list[Any] = [
        Imputer(strategy="mean", inputCols=columns, outputCols=[f"{name}__filled" for name in columns]),
        VectorAssembler(inputCols=[f"{name}__filled" for name in columns], outputCol="assembled"),
        StandardScaler(inputCol="assembled", outputCol="scaled", withMean=True),
        LogisticRegression(featuresCol="scaled", labelCol="label", regParam=0.01, standardization=False, maxIter=50),
    ]
    # Each of its steps is a job over all rows: no more tasks than run at once, for each costs more than what it adds up.
    known = encoded(rows, spec, keep=(*KEYS, "label")).coalesce(_workers(rows.sparkSession))
    fitted: PipelineModel = Pipeline(stages=stages).fit(known)

    def apply(later: DataFrame) -> DataFrame:
        scored = fitted.transform(encoded(later, spec, keep=(*KEYS, "label")))
        return scored.select(*KEYS, "label", vector_to_array(F.col("probability"))[1].alias("probability"))

    return apply


def training_base_rate(rows: DataFrame) -> Baseline:
    """Of every row the share of the outcome in the training rows of its week, of all of them where it has none."""
    by_week = {row["week"]: row["rate"] for row in rows.groupBy("week").agg(F.avg("label").alias("rate")).collect()}
    overall = rows.agg(F.avg("label").alias("rate")).first()
    assert overall is not None
    known = F.create_map(*[F.lit(value) for item in sorted(by_week.items()) for value in item])
    rate = F.coalesce(known[F.col("week")], F.lit(overall["rate"]))

    return lambda later: later.select(*KEYS, "label", rate.alias("probability"))


def baselines(rows: DataFrame, names: Sequence[str]) -> dict[str, Baseline]:
    """What a model has to beat, each learnt from the rows; names: the model's features."""
    return {
        "logistic_regression": logistic_regression(rows, names),
        "days_since_last_access": logistic_regression(rows, ["days_since_access"]),
        "training_base_rate": training_base_rate(rows),
    }


def describe(courses: Sequence[Course]) -> str:
    """A term's or a training set's courses in a line."""
    starts = sorted({f"{course.start_at:%Y-%m-%d}" for course in courses})
    span = starts[0] if len(starts) == 1 else f"{starts[0]} to {starts[-1]}"
    return f"{len(courses)} courses that started {span}, {sum(c.students for c in courses):,} enrolments"


def dump(spec: Spec) -> str:
    return json.dumps(spec.to_json(), indent=1, sort_keys=True)
