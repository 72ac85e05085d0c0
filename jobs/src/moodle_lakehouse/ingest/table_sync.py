"""Sync one table of Moodle into its raw table: what is new or different, in one commit, or nothing at all.

The source is queried first: an answer equal to the one that the last commit recorded (sync_state.SyncState) ends the
sync without a Spark job. Otherwise the rows in question are read, compared with the lake's, and the differences
are merged in one commit that carries the new state. Which rows are in question depends on the strategy:

append, history  ids above the watermark, which are appended; when something changed among the OVERLAP_IDS below it,
                 where transactions were committed late, these are compared as well. Rows gone from the source stay.
merge            rows whose cursor is above the watermark less OVERLAP_SECONDS; the whole table every full_every hours
                 and whenever the numbers of rows disagree, for rows that were deleted or restored with old times.
snapshot         the whole table.

Two runs at once cannot double a row: what is appended or merged is validated against what was committed since it began
(serializable isolation), and the later one ends with an error.
"""

from __future__ import annotations

import dataclasses
import logging
import time

from pymysql.cursors import Cursor
from pyspark.sql import DataFrame, SparkSession

from moodle_lakehouse.config import Config
from moodle_lakehouse.errors import LakehouseError, SourceError, reason
from moodle_lakehouse.ingest import hashed_columns, mysql, read_plan, row_checksum, schema_evolution, source_sql
from moodle_lakehouse.ingest.committer import SyncAgainError
from moodle_lakehouse.ingest.connection_limit import ConnectionLimiter
from moodle_lakehouse.ingest.moodle_tables import TablePlan
from moodle_lakehouse.ingest.source_sql import TableExtent
from moodle_lakehouse.ingest.sync_state import SyncState
from moodle_lakehouse.ingest.sync_steps import Differences, SourceProbe, TableResult, TableSync
from moodle_lakehouse.lake import table_names, tables, writers
from moodle_lakehouse.lake.table_names import quoted_name

log = logging.getLogger(__name__)

# What the executors' JDBC driver throws when the connection or the server is gone, and how an answer that breaks off ends.
# A source that moved on is read again, too.
_CONNECTION_ERRORS = (
    "SQLNonTransientConnectionException", "SQLTransientConnectionException", "Connection reset", "Socket error",
    "EOFException", hashed_columns.CAME_MEANWHILE,
)  # fmt: skip


def sync(spark: SparkSession, config: Config, plan: TablePlan, limiter: ConnectionLimiter) -> TableResult:
    """Bring the raw table of one plan up to its source; once more when the source broke off or moved too much."""
    started = time.monotonic()
    table = table_names.raw(plan.table.name)

    def attempt(*, compare_all: bool) -> TableResult:
        loaded = tables.load(spark, table)
        return _strategy(plan)(spark, config, plan, limiter, table, loaded).run(compare_all=compare_all)

    try:
        result = attempt(compare_all=False)
    except Exception as first:
        uncertain = isinstance(first, SyncAgainError)
        if not uncertain and not _is_connection_error(first):
            raise
        log.info("%s: %s; once more", plan.table.name, reason(first))
        if not uncertain:
            time.sleep(mysql.RETRY_DELAYS[-1])
        try:
            result = attempt(compare_all=isinstance(first, SyncAgainError) and first.compare_all)
        except SyncAgainError as second:
            raise LakehouseError(str(second), where=table, remedy="run ingest again") from second
    return dataclasses.replace(result, seconds=time.monotonic() - started)


def load(spark: SparkSession, config: Config, plan: TablePlan, table: str, condition: str | None) -> TableResult:
    """Load a part of the source into any table as the first sync does, for the benchmark."""
    started = time.monotonic()
    limiter = ConnectionLimiter(config.moodle.max_connections)
    result = _strategy(plan)(spark, config, plan, limiter, table, None).load(condition)
    return dataclasses.replace(result, seconds=time.monotonic() - started)


