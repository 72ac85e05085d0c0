"""Say why a student is at risk: the exact contributions of trees and linear model in words, the student's figure beside the course's.

Contributions of features that say the same thing (a share, and the same share against the cohort) are summed up
to one reason. A reason is given only where it raises the risk and the student's figure is indeed the worse one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from moodle_lakehouse.dropout import features

REASONS = 3
# A contribution below this (in log odds) moves no probability by a whole point.
MIN_CONTRIBUTION = 0.02


@dataclass(frozen=True)
class Reason:
    """figure: the column of features.enrolment_week that is shown. risk: which way the figure is worse (0: any).

    text makes the words of the student's figure and the course's mean; absent those for a student without one,
    where the lack is telling.
    """

    figure: str
    risk: int
    text: Callable[[float, float], str]
    absent: str | None = None


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _number(value: float) -> str:
    """A count or mean: whole where it is, else one digit."""
    return f"{value:,.0f}" if value >= 20 or float(value).is_integer() else f"{value:.1f}"


def _count(value: float, one: str, many: str) -> str:
    return f"{_number(value)} {one if value == 1 else many}"


def _days(value: float) -> str:
    return "1 day" if round(value) == 1 else f"{value:.0f} days"


def _actions(what: str) -> Callable[[float, float], str]:
    def text(own: float, course: float) -> str:
        start = f"has not used {what} yet" if own == 0 else f"{_count(own, 'action', 'actions')} in {what} so far"
        return f"{start} (course: {_number(course)})"

    return text


def _lead(own: float, course: float) -> str:
    when = (
        "on the day of the start"
        if round(own) == 0
        else f"{_days(abs(own))} {'before' if own > 0 else 'after'} the start"
    )
    return f"enrolled {when} (course: {_days(abs(course))} {'before' if course >= 0 else 'after'})"


def _last_due(own: float, course: float) -> str:
    done = "has not handed in what was due last" if own == 0 else f"handed in {_percent(own)} of what was due last"
    return f"{done} (course: {_percent(course)})"


def _early(own: float, course: float) -> str:
    def side(days: float) -> str:
        return f"{abs(days):.1f} days {'before' if days >= 0 else 'after'}"

    return f"hands in {side(own)} the date (course: {side(course)})"


REASON: dict[str, Reason] = {
    "handed_in": Reason(
        "handed_in_share", -1, lambda own, course: f"handed in {_percent(own)} of what was due (course: {_percent(course)})"
    ),
    "on_time": Reason(
        "on_time_share", -1, lambda own, course: f"on time with {_percent(own)} of what was due (course: {_percent(course)})"
    ),
    "last_due": Reason("last_due_share", -1, _last_due),
    "handed_in_ahead": Reason(
        "handed_in_ahead", -1, lambda own, course: f"handed in {_number(own)} ahead of the date (course: {course:.1f})"
    ),
    "days_early": Reason("days_early", -1, _early),
    "days_since_submission": Reason(
        "days_since_submission", 1, lambda own, course: f"last handed in {_days(own)} ago (course: {course:.0f})",
        absent="nothing handed in yet (course: {course:.0f} days ago)",
    ),
    "grade_avg": Reason(
        "grade_avg", -1, lambda own, course: f"average grade {_percent(own)} (course: {_percent(course)})",
        absent="no grade yet (course: {percent} on average)",
    ),
    "grade_last": Reason("grade_last", -1, lambda own, course: f"latest grade {_percent(own)} (course: {_percent(course)})"),
    "credited": Reason(
        "credited", 0,
        lambda own, course: f"{_count(own, 'result', 'results')} without handing in, as from before (course: {course:.1f})",
    ),
    "lead": Reason("lead_days", -1, _lead),
    "days_since_access": Reason(
        "days_since_access", 1, lambda own, course: f"last seen in the course {_days(own)} ago (course: {course:.0f})"
    ),
    "active_days": Reason(
        "active_days", -1, lambda own, course: f"active on {_days(own)} so far (course: {_number(course)})"
    ),
    "active_days_2w": Reason(
        "active_days_2w", -1, lambda own, course: f"active on {_days(own)} of the last two weeks (course: {_number(course)})"
    ),
    "events": Reason(
        "events", -1, lambda own, course: f"{_count(own, 'action', 'actions')} so far (course: {_number(course)})"
    ),
    "events_2w": Reason(
        "events_2w", -1,
        lambda own, course: f"{_count(own, 'action', 'actions')} in the last two weeks (course: {_number(course)})",
    ),
    "trend": Reason(
        "trend", -1,
        lambda own, course: f"activity at {_percent(float(np.exp(own)))} of the weeks before"
        f" (course: {_percent(float(np.exp(course)))})",
    ),
    "writes": Reason(
        "writes", -1, lambda own, course: f"{_count(own, 'contribution', 'contributions')} so far (course: {_number(course)})"
    ),
    "resources": Reason(
        "resources", -1,
        lambda own, course: f"opened {_count(own, 'resource', 'resources')} so far (course: {_number(course)})",
    ),
    "content": Reason("content", -1, _actions("the reading material")),
    "practice": Reason("practice", -1, _actions("quizzes and exercises")),
    "forum": Reason("forum", -1, _actions("forums and the like")),
    "assign": Reason("assign", -1, _actions("assignments")),
    "past_completed": Reason(
        "past_completed", -1, lambda own, course: f"completed {_percent(own)} of earlier courses (course: {_percent(course)})"
    ),
    "past_left": Reason(
        "past_left", 1, lambda own, course: f"left {_percent(own)} of earlier courses (course: {_percent(course)})"
    ),
    "past_grade": Reason(
        "past_grade", -1,
        lambda own, course: f"average grade {_percent(own)} in earlier courses (course: {_percent(course)})",
    ),
}  # fmt: skip


def of_features(names: Sequence[str]) -> list[str | None]:
    """Return the reason that each of a model's features counts towards."""
    known = {feature.name: feature.reason for feature in features.FEATURES}
    return [name if name.startswith((features.ATTRIBUTE, features.PROFILE)) else known.get(name) for name in names]


