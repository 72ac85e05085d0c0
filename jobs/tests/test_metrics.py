"""Measures by counts are those of the textbooks."""

from __future__ import annotations

import numpy as np
import pytest
from moodle_lakehouse import metrics
from pyspark.sql import SparkSession
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score


def test_measures_match_scikit_learn(spark: SparkSession) -> None:
    rng = np.random.default_rng(3)
    probability = np.round(rng.uniform(size=3000), 3)  # with ties
    label = (rng.uniform(size=3000) < probability**2).astype(float)
    week = rng.integers(0, 2, 3000)
    scored = spark.createDataFrame(
        list(zip(week.tolist(), label.tolist(), probability.tolist(), strict=True)),
        "week int, label double, probability double",
    )
    found = metrics.per_week(scored, [1, 0])
    assert [row["week"] for row in found] == [1, 0]
    for row in found:
        mine = week == row["week"]
        assert row["students"] == mine.sum()
        assert row["base_rate"] == pytest.approx(label[mine].mean())
        assert row["auc"] == pytest.approx(roc_auc_score(label[mine], probability[mine]), abs=1e-9)
        assert row["pr_auc"] == pytest.approx(average_precision_score(label[mine], probability[mine]), abs=1e-9)
        assert row["brier"] == pytest.approx(brier_score_loss(label[mine], probability[mine]), abs=1e-9)


def test_calibration_error_by_hand(spark: SparkSession) -> None:
    scored = spark.createDataFrame(
        [(0, 1.0, 0.95), (0, 1.0, 1.0), (0, 0.0, 0.05), (0, 1.0, 0.08)], "week int, label double, probability double"
    )
    (row,) = metrics.per_week(scored, [0])
    # the last bin: 2 of 2 at a mean of 0.975; the first: 1 of 2 at a mean of 0.065
    assert row["ece"] == pytest.approx((abs(2 - 1.95) + abs(1 - 0.13)) / 4)


def test_weeks_without_students_or_with_one_outcome(spark: SparkSession) -> None:
    scored = spark.createDataFrame([(0, 1.0, 0.5)], "week int, label double, probability double")
    one, none = metrics.per_week(scored, [0, 9])
    assert one["auc"] is None
    assert one["brier"] == pytest.approx(0.25)
    assert none == {
        "week": 9, "students": 0, "base_rate": None, "auc": None, "pr_auc": None, "brier": None, "ece": None
    }  # fmt: skip
