"""Fit gradient-boosted trees of xgboost.spark, blend them with a linear model on what neither was trained on, and predict.

A fitted model is a booster and a description of what it expects, both plain JSON.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.dropout import blend, dataset, features, served_model
from moodle_lakehouse.dropout.blend import Blend
from moodle_lakehouse.dropout.calibration import PlattCalibration
from moodle_lakehouse.dropout.dataset import KEYS
from moodle_lakehouse.dropout.labels import Course
from moodle_lakehouse.errors import LakehouseError

# Few, shallow, well-fed trees: rows of one enrolment in many weeks are alike, so a leaf of fewer rows is a few
# students seen often. Of few rows a leaf needs no more than their MAX_LEAVES-th part, else no tree would grow.
XGB_PARAMS: dict[str, Any] = {
    "n_estimators": 200,
    "learning_rate": 0.05,
    "min_child_weight": 200.0,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "tree_method": "hist",
    "random_state": 20131,
}

# What is tried on held-out rows: depths of the trees, shares of n_estimators, and how much the linear model is held back.
DEPTHS = (3, 4)
LENGTHS = (0.25, 0.5, 1.0)
RIDGES = (0.01, 0.03, 0.1)

MAX_LEAVES = 50

# Processes that learn together agree on every level of every tree: with 100,000 rows two took 10 s, one 6.
ROWS_PER_WORKER = 200_000

# What is tried, and the linear model, are learnt in this process from at most so many rows, of whole students: of more
# rows the trees alone learn more.
MAX_SAMPLE = 200_000

OFFSET = "offset"  # the column of what a row's trees begin with


@dataclass(frozen=True)
class Choice:
    """What did best on held-out rows: depth and number of the trees, and the linear model's ridge."""

    max_depth: int
    n_estimators: int
    ridge: float


@dataclass(frozen=True)
class Spec:
    """What a booster expects and how its output becomes a probability.

    features in the booster's order; constraints the direction of each; categories the known values of each
    profile column (their place is the number that the booster sees, unknown ones are missing); courses: the ids of
    those it learnt from; blend: what is said beside the trees, None in models of earlier releases, of which calibration
    makes the probability; choice: what its parts are fitted with.
    """

    label: str
    features: tuple[str, ...]
    constraints: tuple[int, ...]
    categories: dict[str, list[str]]
    calibration: PlattCalibration = field(default_factory=PlattCalibration)
    courses: tuple[int, ...] = ()
    blend: Blend | None = None
    choice: Choice | None = None

    def known_blend(self) -> dict[str, Any]:
        """Return the blend as served_model takes it."""
        assert self.blend is not None
        return self.blend.to_json()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of features.enrolment_week that a row is predicted from, beside week."""
        extra = () if self.blend is None else (self.blend.runs, self.blend.past)
        return tuple(dict.fromkeys((*self.features, *extra)))

    def to_json(self) -> dict[str, Any]:
        """Return the spec as a document for JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(document: dict[str, Any]) -> Spec:
        """Read the spec of this release or an earlier one from its document."""
        curve = document.get("calibration") or {name: document[name] for name in ("slope", "intercept")}
        return Spec(
            label=document["label"],
            features=tuple(document["features"]),
            constraints=tuple(document["constraints"]),
            categories=document["categories"],
            calibration=PlattCalibration(**curve),
            courses=tuple(document.get("courses", ())),
            blend=Blend.from_json(document["blend"]) if document.get("blend") else None,
            choice=Choice(**document["choice"]) if document.get("choice") else None,
        )


@dataclass(frozen=True)
class Model:
    """A fitted booster (xgboost's JSON) and its spec."""

    booster: bytes
    spec: Spec


def chosen(spec: Spec) -> dict[str, Any]:
    """Return the parameters that a model was fitted with."""
    return XGB_PARAMS | ({} if spec.choice is None else dataclasses.asdict(spec.choice))


def rules() -> str:
    """Return all that decides, beside the rows, what a model of them is."""
    return repr((sorted(XGB_PARAMS.items()), DEPTHS, LENGTHS, RIDGES, MAX_SAMPLE, blend.METHOD))