def figures(columns: Sequence[str]) -> list[str]:
    """Return the columns that reasons are made of, as far as the feature table has them."""
    own = [name for name in columns if name.startswith((features.ATTRIBUTE, features.PROFILE))]
    return [*dict.fromkeys(reason.figure for reason in REASON.values()), *own]


def with_cohort(rows: DataFrame) -> DataFrame:
    """Return the rows with cohort_<figure>, the mean of those enrolled in the course at that week."""
    cohort = Window.partitionBy("courseid", "week")
    numbers = [name for name in figures(rows.columns) if not name.startswith(features.PROFILE)]
    return rows.select(
        "*", *[F.avg(F.when(F.col("enrolled"), F.col(name))).over(cohort).alias(f"cohort_{name}") for name in numbers]
    )


def explain(scored: DataFrame, names: Sequence[str], directions: Sequence[int], keep: Sequence[str]) -> DataFrame:
    """Return keep and reason_1 to reason_3, the strongest first; null where nothing more raises the risk.

    scored: keep, contributions (in the order of names), the figures and their cohort_ means.
    """
    groups = of_features(names)
    risk = dict(zip(names, directions, strict=True))
    shown = [f.name for f in scored.schema if f.name in keep]

    def with_reasons(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            result = batch[shown].copy()
            by_row = [top(row, groups, risk) for row in batch.to_dict("records")]
            for place in range(REASONS):
                result[f"reason_{place + 1}"] = [reasons[place] for reasons in by_row]
            yield result

    schema = ", ".join(f"`{f.name}` {f.dataType.simpleString()}" for f in scored.schema if f.name in shown)
    schema += "".join(f", reason_{place + 1} string" for place in range(REASONS))
    return scored.mapInPandas(with_reasons, schema)


def top(row: dict[str, object], groups: Sequence[str | None], directions: dict[str, int]) -> list[str | None]:
    """Return the reasons of one scored row, filled up with None."""
    sums: dict[str, float] = {}
    for group, value in zip(groups, np.asarray(row["contributions"], dtype=float), strict=True):
        if group is not None:
            sums[group] = sums.get(group, 0.0) + float(value)
    reasons: list[str | None] = []
    for group, value in sorted(sums.items(), key=lambda item: (-item[1], item[0])):
        if value < MIN_CONTRIBUTION or len(reasons) == REASONS:
            break
        words = sentence(group, row, directions)
        if words is not None:
            reasons.append(words)
    return [*reasons, *[None] * (REASONS - len(reasons))]


def sentence(group: str, row: dict[str, object], directions: dict[str, int]) -> str | None:
    """Return one reason in words, or None where the student's figure is no worse than the course's."""
    if group.startswith(features.PROFILE):
        value = row.get(group)
        return None if value is None else f"{_words(group, features.PROFILE)}: {value}"
    reason = REASON.get(group) or Reason(
        group, directions.get(group, 0),
        lambda own, course: f"{_words(group, features.ATTRIBUTE)}: {_number(own)} (course: {course:.1f})",
    )  # fmt: skip
    own, course = _float(row.get(reason.figure)), _float(row.get(f"cohort_{reason.figure}"))
    if course is None:
        return None
    if own is None:
        return reason.absent.format(course=course, percent=_percent(course)) if reason.absent else None
    if reason.risk * (own - course) < 0 or own == course:
        return None
    return reason.text(own, course)


def _words(column: str, prefix: str) -> str:
    return column.removeprefix(prefix).replace("_", " ")


def _float(value: object) -> float | None:
    number = float(value) if isinstance(value, (int, float, np.number)) else float("nan")
    return None if np.isnan(number) else number
