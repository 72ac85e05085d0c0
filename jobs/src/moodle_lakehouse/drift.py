"""How far the students that are scored are from those the model was trained on, feature by feature.

The measure is the population stability index (PSI): over the tenths of the training data and what is missing, the
sum of (share now - share then) * ln(share now / share then). Below 0.1 nothing has moved, above 0.25 much has. A week
is compared with the same week of training: what is usual in week 10 is not in week 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

BINS = 10
MISSING = -1
# Of more rows a sample tells the same.
MOST_ROWS = 200_000
# Of fewer students chance alone makes a PSI that looks like something.
LEAST_STUDENTS = 100
FLOOR = 1e-4
SOME, MUCH = 0.1, 0.25


def reference(rows: DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """What later rows are compared with, as plain JSON: the tenths of each feature, and how many rows lie in each by week.

    rows: week and the features as floats, NaN where missing.
    """
    count = rows.count()
    sample = rows.sample(min(1.0, MOST_ROWS / max(count, 1)), seed=1).persist()
    try:
        tenths = sample.approxQuantile(list(names), [i / BINS for i in range(1, BINS)], 0.005)
        edges = {name: sorted(set(values)) for name, values in zip(names, tenths, strict=True)}
        counts = _counts(sample, edges)
    finally:
        sample.unpersist()
    weeks: dict[str, dict[str, dict[str, int]]] = {}
    for row in counts.itertuples():
        weeks.setdefault(str(row.week), {}).setdefault(str(row.feature), {})[str(row.bin)] = int(row.rows)
    return {"edges": edges, "weeks": weeks}


def compare(known: dict[str, Any], rows: DataFrame) -> list[dict[str, Any]]:
    """{feature, psi, missing, missing_then} of each feature, the most changed first. rows: as for reference."""
    counts = _counts(rows, known["edges"])
    if counts.empty:
        return []
    taught = sorted(int(week) for week in known["weeks"])
    found = []
    for name, edges in known["edges"].items():
        own = counts[counts["feature"] == name]
        now, then = np.zeros(len(edges) + 2), np.zeros(len(edges) + 2)
        for week, part in own.groupby("week"):
            before = [other for other in taught if other <= week]
            bins = known["weeks"][str(before[-1] if before else taught[0])].get(name, {})
            mix = _shares(bins, len(now))
            then += mix * float(part["rows"].sum())
            for row in part.itertuples():
                now[int(row.bin) - MISSING] += float(row.rows)
        now, then = now / now.sum(), then / then.sum()
        a, e = np.maximum(now, FLOOR), np.maximum(then, FLOOR)
        psi = float(((a - e) * np.log(a / e)).sum())
        found.append({"feature": name, "psi": psi, "missing": float(now[0]), "missing_then": float(then[0])})
    return sorted(found, key=lambda row: (-row["psi"], row["feature"]))


def _shares(bins: dict[str, int], size: int) -> np.ndarray:
    counts = np.zeros(size)
    for number, rows in bins.items():
        counts[int(number) - MISSING] += rows
    return counts / max(counts.sum(), 1)


def _counts(rows: DataFrame, edges: dict[str, list[float]]) -> pd.DataFrame:
    """week, feature, bin, rows: a few hundred rows a week, whatever the number of students."""

    def place(name: str, bounds: list[float]) -> Column:
        value = F.col(name).cast("double")
        above = [F.when(value > F.lit(float(bound)), 1).otherwise(0) for bound in bounds]
        number = sum(above, F.lit(0))
        return F.when(value.isNull() | F.isnan(value), F.lit(MISSING)).otherwise(number).cast("int")

    pairs = [F.struct(F.lit(name).alias("feature"), place(name, bounds).alias("bin")) for name, bounds in edges.items()]
    return (
        rows.select("week", F.explode(F.array(*pairs)).alias("pair"))
        .groupBy("week", "pair.feature", "pair.bin")
        .agg(F.count("*").alias("rows"))
        .toPandas()
    )
