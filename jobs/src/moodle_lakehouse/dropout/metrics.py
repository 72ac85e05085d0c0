"""Measure how good probabilities are, week by week.

Spark counts, Python divides: rows are reduced to counts per probability (in steps of 5e-4) first, so that nothing but
those counts leaves the cluster; measures of each course are made there.

auc        area under the ROC curve, ties count half
pr_auc     average precision: the precision at each step of recall, not interpolated
brier      mean squared difference of probability and outcome
ece        expected calibration error: ten bins of equal width, |mean probability - share of outcomes| of
           each, weighted by the bin's rows
precision  of those on the advisor's list (in each course and week the capacity's most probable), the share with
           the outcome; recall: of those with the outcome, the share on the list
abroca     area between two ROC curves, 0 to 1; it is never below 0, so of small groups it is some hundredths by chance

*_ci are intervals of 95 %: DeLong's for auc, normal for brier, Wilson's for shares. They show what chance does among
the students of these courses; how much courses differ shows by leaving them out one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

BINS = 10
STEPS = 2_000
Z = 1.959964  # of a normal variable, 95 % lie within so many standard deviations

# A group with fewer students, or fewer with or without the outcome, is reported by its size alone.
MIN_IN_GROUP, MIN_OF_EACH = 50, 10

Interval = list[float]
INTERVALS = "95 %: DeLong (AUC), normal (Brier), Wilson (shares); chance among students, not among courses"


def per_week(scored: DataFrame, weeks: Iterable[int], capacity: int) -> list[dict[str, Any]]:
    """Return the measures of every week, in the given order.

    scored: user_key, courseid, week, label (0 or 1), probability; grain enrolment and week. capacity: how many
    students of a course are on the advisor's list. A week without rows has 0 students and null measures; one with
    a single outcome has no auc.
    """
    return by_week(counted(scored, capacity, "week"), weeks)


def nobody(weeks: Iterable[int]) -> list[dict[str, Any]]:
    """Return the measures of weeks without rows."""
    return [{"week": week, **NOBODY} for week in weeks]


def by_week(counts: pd.DataFrame, weeks: Iterable[int]) -> list[dict[str, Any]]:
    """Return the measures of every week, from counts by week."""
    return [{"week": week, **measures(counts[counts["week"] == week])} for week in weeks]


def per_course(scored: DataFrame, weeks: Iterable[int], capacity: int) -> dict[int, list[dict[str, Any]]]:
    """Return the measures of every course and week: courseid -> the weeks in the given order."""
    wanted = list(weeks)

    def of_course(counts: pd.DataFrame) -> pd.DataFrame:
        measured = json.dumps(by_week(counts, wanted))
        return pd.DataFrame({"courseid": [counts["courseid"].iloc[0]], "measured": [measured]})

    counts = _counts(scored, capacity, "courseid", "week").groupBy("courseid")
    found = counts.applyInPandas(of_course, "courseid long, measured string").collect()
    return {row["courseid"]: json.loads(row["measured"]) for row in found}


def counted(scored: DataFrame, capacity: int, *by: str) -> pd.DataFrame:
    """Count rows per group, calibration bin and probability step: few counts, whatever the number of rows."""
    return _counts(scored, capacity, *by).toPandas()


def _counts(scored: DataFrame, capacity: int, *by: str) -> DataFrame:
    p, y = F.col("probability"), F.col("label")
    # Who is as probable as another comes first by the lower key: a list must have an end.
    place = F.row_number().over(Window.partitionBy("courseid", "week").orderBy(F.desc("probability"), "user_key"))
    return (
        scored.withColumn("listed", (place <= capacity).cast("int"))
        .groupBy(
            *by,
            F.least(F.floor(p * BINS), F.lit(BINS - 1)).alias("bin"),
            F.round(p * STEPS).cast("int").alias("step"),
        )
        .agg(
            F.count("*").alias("rows"),
            F.sum(y).alias("positives"),
            F.sum(p).alias("probability"),
            F.sum(F.pow(p - y, 2)).alias("squares"),
            F.sum(F.pow(p - y, 4)).alias("fourths"),
            F.sum("listed").alias("listed"),
            F.sum(F.col("listed") * y).alias("found"),
        )
    )


MEASURES = ("base_rate", "auc", "auc_ci", "pr_auc", "brier", "brier_ci", "ece", "precision", "precision_ci", "recall", "recall_ci")  # fmt: skip
NOBODY: dict[str, Any] = {"students": 0, **dict.fromkeys(MEASURES)}


def measures(counts: pd.DataFrame) -> dict[str, Any]:
    """Return the measures of all the counts together."""
    rows = int(counts["rows"].sum())
    if rows == 0:
        return dict(NOBODY)
    bins = counts.groupby("bin")[["rows", "positives", "probability"]].sum()
    steps = _steps(counts)
    positives, total = float(steps["positives"].sum()), float(rows)
    brier = float(counts["squares"].sum()) / total
    listed, found = float(counts["listed"].sum()), float(counts["found"].sum())
    auc, auc_ci = _auc(steps)
    return {
        "students": rows,
        "base_rate": positives / total,
        "auc": auc,
        "auc_ci": auc_ci,
        "pr_auc": _average_precision(steps),
        "brier": brier,
        "brier_ci": _normal(brier, np.sqrt(max(float(counts["fourths"].sum()) / total - brier**2, 0) / total)),
        "ece": float((bins["positives"] - bins["probability"]).abs().sum()) / total,
        "precision": found / listed if listed else None,
        "precision_ci": wilson(found, listed),
        "recall": found / positives if positives else None,
        "recall_ci": wilson(found, positives),
    }


def calibration(counts: pd.DataFrame) -> list[dict[str, Any]]:
    """Return of each bin that has rows: students, mean probability, share with the outcome and its interval."""
    bins = counts.groupby("bin")[["rows", "positives", "probability"]].sum()
    return [
        {
            "bin": int(number),
            "students": int(row["rows"]),
            "probability": float(row["probability"] / row["rows"]),
            "share": float(row["positives"] / row["rows"]),
            "share_ci": wilson(float(row["positives"]), float(row["rows"])),
        }
        for number, row in bins.iterrows()
    ]


GAPS = ("base_rate", "probability", "auc", "auc_ci", "auc_gap", "auc_gap_ci", "abroca")


def gaps(counts: pd.DataFrame) -> list[dict[str, Any]]:
    """Compare each group with the largest, which comes first. counts: by group, of one week.

    auc_gap is the group's AUC less the largest group's. A group too small has its size and a note, no measures.
    """
    sizes = counts.groupby("group")["rows"].sum().sort_index(kind="stable").sort_values(ascending=False, kind="stable")
    found: list[dict[str, Any]] = []
    largest: pd.DataFrame | None = None
    for name in sizes.index:
        own = counts[counts["group"] == name]
        entry = {"group": str(name), "students": int(sizes[name]), **dict.fromkeys(GAPS)}
        with_outcome = float(own["positives"].sum())
        if sizes[name] < MIN_IN_GROUP or min(with_outcome, sizes[name] - with_outcome) < MIN_OF_EACH:
            found.append({**entry, "note": f"too small: {MIN_IN_GROUP} students, {MIN_OF_EACH} of each outcome"})
            continue
        steps = _steps(own)
        entry["base_rate"] = float(with_outcome / sizes[name])
        entry["probability"] = float(own["probability"].sum() / sizes[name])
        entry["auc"], entry["auc_ci"] = _auc(steps)
        if largest is None:
            largest = steps
            found.append({**entry, "note": "the largest"})
        else:
            found.append({**entry, **_gap(steps, largest), "note": None})
    return found


def _gap(steps: pd.DataFrame, largest: pd.DataFrame) -> dict[str, Any]:
    """How much better a group is served than the largest one, with DeLong's interval, and the area between their curves."""
    gap = _area(steps) - _area(largest)
    error = float(np.sqrt(_delong(steps) + _delong(largest)))
    interval = [gap - Z * error, gap + Z * error]
    return {"auc_gap": gap, "auc_gap_ci": interval, "abroca": _between(_roc(largest), _roc(steps))}


