"""Cut tables to what was known at a moment T, without anything that came after.

A row is known at T when it happened strictly before T. Attributes that came later than the row itself
(an end of enrolment, a completion) are blanked instead. Every reader of the curated tables that works
"as of" some moment goes through read().
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.errors import ConfigError, LakehouseError
from moodle_lakehouse.lake import table_names, tables

# table -> (column that says when the row became known, columns blanked when they lie at or after T).
# Of a fact without a moment nobody knows whether it lies before T: it goes. A dimension's row stays.
_RULES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "dim_user": ("created_at", ()),
    "user_attribute": (None, ()),
    "enrolment_attribute": (None, ()),
    "dim_course": (None, ()),
    "dim_course_version": ("valid_from", ("valid_to",)),
    "dim_resource": ("added_at", ("deleted_at",)),
    "dim_resource_version": ("valid_from", ("valid_to",)),
    "fact_event": ("occurred_at", ()),
    "fact_enrolment": ("enrolled_at", ("unenrolled_at", "suspended_at", "completed_at")),
    "fact_grade": ("graded_at", ()),
    "fact_grade_change": ("changed_at", ()),
    "fact_course_grade": ("graded_at", ()),
    "fact_submission": ("known_at", ()),
    "due_date_exception": ("known_at", ()),
}
# Where it stands what a dimension's overwritten values were, and by which column.
_VERSIONS = {
    "dim_course": (table_names.DIM_COURSE_VERSION, "courseid"),
    "dim_resource": (table_names.DIM_RESOURCE_VERSION, "cmid"),
}
# Tables whose rows stay where nobody knows since when they were so.
_SINCE_EVER = ("dim_", "due_date_exception")

# Courses that start within this many days of the latest start belong to its term.
TERM_DAYS = 30


def read(table: Callable[[str], DataFrame | None], name: str, as_of: dt.datetime | None) -> DataFrame:
    """Return a curated table as it was at as_of, what Moodle has overwritten since included.

    table: reads one by its name; None for one that does not exist.
    """
    df = table(name)
    if df is None:
        raise LakehouseError(f"{name} is missing", where="the lake", remedy="run curate first")
    rows = cut(df, name, as_of)
    versions, key = _VERSIONS.get(name.rsplit(".", 1)[-1], ("", ""))
    found = table(versions) if versions and as_of is not None else None
    if found is None:
        return rows
    values = [column for column in found.columns if column not in (key, "version", "valid_from", "valid_to")]
    then = cut(found, versions, as_of).where("valid_to IS NULL").select(key, F.struct(*values).alias("then"))
    was = {
        column: F.when(F.col("then").isNotNull(), F.col(f"then.{column}")).otherwise(F.col(column)) for column in values
    }
    return rows.join(then, key, "left").withColumns(was).select(*rows.columns)


def cut(df: DataFrame, table: str, as_of: dt.datetime | None) -> DataFrame:
    """Return the table as it was at as_of: same grain and columns, later rows and values removed.

    table is a curated table's name, with or without catalog and namespace. as_of None means no cut.
    A fact whose moment is unknown (null) is removed, a dimension's row is kept.
    """
    name = table.rsplit(".", 1)[-1]
    if name not in _RULES:
        raise ValueError(f"no rule for {table}: add one to point_in_time.py before it is read as of a moment")
    if as_of is None:
        return df
    known_at, later = _RULES[name]
    missing = {*filter(None, [known_at]), *later} - {*df.columns}
    if missing:
        raise LakehouseError(
            f"{name} does not say what was known when: it has no {', '.join(sorted(missing))}",
            where=f"{table}, as an earlier release wrote it",
            remedy="run curate, then the job again; a run from before cannot be reproduced by this release",
        )
    moment = literal(as_of)
    if known_at is not None:
        known = F.col(known_at) < moment
        df = df.where(F.col(known_at).isNull() | known if name.startswith(_SINCE_EVER) else known)
    if name == "dim_resource":  # what is deleted at or after T is still there
        still = F.col("deleted_at") >= moment
        df = df.withColumn("is_deleted", F.col("is_deleted") & ~F.coalesce(still, F.lit(False)))
    if not later:
        return df
    return df.select(*[F.when(F.col(c) < moment, F.col(c)).alias(c) if c in later else F.col(c) for c in df.columns])


def literal(moment: dt.datetime) -> Column:
    """Return the moment as a Spark timestamp, free of this machine's time zone."""
    return F.lit(utc(moment))


def utc(moment: dt.datetime) -> dt.datetime:
    """Return the moment in UTC; one without a zone is UTC already."""
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def parse(value: str, where: str = "--as-of / analytics.as_of") -> dt.datetime:
    """Return the moment of an ISO date or date and time; UTC unless it says otherwise. where: named when it is none."""
    try:
        return utc(dt.datetime.fromisoformat(value))
    except ValueError:
        raise ConfigError(
            f"{value!r} is no moment",
            where=where,
            remedy="use a date such as 2014-02-01, or one with a time; --as-of takes now and mid-term, too",
        ) from None


def resolve_as_of(spark: SparkSession, value: str) -> dt.datetime:
    """Return the moment meant by now, mid-term or an ISO date.

    mid-term is halfway, rounded down to a day, through the latest term: from the first start to the last end
    of the courses that start within 30 days of the latest start. Courses without an end do not count.
    """
    if value == "now":
        return dt.datetime.now(dt.UTC).replace(microsecond=0)
    if value == "mid-term":
        courses = tables.read(spark, table_names.DIM_COURSE)
        if courses is None:
            raise LakehouseError(
                "The lake has no courses yet, so it has no term",
                where=table_names.DIM_COURSE,
                remedy="run ingest and curate first",
            )
        return mid_term(courses)
    return parse(value)


def mid_term(courses: DataFrame) -> dt.datetime:
    """Return the middle of the latest term of dim_course, at midnight UTC."""
    dated = courses.where("end_at > start_at").select(
        F.unix_timestamp("start_at").alias("start"), F.unix_timestamp("end_at").alias("end")
    )
    latest = dated.agg(F.max("start").alias("latest"))
    term = (
        dated.join(F.broadcast(latest), how="inner", on=F.col("start") >= F.col("latest") - TERM_DAYS * 86400)
        .agg(F.min("start").alias("start"), F.max("end").alias("end"))
        .first()
    )
    if term is None or term["start"] is None:
        raise LakehouseError(
            "No course has both a start and an end, so there is no middle of a term",
            where=table_names.DIM_COURSE,
            remedy="use --as-of now or a date, or set end dates in Moodle's courses",
        )
    middle = term["start"] + (term["end"] - term["start"]) // 2
    return dt.datetime.fromtimestamp(middle - middle % 86400, dt.UTC)
