"""Keep what became of every course's resources: lakehouse.marts.resource_history.

run() compares the resources at the end of each ingest since the last one that it compared (see resource_states), and
records what differs. So the mart outlives the snapshots, which expire. The log adds when it happened and who did it (by
role), and is all there is for the time before the first ingest.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence

from pydantic import Field
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from moodle_lakehouse.curated import raw_tables, resource_states
from moodle_lakehouse.curated import roles as course_roles
from moodle_lakehouse.curated.courses import MODULE_CREATED, MODULE_DELETED, MODULE_UPDATED
from moodle_lakehouse.curated.events import lifecycle
from moodle_lakehouse.curated.resource_states import SNAPSHOTS, Moment, Versions
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import (
    contracts,
    input_fingerprint,
    job_runs,
    point_in_time,
    snapshots,
    table_names,
    tables,
    writers,
)  # fmt: skip

log = logging.getLogger(__name__)

VIEW_DAYS = 28  # a resource's views are counted over so many days before and after a change
LATE_DAYS = 7  # what the log says later than this about a change is not looked for
BATCH = 24  # ingests that are compared in one go
# What refreshes recent changes: their events and who did them, of raw tables, and their views, of fact_event.
_REFRESHED_BY = (
    *map(table_names.raw, ("logstore_standard_log", "context", "role", "role_assignments")), table_names.FACT_EVENT,
)  # fmt: skip

LOG = "log"  # a change's source, besides SNAPSHOTS
# Of several roles the first one is shown. Nobody's and the machine's acts have none.
ARCHETYPES = (*course_roles.STAFF_ARCHETYPES, *course_roles.STUDENT_ARCHETYPES)
SYSTEM = "system"

_EVENTS = (
    "id bigint, eventname string, contextinstanceid bigint, courseid bigint, userid bigint, other string,"
    " timecreated bigint, origin string"
)
COLUMNS = contracts.names(table_names.RESOURCE_HISTORY)


class HistoryState(snapshots.Record):
    """How far the mart has come, in ms since 1970: recorded with its snapshots.

    begins: the end of the first ingest; seen: of the last one that was compared; snapshots: of each table then;
    gaps: (table, from, to) where snapshots had expired before they were compared; made_from: the stamp of what recent
    changes were refreshed by; has_texts: an earlier release may have kept texts of labels as their names.
    """

    PROPERTY = "lakehouse.history"

    begins: int
    seen: int
    snapshots: dict[str, int]
    gaps: list[tuple[str, int, int]] = Field(default_factory=list)
    made_from: str = ""
    has_texts: bool = True


def run(spark: SparkSession, *, refresh: bool = True) -> int:
    """Bring marts.resource_history up to the last ingest and return its rows; do nothing when nothing is new.

    refresh: also update recent changes, whose views go on and whose log events may have come since.

    Raises:
        LakehouseError: there are no raw tables yet, or no run of ingest is known.
    """
    with job_runs.job(spark, "history") as job:
        tables.ensure_namespaces(spark)
        raw = raw_tables.RawTables(spark)
        if "course_modules" not in raw or "modules" not in raw or "logstore_standard_log" not in raw:
            raise LakehouseError(
                "The lake has no raw tables yet", where=f"{table_names.CATALOG}.raw", remedy="run ingest first"
            )
        names = [row["name"] for row in raw["modules"].collect()]
        tracked = ["course_modules", "course_sections", "modules", *[name for name in names if name in raw]]
        versions = resource_states.versions(spark, tracked)
        state = _without_texts(spark, read_state(spark))
        moments = resource_states.moments(resource_states.ingests(spark), versions, state.seen if state else None)
        if state is None and not moments:
            raise LakehouseError(
                "The lake does not know when the raw tables were made",
                where=table_names.JOB_RUN,
                remedy="run ingest; the history begins with it",
            )
        stamp = input_fingerprint.stamp(input_fingerprint.rows(spark, _REFRESHED_BY))
        if moments or (refresh and state is not None and state.made_from != stamp):
            new_state = _next_state(versions, moments, state, stamp)
            job.detail.update(_update(spark, raw, names, versions, moments, state, new_state))
        return tables.row_count(spark, table_names.RESOURCE_HISTORY)


def _without_texts(spark: SparkSession, state: HistoryState | None) -> HistoryState | None:
    """Remove the names of modules that are named by their text, once, and return the state that says so."""
    if state is None or not state.has_texts:
        return state
    state = state.model_copy(update={"has_texts": False})
    modules = ", ".join(table_names.literal(name) for name in table_names.NAMED_BY_TEXT)
    values = ", ".join(f"{column} = CASE WHEN change <> 'renamed' THEN {column} END" for column in ("old", "new"))
    statement = f"UPDATE {table_names.quoted(table_names.RESOURCE_HISTORY)} SET name = NULL, {values}"
    statement += f" WHERE modname IN ({modules}) AND name IS NOT NULL"
    writers.change(spark, statement, run_id=job_runs.run_id(), summary=state.summary())
    return state


def read_state(spark: SparkSession) -> HistoryState | None:
    """Return how far the mart has come; None when there is none, or nothing that this release can use is recorded."""
    loaded = tables.load(spark, table_names.RESOURCE_HISTORY)
    state = HistoryState.of(loaded)
    if state is None and HistoryState.PROPERTY in snapshots.records(loaded):
        log.warning("history: what the last run recorded cannot be read: all snapshots are compared again")
    return state


def utc_of_ms(milliseconds: int) -> dt.datetime:
    """Return the moment (UTC) of milliseconds since 1970."""
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def format_ms(milliseconds: int) -> str:
    """Return the minute (UTC) of milliseconds since 1970, as text."""
    return f"{utc_of_ms(milliseconds):%Y-%m-%d %H:%M}"


def _next_state(versions: Versions, moments: Sequence[Moment], state: HistoryState | None, stamp: str) -> HistoryState:
    """Return the state once the moments are compared; without any nothing but the stamp changes."""
    if not moments:
        assert state is not None
        return state.model_copy(update={"made_from": stamp})
    seen = moments[-1].finished
    current = {name: resource_states.version_at(found, seen) for name, found in versions.items()}
    return HistoryState(
        begins=state.begins if state else moments[0].finished,
        seen=seen,
        snapshots={name: version.snapshot_id for name, version in current.items() if version is not None},
        gaps=[*state.gaps, *_gaps(versions, state)] if state else [],
        made_from=stamp,
        has_texts=False,
    )


def _gaps(versions: Versions, state: HistoryState) -> list[tuple[str, int, int]]:
    """Return where the last snapshot compared has expired, and with it what happened until the first that is left."""
    gaps = []
    for name, known in state.snapshots.items():
        left = versions.get(name) or []
        if left and resource_states.version_at(left, state.seen) is None:
            is_next = left[0].parent == known and not left[0].is_change
            if not is_next:
                gaps.append((name, state.seen, left[0].at))
    return gaps


def _update(
    spark: SparkSession,
    raw: raw_tables.RawTables,
    names: Sequence[str],
    versions: Versions,
    moments: Sequence[Moment],
    state: HistoryState | None,
    new_state: HistoryState,
) -> dict[str, int]:
    """Compare the moments, merge what differs into the mart, and return the numbers for job_run."""
    gaps = new_state.gaps[len(state.gaps) if state else 0 :]
    for name, since, until in gaps:
        log.warning(
            "history: snapshots of %s between %s and %s had expired before they were compared: what happened then is lost",
            name, format_ms(since), format_ms(until),
        )  # fmt: skip
    base, later = (state.seen, moments) if state else (moments[0].finished, moments[1:])
    changes = resource_states.no_differences(spark)
    for start in range(0, len(later), BATCH):
        batch = later[start : start + BATCH]
        states = resource_states.states(spark, versions, names, [base, *[moment.finished for moment in batch]])
        changes = changes.unionByName(resource_states.differences(states, batch))
        base = batch[-1].finished
    changes.persist()
    events = _events(raw, _open_since(state)).persist()
    try:
        counts = _write(spark, raw, changes, events, state, new_state)
    finally:
        events.unpersist()
        changes.unpersist()
    return {"ingests": len(later), **counts, "gaps": len(gaps)}


def _open_since(state: HistoryState | None) -> int | None:
    """Return from when on (ms since 1970) changes may still become better known; None: all of them.

    What only the log knows is made of the whole log until the first ingest lies before that, as it was at first.
    """
    if state is None:
        return None
    since = state.seen - (VIEW_DAYS + LATE_DAYS) * 86_400_000
    return None if since < state.begins else since


def _write(
    spark: SparkSession,
    raw: raw_tables.RawTables,
    changes: DataFrame,
    events: DataFrame,
    state: HistoryState | None,
    new_state: HistoryState,
) -> dict[str, int]:
    """Merge what is new or better known into the mart, in one commit that carries the new state."""
    table = tables.read(spark, table_names.RESOURCE_HISTORY)
    known = table if table is not None else _no_rows(spark)
    since = _open_since(state)
    is_open = F.lit(True) if since is None else F.coalesce("seen_by", "changed_at") >= F.timestamp_millis(F.lit(since))
    of_snapshots = F.col("source") == SNAPSHOTS
    old = known.where(is_open)
    # Without a state all snapshots that are left are compared again: of them the mart may hold changes already.
    kept = old.where(of_snapshots).select(*changes.columns).join(changes, how="left_anti", on="change_id")
    seen = kept.unionByName(changes)
    compared = seen.select("cmid", "change").unionByName(known.where(~is_open & of_snapshots).select("cmid", "change"))
    rows = _explained(seen, events).unionByName(_only_logged(events, compared, new_state.begins))
    # All of it comes of snapshots: what a lost worker held is computed again, and is the same.
    by_role = _with_roles(rows, raw).persist()
    try:
        rows = _with_views(by_role, tables.read(spark, table_names.FACT_EVENT)).select(*COLUMNS)
        return _merge(spark, rows, old if table is not None else None, state, new_state)
    finally:
        by_role.unpersist()


def _merge(
    spark: SparkSession, rows: DataFrame, old: DataFrame | None, state: HistoryState | None, new_state: HistoryState
) -> dict[str, int]:
    """Bring the mart's open rows (old; None: there is no mart yet) to what they are now, in one commit."""
    summary = new_state.summary()
    if old is None:
        writers.append(rows, table_names.RESOURCE_HISTORY, run_id=job_runs.run_id(), summary=summary)
        return {"new": tables.row_count(spark, table_names.RESOURCE_HISTORY), "known_better": 0}
    different = _operations(old, rows).persist()
    try:
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
        elif new_state != state:
            nothing = tables.local_rows(spark, [], old.schema)
            writers.append(nothing, table_names.RESOURCE_HISTORY, run_id=job_runs.run_id(), summary=summary)
    finally:
        different.unpersist()
    return {"new": counts.get(writers.INSERT, 0), "known_better": counts.get(writers.UPDATE, 0)}


