"""What became of a course's resources: lakehouse.marts.resource_history, and what `history` shows of it.

Every ingest leaves the raw tables as Moodle was then, and Iceberg's snapshots keep what they were before. run() looks
at the tables as they stood at the end of each ingest since it last looked, and notes what differs from the one
before. So the mart outlives the snapshots, which expire. The log adds when it happened and who did it (by role), and
is all there is for the time before the first ingest.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.curated.job import MODULE_CREATED, MODULE_DELETED, MODULE_UPDATED
from moodle_lakehouse.errors import ConfigError, LakehouseError
from moodle_lakehouse.lake import input_fingerprint, job_runs, point_in_time, snapshots, table_names, tables, writers

log = logging.getLogger(__name__)

PROPERTY = "lakehouse.history"  # in the summary of the mart's snapshots: how far they have come (Mark)
VIEW_DAYS = 28  # a resource's views are counted over so many days before and after a change
LATE_DAYS = 7  # what the log says later than this about a change is not looked for
BATCH = 24  # ingests that are compared in one go
# What refreshes recent changes: their events and who did them, of raw tables, and their views, of fact_event.
_REFRESHED_BY = (
    *map(table_names.raw, ("logstore_standard_log", "context", "role", "role_assignments")), table_names.FACT_EVENT,
)  # fmt: skip

SHOWN, HIDDEN, NOT_LISTED = "shown", "hidden", "not on the course page"
SNAPSHOTS, LOG = "snapshots", "log"
# Of several roles the first one is told. Nobody's and the machine's acts have none.
ARCHETYPES = (*curated_job.STAFF_ARCHETYPES, *curated_job.STUDENT_ARCHETYPES)
SYSTEM = "system"

_MODULES = "id bigint, name string"
_COURSE_MODULES = (
    "id bigint, course bigint, module bigint, instance bigint, section bigint, visible int, visibleoncoursepage int,"
    " deletioninprogress int"
)
_SECTIONS = "id bigint, section bigint, name string"
_INSTANCES = "id bigint, name string, {due} bigint, revision bigint, timemodified bigint"
_EVENTS = (
    "id bigint, eventname string, contextinstanceid bigint, courseid bigint, userid bigint, other string,"
    " timecreated bigint, origin string"
)
_COLUMNS = (
    "change_id", "courseid", "cmid", "modname", "name", "section", "change", "old", "new", "changed_at", "is_exact",
    "seen_after", "seen_by", "source", "by_role", "views_before", "views_after",
)  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """How far the mart has come, in ms since 1970.

    begins: the end of the first ingest; seen: of the last one that was looked at; snapshots: of each table then;
    gaps: (table, from, to) where snapshots had expired before they were looked at; made_from: the stamp of what
    recent changes were refreshed by.
    """

    begins: int
    seen: int
    snapshots: dict[str, int]
    gaps: list[list[Any]] = field(default_factory=list)
    made_from: str = ""


@dataclass(frozen=True)
class _Version:
    """A snapshot of a table that holds other rows than the one before."""

    at: int
    snapshot_id: int
    rows: int
    parent: int | None
    is_change: bool


@dataclass(frozen=True)
class _Moment:
    """The end of an ingest, with the start of the last whole one before: what differs happened in between."""

    before: int
    finished: int


def run(spark: SparkSession, *, refresh: bool = True) -> int:
    """Bring marts.resource_history up to the last ingest; returns its rows. Does nothing when nothing is new.

    refresh: also look again at recent changes, whose views go on and whose log events may have come since.
    """
    with job_runs.job(spark, "history") as job:
        tables.ensure_namespaces(spark)
        raw = curated_job.RawTables(spark)
        if "course_modules" not in raw or "modules" not in raw or "logstore_standard_log" not in raw:
            raise LakehouseError(
                "The lake has no raw tables yet", where=table_names.raw("*"), remedy="run ingest first"
            )
        names = [row["name"] for row in raw["modules"].collect()]
        versions = _versions(spark, ["course_modules", "course_sections", "modules", *[n for n in names if n in raw]])
        mark = read_mark(spark)
        moments = _moments(_ingests(spark), versions, mark)
        if mark is None and not moments:
            raise LakehouseError(
                "The lake does not know when the raw tables were made",
                where=table_names.JOB_RUN,
                remedy="run ingest; the history begins with it",
            )
        stamp = input_fingerprint.stamp(input_fingerprint.rows(spark, _REFRESHED_BY))
        if moments or (refresh and mark is not None and mark.made_from != stamp):
            job.detail.update(_update(spark, raw, versions, moments, mark, names, stamp))
        return tables.row_count(spark, table_names.RESOURCE_HISTORY)


def read_mark(spark: SparkSession) -> Mark | None:
    """How far the mart has come; None when there is none."""
    text = snapshots.notes(tables.load(spark, table_names.RESOURCE_HISTORY)).get(PROPERTY)
    return None if text is None else Mark(**json.loads(text))


# Which snapshots there are


def _versions(spark: SparkSession, names: Sequence[str]) -> dict[str, list[_Version]]:
    """The snapshots of each raw table in order of time, as far as they have not expired."""
    return {name: list(_versions_of(tables.load(spark, table_names.raw(name)))) for name in names}


def _versions_of(loaded: Any) -> Iterator[_Version]:
    for entry in [] if loaded is None else loaded.history():
        snapshot = loaded.snapshot(entry.snapshotId())
        if snapshot is None:
            continue
        summary = snapshot.summary()
        changes = any(summary.get(key) not in (None, "0") for key in ("added-records", "deleted-records"))
        yield _Version(
            at=int(entry.timestampMillis()),
            snapshot_id=int(snapshot.snapshotId()),
            rows=int(summary.get("total-records") or 0),
            parent=snapshot.parentId(),
            is_change=changes and snapshot.operation() != "replace",
        )


def _ingests(spark: SparkSession) -> list[tuple[int, int, bool]]:
    """Start and end of every ingest, and whether it read every table; by its end."""
    runs = tables.read(spark, table_names.JOB_RUN)
    if runs is None:
        return []
    columns = (F.unix_millis("started_at"), F.unix_millis("finished_at"), F.col("status") == "done")
    rows = runs.where("job = 'ingest'").select(*columns).collect()
    return sorted(((start, end, done) for start, end, done in rows), key=lambda run: run[1])


def _moments(
    ingests: Sequence[tuple[int, int, bool]], versions: Mapping[str, Sequence[_Version]], mark: Mark | None
) -> list[_Moment]:
    """The ends of ingests that left a tracked table other than it was, after the mark; without one from the first on."""
    first = max((versions[name][0].at for name in ("course_modules", "modules") if versions[name]), default=None)
    if first is None:
        return []
    changed = sorted(v.at for of_table in versions.values() for v in of_table if v.is_change)
    found: list[_Moment] = []
    started = previous = 0
    for start, end, done in ingests:
        is_old = end <= mark.seen if mark is not None else end < first
        if not is_old and ((mark is None and not found) or any(previous < at <= end for at in changed)):
            found.append(_Moment(started, end))
        started, previous = (start if done else started), end
    return found


def _at(versions: Sequence[_Version], moment: int) -> _Version | None:
    """The table as it stood at a moment."""
    return next((v for v in reversed(versions) if v.at <= moment), None)


def _gaps(versions: Mapping[str, Sequence[_Version]], mark: Mark) -> list[list[Any]]:
    """Where the snapshot that was looked at last has expired, and with it what happened until the first that is left."""
    gaps = []
    for name, known in mark.snapshots.items():
        left = versions.get(name) or []
        if _at(left, mark.seen) is None and left:
            same = left[0].parent == known and not left[0].is_change
            if not same:
                gaps.append([name, mark.seen, left[0].at])
    return gaps


# What differs


def _update(
    spark: SparkSession,
    raw: curated_job.RawTables,
    versions: Mapping[str, Sequence[_Version]],
    moments: Sequence[_Moment],
    mark: Mark | None,
    names: Sequence[str],
    stamp: str,
) -> dict[str, Any]:
    gaps = _gaps(versions, mark) if mark is not None and moments else []
    for name, since, until in gaps:
        log.warning(
            "history: snapshots of %s between %s and %s had expired before they were looked at: what happened then is lost",
            name, _iso(since), _iso(until),
        )  # fmt: skip
    ends = [moment.finished for moment in moments]
    seen = ends[-1] if ends else mark.seen  # type: ignore[union-attr]
    fresh = Mark(
        begins=mark.begins if mark is not None else ends[0],
        seen=seen,
        snapshots={name: v.snapshot_id for name, of in versions.items() if (v := _at(of, seen)) is not None},
        gaps=[*(mark.gaps if mark is not None else []), *gaps],
        made_from=stamp,
    )
    if not ends:  # nothing new to look at: then nothing of that is noted
        assert mark is not None
        fresh = dataclasses.replace(mark, made_from=stamp)
    base = mark.seen if mark is not None else ends[0]
    later = moments if mark is not None else moments[1:]
    changes = _empty(spark)
    for start in range(0, len(later), BATCH):
        batch = later[start : start + BATCH]
        state = _states(spark, versions, names, [base, *[m.finished for m in batch]])
        changes = changes.unionByName(differences(state, batch))
        base = batch[-1].finished
    cached = [changes.persist()]
    try:
        counts = _write(spark, raw, cached, changes, mark, fresh)
    finally:
        for df in cached:
            df.unpersist()
    return {"ingests": len(later), **counts, "gaps": len(gaps)}


def _states(
    spark: SparkSession, versions: Mapping[str, Sequence[_Version]], names: Sequence[str], moments: Sequence[int]
) -> DataFrame:
    """The resources at each of the moments. Grain: (m, cmid), m the moment's number from 0."""

    def table(name: str, columns: str) -> DataFrame:
        return _over_time(spark, name, versions.get(name, ()), columns, moments)

    course_modules = table("course_modules", _COURSE_MODULES)
    kinds = table("modules", _MODULES).select("m", F.col("id").alias("module"), F.col("name").alias("modname"))
    sections = table("course_sections", _SECTIONS).select(
        "m", F.col("id").alias("sectionid"), F.col("section").alias("number"), F.col("name").alias("section_name")
    )
    instances = []
    for name in names:
        if any(v.rows for v in versions.get(name, ())):
            due = curated_job.DUE_COLUMNS.get(name, "no_due_time")
            instances.append(
                table(name, _INSTANCES.format(due=due)).select(
                    "m", F.lit(name).alias("modname"), F.col("id").alias("instance"), "name",
                    F.when(F.col(due) > 0, F.col(due)).alias("due"), "revision", "timemodified",
                )
            )  # fmt: skip
    empty = curated_job.shaped(
        spark,
        None,
        "m int, modname string, instance bigint, name string, due bigint, revision bigint, timemodified bigint",
    )
    shown = F.when(F.coalesce("visible", F.lit(1)) == 0, HIDDEN)
    shown = shown.when(F.coalesce("visibleoncoursepage", F.lit(1)) == 0, NOT_LISTED).otherwise(SHOWN)
    return (
        course_modules.where("coalesce(deletioninprogress, 0) = 0")
        .withColumnsRenamed({"id": "cmid", "course": "courseid", "section": "sectionid"})
        .join(F.broadcast(kinds), how="left", on=["m", "module"])
        .join(sections, how="left", on=["m", "sectionid"])
        .join(reduce(DataFrame.unionByName, instances, empty), how="left", on=["m", "modname", "instance"])
        .select(
            "m", "cmid", "courseid", "modname", "name", "sectionid", F.col("number").cast("int").alias("section"),
            F.concat_ws(" ", F.col("number").cast("string"), F.nullif("section_name", F.lit(""))).alias("section_text"),
            shown.alias("visibility"), "due", "revision", "timemodified",
        )
    )  # fmt: skip


