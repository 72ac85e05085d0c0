"""How good probabilities are, week by week.

Spark counts, Python divides: rows are reduced to counts per probability (in steps of 1e-5) first, so that
nothing but those counts leaves the cluster.

auc        area under the ROC curve, ties count half
pr_auc     average precision: the precision at each step of recall, not interpolated
brier      mean squared difference of probability and outcome
ece        expected calibration error: ten bins of equal width, |mean probability - share of outcomes| of
           each, weighted by the bin's rows
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

BINS = 10
STEPS = 100_000


def per_week(scored: DataFrame, weeks: Iterable[int]) -> list[dict[str, Any]]:
    """One entry per week in the given order. scored: week, label (0 or 1), probability; grain enrolment and week.

    A week without rows has 0 students and null measures; one with a single outcome has no auc.
    """
    counts = counted(scored, "week")
    return [{"week": week, **measures(counts[counts["week"] == week])} for week in weeks]


def overall(scored: DataFrame) -> dict[str, Any]:
    """The same measures over all rows."""
    return measures(counted(scored))


def counted(scored: DataFrame, *by: str) -> pd.DataFrame:
    """Counts per group, calibration bin and probability step: small, whatever the number of rows."""
    p, y = F.col("probability"), F.col("label")
    return (
        scored.groupBy(
            *by,
            F.least(F.floor(p * BINS), F.lit(BINS - 1)).alias("bin"),
            F.round(p * STEPS).cast("int").alias("step"),
        )
        .agg(
            F.count("*").alias("rows"),
            F.sum(y).alias("positives"),
            F.sum(p).alias("probability"),
            F.sum((p - y) * (p - y)).alias("squares"),
        )
        .toPandas()
    )


def measures(counts: pd.DataFrame) -> dict[str, Any]:
    """The measures of one group of counts."""
    rows = int(counts["rows"].sum())
    if rows == 0:
        return {"students": 0, "base_rate": None, "auc": None, "pr_auc": None, "brier": None, "ece": None}
    bins = counts.groupby("bin")[["rows", "positives", "probability"]].sum()
    steps = counts.groupby("step")[["rows", "positives"]].sum().sort_index(ascending=False)
    positives, total = float(steps["positives"].sum()), float(rows)
    return {
        "students": rows,
        "base_rate": positives / total,
        "auc": _auc(steps["rows"].to_numpy(float), steps["positives"].to_numpy(float)),
        "pr_auc": _average_precision(steps["rows"].to_numpy(float), steps["positives"].to_numpy(float)),
        "brier": float(counts["squares"].sum()) / total,
        "ece": float((bins["positives"] - bins["probability"]).abs().sum()) / total,
    }


def _auc(rows: np.ndarray, positives: np.ndarray) -> float | None:
    """Share of pairs in the right order; steps from the highest probability down."""
    negatives = rows - positives
    if positives.sum() == 0 or negatives.sum() == 0:
        return None
    above = np.cumsum(positives) - positives / 2
    return float((negatives * above).sum() / (positives.sum() * negatives.sum()))


def _average_precision(rows: np.ndarray, positives: np.ndarray) -> float | None:
    if positives.sum() == 0:
        return None
    precision = np.cumsum(positives) / np.cumsum(rows)
    return float((precision * positives).sum() / positives.sum())