def learn(rows: DataFrame, courses: Sequence[Course], label: str) -> tuple[Model, DataFrame]:
    """Fit a model of the labelled rows; return it and what it would have said of held-out rows.

    What is chosen and how trees and linear model are blended is learnt from rows held out as dataset.holdout says; both
    are then fitted on all courses. The second result has KEYS, label and probability of the rows that measure the
    model, each by models that never saw its course, blended as other courses' rows say.
    """
    teaching = rows.where(F.col("enrolled") & dataset.teaching_weeks())
    count = teaching.count()
    names = dataset.feature_names(rows.columns)
    known = tuple(sorted(course.courseid for course in courses))
    spec = Spec(label, names, (), _categories(teaching, names), courses=known)
    sample = _sample(teaching, spec, count)
    threads = parallel_tasks(rows.sparkSession)
    held = dataset.holdout(courses)
    choice, held_out = tried(sample, held.folds, spec, threads)
    spec = dataclasses.replace(_with_linear(sample, spec, [choice.ridge])[choice.ridge], choice=choice)
    booster = fit(teaching, spec, count)
    spec = with_blend(spec, booster, sample, held_out, threads)
    measured = [course.courseid for fold in held.measured for course in fold]
    calibrated = cross_blended(spec, held_out, held_out[held_out["courseid"].isin(measured)], courses)
    return Model(booster, spec), rows.sparkSession.createDataFrame(calibrated)


def _sample(teaching: DataFrame, spec: Spec, count: int) -> pd.DataFrame:
    """KEYS, label and the model's columns as floats, of all students or of as many as MAX_SAMPLE rows hold; in a fixed order."""
    share = min(1.0, MAX_SAMPLE / max(1, count))
    chosen = F.pmod(F.xxhash64("user_key"), F.lit(10_000)) < int(10_000 * share)
    found = encoded(teaching.where(chosen), spec, keep=(*KEYS, "label"), extra=(f"runs_{spec.label}",))
    rows: pd.DataFrame = found.toPandas()  # type: ignore[assignment]
    return rows.sort_values(list(KEYS), ignore_index=True)


def tried(
    sample: pd.DataFrame, folds: Sequence[Sequence[Course]], spec: Spec, threads: int
) -> tuple[Choice, pd.DataFrame]:
    """Choose what does best on held-out rows, and return those rows with what it says of them.

    They hold KEYS, label, offset, linear and trees (blend.weighted), each by models of the other folds.
    """
    longest = XGB_PARAMS["n_estimators"]
    sizes = [(depth, max(1, int(longest * length))) for depth in DEPTHS for length in LENGTHS]
    parts = []
    for fold in folds:
        inside = sample["courseid"].isin([course.courseid for course in fold])
        taught, held = sample[~inside], sample[inside]
        specs = _with_linear(taught, spec, RIDGES)
        first = specs[RIDGES[0]]
        week, columns = held["week"].to_numpy(float), blend.arrays(held, first.columns)
        found = held[[*KEYS, "label"]].assign(offset=served_model.offset(first.known_blend(), columns, week))
        for ridge, one in specs.items():
            found[_name(ridge)] = served_model.linear(one.known_blend(), columns, week)
        for depth in DEPTHS:
            deep = dataclasses.replace(first, choice=Choice(depth, longest, RIDGES[0]))
            booster = _fit_here(taught, deep, threads)
            for size in sizes:
                if size[0] == depth:
                    centred = _centred(deep, booster, taught, threads, size[1]).known_blend()
                    margin = _margins(booster, held, spec.features, threads, size[1])
                    found[_name(*size)] = margin + served_model.at_weeks(centred, "tree_centre", week)
        parts.append(found)
    rows = pd.concat(parts, ignore_index=True)
    outcome, start = rows["label"].to_numpy(float), rows["offset"].to_numpy(float)

    def loss(*choice: float) -> float:
        return blend.log_loss(outcome, start + rows[_name(*choice)].to_numpy(float))

    ridge, size = min(RIDGES, key=loss), min(sizes, key=lambda one: loss(*one))
    best = rows[[*KEYS, "label", "offset"]].assign(linear=rows[_name(ridge)], trees=rows[_name(*size)])
    return Choice(*size, ridge), best


def _name(*choice: float) -> str:
    return " ".join(str(part) for part in choice)


def _with_linear(rows: pd.DataFrame, spec: Spec, ridges: Sequence[float]) -> dict[float, Spec]:
    """The spec with its features' directions and a linear model of the rows, by ridge."""
    directions = _constraints(rows, spec.features)
    named = dict(zip(spec.features, directions, strict=True))
    models = blend.linear_models(rows, spec.label, named, spec.categories, ridges)
    return {ridge: dataclasses.replace(spec, constraints=directions, blend=model) for ridge, model in models.items()}