def _events(raw: raw_tables.RawTables, since: int | None) -> DataFrame:
    """Return lifecycle events with the name that the resource had then and before, and the kind of change.

    since: ms since 1970; None: all. Grain: log row. id, cmid, courseid, userid, timecreated bigint; kind (added, removed,
    updated), modname, name, name_before string. Source: logstore_standard_log.
    """
    events = lifecycle(raw.select("logstore_standard_log", _EVENTS), (MODULE_CREATED, MODULE_UPDATED, MODULE_DELETED))
    if since is not None:
        events = events.where(F.col("timecreated") >= since // 1000)
    in_order = Window.partitionBy("cmid").orderBy("timecreated", "id")
    so_far = in_order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    before = in_order.rowsBetween(Window.unboundedPreceding, -1)
    kind = F.when(F.col("eventname") == MODULE_CREATED, "added").when(F.col("eventname") == MODULE_DELETED, "removed")
    return (
        events.withColumn("cmid", F.col("contextinstanceid"))
        .withColumn("logged_name", F.get_json_object("other", "$.name"))
        .select(
            "id", "cmid", "courseid", "userid", "timecreated", kind.otherwise("updated").alias("kind"),
            F.get_json_object("other", "$.modulename").alias("modname"),
            F.last("logged_name", ignorenulls=True).over(so_far).alias("name"),
            F.last("logged_name", ignorenulls=True).over(before).alias("name_before"),
        )
    )  # fmt: skip


def _explained(changes: DataFrame, events: DataFrame) -> DataFrame:
    """Return changes between snapshots with the log's time and user, of the event of their kind at that time.

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


def _only_logged(events: DataFrame, of_snapshots: DataFrame, begins: int) -> DataFrame:
    """Return what only the log knows: all before the first ingest, and resources that came and went between two.

    of_snapshots: cmid and change of what snapshots show; begins: the end of the first ingest, ms since 1970.
    """
    is_renamed = (F.col("kind") == "updated") & (F.col("name") != F.col("name_before"))
    change = F.when(F.coalesce(is_renamed, F.lit(False)), "renamed").when(F.col("kind") == "updated", "edited")
    # The log knows seconds: an edit in the second in which the first ingest ended may be one that the next one shows.
    return (
        events.where((F.col("kind") != "updated") | (F.col("timecreated") < begins // 1000))
        .withColumn("change", change.otherwise(F.col("kind")))
        .join(of_snapshots.distinct(), how="left_anti", on=["cmid", "change"])
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


def _with_roles(rows: DataFrame, raw: raw_tables.RawTables) -> DataFrame:
    """Add who did it, by the role in the course: by_role in place of userid."""
    given = lifecycle(raw["logstore_standard_log"], course_roles.LIFECYCLE_EVENTS)
    given = given.where(F.col("relateduserid").isNotNull())
    archetypes = course_roles.course_archetypes(raw["context"], raw["role"], raw["role_assignments"], given)
    rank = F.coalesce(*[F.when(F.col("archetype") == a, place) for place, a in enumerate(ARCHETYPES)])
    best = (
        archetypes.where(F.col("archetype").isin(*ARCHETYPES))
        .groupBy("userid", "courseid")
        .agg(F.min_by("archetype", rank).alias("archetype"))
    )
    role = F.when(F.col("userid") <= 0, SYSTEM).when(
        F.col("userid").isNotNull(), F.coalesce("archetype", F.lit(course_roles.OTHER))
    )
    return (
        rows.join(best, how="left", on=["userid", "courseid"]).withColumn("by_role", role).drop("userid", "archetype")
    )


def _with_views(rows: DataFrame, events: DataFrame | None) -> DataFrame:
    """Add students' views in the VIEW_DAYS before and after each change; null where there are no curated events yet."""
    if events is None:
        unknown = F.lit(None).cast("bigint")
        return rows.withColumn("views_before", unknown).withColumn("views_after", unknown)
    away = F.unix_timestamp("occurred_at") - F.unix_timestamp("changed_at")
    span = VIEW_DAYS * 86_400
    found = rows.agg(F.min("changed_at").alias("first"), F.max("changed_at").alias("last")).first()
    counted = (
        _between(events, *(found or (None, None)))
        .where((F.col("action") == "viewed") & (F.col("role") != course_roles.STAFF) & F.col("cmid").isNotNull())
        .select("cmid", "occurred_at")
        .join(rows.select("change_id", "cmid", "changed_at"), how="inner", on="cmid")
        .withColumn("away", away)
        .where((F.col("away") >= -span) & (F.col("away") < span))
        .groupBy("change_id")
        .agg(
            F.count(F.when(F.col("away") < 0, 1)).alias("views_before"),
            F.count(F.when(F.col("away") >= 0, 1)).alias("views_after"),
        )
    )
    return rows.join(counted, how="left", on="change_id").fillna(0, ["views_before", "views_after"])


def _between(events: DataFrame, first: dt.datetime | None, last: dt.datetime | None) -> DataFrame:
    """Return the events that count for changes from first to last (None: there are none): no other month is read."""
    if first is None or last is None:
        return events.limit(0)
    days = dt.timedelta(days=VIEW_DAYS)
    ends = point_in_time.literal(first - days), point_in_time.literal(last + days)
    return events.where(F.col("occurred_at").between(*ends))


def _operations(old: DataFrame, rows: DataFrame) -> DataFrame:
    """Return the rows to insert, update and delete so that the mart's old rows become the given ones."""
    pairs = rows.select("change_id", F.struct(*COLUMNS).alias("new_row")).join(
        old.select("change_id", F.struct(*COLUMNS).alias("old_row")), how="full", on="change_id"
    )
    operation = (
        F.when(F.col("old_row").isNull(), writers.INSERT)
        .when(F.col("new_row").isNull(), writers.DELETE)
        .when(~F.col("new_row").eqNullSafe(F.col("old_row")), writers.UPDATE)
    )
    return (
        pairs.withColumn(writers.OPERATION, operation)
        .where(F.col(writers.OPERATION).isNotNull())
        .select(writers.OPERATION, "change_id", *[f"new_row.{name}" for name in COLUMNS if name != "change_id"])
    )


def _no_rows(spark: SparkSession) -> DataFrame:
    """Return no rows of the mart."""
    return (
        resource_states.no_differences(spark)
        .select(
            "*",
            F.lit(None).cast("timestamp").alias("changed_at"),
            F.lit(None).cast("boolean").alias("is_exact"),
            F.lit(None).cast("string").alias("by_role"),
            F.lit(None).cast("bigint").alias("views_before"),
            F.lit(None).cast("bigint").alias("views_after"),
        )
        .select(*COLUMNS)
    )
