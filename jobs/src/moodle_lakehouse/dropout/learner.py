"""Fit gradient-boosted trees of xgboost.spark, calibrate them on what they were not trained on, and predict.

A fitted model is a booster and a description of what it expects, both plain JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.dropout import calibration, dataset, features
from moodle_lakehouse.dropout.calibration import PlattCalibration
from moodle_lakehouse.dropout.dataset import KEYS, Course
from moodle_lakehouse.errors import LakehouseError

# Few, shallow, well-fed trees: rows of one enrolment in many weeks are alike, so a leaf of fewer rows is a few
# students seen often. Of few rows a leaf needs no more than their MAX_LEAVES-th part, else no tree would grow.
XGB_PARAMS: dict[str, Any] = {
    "n_estimators": 200,
    "max_depth": 4,
    "learning_rate": 0.05,
    "min_child_weight": 200.0,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "tree_method": "hist",
    "random_state": 20131,
}

MAX_LEAVES = 50

# Processes that learn together agree on every level of every tree: with 100,000 rows two took 10 s, one 6.
ROWS_PER_WORKER = 200_000


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
    calibration: PlattCalibration = field(default_factory=PlattCalibration)
    courses: tuple[int, ...] = ()

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
        )


@dataclass(frozen=True)
class Model:
    """A fitted booster (xgboost's JSON) and its spec."""

    booster: bytes
    spec: Spec


def learn(rows: DataFrame, courses: Sequence[Course], label: str) -> tuple[Model, DataFrame]:
    """Fit a calibrated model of the labelled rows; return it and what it would have said of held-out rows.

    What calibrates is held out as dataset.holdout says; the booster is then fitted on all courses. The second
    result has KEYS, label and probability of the held-out rows, each calibrated without its own course, so that it
    can be measured.
    """
    teaching = rows.where(F.col("enrolled") & dataset.teaching_weeks())
    held_out = _held_out(teaching, courses, label).persist()
    calibrated = calibration.cross_fit(held_out, courses)
    curve = calibration.fit(calibration.margin_counts(held_out))
    final = fit(teaching, label)
    known = tuple(sorted(course.courseid for course in courses))
    spec = dataclasses.replace(final.spec, calibration=curve, courses=known)
    return dataclasses.replace(final, spec=spec), calibrated


def _held_out(teaching: DataFrame, courses: Sequence[Course], label: str) -> DataFrame:
    """KEYS, label and margin of rows that the booster behind the margin has not seen."""
    parts = []
    for fold in dataset.holdout(courses).folds:
        inside = dataset.in_courses(fold)
        model = fit(teaching.where(~inside), label)
        parts.append(_margin_rows(model, teaching.where(inside)))
    return functools.reduce(DataFrame.unionByName, parts)


def _margin_rows(model: Model, rows: DataFrame) -> DataFrame:
    return predict(model, rows, keep=(*KEYS, "label")).select(*KEYS, "label", "margin")


def fit(rows: DataFrame, label: str) -> Model:
    """Fit an uncalibrated model of labelled rows."""
    from xgboost.spark import SparkXGBClassifier

    for name in ("XGBoost-PySpark", "SparkXGBClassifier"):
        logging.getLogger(name).setLevel(logging.WARNING)
    names = dataset.feature_names(rows.columns)
    spec = Spec(label, names, (), _categories(rows, names))
    spec = dataclasses.replace(spec, constraints=_constraints(rows, names))
    count = rows.count()
    workers = min(parallel_tasks(rows.sparkSession), max(1, math.ceil(count / ROWS_PER_WORKER)))
    # Rows in a fixed order on fixed workers: the same data give the same trees.
    prepared = (
        encoded(rows, spec, keep=(*KEYS, "label"))
        .repartition(workers, "user_key", "courseid")
        .sortWithinPartitions(*KEYS)
        .drop(*KEYS)
    )
    trees = {**XGB_PARAMS, "min_child_weight": min(XGB_PARAMS["min_child_weight"], count / MAX_LEAVES)}
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


def _constraints(rows: DataFrame, names: Sequence[str]) -> tuple[int, ...]:
    """Each feature's direction. Of a site's own attribute it is the one it has among the enrolments taught from."""
    known = {feature.name: feature.risk for feature in features.FEATURES}
    own = [name for name in names if name.startswith(features.ATTRIBUTE)]
    if own:
        once = rows.groupBy("user_key", "courseid").agg(*[F.first(name).alias(name) for name in (*own, "label")])
        found = once.agg(*[F.corr(name, "label").alias(name) for name in own]).first()
        assert found is not None
        for name in own:
            known[name] = 0 if found[name] is None or np.isnan(found[name]) else int(np.sign(found[name]))
    return tuple(known.get(name, 0) for name in names)


def encoded(rows: DataFrame, spec: Spec, keep: Sequence[str]) -> DataFrame:
    """Return keep and the model's features as floats, in the model's order; what is missing is NaN."""

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
    """Return keep, margin (log odds before calibration) and probability of every row.

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