def _centred(spec: Spec, booster: bytes, rows: pd.DataFrame, threads: int, trees: int = 0) -> Spec:
    assert spec.blend is not None
    margin = _margins(booster, rows, spec.features, threads, trees)
    return dataclasses.replace(spec, blend=blend.centred(spec.blend, rows, margin))


def with_blend(spec: Spec, booster: bytes, sample: pd.DataFrame, held_out: pd.DataFrame, threads: int) -> Spec:
    """Return the spec with the weights of its linear model and the booster. sample: rows that both were fitted to."""
    centred = _centred(spec, booster, sample, threads)
    assert centred.blend is not None
    return dataclasses.replace(centred, blend=blend.weighted(centred.blend, held_out))


def cross_blended(
    spec: Spec, held_out: pd.DataFrame, measured: pd.DataFrame, courses: Sequence[Course]
) -> pd.DataFrame:
    """Return KEYS, label and probability of the measured rows; no row is blended by weights that it is part of.

    Those of each course are learnt from the other courses' rows, and of one course alone each half of the students' from
    the other half. measured: rows of held_out, by whose index they are known.
    """
    assert spec.blend is not None
    place = {course.courseid: number for number, fold in enumerate(dataset.folds(courses)) for course in fold}
    fold = held_out["courseid"].map(place)
    if fold.nunique() < 2:
        fold = held_out["user_key"].map(lambda key: zlib.crc32(key.encode()) % 2)
    parts = []
    for number, rows in measured.groupby(fold[measured.index]):
        others = held_out[fold != number]
        margin = blend.log_odds(blend.weighted(spec.blend, others), rows)
        parts.append(rows[[*KEYS, "label"]].assign(probability=1 / (1 + np.exp(-margin))))
    return pd.concat(parts, ignore_index=True)


def fit(rows: DataFrame, spec: Spec, count: int) -> bytes:
    """Fit a booster to labelled rows, which are so many. spec: with the choice and the blend whose offset they begin with."""
    from xgboost.spark import SparkXGBClassifier

    for name in ("XGBoost-PySpark", "SparkXGBClassifier"):
        logging.getLogger(name).setLevel(logging.WARNING)
    assert spec.blend is not None
    workers = min(parallel_tasks(rows.sparkSession), max(1, math.ceil(count / ROWS_PER_WORKER)))
    # Rows in a fixed order on fixed workers: the same data give the same trees.
    prepared = (
        encoded(rows, spec, keep=(*KEYS, "label"))
        .withColumn(OFFSET, _offset(spec.blend))
        .repartition(workers, "user_key", "courseid")
        .sortWithinPartitions(*KEYS)
        .select(*spec.features, "label", OFFSET)
    )
    learner = SparkXGBClassifier(
        features_col=list(spec.features),
        label_col="label",
        base_margin_col=OFFSET,
        num_workers=workers,
        missing=float("nan"),
        verbosity=0,
        verbose=False,
        **_params(spec, count),
    )
    return bytes(learner.fit(prepared).get_booster().save_raw("json"))


def _fit_here(rows: pd.DataFrame, spec: Spec, threads: int) -> bytes:
    """Fit a booster to rows of this process."""
    import xgboost

    params = _params(spec, len(rows))
    rounds, seed = params.pop("n_estimators"), params.pop("random_state")
    columns, week = blend.arrays(rows, spec.columns), rows["week"].to_numpy(float)
    offset = served_model.offset(spec.known_blend(), columns, week)
    names = list(spec.features)
    matrix = xgboost.QuantileDMatrix(rows[names], rows["label"], base_margin=offset, nthread=threads)
    params |= {"objective": "binary:logistic", "seed": seed, "nthread": threads, "verbosity": 0}
    return bytes(xgboost.train(params, matrix, rounds).save_raw("json"))


def _params(spec: Spec, count: int) -> dict[str, Any]:
    """XGBoost's parameters of the spec's choice for so many rows."""
    assert spec.choice is not None
    return {
        **XGB_PARAMS,
        "n_estimators": spec.choice.n_estimators,
        "max_depth": spec.choice.max_depth,
        "min_child_weight": min(XGB_PARAMS["min_child_weight"], count / MAX_LEAVES),
        "monotone_constraints": "(" + ",".join(str(value) for value in spec.constraints) + ")",
        # Where a row begins is its offset.
        "base_score": 0.5,
    }


