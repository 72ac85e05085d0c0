"""Turn the margins of a model into probabilities, by Platt's curve of rows that the model was not trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.dropout import dataset, served_model

METHOD = "Platt's curve, its slope by week"


@dataclass(frozen=True)
class PlattCalibration:
    """Platt's calibration: the logistic curve from a booster's margin (log odds) to the probability.

    Its slope changes evenly with the weeks up to last_week: the more of a course is over, the surer is the same margin.
    """

    slope: float = 1.0
    intercept: float = 0.0
    slope_by_week: float = 0.0
    last_week: int = 0

    def probability(self, margin: np.ndarray, week: np.ndarray) -> np.ndarray:
        """Return the probability of each margin in its week."""
        return served_model.calibrated(margin, week, **dataclasses.asdict(self))

    def rises(self) -> bool:
        """Tell whether a higher margin is a higher probability in every week."""
        return min(self.slope, self.slope + self.slope_by_week * self.last_week) > 0

    def column(self) -> Column:
        """Return the probability of the columns margin and week."""
        slope = F.lit(self.slope) + F.lit(self.slope_by_week) * F.least(F.col("week"), F.lit(self.last_week))
        return 1 / (1 + F.exp(-(slope * F.col("margin") + F.lit(self.intercept))))


def margin_counts(held_out: DataFrame) -> pd.DataFrame:
    """Count rows per course, week, margin (in steps of 0.01) and label: few counts, however many rows."""
    return (
        held_out.groupBy("courseid", "week", F.round("margin", 2).alias("margin"), "label")
        .agg(F.count("*").alias("rows"))
        .toPandas()
    )


def fit(counts: pd.DataFrame) -> PlattCalibration:
    """Fit the curve of the counts: its slope by week where that rises everywhere, else one for all weeks, or the base rate."""
    weights = counts["rows"].to_numpy(float)
    rate = float(np.clip((counts["label"] * weights).sum() / weights.sum(), 1e-4, 1 - 1e-4))
    flat = PlattCalibration(slope=0.0, intercept=float(np.log(rate / (1 - rate))))
    if counts["label"].nunique() < 2:
        return flat
    rising = (curve for curve in (_fitted(counts, int(counts["week"].max())), _fitted(counts, 0)) if curve.rises())
    return next(rising, flat)


def _fitted(counts: pd.DataFrame, last_week: int) -> PlattCalibration:
    """Return the likeliest curve; one slope for all weeks if the last is 0."""
    from sklearn.linear_model import LogisticRegression as Platt

    margin, scale = counts["margin"].to_numpy(float), max(1, last_week)
    columns = np.column_stack([margin, margin * np.minimum(counts["week"].to_numpy(float), last_week) / scale])
    fitted = Platt(C=1e6).fit(columns, counts["label"].to_numpy(int), sample_weight=counts["rows"].to_numpy(float))
    slope, by_week = (float(value) for value in fitted.coef_[0])
    return PlattCalibration(slope, float(fitted.intercept_[0]), by_week / scale, last_week)


def cross_fit(held_out: DataFrame, courses: Sequence[dataset.Course]) -> DataFrame:
    """Return the held-out rows with probabilities; each course's calibration is learnt from the other courses."""
    counts = margin_counts(held_out)
    present = [course for course in courses if course.courseid in set(counts["courseid"])]
    probability: Column = F.lit(None).cast("double")
    for fold in dataset.folds(present):
        inside = counts["courseid"].isin([course.courseid for course in fold])
        curve = fit(counts[~inside] if (~inside).any() else counts)
        probability = F.when(dataset.in_courses(fold), curve.column()).otherwise(probability)
    return held_out.select(*dataset.KEYS, "label", probability.alias("probability"))