def wilson(hits: float, of: float) -> Interval | None:
    """Return Wilson's interval of the share hits / of; None of nothing."""
    if of <= 0:
        return None
    share, z2 = hits / of, Z * Z
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = Z / (1 + z2 / of) * np.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return [float(max(middle - half, 0.0)), float(min(middle + half, 1.0))]


def _normal(value: float, error: float) -> Interval:
    return [float(max(value - Z * error, 0.0)), float(min(value + Z * error, 1.0))]


def _steps(counts: pd.DataFrame) -> pd.DataFrame:
    """Sum up the positives and negatives of each probability, from the highest down."""
    steps = counts.groupby("step")[["rows", "positives"]].sum().sort_index(ascending=False).astype(float)
    return steps.assign(negatives=steps["rows"] - steps["positives"])


def _auc(steps: pd.DataFrame) -> tuple[float | None, Interval | None]:
    """The area and its interval; null where there is a single outcome, no interval with one row of an outcome."""
    positives, negatives = steps["positives"].sum(), steps["negatives"].sum()
    if positives == 0 or negatives == 0:
        return None, None
    area = _area(steps)
    return area, _normal(area, np.sqrt(_delong(steps))) if min(positives, negatives) > 1 else None


def _area(steps: pd.DataFrame) -> float:
    """Share of pairs in the right order."""
    return float((steps["negatives"] * _above(steps)).sum() / steps["negatives"].sum())


