"""Measure how far the students that are scored are from those the model was trained on, feature by feature.

The measure is the shift: how far, on average, the training's values would have to be moved to become those of now, in
standard deviations of the training (the Wasserstein distance of the two). Below 0.1 nothing has moved, above 0.3 much
has. A week is compared with the same week of training: what is usual in week 10 is not in week 2.

The population stability index would not do here: where a share of a few assessments is compared with its course, most
students have nearly the same value, and a hundredth more or less moves all of them from one tenth to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

REFERENCE = "reference.json"  # the document of a training's run that later rows are compared with
BINS = 40
MISSING = -1
# Of more rows a sample tells the same.
MAX_ROWS = 200_000
# Of fewer students chance alone makes a shift that looks like something.
MIN_STUDENTS = 100
DRIFT_LOW, DRIFT_HIGH = 0.1, 0.3


def reference(rows: DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Return what later rows are compared with, as plain JSON: the range of each feature, and the rows in each bin of it by week.

    rows: week and the features as floats, NaN where missing. The range leaves out the most extreme hundredth.
    """
    count = rows.count()
    sample = rows.sample(min(1.0, MAX_ROWS / max(count, 1)), seed=1).persist()
    try:
        limits = sample.approxQuantile(list(names), [0.005, 0.995], 0.001)
        ranges = {name: found or [0.0, 0.0] for name, found in zip(names, limits, strict=True)}
        counts = _counts(sample, ranges)
    finally:
        sample.unpersist()
    weeks: dict[str, dict[str, dict[str, int]]] = {}
    for row in counts.itertuples():
        weeks.setdefault(str(row.week), {}).setdefault(str(row.feature), {})[str(row.bin)] = int(row.rows)
    return {"ranges": ranges, "weeks": weeks}


def compare(known: dict[str, Any], rows: DataFrame) -> list[dict[str, Any]]:
    """Return {feature, shift, missing, missing_then} of each feature, the most changed first. rows: as for reference.

    missing: the share without a value, now and in training; shift is that of the others.
    """
    counts = _counts(rows, known["ranges"])
    if counts.empty:
        return []
    taught = sorted(int(week) for week in known["weeks"])
    found = []
    for name in known["ranges"]:
        now, then = np.zeros(BINS + 1), np.zeros(BINS + 1)
        for week, part in counts[counts["feature"] == name].groupby("week"):
            before = [other for other in taught if other <= week]
            bins = known["weeks"][str(before[-1] if before else taught[0])].get(name, {})
            then += _shares(bins) * float(part["rows"].sum())
            for row in part.itertuples():
                now[int(row.bin) - MISSING] += float(row.rows)
        missing = {"missing": float(now[0] / now.sum()), "missing_then": float(then[0] / then.sum())}
        found.append({"feature": name, "shift": _shift(now[1:], then[1:]), **missing})
    return sorted(found, key=lambda row: (-row["shift"], row["feature"]))


def moved(row: dict[str, Any]) -> bool:
    """Tell whether a feature is far from what it was."""
    return bool(row["shift"] > DRIFT_HIGH or abs(row["missing"] - row["missing_then"]) > DRIFT_HIGH)


def _shift(now: np.ndarray, then: np.ndarray) -> float:
    """Between two counts over bins of equal width; 0 where either has nothing to compare."""
    if now.sum() == 0 or then.sum() == 0:
        return 0.0
    now, then, place = now / now.sum(), then / then.sum(), np.arange(BINS)
    mean = (then * place).sum()
    spread = np.sqrt((then * (place - mean) ** 2).sum())
    # What never differed in training is measured by its range.
    return float(np.abs(np.cumsum(now - then)).sum() / (spread if spread > 0 else BINS - 1))


def _shares(bins: dict[str, int]) -> np.ndarray:
    counts = np.zeros(BINS + 1)
    for number, rows in bins.items():
        counts[int(number) - MISSING] += rows
    return counts / max(counts.sum(), 1)


def _counts(rows: DataFrame, ranges: dict[str, list[float]]) -> pd.DataFrame:
    """week, feature, bin, rows: a few hundred rows a week, whatever the number of students."""

    def place(name: str, low: float, high: float) -> Column:
        value = F.col(name).cast("double")
        width = (high - low) / BINS or 1.0 / BINS
        number = F.floor((value - F.lit(low)) / F.lit(width))
        inside = F.least(F.greatest(number, F.lit(0)), F.lit(BINS - 1))
        return F.when(value.isNull() | F.isnan(value), F.lit(MISSING)).otherwise(inside).cast("int")

    pairs = [F.struct(F.lit(name).alias("feature"), place(name, *ends).alias("bin")) for name, ends in ranges.items()]
    return (
        rows.select("week", F.explode(F.array(*pairs)).alias("pair"))
        .groupBy("week", "pair.feature", "pair.bin")
        .agg(F.count("*").alias("rows"))
        .toPandas()
    )
