"""Whether fact_event needs no more than its newest months made anew: all before them would come out as it is.

It would when the log has only grown, by younger rows, and the users, roles and resources that its rows are joined with
say the same of the time before. Where that is not known, every month is made anew.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.lake import snapshots, table_names, tables

PROPERTY = "lakehouse.past"
LOG = table_names.raw("logstore_standard_log")


@dataclass(frozen=True)
class Past:
    """What fact_event's rows from before a moment were made of: noted with its snapshots.

    before: the moment, the start of a month in seconds since 1970; log: the snapshot of the raw log; joined: see Joined;
    rules: a stamp of the code and the settings.
    """

    before: int
    log: int
    joined: str
    rules: str

    def summary(self) -> dict[str, str]:
        """What a write of fact_event puts into its snapshot."""
        return {PROPERTY: json.dumps(dataclasses.asdict(self), separators=(",", ":"))}


@dataclass(frozen=True)
class Joined:
    """What the log's rows are joined with: the tables of dim_user and dim_resource, and curate's course_roles."""

    users: DataFrame
    roles: DataFrame
    resources: DataFrame

    def past(self, before: int) -> str:
        """A number that stands for all that they say of the time before a moment (seconds since 1970)."""

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
        each = reduce(DataFrame.union, parts).toDF("one")
        row = each.agg(F.count("one"), F.sum(F.col("one").cast("decimal(38,0)"))).first()
        assert row is not None
        return f"{row[0]}:{row[1]}"


def noted(spark: SparkSession, table: str) -> Past | None:
    """What the table's newest rows say that they were made of; None where they say nothing, or there are none."""
    text: str | None = snapshots.notes(tables.load(spark, table)).get(PROPERTY)
    return None if text is None else Past(**json.loads(text))


def present(log: DataFrame, snapshot: int, joined: Joined, rules: str) -> Past | None:
    """What is to be noted of the log as it is now; its newest month and the one before are not the past. None: no rows."""
    row = log.agg(F.max("timecreated")).first()
    assert row is not None
    if row[0] is None:
        return None
    newest = dt.datetime.fromtimestamp(min(row[0], dt.datetime.now(dt.UTC).timestamp()), dt.UTC)
    last_month = newest.replace(day=1, hour=0, minute=0, second=0, microsecond=0) - dt.timedelta(days=1)
    before = int(last_month.replace(day=1).timestamp())
    return Past(before, snapshot, joined.past(before), rules)


def why_anew(spark: SparkSession, past: Past | None, now: Past | None, joined: Joined) -> str | None:
    """Why rows made now of the time before would not be those that were made then; None: they would be.

    past: what is noted; now: what is to be noted (present).
    """
    if past is None:
        return "nothing is noted of how it was made"
    if now is None:
        return "the log has no rows"
    if past.rules != now.rules:
        return "the code or the settings have changed"
    why = _why_not_grown(spark, past)
    if why is None and past.joined != (now.joined if now.before == past.before else joined.past(past.before)):
        return f"users, roles or resources say something else of the time before {day(past.before)}"
    return why


def _why_not_grown(spark: SparkSession, past: Past) -> str | None:
    """What happened to the log since then but that rows of a later time came to it. No job runs for it."""
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
    """The day (UTC) of a moment in seconds since 1970."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).date()


def _oldest(spark: SparkSession, loaded: Any, file: Any) -> int:
    """The least timecreated in a file, by what its table knows of it; 0 where it knows nothing."""
    field = loaded.schema().findField("timecreated")
    bounds: Mapping[int, Any] = file.lowerBounds() or {}
    if field.fieldId() not in bounds:
        return 0
    conversions: Any = spark._jvm.org.apache.iceberg.types.Conversions  # type: ignore[union-attr]
    return int(conversions.fromByteBuffer(field.type(), bounds[field.fieldId()]))
