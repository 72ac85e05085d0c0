"""Read a course's resources as they were at the end of each ingest, and what differs from one to the next.

Every ingest leaves the raw tables as Moodle was then, and Iceberg's snapshots keep what they were before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from moodle_lakehouse.curated import raw_tables
from moodle_lakehouse.lake import table_names, tables

SHOWN, HIDDEN, NOT_LISTED = "shown", "hidden", "not on the course page"
SNAPSHOTS = "snapshots"  # a change's source

_MODULES = "id bigint, name string"
_COURSE_MODULES = (
    "id bigint, course bigint, module bigint, instance bigint, section bigint, visible int, visibleoncoursepage int,"
    " deletioninprogress int"
)
_SECTIONS = "id bigint, section bigint, name string"
_INSTANCES = "id bigint, name string, {due} bigint, revision bigint, timemodified bigint"


@dataclass(frozen=True)
class Version:
    """A snapshot of a table: when it was made (ms since 1970), its rows, its parent, and whether its rows are others."""

    at: int
    snapshot_id: int
    rows: int
    parent: int | None
    is_change: bool


@dataclass(frozen=True)
class Ingest:
    """A run of ingest in ms since 1970, and whether it read every table."""

    started: int
    finished: int
    is_whole: bool


@dataclass(frozen=True)
class Moment:
    """The end of an ingest, with the start of the last whole one before: what differs happened in between."""

    before: int
    finished: int


Versions = Mapping[str, Sequence[Version]]


def versions(spark: SparkSession, names: Sequence[str]) -> dict[str, list[Version]]:
    """Return the snapshots of each raw table in order of time, as far as they have not expired."""
    return {name: list(_versions_of(tables.load(spark, table_names.raw(name)))) for name in names}


def _versions_of(loaded: Any) -> Iterator[Version]:
    for entry in [] if loaded is None else loaded.history():
        snapshot = loaded.snapshot(entry.snapshotId())
        if snapshot is None:
            continue
        summary = snapshot.summary()
        changes = any(summary.get(key) not in (None, "0") for key in ("added-records", "deleted-records"))
        yield Version(
            at=int(entry.timestampMillis()),
            snapshot_id=int(snapshot.snapshotId()),
            rows=int(summary.get("total-records") or 0),
            parent=snapshot.parentId(),
            is_change=changes and snapshot.operation() != "replace",
        )


def version_at(found: Sequence[Version], moment: int) -> Version | None:
    """Return a table's version that was current at a moment; None before the first that is left."""
    return next((version for version in reversed(found) if version.at <= moment), None)


def ingests(spark: SparkSession) -> list[Ingest]:
    """Return every run of ingest by its end."""
    runs = tables.read(spark, table_names.JOB_RUN)
    if runs is None:
        return []
    columns = (F.unix_millis("started_at"), F.unix_millis("finished_at"), F.col("status") == "done")
    rows = runs.where("job = 'ingest'").select(*columns).collect()
    return sorted((Ingest(*row) for row in rows), key=lambda ingest: ingest.finished)


def moments(runs: Sequence[Ingest], found: Versions, seen: int | None) -> list[Moment]:
    """Return the ends of ingests that changed a tracked table, of those after `seen` (ms since 1970).

    seen: None: from the first ingest on whose tables are left, which is a moment in any case.
    """
    first = max((found[name][0].at for name in ("course_modules", "modules") if found[name]), default=None)
    if first is None:
        return []
    changed = sorted(version.at for of_table in found.values() for version in of_table if version.is_change)
    result: list[Moment] = []
    started = previous = 0
    for run in runs:
        is_old = run.finished < first if seen is None else run.finished <= seen
        is_first = seen is None and not result
        if not is_old and (is_first or any(previous < at <= run.finished for at in changed)):
            result.append(Moment(started, run.finished))
        if run.is_whole:
            started = run.started
        previous = run.finished
    return result


