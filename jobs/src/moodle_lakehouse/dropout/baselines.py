"""Fit the baselines: what a model has to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import Imputer, StandardScaler, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.dropout import features, learner
from moodle_lakehouse.dropout.dataset import KEYS

Baseline = Callable[[DataFrame], DataFrame]


def logistic_regression(rows: DataFrame, names: Sequence[str]) -> Baseline:
    """Fit MLlib's logistic regression on the numeric features, means for what is missing, standardised.

    Returns a function: rows -> KEYS, label, probability. With days_since_access alone it is the rule of thumb
    that every site can follow without a model.
    """
    spec = learner.Spec("", tuple(name for name in names if not name.startswith(features.PROFILE)), (), {})
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
    known = learner.encoded(rows, spec, keep=(*KEYS, "label")).coalesce(learner.parallel_tasks(rows.sparkSession))
    fitted: PipelineModel = Pipeline(stages=stages).fit(known)

    def apply(later: DataFrame) -> DataFrame:
        scored = fitted.transform(learner.encoded(later, spec, keep=(*KEYS, "label")))
        return scored.select(*KEYS, "label", vector_to_array(F.col("probability"))[1].alias("probability"))

    return apply


def training_base_rate(rows: DataFrame) -> Baseline:
    """Predict of every row the share of the outcome in the training rows of its week, of all of them where it has none."""
    by_week = {row["week"]: row["rate"] for row in rows.groupBy("week").agg(F.avg("label").alias("rate")).collect()}
    overall = rows.agg(F.avg("label").alias("rate")).first()
    assert overall is not None
    known = F.create_map(*[F.lit(value) for item in sorted(by_week.items()) for value in item])
    rate = F.coalesce(known[F.col("week")], F.lit(overall["rate"]))

    return lambda later: later.select(*KEYS, "label", rate.alias("probability"))


def fit(rows: DataFrame, names: Sequence[str]) -> dict[str, Baseline]:
    """Fit each baseline to the rows; names: the model's features."""
    return {
        "logistic_regression": logistic_regression(rows, names),
        "days_since_last_access": logistic_regression(rows, ["days_since_access"]),
        "training_base_rate": training_base_rate(rows),
    }
