"""Label each enrolment of a course that is over as a dropout or not, by what the course has.

withdrawal: the student left before the course ended. Moodle deletes such an enrolment's row; what curate
rebuilt from the log event user_enrolment_deleted is what tells. A suspended enrolment is no withdrawal:
it carries no date, and many sites suspend everybody when a course is over.

non_completion: the student did not come to the course's end with success, whether by leaving or by failing. What
success is, the first of these outcomes says that the course uses (analytics.outcomes sets their order):

completion  Moodle recorded the completion of the course. Used: where at least one in fifty has one.
grade       the course's total reached the grade to pass, and the student stayed. Used: where at least half of those who
            stayed have a total. Without a grade to pass in Moodle it is analytics.pass_share of the range.
withdrawal  the student stayed. Used: where at least one in fifty left.
activity    the student stayed and did something in the last quarter of the course, as in Moodle's own model. Used:
            where anybody did anything.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.config import AnalyticsConfig
from moodle_lakehouse.curated import activity
from moodle_lakehouse.dropout.features import Sources
from moodle_lakehouse.lake import point_in_time, tables

LABELS = ("non_completion", "withdrawal")
NAMES = {"non_completion": "not completing the course", "withdrawal": "leaving the course before its end"}
OUTCOMES = {
    "completion": "course completion",
    "grade": "the course's grade",
    "withdrawal": "withdrawal",
    "activity": "activity in the last quarter",
}
IN_USE = 0.02  # of the students: what fewer have is not used by the course
GRADED = 0.5  # of those who stayed


@dataclass(frozen=True)
class Course:
    """A course that is over and can teach: its enrolments with and without the label, and what its label is made of."""

    courseid: int
    shortname: str
    start_at: dt.datetime
    end_at: dt.datetime
    students: int
    positives: int
    outcome: str


@dataclass(frozen=True)
class Finished:
    """The courses that are over. labels: (user_key, courseid, label 1.0 or 0.0) of those that can teach.

    left_out: reason -> short names of courses that cannot.
    """

    courses: Sequence[Course]
    labels: DataFrame
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)


def finished(src: Sources, as_of: dt.datetime | None, analytics: AnalyticsConfig, label: str | None = None) -> Finished:
    """Find the courses that are over at as_of, and settled, with their label. Spark jobs run at once.

    src must be cut at as_of: what came later is not known. label: None for analytics.label.
    """
    label = label or analytics.label
    if label not in LABELS:
        raise ValueError(f"unknown label {label!r}: use one of {', '.join(LABELS)}")
    order = ("withdrawal",) if label == "withdrawal" else tuple(analytics.outcomes)
    is_certain = label == "withdrawal"  # whoever wants to know who leaves needs no other outcome where nobody does
    moment = point_in_time.utc(as_of) if as_of else dt.datetime.now(dt.UTC)
    ended, left_out = _over(src, moment, analytics.settling_days)
    values = _values(src, ended, analytics.pass_share)
    counts = {row["courseid"]: row for row in _counts(values, order).collect()}
    begun = {courseid: row for courseid, row in counts.items() if row["students"]}
    outcomes = {courseid: label if is_certain else _outcome(row, order) for courseid, row in begun.items()}
    quarter = [courseid for courseid, outcome in outcomes.items() if outcome is None] if "activity" in order else []
    acts = _acts(src, ended, quarter)
    if quarter:
        counted = _counts(_with_activity(values, acts), ("activity",)).where(F.col("courseid").isin(quarter))
        for row in counted.collect():
            if row["activity"] < row["students"]:
                outcomes[row["courseid"]], begun[row["courseid"]] = "activity", row
    return _found(src, values, acts, ended, begun, outcomes, left_out)


def _over(src: Sources, moment: dt.datetime, settling_days: int) -> tuple[dict[int, Any], dict[str, list[str]]]:
    """Return the courses that are over and settled at a moment, by their ids, and those that are left out by reason."""
    start, end = F.unix_timestamp("start_at"), F.unix_timestamp("end_at")
    now = int(moment.timestamp())
    begun = src.courses.where(F.col("start_at").isNotNull() & (start < now)).select(
        "courseid", "shortname", "start_at", "end_at", start.alias("start"), end.alias("end")
    )
    ended: dict[int, Any] = {}
    left_out: dict[str, list[str]] = {}
    with_students = src.enrolments.select("courseid").distinct()
    for row in begun.join(F.broadcast(with_students), "courseid", "left_semi").orderBy("shortname").collect():
        if row["end"] is None:
            reason = "no end date, and still used"
        elif row["end"] - row["start"] > activity.MAX_WEEKS * activity.WEEK:
            reason = f"longer than {activity.MAX_WEEKS} weeks"
        elif row["end"] >= now:
            continue
        elif row["end"] + settling_days * activity.DAY > now:
            reason = f"over for less than {settling_days} days, in which grades and completions still arrive"
        else:
            ended[row["courseid"]] = row
            continue
        left_out.setdefault(reason, []).append(row["shortname"])
    return ended, left_out


def _values(src: Sources, ended: Mapping[int, Any], pass_share: float) -> DataFrame:
    """Return what each outcome says of the enrolments of courses. Grain: (user_key, courseid).

    completion, grade, withdrawal boolean: whether it makes a dropout; is_graded boolean.
    """
    spark = src.enrolments.sparkSession
    known = [(courseid, row["end"]) for courseid, row in ended.items()]
    courses = tables.local_rows(spark, known, "courseid bigint, end bigint")
    passed = F.col("fraction") >= F.coalesce("pass_fraction", F.lit(pass_share))
    totals = src.totals.where("fraction is not null").select("user_key", "courseid", passed.alias("passed"))
    left = F.coalesce(F.unix_timestamp("unenrolled_at") < F.col("end"), F.lit(False))
    return (
        src.enrolments.join(F.broadcast(courses), "courseid", "inner")
        .join(totals, ["user_key", "courseid"], "left")
        .select(
            "user_key", "courseid",
            F.col("completed_at").isNull().alias("completion"),
            (left | ~F.coalesce("passed", F.lit(False))).alias("grade"),
            F.col("passed").isNotNull().alias("is_graded"),
            left.alias("withdrawal"),
        )
    )  # fmt: skip


def _acts(src: Sources, ended: Mapping[int, Any], courses: Sequence[int]) -> DataFrame:
    """Return who did something in the last quarter of the given courses. Grain: (user_key, courseid)."""
    known = [(courseid, ended[courseid]["start"], ended[courseid]["end"]) for courseid in courses]
    wanted = tables.local_rows(src.events.sparkSession, known, "courseid bigint, start bigint, end bigint")
    at = F.unix_timestamp("occurred_at")
    in_quarter = (at >= F.col("end") - (F.col("end") - F.col("start")) / 4) & (at < F.col("end"))
    return (
        activity.by_students(src.events)
        .where(F.col("courseid").isin(list(courses)))
        .join(F.broadcast(wanted), "courseid", "inner")
        .where(in_quarter)
        .select("user_key", "courseid", F.lit(True).alias("acted"))
        .distinct()
    )


def _with_activity(values: DataFrame, acts: DataFrame) -> DataFrame:
    is_gone = F.col("withdrawal") | F.col("acted").isNull()
    return values.join(acts, ["user_key", "courseid"], "left").withColumn("activity", is_gone)


def _counts(values: DataFrame, outcomes: Iterable[str]) -> DataFrame:
    """Return per course its students, those who completed, stayed, stayed with a total, and the dropouts by each outcome."""
    known = [name for name in outcomes if name in values.columns]
    return values.groupBy("courseid").agg(
        F.count("*").alias("students"),
        F.sum((~F.col("completion")).cast("long")).alias("completed"),
        F.sum((~F.col("withdrawal")).cast("long")).alias("stayed"),
        F.sum((~F.col("withdrawal") & F.col("is_graded")).cast("long")).alias("graded"),
        *[F.sum(F.col(name).cast("long")).alias(name) for name in known],
    )


def _outcome(counts: Any, order: Sequence[str]) -> str | None:
    """Return the first outcome before activity that a course uses, None for none of them."""
    students = counts["students"]
    enough = {"completion": IN_USE * students, "grade": GRADED * counts["stayed"], "withdrawal": IN_USE * students}
    having = {"completion": counts["completed"], "grade": counts["graded"], "withdrawal": students - counts["stayed"]}
    before_activity = itertools.takewhile(lambda name: name != "activity", order)
    return next((name for name in before_activity if having[name] >= max(1.0, enough[name])), None)


def _found(
    src: Sources,
    values: DataFrame,
    acts: DataFrame,
    ended: Mapping[int, Any],
    counts: Mapping[int, Any],
    outcomes: Mapping[int, str | None],
    left_out: dict[str, list[str]],
) -> Finished:
    courses = []
    for courseid, row in counts.items():
        outcome, course = outcomes[courseid], ended[courseid]
        if outcome is None:
            left_out.setdefault("no outcome that analytics.outcomes names is used in it", []).append(
                course["shortname"]
            )
            continue
        positives = row[outcome]
        if 0 < positives < row["students"]:
            dates = point_in_time.utc(course["start_at"]), point_in_time.utc(course["end_at"])
            courses.append(Course(courseid, course["shortname"], *dates, row["students"], positives, outcome))
        else:
            reason = f"the same outcome for everybody, by {OUTCOMES[outcome]}"
            left_out.setdefault(reason, []).append(course["shortname"])
    courses.sort(key=lambda course: course.courseid)
    by_outcome = [(course.courseid, course.outcome) for course in courses]
    teaching = tables.local_rows(src.enrolments.sparkSession, by_outcome, "courseid bigint, outcome string")
    used = {course.outcome for course in courses}
    if "activity" in used:
        values = _with_activity(values, acts)
    label = F.coalesce(*[F.when(F.col("outcome") == name, F.col(name)) for name in sorted(used)], F.lit(False))
    labelled = values.join(F.broadcast(teaching), "courseid", "inner").select(
        "user_key", "courseid", label.cast("double").alias("label")
    )
    return Finished(courses, labelled, {reason: sorted(names) for reason, names in sorted(left_out.items())})
