"""List students by rules that anybody can follow, for sites whose data cannot teach a model yet.

A student is listed for never having come, for an absence, for due assessments that were not handed in, or for a grade
below pass. The rules know no probability: the band says how many of them hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.config import AnalyticsConfig
from moodle_lakehouse.dropout import explanations

BASIS = "rules"
SETTLED_IN = 7.0  # days since the start and the enrolment, before which nobody is said to have never come
# Rule -> the reason that it gives, the gravest first
REASONS = {"never": "active_days", "absent": "days_since_access", "missed": "handed_in", "failing": "grade_avg"}


def apply(rows: DataFrame, analytics: AnalyticsConfig) -> DataFrame:
    """Return the band and the reasons of rows of features.enrolment_week. Grain unchanged: (user_key, courseid, week).

    rows: explanations.with_cohort(). band: high for two rules or for never having come, medium for one, low for none;
    reason_1 to reason_3 in words, the gravest first.
    """
    holds = conditions(analytics)
    shown = [f"cohort_{reason.figure}" for reason in _wanted()] + [reason.figure for reason in _wanted()]
    marked = rows.select(
        "user_key", "courseid", "week", *dict.fromkeys(shown),
        *[F.coalesce(condition, F.lit(False)).alias(name) for name, condition in holds.items()],
    )  # fmt: skip
    schema = "user_key string, courseid bigint, week int, band string, " + ", ".join(
        f"reason_{place + 1} string" for place in range(explanations.REASONS)
    )
    return marked.mapInPandas(_with_reasons, schema)


def conditions(analytics: AnalyticsConfig) -> dict[str, Column]:
    """Return when each rule holds, of a row of features.enrolment_week."""
    here = 7.0 * F.col("week") + F.least(F.col("lead_days"), F.lit(0.0))  # days since the start, or since enrolment
    never = (F.col("events") == 0) & (here >= SETTLED_IN)
    return {
        "never": never,
        "absent": ~never & (F.col("days_since_access") >= analytics.rules.days_without_access),
        "missed": F.col("due") - F.col("handed_in") >= analytics.rules.missed,
        "failing": F.col("grade_avg") < analytics.pass_share,
    }


def _wanted() -> list[explanations.Reason]:
    return [explanations.REASON[name] for name in REASONS.values()]


def _with_reasons(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    for batch in batches:
        result = batch[["user_key", "courseid", "week"]].copy()
        found = [_reasons(row) for row in batch.to_dict("records")]
        result["band"] = [band for band, _ in found]
        for place in range(explanations.REASONS):
            result[f"reason_{place + 1}"] = [words[place] if place < len(words) else None for _, words in found]
        yield result


def _reasons(row: dict[str, object]) -> tuple[str, list[str]]:
    held = [name for name in REASONS if row[name]]
    band = "high" if len(held) > 1 or "never" in held else "medium" if held else "low"
    return band, [_words(REASONS[name], row) for name in held]


def _words(name: str, row: dict[str, object]) -> str:
    """Return the reason of a rule that holds, whether or not the course's mean is any better."""
    reason = explanations.REASON[name]
    return reason.text(_number(row[reason.figure]), _number(row[f"cohort_{reason.figure}"]))


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")