def _over_time(
    spark: SparkSession, name: str, versions: Sequence[_Version], columns: str, moments: Sequence[int]
) -> DataFrame:
    """A raw table at each of the moments, from its snapshots; before its first it is as in the first that is left."""
    spans: list[tuple[_Version, int, int]] = []
    for number, moment in enumerate(moments):
        version = _at(versions, moment)
        if version is None and number == 0 and versions and versions[0].at > moment and versions[0].parent is not None:
            version = versions[0]  # what came before it has expired
        if version is None:
            continue
        if spans and spans[-1][0] is version:
            spans[-1] = (version, spans[-1][1], number)
        else:
            spans.append((version, number, number))
    parts = [
        curated_job.shaped(
            spark, spark.read.option("snapshot-id", str(v.snapshot_id)).table(table_names.raw(name)), columns
        ).withColumn("m", F.explode(F.sequence(F.lit(first), F.lit(last))))
        for v, first, last in spans
        if v.rows
    ]
    return reduce(DataFrame.unionByName, parts) if parts else curated_job.shaped(spark, None, f"{columns}, m int")


def differences(states: DataFrame, moments: Sequence[_Moment]) -> DataFrame:
    """What differs between each state and the one before. Grain: change.

    states: as of _states(), m = 0 before the first of the moments. Columns as in the mart, without what the log and
    the views tell.
    """
    one = Window.partitionBy("cmid").orderBy("m")
    seen_after = F.array(*[F.timestamp_millis(F.lit(moment.before)) for moment in moments])
    seen_by = F.array(*[F.timestamp_millis(F.lit(moment.finished)) for moment in moments])
    compared = ("m", "name", "sectionid", "section_text", "visibility", "due", "revision", "timemodified")
    pairs = states.withColumn("was", F.lag(F.struct(*compared)).over(one)).withColumn("next", F.lead("m").over(one))
    stays = F.coalesce(F.col("was.m") == F.col("m") - 1, F.lit(False))
    last = len(moments)

    def change(
        name: Column | str, happened: Column, old: Any = None, new: Any = None, m: Column | None = None
    ) -> Column:
        told = [
            (F.lit(name) if isinstance(name, str) else name).alias("change"),
            (F.lit(None) if old is None else old).cast("string").alias("old"),
            (F.lit(None) if new is None else new).cast("string").alias("new"),
            (F.col("m") if m is None else m).cast("int").alias("at"),
        ]
        return F.when(happened, F.struct(*told))

    def differs(column: str) -> Column:
        return stays & (F.col(column) != F.col(f"was.{column}"))

    has_rows = stays & F.col("timemodified").isNotNull() & F.col("was.timemodified").isNotNull()
    due_differs = has_rows & ~F.col("due").eqNullSafe(F.col("was.due"))
    touched = differs("timemodified") | F.coalesce(differs("revision"), F.lit(False))
    found = [
        change("added", ~stays & (F.col("m") > 0), new=F.col("section_text")),
        change("renamed", differs("name"), F.col("was.name"), F.col("name")),
        change("moved", differs("sectionid"), F.col("was.section_text"), F.col("section_text")),
        change(
            F.when(F.col("visibility") == SHOWN, "shown").otherwise("hidden"),
            differs("visibility"), F.col("was.visibility"), F.col("visibility"),
        ),
        change("due date", due_differs, _day(F.col("was.due")), _day(F.col("due"))),
        change("edited", touched & ~F.coalesce(differs("name"), F.lit(False)) & ~due_differs),
        change(
            "removed",
            (F.col("m") < last) & (F.col("next").isNull() | (F.col("next") > F.col("m") + 1)),
            old=F.col("section_text"), m=F.col("m") + 1,
        ),
    ]  # fmt: skip
    return (
        pairs.withColumn("one", F.explode(F.filter(F.array(*found), lambda c: c.isNotNull())))
        .withColumn("seen_after", F.element_at(seen_after, F.col("one.at")))
        .withColumn("seen_by", F.element_at(seen_by, F.col("one.at")))
        .select(
            F.md5(
                F.concat_ws(" ", F.col("cmid"), F.col("one.change"), F.unix_millis("seen_by").cast("string"))
            ).alias("change_id"),
            "courseid", "cmid", "modname", "name", "section", "one.change", "one.old", "one.new",
            "seen_after", "seen_by", F.lit(SNAPSHOTS).alias("source"),
        )
    )  # fmt: skip