def _strategy(plan: TablePlan) -> type[TableSync]:
    """Return the class that syncs the table; without a sure cursor a table of strategy merge is compared whole."""
    if plan.table.keeps_purged:
        return AppendSync
    return MergeSync if plan.cursor is not None else SnapshotSync


def _is_connection_error(error: Exception) -> bool:
    """Return whether the source went away while it was read: for the driver, or for an executor."""
    if isinstance(error, SourceError):
        return error.passing
    return any(name in str(error) for name in _CONNECTION_ERRORS)


class SnapshotSync(TableSync):
    """Compare the whole table."""

    def _update(self, state: SyncState) -> TableResult:
        return self._update_whole(state)


class MergeSync(TableSync):
    """Compare what the cursor shows as recent; the whole table when that is due or the numbers of rows disagree."""

    def _update(self, state: SyncState) -> TableResult:
        recent = read_plan.since(self.plan, state.watermark)
        if recent is None or time.time() - state.full_at >= self.plan.table.full_every * 3600:
            probe = self._probe()
            if probe.whole is not None and probe.whole == state.whole:
                return self._unchanged(state)
            return self._sync_all(probe, record=True)
        if self._is_as_recorded(state, recent):
            return self._unchanged(state)
        probe = self._probe(recent)
        differences = self._compare(probe)
        if differences.table_rows != probe.table_rows:  # rows were deleted, or restored with old times
            return self._sync_all(self._probe(), record=True)
        return self._merge(probe, differences)

    def _is_as_recorded(self, state: SyncState, recent: str) -> bool:
        if state.checksum is None:
            return False
        with self._source() as cursor:
            if source_sql.count(cursor, self.plan, None) != state.rows:
                return False
            return source_sql.checksum(cursor, self.plan, recent) == state.checksum

    def _table_rows(self, cursor: Cursor, condition: str | None, extent: TableExtent) -> int:
        return extent.rows if condition is None else source_sql.count(cursor, self.plan, None)

    def _whole_checksum(self, cursor: Cursor, extent: TableExtent) -> str | None:
        return source_sql.checksum(cursor, self.plan, self._until(extent))