def states(spark: SparkSession, found: Versions, names: Sequence[str], times: Sequence[int]) -> DataFrame:
    """Return the resources at each of the times (ms since 1970). Grain: (step, cmid), step the time's number from 0.

    courseid bigint; modname, name string; sectionid bigint; section int; section_text, visibility string; due, revision,
    timemodified bigint. Source: snapshots of course_modules, modules, course_sections and the modules' tables (names).
    """

    def table(name: str, columns: str) -> DataFrame:
        return _over_time(spark, name, found.get(name, ()), columns, times)

    course_modules = table("course_modules", _COURSE_MODULES)
    kinds = table("modules", _MODULES).select("step", F.col("id").alias("module"), F.col("name").alias("modname"))
    sections = table("course_sections", _SECTIONS).select(
        "step", F.col("id").alias("sectionid"), F.col("section").alias("number"), F.col("name").alias("section_name")
    )
    instances = raw_tables.shaped(
        spark,
        None,
        "step int, modname string, instance bigint, name string, due bigint, revision bigint, timemodified bigint",
    )
    for name in names:
        if any(version.rows for version in found.get(name, ())):
            due = raw_tables.DUE_COLUMNS.get(name, "no_due_time")
            # Snapshots of an earlier release may hold texts for names.
            known = F.lit(None).cast("string").alias("name") if name in table_names.NAMED_BY_TEXT else F.col("name")
            of_module = table(name, _INSTANCES.format(due=due)).select(
                "step", F.lit(name).alias("modname"), F.col("id").alias("instance"), known,
                F.when(F.col(due) > 0, F.col(due)).alias("due"), "revision", "timemodified",
            )  # fmt: skip
            instances = instances.unionByName(of_module)
    visibility = F.when(F.coalesce("visible", F.lit(1)) == 0, HIDDEN)
    visibility = visibility.when(F.coalesce("visibleoncoursepage", F.lit(1)) == 0, NOT_LISTED).otherwise(SHOWN)
    return (
        course_modules.where("coalesce(deletioninprogress, 0) = 0")
        .withColumnsRenamed({"id": "cmid", "course": "courseid", "section": "sectionid"})
        .join(F.broadcast(kinds), how="left", on=["step", "module"])
        .join(sections, how="left", on=["step", "sectionid"])
        .join(instances, how="left", on=["step", "modname", "instance"])
        .select(
            "step", "cmid", "courseid", "modname", "name", "sectionid", F.col("number").cast("int").alias("section"),
            F.concat_ws(" ", F.col("number").cast("string"), F.nullif("section_name", F.lit(""))).alias("section_text"),
            visibility.alias("visibility"), "due", "revision", "timemodified",
        )
    )  # fmt: skip


def _over_time(
    spark: SparkSession, name: str, found: Sequence[Version], columns: str, times: Sequence[int]
) -> DataFrame:
    """Return a raw table at each of the times (step); before its first it is as in the first that is left."""
    spans: list[tuple[Version, int, int]] = []  # a version with its first and last step
    for step, time in enumerate(times):
        version = version_at(found, time)
        if version is None and step == 0 and found and found[0].at > time and found[0].parent is not None:
            version = found[0]  # what came before it has expired
        if version is None:
            continue
        if spans and spans[-1][0] is version:
            spans[-1] = (version, spans[-1][1], step)
        else:
            spans.append((version, step, step))
    parts = [
        raw_tables.shaped(
            spark, spark.read.option("snapshot-id", str(version.snapshot_id)).table(table_names.raw(name)), columns
        ).withColumn("step", F.explode(F.sequence(F.lit(first), F.lit(last))))
        for version, first, last in spans
        if version.rows
    ]
    return reduce(DataFrame.unionByName, parts) if parts else raw_tables.shaped(spark, None, f"{columns}, step int")


