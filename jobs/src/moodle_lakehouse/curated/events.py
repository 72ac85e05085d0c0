"""What people did: fact_event, of which only the months that may differ are written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.curated import incremental
from moodle_lakehouse.curated.raw_tables import to_timestamp
from moodle_lakehouse.curated.roles import OTHER, STAFF, STUDENT
from moodle_lakehouse.curated.users import GUEST
from moodle_lakehouse.lake import job_runs, table_names, writers

log = logging.getLogger(__name__)

FANOUT = {"fanout-enabled": "true"}  # a task has a file open for each month that it meets
CONTEXT_MODULE = 70
ACTIVITY_ORIGINS = ("web", "ws")  # cli and restore are the machine's; null is history that a restore brought along


def lifecycle(events: DataFrame, names: Sequence[str]) -> DataFrame:
    """Return the log rows of some events that tell what became of enrolments, roles and resources here.

    Rows without an origin are none: a course restore copied them, and what they tell of happened to others elsewhere.
    """
    return events.where(F.col("eventname").isin(*names) & F.col("origin").isNotNull() & (F.col("timecreated") > 0))


def undated(events: DataFrame) -> DataFrame:
    """Return the log rows without a moment: nobody can say before or after what they happened, so they are no facts."""
    return events.where("timecreated is null or timecreated <= 0")


def fact_event(events: DataFrame, users: DataFrame, resources: DataFrame, roles: DataFrame) -> DataFrame:
    """Return what people did. Grain: log row after hygiene.

    Left out: anonymous rows, people logged in as others (realuserid), nobody and guests (userid <= 1), and
    what the machine did: origin cli or restore, and null, which is history that a course restore copied; rows without
    a moment (undated()).
    event_id bigint; occurred_at timestamp UTC; user_key string; courseid bigint (0 or 1: the site);
    cmid bigint and modname string (null outside of modules); component, eventname, action, target,
    crud string; edulevel int; role string: the person's in the course at that time, staff, student (who was
    not staff as well) or other.
    Source: logstore_standard_log.
    """
    done_by_people = events.where(
        (F.coalesce("anonymous", F.lit(0)) == 0)
        & F.col("realuserid").isNull()
        & (F.col("userid") > GUEST)
        & F.col("origin").isin(*ACTIVITY_ORIGINS)
        & (F.col("timecreated") > 0)
    ).withColumn("cmid", F.when(F.col("contextlevel") == CONTEXT_MODULE, F.col("contextinstanceid")))

    def was(role: str) -> Column:
        return F.col("timecreated").between(F.col(f"{role}.since"), F.col(f"{role}.until"))

    known = resources.select("cmid", F.col("modname").alias("resource_modname"))
    plugin = F.when(F.col("component").startswith("mod_"), F.expr("substring(component, 5)"))
    return (
        done_by_people.join(users, how="inner", on="userid")
        .join(roles, how="left", on=["userid", "courseid"])
        .join(F.broadcast(known), how="left", on="cmid")
        .select(
            F.col("id").alias("event_id"),
            to_timestamp("timecreated").alias("occurred_at"),
            "user_key", "courseid", "cmid",
            F.when(F.col("cmid").isNotNull(), F.coalesce("resource_modname", plugin)).alias("modname"),
            "component", "eventname", "action", "target", "crud", "edulevel",
            F.when(was(STAFF), STAFF).when(was(STUDENT), STUDENT).otherwise(OTHER).alias("role"),
        )
    )  # fmt: skip


def write(
    events: DataFrame, snapshot: int, joined: incremental.Joined, *, rules: str, summary: Mapping[str, str]
) -> None:
    """Write fact_event; of its months only those that may differ from the existing ones.

    snapshot: of the raw log that the events were read from; rules: a stamp of what else the rows follow from.
    """
    spark = events.sparkSession
    now = incremental.current(events, snapshot, joined, rules)
    past = incremental.recorded(spark, table_names.FACT_EVENT)
    notes = {**summary, **(now.summary() if now else {})}
    why = incremental.why_rebuild(spark, past, now, joined)
    if past is None or why is not None:
        log.info("fact_event: every month is rebuilt, since %s", why)
        # The log is nearly in order of time, so a task meets few months: no need to shuffle it by month.
        writers.replace(
            fact_event(events, joined.user_keys, joined.resources, joined.roles),
            table_names.FACT_EVENT,
            run_id=job_runs.run_id(),
            partition=F.months("occurred_at"),
            properties={"write.distribution-mode": "none"},
            options=FANOUT,
            summary=notes,
        )
        return
    log.info("fact_event: what happened before %s stays", incremental.day(past.before))
    recent = events.where(F.col("timecreated") >= past.before)
    writers.replace_part(
        fact_event(recent, joined.user_keys, joined.resources, joined.roles),
        table_names.FACT_EVENT,
        F.col("occurred_at") >= F.timestamp_seconds(F.lit(past.before)),
        run_id=job_runs.run_id(),
        options=FANOUT,
        summary=notes,
    )