def _empty(spark: SparkSession) -> DataFrame:
    return curated_job.shaped(
        spark,
        None,
        "change_id string, courseid bigint, cmid bigint, modname string, name string, section int, change string,"
        " old string, new string, seen_after timestamp, seen_by timestamp, source string",
    )


def _day(seconds: Column) -> Column:
    return F.date_format(F.timestamp_seconds(seconds), "yyyy-MM-dd HH:mm")


# What the log and the views tell


def _write(
    spark: SparkSession,
    raw: curated_job.RawTables,
    cached: list[DataFrame],
    changes: DataFrame,
    mark: Mark | None,
    fresh: Mark,
) -> dict[str, int]:
    """Merge what is new or known better into the mart, in one commit that carries the mark."""
    table = tables.read(spark, table_names.RESOURCE_HISTORY)
    since = None
    if mark is not None:
        since = mark.seen - (VIEW_DAYS + LATE_DAYS) * 86_400_000
        if since < mark.begins:  # what only the log tells is then made of the whole log, as it was at first
            since = None
    known = table if table is not None else _shaped(_empty(spark))
    still_open = F.lit(True) if since is None else F.coalesce("seen_by", "changed_at") >= _moment(since)
    old = known.where(still_open)

    events = raw.select("logstore_standard_log", _EVENTS).where(
        F.col("eventname").isin(MODULE_CREATED, MODULE_UPDATED, MODULE_DELETED) & F.col("origin").isNotNull()
    )  # an event without origin was brought by a restore, and happened to another resource
    if since is not None:
        events = events.where(F.col("timecreated") >= since // 1000)
    events = _told(events).persist()
    cached.append(events)
    seen = old.where(F.col("source") == SNAPSHOTS).select(*changes.columns).unionByName(changes)
    told = seen.select("cmid", "change").unionByName(
        known.where(~still_open & (F.col("source") == SNAPSHOTS)).select("cmid", "change")
    )
    rows = _explained(seen, events).unionByName(_logged(events, told, fresh.begins))
    rows = _with_roles(rows, raw)
    rows = _with_views(rows, tables.read(spark, table_names.FACT_EVENT)).select(*_COLUMNS)
    return _merge(spark, rows, old, table, mark, fresh)


def _told(events: DataFrame) -> DataFrame:
    """Lifecycle events with the name that the resource had then and before, and the kind of change."""
    one = Window.partitionBy("cmid").orderBy("timecreated", "id")
    so_far = one.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    before = one.rowsBetween(Window.unboundedPreceding, -1)
    kind = F.when(F.col("eventname") == MODULE_CREATED, "added").when(F.col("eventname") == MODULE_DELETED, "removed")
    return (
        events.withColumn("cmid", F.col("contextinstanceid"))
        .withColumn("said", F.get_json_object("other", "$.name"))
        .select(
            "id", "cmid", "courseid", "userid", "timecreated", kind.otherwise("updated").alias("kind"),
            F.get_json_object("other", "$.modulename").alias("modname"),
            F.last("said", ignorenulls=True).over(so_far).alias("name"),
            F.last("said", ignorenulls=True).over(before).alias("name_before"),
        )
    )  # fmt: skip


def _explained(changes: DataFrame, events: DataFrame) -> DataFrame:
    """Changes between snapshots with the log's time and user: the event of its kind in the time in which it happened.

    A resource is created and deleted once, and its deletion may be logged long after it went out of sight.
    """
    kind = F.when(F.col("change").isin("added", "removed"), F.col("change")).otherwise("updated")
    at = F.timestamp_seconds("timecreated")
    in_time = (at >= F.date_trunc("second", "seen_after")) & (at <= F.col("seen_by"))
    matches = (
        changes.select("change_id", "cmid", "seen_after", "seen_by", kind.alias("kind"))
        .join(events.select("cmid", "kind", "id", "timecreated", "userid"), how="inner", on=["cmid", "kind"])
        .where((F.col("kind") != "updated") | in_time)
        .groupBy("change_id")
        .agg(F.max(F.struct("timecreated", "id", "userid")).alias("event"))
    )
    return changes.join(matches, how="left", on="change_id").select(
        *changes.columns,
        F.coalesce(F.timestamp_seconds("event.timecreated"), "seen_by").alias("changed_at"),
        F.col("event").isNotNull().alias("is_exact"),
        F.col("event.userid").alias("userid"),
    )


def _logged(events: DataFrame, told: DataFrame, begins: int) -> DataFrame:
    """What only the log tells: all before the first ingest, and resources that came and went between two."""
    named = (F.col("kind") == "updated") & (F.col("name") != F.col("name_before"))
    change = F.when(F.coalesce(named, F.lit(False)), "renamed").when(F.col("kind") == "updated", "edited")
    # The log knows seconds: an edit in the second in which the first ingest ended may be one that the next one shows.
    return (
        events.where((F.col("kind") != "updated") | (F.col("timecreated") < begins // 1000))
        .withColumn("change", change.otherwise(F.col("kind")))
        .join(told.distinct(), how="left_anti", on=["cmid", "change"])
        .select(
            F.md5(F.concat_ws(" ", F.lit(LOG), F.col("id"))).alias("change_id"),
            "courseid", "cmid", "modname", "name", F.lit(None).cast("int").alias("section"), "change",
            F.when(F.col("change") == "renamed", F.col("name_before")).alias("old"),
            F.when(F.col("change") == "renamed", F.col("name")).alias("new"),
            F.lit(None).cast("timestamp").alias("seen_after"), F.lit(None).cast("timestamp").alias("seen_by"),
            F.lit(LOG).alias("source"), F.timestamp_seconds("timecreated").alias("changed_at"),
            F.lit(True).alias("is_exact"), "userid",
        )
    )  # fmt: skip


def _with_roles(rows: DataFrame, raw: curated_job.RawTables) -> DataFrame:
    """Who did it, by the role in the course: by_role in place of userid."""
    given = raw["logstore_standard_log"].where(
        F.col("eventname").isin(curated_job.ROLE_ASSIGNED, curated_job.ROLE_UNASSIGNED)
        & F.col("relateduserid").isNotNull()
    )
    archetypes = curated_job.course_archetypes(raw["context"], raw["role"], raw["role_assignments"], given)
    rank = F.coalesce(*[F.when(F.col("archetype") == a, place) for place, a in enumerate(ARCHETYPES)])
    best = (
        archetypes.where(F.col("archetype").isin(*ARCHETYPES))
        .groupBy("userid", "courseid")
        .agg(F.min_by("archetype", rank).alias("archetype"))
    )
    role = F.when(F.col("userid") <= 0, SYSTEM).when(
        F.col("userid").isNotNull(), F.coalesce("archetype", F.lit(curated_job.OTHER))
    )
    return (
        rows.join(best, how="left", on=["userid", "courseid"]).withColumn("by_role", role).drop("userid", "archetype")
    )


def _with_views(rows: DataFrame, events: DataFrame | None) -> DataFrame:
    """Students' views in the VIEW_DAYS before and after each change; null where there are no curated events yet."""
    if events is None:
        unknown = F.lit(None).cast("bigint")
        return rows.withColumn("views_before", unknown).withColumn("views_after", unknown)
    away = F.unix_timestamp("occurred_at") - F.unix_timestamp("changed_at")
    span = VIEW_DAYS * 86_400
    counted = (
        events.where((F.col("action") == "viewed") & (F.col("role") != curated_job.STAFF) & F.col("cmid").isNotNull())
        .select("cmid", "occurred_at")
        .join(F.broadcast(rows.select("change_id", "cmid", "changed_at")), how="inner", on="cmid")
        .withColumn("away", away)
        .where((F.col("away") >= -span) & (F.col("away") < span))
        .groupBy("change_id")
        .agg(
            F.count(F.when(F.col("away") < 0, 1)).alias("views_before"),
            F.count(F.when(F.col("away") >= 0, 1)).alias("views_after"),
        )
    )
    return rows.join(counted, how="left", on="change_id").fillna(0, ["views_before", "views_after"])


def _merge(
    spark: SparkSession, rows: DataFrame, old: DataFrame, table: DataFrame | None, mark: Mark | None, fresh: Mark
) -> dict[str, int]:
    summary = {PROPERTY: json.dumps(dataclasses.asdict(fresh), separators=(",", ":"))}
    if table is None:
        writers.append(rows, table_names.RESOURCE_HISTORY, run_id=job_runs.run_id(), summary=summary)
        return {"new": tables.row_count(spark, table_names.RESOURCE_HISTORY), "known_better": 0}
    pairs = rows.select("change_id", F.struct(*_COLUMNS).alias("new_row")).join(
        old.select("change_id", F.struct(*_COLUMNS).alias("old_row")), how="full", on="change_id"
    )
    operation = (
        F.when(F.col("old_row").isNull(), writers.INSERT)
        .when(F.col("new_row").isNull(), writers.DELETE)
        .when(~F.col("new_row").eqNullSafe(F.col("old_row")), writers.UPDATE)
    )
    different = (
        pairs.withColumn(writers.OPERATION, operation)
        .where(F.col(writers.OPERATION).isNotNull())
        .select(writers.OPERATION, "change_id", *[f"new_row.{c}" for c in _COLUMNS if c != "change_id"])
        .localCheckpoint()
    )
    counts = {row[0]: row["count"] for row in different.groupBy(writers.OPERATION).count().collect()}
    if counts:
        writers.merge(
            different,
            table_names.RESOURCE_HISTORY,
            key=["change_id"],
            bounds=None,
            run_id=job_runs.run_id(),
            summary=summary,
        )
    elif fresh != mark:
        nothing = tables.local_rows(spark, [], table.schema)
        writers.append(nothing, table_names.RESOURCE_HISTORY, run_id=job_runs.run_id(), summary=summary)
    return {"new": counts.get(writers.INSERT, 0), "known_better": counts.get(writers.UPDATE, 0)}


def _shaped(changes: DataFrame) -> DataFrame:
    """No rows of the mart."""
    return changes.select(
        "*",
        F.lit(None).cast("timestamp").alias("changed_at"),
        F.lit(None).cast("boolean").alias("is_exact"),
        F.lit(None).cast("string").alias("by_role"),
        F.lit(None).cast("bigint").alias("views_before"),
        F.lit(None).cast("bigint").alias("views_after"),
    ).select(*_COLUMNS)


def _moment(milliseconds: int) -> Column:
    return F.timestamp_millis(F.lit(milliseconds))


# What a reader sees


@dataclass(frozen=True)
class Period:
    """From when (included) to when (not included), UTC."""

    since: dt.datetime
    until: dt.datetime


def period(since: str, until: str | None) -> Period:
    """The checked period of two dates; none for the end is now."""
    now = dt.datetime.now(dt.UTC)  # to the microsecond: what an ingest has just seen belongs to the period
    first = point_in_time.parse(since, where="--from")
    last = point_in_time.parse(until, where="--to") if until is not None else now
    for option, moment in (("--from", first), ("--to", last)):
        if moment > now:
            raise ConfigError(
                f"{moment:%Y-%m-%d %H:%M} UTC lies in the future: nothing has happened then",
                where=option,
                remedy="use a past moment; without --to the history goes on until now",
            )
    if first >= last:
        raise ConfigError(
            f"--from {first:%Y-%m-%d %H:%M} is not before --to {last:%Y-%m-%d %H:%M}",
            where="--from, --to",
            remedy="name the earlier moment first; a date means its beginning, in UTC",
        )
    return Period(first, last)


def find_course(spark: SparkSession, wanted: str) -> dict[str, Any]:
    """id, shortname and fullname of a course by its id or short name; of one that Moodle deleted the id alone."""
    courses = tables.read(spark, table_names.raw("course"))
    if courses is None:
        raise LakehouseError("The lake has no courses yet", where=table_names.raw("course"), remedy="run ingest first")
    courses = curated_job.shaped(spark, courses, "id bigint, shortname string, fullname string")
    number = int(wanted) if wanted.isdecimal() and len(wanted) < 19 else None
    by_name = F.lower("shortname") == wanted.lower()
    found = courses.where(by_name if number is None else by_name | (F.col("id") == number)).collect()
    for row in sorted(found, key=lambda r: r["id"] != number):
        return dict(row.asDict())
    mart = tables.read(spark, table_names.RESOURCE_HISTORY) if number is not None else None
    if mart is not None and mart.where(F.col("courseid") == number).limit(1).count():
        return {"id": number, "shortname": None, "fullname": None}
    names = [row["shortname"] for row in courses.select("shortname").collect() if row["shortname"]]
    by_case = {name.lower(): name for name in names}
    close = difflib.get_close_matches(wanted.lower(), list(by_case), n=5, cutoff=0.5)
    close += [name for name in by_case if wanted.lower() in name and name not in close][: 5 - len(close)]
    raise LakehouseError(
        f"No course has the id or short name {wanted!r}",
        where=table_names.raw("course"),
        remedy=("did you mean " + ", ".join(by_case[name] for name in close) + "?")
        if close
        else "see SELECT id, shortname FROM lakehouse.raw.course",
    )


def collect(spark: SparkSession, course: Mapping[str, Any], wanted: Period) -> dict[str, Any]:
    """What happened to a course's resources in a period, as plain values in order of time."""
    mart = tables.read(spark, table_names.RESOURCE_HISTORY)
    mark = read_mark(spark)
    assert mart is not None
    assert mark is not None
    rows = (
        mart.where(F.col("courseid") == course["id"])
        .where(
            (F.col("changed_at") >= point_in_time.literal(wanted.since))
            & (F.col("changed_at") < point_in_time.literal(wanted.until))
        )
        .orderBy("changed_at", "cmid", "change")
        .select(*[c for c in _COLUMNS if c not in ("change_id", "courseid")])
    )
    changes = [
        {k: point_in_time.utc(v) if isinstance(v, dt.datetime) else v for k, v in r.asDict().items()}
        for r in rows.collect()
    ]
    begins = _utc(mark.begins)
    notes = []
    if wanted.since < begins:
        notes.append(
            f"The lake's history begins at {begins:%Y-%m-%d %H:%M} UTC. What is told of the time before is the log's:"
            " resources that were added, renamed, edited and removed, none that were moved, hidden or shown."
        )
    for name, since, until in mark.gaps:
        if _utc(since) < wanted.until and _utc(until) > wanted.since:
            notes.append(
                f"{name}: what happened between {_iso(since)} and {_iso(until)} is lost, its snapshots had expired."
            )
    last = max((end for _, end, _ in _ingests(spark)), default=mark.seen)
    return {
        "course": dict(course),
        "from": wanted.since,
        "to": wanted.until,
        "history_begins": begins,
        "seen_until": _utc(last),
        "view_days": VIEW_DAYS,
        "notes": notes,
        "counts": {c: sum(row["change"] == c for row in changes) for c in sorted({row["change"] for row in changes})},
        "changes": changes,
    }


def _utc(milliseconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def _iso(milliseconds: int) -> str:
    return f"{_utc(milliseconds):%Y-%m-%d %H:%M}"
