"""Sync one table of Moodle into its raw table: what is new or different, in one commit, or nothing at all.

The source is queried first: a checksum equal to that of the lake's rows (sync_state.LakeChecksums) ends the sync without
a Spark job. Otherwise the rows in question are read, compared with the lake's, and the differences
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
from moodle_lakehouse.ingest import hashed_columns, mysql, read_plan, schema_evolution, source_sql
from moodle_lakehouse.ingest.committer import SyncAgainError
from moodle_lakehouse.ingest.connection_limit import ConnectionLimiter
from moodle_lakehouse.ingest.moodle_tables import TablePlan
from moodle_lakehouse.ingest.source_sql import TableExtent
from moodle_lakehouse.ingest.sync_state import SyncState
from moodle_lakehouse.ingest.sync_steps import Differences, SourceProbe, TableResult, TableSync
from moodle_lakehouse.lake import availability, staging, table_names, tables, writers
from moodle_lakehouse.lake.availability import Watch
from moodle_lakehouse.lake.table_names import quoted_name

log = logging.getLogger(__name__)

# What drivers and clients of source, store and catalog throw when the other side is gone, and how an answer that breaks
# off ends. A source that moved on is read again, too.
_CONNECTION_ERRORS = (
    "SQLNonTransientConnectionException", "SQLTransientConnectionException", "Connection reset", "Socket error",
    "EOFException", "ConnectException", "HttpHostConnectException", "NoHttpResponseException", "SocketTimeoutException",
    "UnknownHostException", "SdkClientException", "ServiceUnavailableException", "ServiceFailureException",
    hashed_columns.CAME_MEANWHILE,
)  # fmt: skip


def sync(spark: SparkSession, config: Config, plan: TablePlan, limiter: ConnectionLimiter, watch: Watch) -> TableResult:
    """Bring the raw table of one plan up to its source.

    Once more when the source moved too much or a connection broke off, and whenever a part is back that was away.
    """
    started = time.monotonic()
    table = table_names.raw(plan.table.name)
    compare_all, moved, broke, returns = False, False, False, 0
    while True:
        began = time.monotonic()
        try:
            loaded = tables.load(spark, table)
            result = _strategy(plan)(spark, config, plan, limiter, table, loaded).run(compare_all=compare_all)
            return dataclasses.replace(result, seconds=time.monotonic() - started)
        except SyncAgainError as error:
            if moved:
                raise LakehouseError(str(error), where=table, remedy="run ingest again") from error
            moved, compare_all = True, compare_all or error.compare_all
            log.info("%s: %s; once more", plan.table.name, reason(error))
        except Exception as error:
            passing = _is_connection_error(error)
            if isinstance(error, LakehouseError) and not passing:
                raise
            if returns < availability.MAX_RETURNS and watch.wait(began):
                returns += 1
            elif passing and not broke:
                broke = True
                time.sleep(mysql.RETRY_DELAYS[-1])
            else:
                raise
            log.info("%s: %s; once more", plan.table.name, reason(error))


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
    """Return whether source, store or catalog went away: for the driver, or for an executor."""
    if isinstance(error, SourceError):
        return error.passing
    return any(name in str(error) for name in _CONNECTION_ERRORS)


class SnapshotSync(TableSync):
    """Compare the whole table."""

    def _update(self, state: SyncState) -> TableResult:
        return self._update_whole(state)


class MergeSync(TableSync):
    """Compare what the cursor shows as recent; the whole table when that is due or the numbers of rows disagree."""

    checks_whole = True

    def _update(self, state: SyncState) -> TableResult:
        recent = read_plan.since(self.plan, state.watermark)
        if recent is None or time.time() - state.full_at >= self.plan.table.full_every * 3600:
            with self._source() as cursor:
                probe = self._probe_by(cursor)
                if self._holds(lambda lake: lake.whole, cursor, self._until(probe.extent)):
                    return self._unchanged(state)
            return self._sync_all(probe, record=True)
        with self._source() as cursor:
            if source_sql.count(cursor, self.plan, None) == state.rows and self._holds(
                lambda lake: lake.recent, cursor, recent
            ):
                return self._unchanged(state)
            probe = self._probe_by(cursor, recent)
        with self._compared(probe) as differences:
            if differences.table_rows == probe.table_rows:
                return self._merge_differences(probe, differences)
        return self._sync_all(self._probe(), record=True)  # rows were deleted, or restored with old times

    def _table_rows(self, cursor: Cursor, condition: str | None, extent: TableExtent) -> int:
        return extent.rows if condition is None else source_sql.count(cursor, self.plan, None)


class AppendSync(TableSync):
    """Append what is above the watermark, for the strategies append and history: rows gone from the source stay."""

    def _update(self, state: SyncState) -> TableResult:
        recent = read_plan.since(self.plan, state.watermark)
        if recent is None:
            return self._update_whole(state)
        guard = writers.AppendGuard.of(self.committer.loaded, self.plan.cursor or "", state.watermark or 0)
        above = f"{quoted_name(guard.key)} > {guard.watermark}"
        below = f"{recent} AND {quoted_name(guard.key)} <= {guard.watermark}"
        # What lies below the watermark is checked at the moment whose highest id becomes the next watermark: a row that
        # was committed late in between would be above neither, and in the end below the overlap.
        with self._source() as cursor:
            appends = self._holds(lambda lake: lake.recent, cursor, below)
            if appends and not source_sql.count(cursor, self.plan, above):
                return self._unchanged(state)
            probe = self._probe_by(cursor, above if appends else recent)
        if appends:
            return self._append(guard, probe)
        with self._compared(probe) as differences:
            # Nobody changes a log: the database was set back, or replaced, and gave the same ids to other rows.
            is_another = differences.updated * 2 > probe.extent.rows - differences.inserted
            if not is_another:
                return self._merge_differences(probe, differences)
        self.notes.append("other rows than before under the same ids: all were compared")
        return self._sync_all(self._probe(), record=True)

    def _append(self, guard: writers.AppendGuard, probe: SourceProbe) -> TableResult:
        """Append the rows above the watermark in one commit: nothing is compared."""
        ranges, rows_before = self._ranges(probe), tables.rows_of(guard.loaded)
        state = self._new_state(probe, rows_before + probe.extent.rows)
        with self.limiter.take(max(1, len(ranges))):
            self.committer.commit_validated(state, lambda: self._append_rows(guard, probe, ranges, state))
        arrived = tables.row_count(self.spark, self.table) - rows_before
        self._check_rows(arrived, probe, self._rows_after(probe, arrived), may_exceed=True)
        self._record_checksums(state, all_rows=False)
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
        with staging.staged(self._read(probe, ranges)) as rows, staging.staged(self._purged(rows)) as purged:
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
        return schema_evolution.shaped(purged, rows.schema)

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