class AppendSync(TableSync):
    """Append what is above the watermark, for the strategies append and history: rows gone from the source stay."""

    def _update(self, state: SyncState) -> TableResult:
        recent = read_plan.since(self.plan, state.watermark)
        if recent is None:
            return self._update_whole(state)
        if self._is_as_recorded(state, recent):
            return self._append(state)
        probe = self._probe(recent)
        differences = self._compare(probe)
        if differences.updated * 2 > probe.extent.rows - differences.inserted:
            # Nobody changes a log: the database was set back, or replaced, and gave the same ids to other rows.
            self.notes.append("other rows than before under the same ids: all were compared")
            return self._sync_all(self._probe(), record=True)
        return self._merge(probe, differences)

    def _is_as_recorded(self, state: SyncState, recent: str) -> bool:
        if state.checksum is None:
            return False
        below = f"{recent} AND {quoted_name(self.plan.cursor or '')} <= {state.watermark}"
        with self._source() as cursor:
            return source_sql.checksum(cursor, self.plan, below) == state.checksum

    def _append(self, state: SyncState) -> TableResult:
        """Append the rows above the watermark in one commit: nothing is compared."""
        guard = writers.AppendGuard.of(self.committer.loaded, self.plan.cursor or "", state.watermark or 0)
        above = f"{quoted_name(guard.key)} > {guard.watermark}"
        with self._source() as cursor:
            if not source_sql.count(cursor, self.plan, above):
                return self._unchanged(state)
        probe = self._probe(above)
        ranges, rows_before = self._ranges(probe), tables.rows_of(guard.loaded)
        new_state = self._new_state(probe, rows_before + probe.extent.rows)
        with self.limiter.take(max(1, len(ranges))):
            self.committer.commit_validated(new_state, lambda: self._append_rows(guard, probe, ranges, new_state))
        arrived = tables.row_count(self.spark, self.table) - rows_before
        if arrived != probe.extent.rows:
            rows_after, confirmed = self._probe_again(probe, arrived)
            self.committer.commit_state(self._new_state(confirmed, rows_before + arrived))
            self._check_rows(arrived, probe, rows_after, may_exceed=True)
        return self._result(rows_read=arrived, inserted=arrived, watermark=probe.watermark)

    def _append_rows(
        self, guard: writers.AppendGuard, probe: SourceProbe, ranges: list[tuple[int, int]], state: SyncState
    ) -> None:
        run_id, summary = state.run_id, state.summary()
        parts = ranges or [(probe.extent.low or 0, probe.extent.high or 0)]
        if guard.takes_files and self._is_read_by_arrow(probe, parts):
            writers.add_files(self.spark, guard, self._file_writer(probe, parts), run_id=run_id, summary=summary)
        else:
            rows = schema_evolution.shaped(self._read(probe, ranges), self.spark.table(self.table).schema)
            writers.add(rows, self.table, guard, run_id=run_id, summary=summary)

    def _write_all(self, probe: SourceProbe, ranges: list[tuple[int, int]]) -> tuple[SyncState, int]:
        """Replace the table's rows but for those that the source has purged."""
        if self.committer.loaded is None or not self.plan.key:
            return super()._write_all(probe, ranges)
        rows = self._read(probe, ranges).localCheckpoint()
        purged = self._purged(rows)
        count = purged.count()
        state = self._new_state(probe, probe.extent.rows + count)
        self._write_rows(rows.unionByName(purged), state)
        return state, count

    def _purged(self, rows: DataFrame) -> DataFrame:
        """Return rows of the lake that the source no longer has, null in columns that are read in another way now."""
        lake = self.spark.table(self.table)
        same = self.state.same_sql(self.plan) if self.state is not None else set(lake.columns)
        purged = lake.join(rows.select(*self.plan.key), how="left_anti", on=list(self.plan.key))
        purged = purged.select(*[quoted_name(c) for c in lake.columns if c in same or c in self.plan.key])
        return schema_evolution.shaped(purged, rows.schema).localCheckpoint()

    def _table_rows(self, cursor: Cursor, condition: str | None, extent: TableExtent) -> int:
        """Return the rows in question, once it is clear that the source is the one that was read before.

        A log whose ids all end far below the watermark is another one, or was set back: its ids mean other rows.
        """
        if condition is None or extent.rows or self.state is None:
            return extent.rows
        every = source_sql.extent(cursor, self.plan)
        of_erased = dataclasses.replace(self.plan, readable=None)
        if every.rows and not source_sql.count(cursor, of_erased, condition):
            raise LakehouseError(
                f"The source's ids end at {every.high}, far below {self.state.watermark}, up to which it was read before:"
                " it is another database, or was set back to an earlier state",
                where=f"{self.plan.source} to {self.table}",
                remedy=f"if that is meant, rename {self.table} or drop it; the next run reads the source again",
            )
        return every.rows

    def _watermark(self, last: int | None) -> int | None:
        if self.state is None or self.state.watermark is None:
            return last
        return max(self.state.watermark, last or 0)

    def _compared_rows(self, lake: DataFrame, probe: SourceProbe) -> DataFrame:
        return lake if probe.condition is None else lake.where(probe.condition)

    def _deletes_missing(self, probe: SourceProbe) -> bool:
        return False

    def _arrived(self, probe: SourceProbe, differences: Differences) -> int:
        return self._compared_rows(self.spark.table(self.table), probe).count() + differences.inserted

    def _is_worth_a_commit(self, state: SyncState) -> bool:
        """Purged rows are not worth a snapshot: they would make one for long."""
        if self.state is None or not super()._is_worth_a_commit(state):
            return False
        return row_checksum.equal_counts(str(state.checksum), str(self.state.checksum))
