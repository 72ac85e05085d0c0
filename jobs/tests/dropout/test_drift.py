"""Drift: what has moved is reported, what has not is not, week by week."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from moodle_lakehouse.dropout import drift
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

NAMES = ("a", "b")


def students(
    spark: SparkSession, seed: int, week: int, size: int, shift: float = 0.0, missing: float = 0.0
) -> DataFrame:
    """a grows with the week and moves by shift; b does neither, and is missing for a share."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=size) + week + shift, rng.normal(size=size)
    b[rng.uniform(size=size) < missing] = np.nan
    rows = list(zip([week] * size, a.tolist(), b.tolist(), strict=True))
    return spark.createDataFrame(rows, "week int, a double, b double")


@pytest.fixture(scope="module")
def known(spark: SparkSession) -> dict[str, Any]:
    return drift.reference(students(spark, 1, 2, 9000).unionByName(students(spark, 2, 8, 3000)), NAMES)


def test_the_same_week_has_not_moved(spark: SparkSession, known: dict[str, Any]) -> None:
    for number, (week, told) in enumerate(
        ((2, 2), (8, 8), (8, 9)), 3
    ):  # week 9 was not taught: 8 is the last before it
        now = students(spark, number, week, 2000).withColumn("week", F.lit(told))
        found = {row["feature"]: row["shift"] for row in drift.compare(known, now)}
        assert max(found.values()) < drift.DRIFT_LOW, "whatever the share of a week in the training was"


def test_what_has_moved_is_told_first(spark: SparkSession, known: dict[str, Any]) -> None:
    first, second = drift.compare(known, students(spark, 4, 2, 2000, shift=1.5))
    assert (first["feature"], second["feature"]) == ("a", "b")
    assert first["shift"] == pytest.approx(1.5, abs=0.1)
    assert drift.moved(first)
    assert second["shift"] < drift.DRIFT_LOW
    found = {row["feature"]: row for row in drift.compare(known, students(spark, 5, 2, 2000, missing=0.4))}
    assert found["b"]["missing"] == pytest.approx(0.4, abs=0.05)
    assert found["b"]["missing_then"] == 0
    assert found["b"]["shift"] < drift.DRIFT_LOW, "of those that are there nothing has moved"
    assert [name for name, row in found.items() if drift.moved(row)] == ["b"]


def test_the_shift_is_the_textbooks(spark: SparkSession) -> None:
    """Two values, half and half in training, a quarter and three quarters now: a quarter moves by two deviations."""
    rows = [(0, 0.0, 1.0)] * 50 + [(0, 1.0, 1.0)] * 50
    known = drift.reference(spark.createDataFrame(rows, "week int, a double, b double"), NAMES)
    now = spark.createDataFrame(rows[:25] + rows[50:] + rows[50:75], "week int, a double, b double")
    first, second = drift.compare(known, now)
    assert (first["feature"], first["shift"]) == ("a", pytest.approx(0.5))
    assert second["shift"] == 0


def test_values_that_are_nearly_the_same_have_hardly_moved(spark: SparkSession) -> None:
    """Shares against a course's mean: most students are at one value, which is a hundredth higher now."""

    def shares(high: float) -> DataFrame:
        return spark.createDataFrame(
            [(0, high, high)] * 80 + [(0, high - 0.5, high - 1.0)] * 20, "week int, a double, b double"
        )

    known = drift.reference(shares(0.10), NAMES)
    assert max(row["shift"] for row in drift.compare(known, shares(0.11))) < drift.DRIFT_LOW
