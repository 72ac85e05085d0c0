"""Label each enrolment of a course that is over as a dropout or not.

non_completion: the student did not complete the course, whether by leaving or by failing.
withdrawal: the student left before the course ended. Moodle deletes such an enrolment's row; what curate
rebuilt from the log event user_enrolment_deleted is what tells. A suspended enrolment is no withdrawal:
it carries no date, and many sites suspend everybody when a course is over.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.lake import point_in_time

LABELS = ("non_completion", "withdrawal")
NAMES = {"non_completion": "not completing the course", "withdrawal": "leaving the course before its end"}


@dataclass(frozen=True)
class Finished:
    """The courses that can teach a model: over, with a label that says something. Grain of courses: course.

    courses holds courseid, shortname, start_at, end_at, students, positives; without_label names courses that
    are over but in which every student, or none, has the label (no completion is recorded there, say).
    """

    courses: DataFrame
    without_label: tuple[str, ...]


def over(courses: DataFrame, as_of: dt.datetime | None) -> DataFrame:
    """Return the courses of dim_course that ended before as_of; None: all that have an end."""
    dated = courses.where(F.col("end_at").isNotNull() & (F.col("end_at") > F.col("start_at")))
    return dated if as_of is None else dated.where(F.col("end_at") < point_in_time.literal(as_of))


def build(enrolments: DataFrame, courses: DataFrame, label: str) -> DataFrame:
    """Label the enrolments of the given courses 1.0 or 0.0. Grain (user_key, courseid) of fact_enrolment.

    enrolments must be cut at the moment for which the courses are over: what came later is not known.
    """
    ends = F.broadcast(courses.select("courseid", "end_at"))
    left = F.col("unenrolled_at").isNotNull() & (F.col("unenrolled_at") < F.col("end_at"))
    if label == "withdrawal":
        value = left
    elif label == "non_completion":
        value = F.col("completed_at").isNull()
    else:
        raise ValueError(f"unknown label {label!r}: use one of {', '.join(LABELS)}")
    return enrolments.join(ends, "courseid", "inner").select(
        "user_key", "courseid", value.cast("double").alias("label")
    )


def finished(enrolments: DataFrame, courses: DataFrame, as_of: dt.datetime | None, label: str) -> Finished:
    """Find the finished courses at as_of, separated by whether their label says anything."""
    ended = over(courses, as_of)
    rates = (
        build(enrolments, ended, label)
        .groupBy("courseid")
        .agg(F.count("*").alias("students"), F.sum("label").cast("long").alias("positives"))
    )
    counted = ended.select("courseid", "shortname", "start_at", "end_at").join(F.broadcast(rates), "courseid", "inner")
    telling = (F.col("positives") > 0) & (F.col("positives") < F.col("students"))
    mute = [row["shortname"] for row in counted.where(~telling).orderBy("shortname").select("shortname").collect()]
    return Finished(counted.where(telling), tuple(mute))
