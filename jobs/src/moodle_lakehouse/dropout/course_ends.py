"""Say when courses end that have no end date in Moodle.

A course without one takes the end of its term: the middle one of the ends of the courses of its category that began within
30 days of it. Where there is none, it ended with its students' last activity, once they have been quiet for QUIET_DAYS;
until then it is still used and has no end.
"""

from __future__ import annotations

import datetime as dt

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.curated.activity import DAY, by_students, run_begins
from moodle_lakehouse.lake import point_in_time, tables

QUIET_DAYS = 28


def with_ends(courses: DataFrame, events: DataFrame, as_of: dt.datetime | None) -> DataFrame:
    """Return the courses of dim_course with end_at filled in as far as it is known at as_of (None: now).

    Grain: course; columns as of dim_course. An end that is not after the start counts as none. courses and events must be
    cut at as_of. One small job runs at once, and one over the events where there are courses that need them.
    """
    courses = tables.settled(courses)
    end, start = F.unix_timestamp("end_at"), F.unix_timestamp("start_at")
    is_dated = F.coalesce(end > start, F.lit(False))
    dated = courses.where(is_dated).select("categoryid", start.alias("other_start"), end.alias("other_end"))
    near = F.abs(F.col("other_start") - F.col("start")) <= point_in_time.TERM_DAYS * DAY
    of_term = (
        courses.where(~is_dated & F.col("start_at").isNotNull())
        .select("courseid", "categoryid", start.alias("start"))
        .join(F.broadcast(dated), "categoryid", "left")
        .groupBy("courseid", "start")
        .agg(F.percentile_approx(F.when(near, F.col("other_end")), 0.5).alias("end"))
        .where("end is null or end > start")
    )
    found = {row["courseid"]: row["end"] for row in of_term.collect()}
    ends = {courseid: end for courseid, end in found.items() if end is not None}
    endless = [courseid for courseid, end in found.items() if end is None]
    if endless:
        ends.update(_last_activity(courses, events, endless, as_of))
    if not ends:
        return courses.withColumn("end_at", F.when(is_dated, F.col("end_at")))
    told = tables.local_rows(courses.sparkSession, list(ends.items()), "courseid bigint, told bigint")
    filled = F.when(is_dated, F.col("end_at")).otherwise(F.timestamp_seconds("told"))
    return courses.join(F.broadcast(told), "courseid", "left").withColumn("end_at", filled).select(*courses.columns)


def _last_activity(
    courses: DataFrame, events: DataFrame, wanted: list[int], as_of: dt.datetime | None
) -> dict[int, int]:
    """Return the day after the last activity of the courses whose students have been quiet, in epoch seconds."""
    moment = point_in_time.utc(as_of) if as_of else dt.datetime.now(dt.UTC)
    starts = F.broadcast(courses.select("courseid", F.unix_timestamp("start_at").alias("start")))
    at = F.unix_timestamp("occurred_at")
    last = (
        by_students(events)
        .where(F.col("courseid").isin(wanted))
        .join(starts, "courseid", "inner")
        .where(at >= run_begins(F.col("start")))
        .groupBy("courseid", "start")
        .agg(F.max(at).alias("last"))
        .where(F.col("last") < int(moment.timestamp()) - QUIET_DAYS * DAY)
        .withColumn("end", (F.floor(F.col("last") / DAY) + 1) * DAY)
        .where("end > start")
    )
    return {row["courseid"]: row["end"] for row in last.collect()}