def no_differences(spark: SparkSession) -> DataFrame:
    """Return no rows with the columns of differences()."""
    return raw_tables.shaped(
        spark,
        None,
        "change_id string, courseid bigint, cmid bigint, modname string, name string, section int, change string,"
        " old string, new string, seen_after timestamp, seen_by timestamp, source string",
    )


def differences(found: DataFrame, ends: Sequence[Moment]) -> DataFrame:
    """Return what differs between each state and the one before. Grain: change.

    found: as of states(), step 0 before the first of the moments. Columns as in the mart, without what the log and the
    views add.
    """
    in_order = Window.partitionBy("cmid").orderBy("step")
    before = F.struct("step", "name", "sectionid", "section_text", "visibility", "due", "revision", "timemodified")
    happened = F.filter(F.array(*_changes(last_step=len(ends))), lambda change: change.isNotNull())
    seen_after = F.array(*[F.timestamp_millis(F.lit(end.before)) for end in ends])
    seen_by = F.array(*[F.timestamp_millis(F.lit(end.finished)) for end in ends])
    change_id = F.md5(F.concat_ws(" ", "cmid", "change.change", F.unix_millis("seen_by").cast("string")))
    return (
        found.withColumn("was", F.lag(before).over(in_order))
        .withColumn("next_step", F.lead("step").over(in_order))
        .withColumn("change", F.explode(happened))
        .withColumn("seen_after", F.element_at(seen_after, F.col("change.step")))
        .withColumn("seen_by", F.element_at(seen_by, F.col("change.step")))
        .select(
            change_id.alias("change_id"), "courseid", "cmid", "modname", "name", "section",
            "change.change", "change.old", "change.new", "seen_after", "seen_by", F.lit(SNAPSHOTS).alias("source"),
        )
    )  # fmt: skip


def _changes(last_step: int) -> list[Column]:
    """Return a struct of change, old, new and step for each kind of change; null where it did not happen.

    They are of a state's columns, of the one before as `was` and of the next one's step.
    """
    stays = F.coalesce(F.col("was.step") == F.col("step") - 1, F.lit(False))

    def differs(column: str) -> Column:
        return stays & (F.col(column) != F.col(f"was.{column}"))

    has_rows = stays & F.col("timemodified").isNotNull() & F.col("was.timemodified").isNotNull()
    due_differs = has_rows & ~F.col("due").eqNullSafe(F.col("was.due"))
    touched = differs("timemodified") | F.coalesce(differs("revision"), F.lit(False))
    is_last = F.col("next_step").isNull() | (F.col("next_step") > F.col("step") + 1)
    visibility = F.when(F.col("visibility") == SHOWN, "shown").otherwise("hidden")
    section = F.col("section_text")
    return [
        _change("added", ~stays & (F.col("step") > 0), new=section),
        _change("renamed", differs("name"), old=F.col("was.name"), new=F.col("name")),
        _change("moved", differs("sectionid"), old=F.col("was.section_text"), new=section),
        _change(visibility, differs("visibility"), old=F.col("was.visibility"), new=F.col("visibility")),
        _change("due date", due_differs, old=_minute(F.col("was.due")), new=_minute(F.col("due"))),
        _change("edited", touched & ~F.coalesce(differs("name"), F.lit(False)) & ~due_differs),
        _change("removed", (F.col("step") < last_step) & is_last, old=section, step=F.col("step") + 1),
    ]


def _change(
    name: Column | str,
    happened: Column,
    *,
    old: Column | None = None,
    new: Column | None = None,
    step: Column | None = None,
) -> Column:
    values = {
        "change": F.lit(name),
        "old": F.lit(old).cast("string"),
        "new": F.lit(new).cast("string"),
        "step": (F.col("step") if step is None else step).cast("int"),
    }
    return F.when(happened, F.struct(*[value.alias(key) for key, value in values.items()]))


def _minute(seconds: Column) -> Column:
    return F.date_format(F.timestamp_seconds(seconds), "yyyy-MM-dd HH:mm")
