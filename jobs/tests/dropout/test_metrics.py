"""Measures by counts are those of the textbooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from model_lake import key
from moodle_lakehouse.dropout import metrics
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

CAPACITY = 40


def frame(spark: SparkSession, rows: list[tuple[Any, ...]]) -> DataFrame:
    """Rows of (week, label, probability), a student each, in course 1."""
    return spark.createDataFrame(
        [(key(number), 1, *row) for number, row in enumerate(rows)],
        "user_key string, courseid long, week int, label double, probability double",
    )


def drawn(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with ties, and outcomes that follow them."""
    rng = np.random.default_rng(seed)
    probability = np.round(rng.uniform(size=size), 3)
    return probability, (rng.uniform(size=size) < probability**2).astype(float)


def steps(label: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    return metrics._steps(pd.DataFrame({"step": probability, "rows": 1, "positives": label}))


def test_measures_match_scikit_learn(spark: SparkSession) -> None:
    probability, label = drawn(3, 3000)
    week = np.random.default_rng(4).integers(0, 2, 3000)
    scored = frame(spark, list(zip(week.tolist(), label.tolist(), probability.tolist(), strict=True)))
    found = metrics.per_week(scored, [1, 0], CAPACITY)
    assert [row["week"] for row in found] == [1, 0]
    for row in found:
        mine = week == row["week"]
        y, p = label[mine], probability[mine]
        assert row["students"] == mine.sum()
        assert row["base_rate"] == pytest.approx(y.mean())
        assert row["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-9)
        assert row["pr_auc"] == pytest.approx(average_precision_score(y, p), abs=1e-9)
        assert row["brier"] == pytest.approx(brier_score_loss(y, p), abs=1e-9)
        squares = (p - y) ** 2
        half = 1.96 * squares.std() / np.sqrt(len(y))
        assert row["brier_ci"] == pytest.approx([squares.mean() - half, squares.mean() + half], abs=1e-6)
        listed = np.argsort(-p, kind="stable")[:CAPACITY]
        assert row["precision"] == pytest.approx(y[listed].mean())
        assert row["recall"] == pytest.approx(y[listed].sum() / y.sum())
        assert row["recall_ci"][0] < row["recall"] < row["recall_ci"][1]


def test_counts_are_few_however_many_the_rows(spark: SparkSession) -> None:
    """What reaches the driver is bounded by steps and weeks, not by students or courses."""
    rows = spark.range(20_000).select(
        F.format_string("%016x", "id").alias("user_key"), (F.col("id") % 50).alias("courseid"), F.lit(1).alias("week"),
        F.rand(1).alias("probability"), (F.col("id") % 2).cast("double").alias("label"),
    )  # fmt: skip
    assert len(metrics.counted(rows, CAPACITY, "week")) <= metrics.STEPS + metrics.BINS


def test_delongs_interval_is_what_resampling_gives() -> None:
    probability, label = drawn(5, 300)
    area, interval = metrics._auc(steps(label, probability))
    rng = np.random.default_rng(6)
    areas = []
    for _ in range(2000):
        pick = rng.integers(0, 300, 300)
        areas.append(roc_auc_score(label[pick], probability[pick]))
    assert area is not None
    assert interval is not None
    assert interval == pytest.approx([area - 1.96 * np.std(areas), area + 1.96 * np.std(areas)], abs=0.004)


def test_the_list_is_each_courses_own(spark: SparkSession) -> None:
    """Two courses, one place on the list of each: the likelier student of the other course takes none away."""
    scored = spark.createDataFrame(
        [("a", 1, 0, 1.0, 0.9), ("b", 1, 0, 1.0, 0.8), ("c", 2, 0, 0.0, 0.3), ("d", 2, 0, 1.0, 0.3)],
        "user_key string, courseid long, week int, label double, probability double",
    )
    (row,) = metrics.per_week(scored, [0], 1)
    assert (row["precision"], row["recall"]) == (0.5, pytest.approx(1 / 3)), "of equals the lower key is listed"


def test_area_between_curves() -> None:
    p1, y1 = drawn(7, 200)
    p2, y2 = drawn(8, 150)
    one, two = metrics._roc(steps(y1, p1)), metrics._roc(steps(y2, np.round(p2, 1)))
    grid = np.linspace(0, 1, 200_001)

    def curve(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
        fpr, tpr, _ = roc_curve(label, probability, drop_intermediate=False)
        return np.interp(grid, fpr, tpr)

    by_grid = np.abs(curve(y1, p1) - curve(y2, np.round(p2, 1))).mean()
    assert metrics._between(one, two) == pytest.approx(by_grid, abs=1e-4)
    assert metrics._between(one, one) == 0
    perfect, inverse = (np.array([0, 0, 1.0]), np.array([0, 1.0, 1])), (np.array([0, 1.0, 1]), np.array([0, 0, 1.0]))
    assert metrics._between(perfect, inverse) == 1
    diagonal, step = (np.array([0, 1.0]), np.array([0, 1.0])), (np.array([0, 0, 1.0, 1]), np.array([0, 0.5, 0.5, 1]))
    assert metrics._between(diagonal, step) == 0.25, "they cross in the middle"


def test_gaps_between_groups() -> None:
    def group(name: str, label: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(
            {"group": name, "step": probability, "rows": 1, "positives": label, "probability": probability}
        )

    probability, label = drawn(9, 400)
    coin = np.random.default_rng(10).uniform(size=120)
    served, unserved = group("a", label, probability), group("b", label[:120], coin)
    first, second, third = metrics.gaps(pd.concat([unserved, served, group("c", label[:30], probability[:30])]))
    assert (first["group"], first["students"], first["auc_gap"]) == ("a", 400, None)
    assert first["auc"] == pytest.approx(roc_auc_score(label, probability))
    assert second["auc_gap"] == pytest.approx(roc_auc_score(label[:120], coin) - first["auc"])
    assert second["auc_gap_ci"][1] < -0.1, "the model tells nothing of them"
    assert second["abroca"] > 0.1
    assert (third["auc"], third["students"]) == (None, 30)
    assert "too small" in third["note"]


def test_calibration_bins() -> None:
    counts = pd.DataFrame(
        {"bin": [0, 0, 9], "rows": [3, 1, 4], "positives": [1.0, 0, 4], "probability": [0.15, 0.05, 3.8]}
    )
    low, high = metrics.calibration(counts)
    assert (low["students"], low["probability"], low["share"]) == (4, pytest.approx(0.05), 0.25)
    assert high["share_ci"] == pytest.approx([0.51, 1.0], abs=0.01)


def test_calibration_error_by_hand(spark: SparkSession) -> None:
    scored = frame(spark, [(0, 1.0, 0.95), (0, 1.0, 1.0), (0, 0.0, 0.05), (0, 1.0, 0.08)])
    (row,) = metrics.per_week(scored, [0], CAPACITY)
    # the last bin: 2 of 2 at a mean of 0.975; the first: 1 of 2 at a mean of 0.065
    assert row["ece"] == pytest.approx((abs(2 - 1.95) + abs(1 - 0.13)) / 4)


def test_weeks_without_students_or_with_one_outcome(spark: SparkSession) -> None:
    one, none = metrics.per_week(frame(spark, [(0, 1.0, 0.5)]), [0, 9], CAPACITY)
    assert one["auc"] is None
    assert one["brier"] == pytest.approx(0.25)
    assert none == {"week": 9, "students": 0, **dict.fromkeys(metrics.MEASURES)}
