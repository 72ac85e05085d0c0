"""Drift: what has moved is told, what has not is not, week by week."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from moodle_lakehouse import drift
from pyspark.sql import DataFrame, SparkSession

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
    return drift.reference(students(spark, 1, 2, 3000).unionByName(students(spark, 2, 8, 1000)), NAMES)


def test_the_same_week_has_not_moved(spark: SparkSession, known: dict[str, Any]) -> None:
    for week in (2, 8, 9):
        found = {row["feature"]: row["psi"] for row in drift.compare(known, students(spark, 3, min(week, 8), 2000))}
        assert max(found.values()) < 0.05, "whatever the share of a week in the training was"


def test_what_has_moved_is_told_first(spark: SparkSession, known: dict[str, Any]) -> None:
    first, second = drift.compare(known, students(spark, 4, 2, 2000, shift=1.5))
    assert (first["feature"], second["feature"]) == ("a", "b")
    assert first["psi"] > drift.MUCH
    assert second["psi"] < drift.SOME
    first, _ = drift.compare(known, students(spark, 5, 2, 2000, missing=0.4))
    assert first["feature"] == "b"
    assert first["psi"] > drift.MUCH
    assert first["missing"] == pytest.approx(0.4, abs=0.05)
    assert first["missing_then"] == 0


def test_the_index_is_the_textbooks(spark: SparkSession) -> None:
    """Two values, half and half in training, a quarter and three quarters now."""
    rows = [(0, 0.0, 1.0)] * 50 + [(0, 1.0, 1.0)] * 50
    known = drift.reference(spark.createDataFrame(rows, "week int, a double, b double"), NAMES)
    now = spark.createDataFrame(rows[:25] + rows[50:] + rows[50:75], "week int, a double, b double")
    first, second = drift.compare(known, now)
    assert first["psi"] == pytest.approx((0.75 - 0.5) * np.log(1.5) + (0.25 - 0.5) * np.log(0.5))
    assert second["psi"] == pytest.approx(0)