def _margins(booster: bytes, rows: pd.DataFrame, names: Sequence[str], threads: int, trees: int = 0) -> np.ndarray:
    """The margins of rows of this process by the first so many trees (0: by all), without their offset."""
    import xgboost

    model = xgboost.Booster({"nthread": threads})
    model.load_model(bytearray(booster))
    matrix = xgboost.DMatrix(rows[list(names)], nthread=threads)
    return np.asarray(model.predict(matrix, output_margin=True, iteration_range=(0, trees)), float)


def _offset(model: Blend) -> Column:
    """served_model.offset of the columns week, runs and past; of a week that the sample has no row of, the next one's."""
    earlier = F.col(model.runs) + F.col(model.past)
    values = [
        F.lit(rate) + F.lit(expected) * earlier for rate, expected in zip(model.rate, model.expected, strict=True)
    ]
    found = values[-1]
    for week, value in zip(reversed(model.weeks), reversed(values), strict=True):
        found = F.when(F.col("week") <= week, value).otherwise(found)
    return found.cast("float")


def parallel_tasks(spark: SparkSession) -> int:
    """Return how many tasks this application can run at once: of tasks that wait for one another none waits for ever."""
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


def _constraints(rows: pd.DataFrame, names: Sequence[str]) -> tuple[int, ...]:
    """Each feature's direction. Of a site's own attribute it is the one it has among the enrolments taught from."""
    known = {feature.name: feature.risk for feature in features.FEATURES}
    own = [name for name in names if name.startswith(features.ATTRIBUTE)]
    if own:
        once = rows.drop_duplicates(["user_key", "courseid"])
        signs = np.sign(once[own].corrwith(once["label"]).fillna(0.0))
        known |= {name: int(signs[name]) for name in own}
    return tuple(known.get(name, 0) for name in names)


def encoded(rows: DataFrame, spec: Spec, keep: Sequence[str], extra: Sequence[str] = ()) -> DataFrame:
    """Return keep and the model's columns, and extra ones, as floats, in the model's order; what is missing is NaN."""

    def value(name: str) -> Column:
        if name not in spec.categories:
            return F.col(name).cast("float")
        known = F.array(*[F.lit(value) for value in spec.categories[name]])
        place = F.call_function("array_position", known, F.col(name))
        return F.when(place > 0, place - 1).cast("float")

    names = tuple(dict.fromkeys((*spec.columns, *extra)))
    absent = [name for name in names if name not in rows.columns]
    if absent:
        raise LakehouseError(
            f"The model needs {', '.join(absent)}, which the features do not hold",
            where="analytics.enrolment_attributes and analytics.profile_fields",
            remedy="train again, or configure what the model was trained with",
        )
    return rows.select(*keep, *[F.coalesce(value(name), F.lit(float("nan"))).alias(name) for name in names])


def predict(model: Model, rows: DataFrame, keep: Sequence[str], contributions: bool = False) -> DataFrame:
    """Return keep, margin (log odds; of models without a blend those before calibration) and probability of every row.

    With contributions also an array of doubles in the order of the model's features: exact TreeSHAP values and the linear
    model's terms, which sum up to the margin with what is no feature's (the bias, the week's rate, earlier runs).
    """
    booster, names, curve = model.booster, list(model.spec.features), model.spec.calibration
    columns = list(model.spec.columns)
    document = None if model.spec.blend is None else model.spec.known_blend()

    def score(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        import xgboost

        trees = xgboost.Booster({"nthread": 1})
        trees.load_model(bytearray(booster))
        for batch in batches:
            matrix = xgboost.DMatrix(batch[names], feature_names=names, nthread=1)
            result, week = batch[list(keep)].copy(), batch["week"].to_numpy(float)
            margin = trees.predict(matrix, output_margin=True).astype(float)
            values = {name: batch[name].to_numpy(float) for name in columns}
            if document is not None:
                margin = served_model.blended(document, values, week, margin)
            result["margin"] = margin
            result["probability"] = curve.probability(margin, week)
            if contributions:
                shares = trees.predict(matrix, pred_contribs=True)[:, :-1].astype(float)
                if document is not None:
                    shares = served_model.contributions(document, values, week, shares, names)
                result["contributions"] = list(shares)
            yield result

    prepared = encoded(rows, model.spec, list(dict.fromkeys((*keep, "week"))))
    schema = ", ".join(f"`{f.name}` {f.dataType.simpleString()}" for f in prepared.schema if f.name in keep)
    schema += ", margin double, probability double" + (", contributions array<double>" if contributions else "")
    return prepared.mapInPandas(score, schema)