def _above(steps: pd.DataFrame) -> pd.Series:
    """Of the rows with the outcome, the share above each step; those of the step itself count half."""
    positives = steps["positives"]
    return (positives.cumsum() - positives / 2) / positives.sum()


def _delong(steps: pd.DataFrame) -> float:
    """DeLong's variance of the area: that of each row's share of pairs in the right order, by outcome."""
    negatives = steps["negatives"]
    below = 1 - (negatives.cumsum() - negatives / 2) / negatives.sum()
    return _variance(below, steps["positives"]) + _variance(_above(steps), negatives)


def _variance(values: pd.Series, weights: pd.Series) -> float:
    """Variance of the mean of values that occur as often as weights say."""
    number = float(weights.sum())
    spread = float((weights * (values - (weights * values).sum() / number) ** 2).sum()) / (number - 1)
    return spread / number


def _roc(steps: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve's corners: false and true positive rates, from (0, 0) to (1, 1)."""
    corners = steps[["negatives", "positives"]].cumsum() / steps[["negatives", "positives"]].sum()
    return np.r_[0.0, corners["negatives"].to_numpy()], np.r_[0.0, corners["positives"].to_numpy()]


def _between(one: tuple[np.ndarray, np.ndarray], two: tuple[np.ndarray, np.ndarray]) -> float:
    """The area between two ROC curves, exact: they are straight between corners, and may cross there."""
    grid = np.union1d(one[0], two[0])
    # A curve may rise straight up at a corner: what holds right of it begins the next piece, left of it ends the last.
    begins = [_at(curve, grid[:-1], "right") for curve in (one, two)]
    ends = [_at(curve, grid[1:], "left") for curve in (one, two)]
    first, last = begins[0] - begins[1], ends[0] - ends[1]
    size = np.abs(first) + np.abs(last)
    crossing = first * last < 0
    shape = np.where(crossing, (first**2 + last**2) / np.where(size > 0, 2 * size, 1), size / 2)
    return float((shape * np.diff(grid)).sum())


def _at(curve: tuple[np.ndarray, np.ndarray], grid: np.ndarray, side: str) -> np.ndarray:
    """The curve's height on the grid, just right or just left of each point."""
    x, y = curve
    # Right of a point goes on the piece that begins at or before it, left of it ends the last that begins before.
    place = np.searchsorted(x, grid, side="right" if side == "right" else "left") - 1
    part = (grid - x[place]) / (x[place + 1] - x[place])
    return np.asarray(y[place] + part * (y[place + 1] - y[place]))


def _average_precision(steps: pd.DataFrame) -> float | None:
    positives = steps["positives"].to_numpy()
    if positives.sum() == 0:
        return None
    precision = np.cumsum(positives) / np.cumsum(steps["rows"].to_numpy())
    return float((precision * positives).sum() / positives.sum())
