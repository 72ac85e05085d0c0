"""Decide whether fact_event needs only its newest months rebuilt: all before them would come out equal.

They would when the log has only grown, by younger rows, and the users, roles and resources that its rows are joined with
say the same of the time before. Where that is not known, every month is rebuilt.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.lake import snapshots, table_names, tables

LOG = table_names.raw("logstore_standard_log")


class Past(snapshots.Record):
    """What fact_event's rows from before a moment were made of: recorded with its snapshots.

    before: the moment, the start of a month in seconds since 1970; log: the snapshot of the raw log; joined: see Joined;
    rules: a stamp of the code and the settings.
    """

    PROPERTY = "lakehouse.past"

    before: int
    log: int
    joined: str
    rules: str


@dataclass(frozen=True)
class Joined:
    """What the log's rows are joined with: curate's known users and course_roles, and the table of dim_resource."""

    users: DataFrame
    roles: DataFrame
    resources: DataFrame

    @property
    def user_keys(self) -> DataFrame:
        """The users' pseudonyms: userid, user_key."""
        return self.users.select("userid", "user_key")

    def past(self, before: int) -> str:
        """Return a number that stands for all that they say of the time before a moment (seconds since 1970)."""

        def known(since: str) -> Column:
            return F.coalesce(F.col(since) < F.timestamp_seconds(F.lit(before)), F.lit(True))

        def span(role: str) -> Column:
            since, until = F.col(f"{role}.since"), F.col(f"{role}.until")
            return F.when(since < before, F.struct(since.alias("since"), F.least(until, F.lit(before)).alias("until")))

        spans = self.roles.select("userid", "courseid", span("staff").alias("staff"), span("student").alias("student"))
        parts = [
            self.users.where(known("created_at")).select(F.xxhash64("userid")),
            spans.where("staff is not null or student is not null").select(F.xxhash64(*spans.columns)),
            self.resources.where(known("added_at")).select(F.xxhash64("cmid", "modname")),
        ]
        hashes = reduce(DataFrame.union, parts).toDF("hash")
        row = hashes.agg(F.count("hash"), F.sum(F.col("hash").cast("decimal(38,0)"))).first()
        assert row is not None
        return f"{row[0]}:{row[1]}"


def recorded(spark: SparkSession, table: str) -> Past | None:
    """Return what the table's newest rows were made of; None where nothing that this release can use is recorded."""
    return Past.of(tables.load(spark, table))


def current(log: DataFrame, snapshot: int, joined: Joined, rules: str) -> Past | None:
    """Return what to record of the current log, whose newest two months are not the past; None when it has no rows."""
    row = log.agg(F.max("timecreated")).first()
    assert row is not None
    if row[0] is None:
        return None
    newest = dt.datetime.fromtimestamp(min(row[0], dt.datetime.now(dt.UTC).timestamp()), dt.UTC)
    last_month = newest.replace(day=1, hour=0, minute=0, second=0, microsecond=0) - dt.timedelta(days=1)
    before = int(last_month.replace(day=1).timestamp())
    return Past(before=before, log=snapshot, joined=joined.past(before), rules=rules)


def why_rebuild(spark: SparkSession, past: Past | None, now: Past | None, joined: Joined) -> str | None:
    """Return why the rows of the time before would come out other than they are; None: they would not.

    past: what is recorded; now: what is to be recorded (see current).
    """
    if past is None:
        return "nothing usable is recorded of how it was made"
    if now is None:
        return "the log has no rows"
    if past.rules != now.rules:
        return "the code or the settings have changed"
    why = _why_not_grown(spark, past)
    if why is None and past.joined != (now.joined if now.before == past.before else joined.past(past.before)):
        return f"users, roles or resources say something else of the time before {day(past.before)}"
    return why


def _why_not_grown(spark: SparkSession, past: Past) -> str | None:
    """Return what happened to the log since then besides the arrival of younger rows. No job runs for it."""
    loaded = tables.load(spark, LOG)
    for snapshot in snapshots.ancestors(loaded):
        if int(snapshot.snapshotId()) == past.log:
            return None
        if snapshot.operation() == "replace":  # maintenance: the same rows in other files
            continue
        if snapshot.removedDataFiles(loaded.io()).iterator().hasNext():
            return "rows of the log were changed or removed"
        if any(_oldest(spark, loaded, file) < past.before for file in snapshot.addedDataFiles(loaded.io()).iterator()):
            return f"rows from before {day(past.before)} came to the log"
    return "the log is another one, or the snapshot that was read then is expired"


def day(seconds: int) -> dt.date:
    """Return the day (UTC) of a moment in seconds since 1970."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).date()


def _oldest(spark: SparkSession, loaded: Any, file: Any) -> int:
    """Return the least timecreated in a file, by the table's metadata; 0 where they do not say."""
    field = loaded.schema().findField("timecreated")
    bounds: Mapping[int, Any] = file.lowerBounds() or {}
    if field.fieldId() not in bounds:
        return 0
    conversions: Any = spark._jvm.org.apache.iceberg.types.Conversions  # type: ignore[union-attr]
    return int(conversions.fromByteBuffer(field.type(), bounds[field.fieldId()]))
