"""Steps that every strategy of syncing a table shares: query the source, read, rebuild, compare, merge."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from pymysql.cursors import Cursor
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import Config
from moodle_lakehouse.ingest import (
    arrow_reader,
    jdbc_reader,
    mysql,
    read_plan,
    row_checksum,
    schema_evolution,
    source_sql,
    sync_state,
)
from moodle_lakehouse.ingest.committer import Committer, OvertakenError, SyncAgainError
from moodle_lakehouse.ingest.connection_limit import ConnectionLimiter
from moodle_lakehouse.ingest.moodle_tables import TablePlan
from moodle_lakehouse.ingest.row_checksum import RowsChecksum
from moodle_lakehouse.ingest.source_sql import TableExtent
from moodle_lakehouse.ingest.sync_state import LakeChecksums, SyncState
from moodle_lakehouse.lake import job_runs, staging, tables, writers
from moodle_lakehouse.lake.table_names import quoted_name

PIECE_ROWS = 250_000  # of one query of the Arrow reader
# What a task may hold of the source at once, by the longest row there is; a row without long columns counts as ROW_BYTES.
MAX_TASK_BYTES, ROW_BYTES = 64 * 1024 * 1024, 256


@dataclass(frozen=True)
class TableResult:
    """One table of one run. rows_read: of the source, 0 when querying it was enough; the others: of the raw table."""

    table: str
    rows_read: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    seconds: float = 0.0
    watermark: int | None = None
    note: str = ""

    @property
    def changed(self) -> bool:
        """Whether a row of the raw table changed."""
        return bool(self.inserted or self.updated or self.deleted)


@dataclass(frozen=True)
class SourceProbe:
    """What the source answered, at one moment, before anything was read.

    condition: for the rows in question (None: all); extent: of these; table_rows: of all rows, where a part is merged;
    watermark: up to which the lake will have all rows of that moment; max_rows: that a task may hold.
    """

    condition: str | None
    extent: TableExtent
    table_rows: int
    watermark: int | None
    max_rows: int


@dataclass(frozen=True)
class Differences:
    """Changes that make the raw table equal to what was read, as writers.merge takes them, and their numbers.

    bounds: the least and greatest key of the changes where it is one whole number and no user's id; table_rows: of the
    raw table after.
    """

    changes: DataFrame
    inserted: int
    updated: int
    deleted: int
    bounds: tuple[int, int] | None
    table_rows: int

    @property
    def total(self) -> int:
        """Number of rows that change."""
        return self.inserted + self.updated + self.deleted


class TableSync(ABC):
    """One attempt to sync one table: the steps that the strategies share. loaded: the raw table; None: the first load.

    checks_whole: whether the checksum of all rows is recorded beside that of the recent ones.
    """

    checks_whole = False

    def __init__(
        self,
        spark: SparkSession,
        config: Config,
        plan: TablePlan,
        limiter: ConnectionLimiter,
        table: str,
        loaded: Any,
    ) -> None:
        self.spark, self.config, self.plan, self.limiter = spark, config, plan, limiter
        self.table = table
        self.state = None if loaded is None else sync_state.read(loaded)
        self.checksums = None if self.state is None else LakeChecksums.of_state(loaded, self.state)
        self.committer = Committer(spark, table, loaded)
        self.notes = list(plan.notes)

    def run(self, *, compare_all: bool) -> TableResult:
        """Load, rebuild or update the table; compare_all: compare all rows, whatever the state says."""
        if self.state is None:
            return self.load()
        if not self.state.is_of(self.plan):
            lake = self.spark.table(self.table).schema
            schema_evolution.check(self.plan, self.table, lake)
            if self.state.policy_differs(self.plan):
                self.notes.append("the privacy policy changed: all rows were read again")
                return self._rebuild(self._probe())
            if self.plan.key:
                self.notes.extend(schema_evolution.follow(self.spark, self.plan, self.table, lake))
                self.committer.loaded = tables.load(self.spark, self.table)
            return self._sync_all(self._probe(), record=True)
        if compare_all:
            return self._sync_all(self._probe(), record=True)
        return self._update(self.state)

    def load(self, condition: str | None = None) -> TableResult:
        """Write the table from the source, or from a part of it."""
        return self._rebuild(self._probe(condition))

    @abstractmethod
    def _update(self, state: SyncState) -> TableResult:
        """Bring the table from its recorded state up to the source."""

    def _update_whole(self, state: SyncState) -> TableResult:
        """Compare all rows, unless the source's checksum is the lake's."""
        with self._source() as cursor:
            probe = self._probe_by(cursor)
            if self._holds(lambda lake: lake.recent, cursor, self._until(probe.extent)):
                return self._unchanged(state)
        return self._sync_all(probe, record=False)

    def _sync_all(self, probe: SourceProbe, *, record: bool) -> TableResult:
        """Merge the differences of all rows; a table without a key is rebuilt."""
        return self._merge(probe, record=record) if self.plan.key else self._rebuild(probe)

    # Query the source

    @contextmanager
    def _source(self) -> Iterator[Cursor]:
        """Yield a cursor whose queries all see one moment: what is decided by several belongs into one block."""
        with self.limiter.take(1), mysql.connect(self.config.moodle) as cursor:
            yield cursor

    def _until(self, extent: TableExtent) -> str | None:
        return read_plan.until(self.plan, extent)

    def _probe(self, condition: str | None = None) -> SourceProbe:
        with self._source() as cursor:
            return self._probe_by(cursor, condition)

    def _probe_by(self, cursor: Cursor, condition: str | None = None) -> SourceProbe:
        extent = source_sql.extent(cursor, self.plan, condition)
        table_rows = self._table_rows(cursor, condition, extent)
        max_rows = MAX_TASK_BYTES // (ROW_BYTES + source_sql.longest_row(cursor, self.plan, condition))
        return SourceProbe(condition, extent, table_rows, self._watermark(extent.last), max(1, max_rows))

    def _holds(self, of: Callable[[LakeChecksums], str | None], cursor: Cursor, condition: str | None) -> bool:
        """Return whether the source's rows that fulfil a condition are those of the lake, by one of its checksums."""
        known = None if self.checksums is None else of(self.checksums)
        return known is not None and source_sql.checksum(cursor, self.plan, condition) == known

    def _rows_after(self, probe: SourceProbe, arrived: int) -> int:
        """Return the rows in question after they were read; they are counted only if another number than before arrived."""
        if arrived == probe.extent.rows:
            return arrived
        with self._source() as cursor:
            return source_sql.count(cursor, self.plan, read_plan.all_of(probe.condition, self._until(probe.extent)))

    def _table_rows(self, cursor: Cursor, condition: str | None, extent: TableExtent) -> int:
        """Return the rows of the source, as far as the strategy needs them."""
        return extent.rows

    def _watermark(self, last: int | None) -> int | None:
        """Return the watermark up to which the rows will have been read."""
        if last is None and self.state is not None and self.state.watermark is not None:
            return max(self.state.watermark, 0)
        return last

    # Read the rows in question

    def _ranges(self, probe: SourceProbe) -> list[tuple[int, int]]:
        return read_plan.id_ranges(self.plan, probe.extent, self.config.moodle.max_connections)

    def _read(self, probe: SourceProbe, ranges: list[tuple[int, int]]) -> DataFrame:
        condition = probe.condition if ranges else read_plan.all_of(probe.condition, self._until(probe.extent))
        fetch_rows = min(jdbc_reader.FETCH_ROWS, probe.max_rows)
        return jdbc_reader.read_table(self.spark, self.config.moodle, self.plan, condition, ranges, fetch_rows)

    def _is_read_by_arrow(self, probe: SourceProbe, ranges: list[tuple[int, int]]) -> bool:
        return arrow_reader.serves(self.config.moodle, self.plan, ranges, probe.max_rows)

    def _file_writer(self, probe: SourceProbe, ranges: list[tuple[int, int]]) -> Callable[[writers.Files], list[str]]:
        rows = min(PIECE_ROWS, probe.max_rows)
        return arrow_reader.writer(
            self.spark, self.config.moodle, self.plan, ranges, condition=probe.condition, rows=rows
        )

    def _check_rows(self, arrived: int, probe: SourceProbe, rows_after: int, *, may_exceed: bool = False) -> None:
        """Check that as many rows arrived as the source had before or after; may_exceed: or more."""
        low, high = sorted((probe.extent.rows, rows_after))
        if arrived < low or (arrived > high and not may_exceed):
            raise SyncAgainError(f"{arrived} rows arrived of {low} to {high} at the source", compare_all=True)
        if low != high:
            self.notes.append(f"changed while it was read ({probe.extent.rows} rows at the start)")

    # Rebuild the table

    def _rebuild(self, probe: SourceProbe) -> TableResult:
        """Write the table from the rows in question in one commit."""
        ranges, loaded = self._ranges(probe), self.committer.loaded
        spec = loaded.spec() if loaded is not None else None
        with self.limiter.take(max(1, len(ranges))):
            state, kept = self._write_all(probe, ranges)
        if spec is not None and spec.isPartitioned():
            writers.partition_as(self.spark, self.table, spec)
        written = tables.row_count(self.spark, self.table) - kept
        rows_after = self._rows_after(probe, written)
        self._check_rows(written, probe, rows_after, may_exceed=self.plan.table.keeps_purged)
        self._record_checksums(state, all_rows=probe.condition is None)
        return self._result(rows_read=written, inserted=written, watermark=probe.watermark)

    def _write_all(self, probe: SourceProbe, ranges: list[tuple[int, int]]) -> tuple[SyncState, int]:
        """Replace the table's rows; returns the state that was committed, and how many rows the source lacks."""
        state = self._new_state(probe, probe.extent.rows)
        if self._is_read_by_arrow(probe, ranges):
            write, schema = self._file_writer(probe, ranges), self.plan.schema()
            run_id, summary = state.run_id, state.summary()
            self.committer.commit(
                state,
                lambda: writers.replace_with_files(
                    self.spark, self.table, schema, write, run_id=run_id, summary=summary
                ),
            )
        else:
            self._write_rows(self._read(probe, ranges), state)
        return state, 0

    def _write_rows(self, rows: DataFrame, state: SyncState) -> None:
        run_id, summary = state.run_id, state.summary()
        self.committer.commit(state, lambda: writers.replace(rows, self.table, run_id=run_id, summary=summary))

    # Merge differences into the table

    @contextmanager
    def _compared(self, probe: SourceProbe) -> Iterator[Differences]:
        """Read the rows in question, compare them with the lake's, and yield the differences for the block's time.

        They are staged: the source would answer a second reading, for a lost worker or a second scan, otherwise.
        """
        ranges, id_column = self._ranges(probe), self.plan.id_column
        ends = (
            [F.min(quoted_name(id_column)), F.max(quoted_name(id_column))] if id_column else [F.lit(None), F.lit(None)]
        )
        kinds = [
            F.count(F.when(F.col(writers.OPERATION) == kind, 1))
            for kind in (writers.INSERT, writers.UPDATE, writers.DELETE)
        ]
        with ExitStack() as stack:
            with self.limiter.take(max(1, len(ranges))):
                changes = stack.enter_context(staging.staged(self._changes(self._read(probe, ranges), probe)))
            row = changes.agg(*kinds, *ends).first()
            assert row is not None
            inserted, updated, deleted, low, high = row
            table_rows = tables.rows_of(self.committer.loaded) + inserted - deleted
            # Of a table of people they would be somebody's id in the statement, and so in Spark's event log.
            bounds = None if low is None or self.plan.is_keyed_by_person else (low, high)
            yield Differences(changes, inserted, updated, deleted, bounds, table_rows)

    def _changes(self, rows: DataFrame, probe: SourceProbe) -> DataFrame:
        """Return the changes to the lake's rows, as writers.merge takes them: none for those that are equal."""
        lake = self.spark.table(self.table)
        new, key = schema_evolution.shaped(rows, lake.schema), list(self.plan.key)
        every = [quoted_name(c) for c in lake.columns]
        pairs = new.select(*key, F.struct(*every).alias("new")).join(
            self._compared_rows(lake, probe).select(*key, F.struct(*every).alias("old")),
            how="full_outer" if self._deletes_missing(probe) else "left_outer",
            on=key,
        )
        operation = (
            F.when(F.col("old").isNull(), F.lit(writers.INSERT))
            .when(F.col("new").isNull(), F.lit(writers.DELETE))
            .when(~F.col("new").eqNullSafe(F.col("old")), F.lit(writers.UPDATE))
        )
        columns = [(F.col(quoted_name(c)) if c in key else F.col("new").getField(c)).alias(c) for c in lake.columns]
        different = pairs.withColumn(writers.OPERATION, operation).where(F.col(writers.OPERATION).isNotNull())
        return different.select(writers.OPERATION, *columns)

    def _merge(self, probe: SourceProbe, *, record: bool = False) -> TableResult:
        """Commit what differs, as _merge_differences() does."""
        with self._compared(probe) as differences:
            return self._merge_differences(probe, differences, record=record)

    def _merge_differences(self, probe: SourceProbe, differences: Differences, *, record: bool = False) -> TableResult:
        """Commit the differences and the new state; record: commit the state even when nothing differs."""
        arrived = self._arrived(probe, differences)
        rows_after = self._rows_after(probe, arrived)
        self._check_rows(arrived, probe, rows_after, may_exceed=self.plan.table.keeps_purged)
        state = self.state
        if differences.total or record or state is None:
            state = self._new_state(probe, differences.table_rows)
            if not self.committer.holds_loaded_rows():
                raise OvertakenError(self.table)
            self._commit_differences(differences, state)
        self._record_checksums(state, all_rows=probe.condition is None)
        return self._result(
            rows_read=probe.extent.rows,
            inserted=differences.inserted,
            updated=differences.updated,
            deleted=differences.deleted,
            watermark=probe.watermark,
        )

    def _commit_differences(self, differences: Differences, state: SyncState) -> None:
        if not differences.total:
            self.committer.commit_state(state)
            return

        def merge() -> None:
            writers.merge(
                differences.changes,
                self.table,
                key=self.plan.key,
                bounds=differences.bounds,
                run_id=state.run_id,
                summary=state.summary(),
            )

        self.committer.commit_validated(state, merge)

    def _compared_rows(self, lake: DataFrame, probe: SourceProbe) -> DataFrame:
        """Return the lake's rows with which the source's are compared."""
        return lake

    def _deletes_missing(self, probe: SourceProbe) -> bool:
        """Return whether rows of the lake that were not read are deleted."""
        return probe.condition is None

    def _arrived(self, probe: SourceProbe, differences: Differences) -> int:
        """Return how many of the source's rows in question the lake holds after the merge."""
        return probe.extent.rows if probe.condition is not None else differences.table_rows

    def _new_state(self, probe: SourceProbe, rows: int) -> SyncState:
        compared_all = probe.condition is None or self.state is None
        return SyncState(
            source=self.plan.source,
            strategy=self.plan.table.strategy,
            columns=sync_state.columns(self.plan),
            run_id=job_runs.run_id(),
            watermark=probe.watermark,
            rows=rows,
            full_at=int(time.time()) if compared_all or self.state is None else self.state.full_at,
        )

    def _record_checksums(self, state: SyncState, *, all_rows: bool) -> None:
        """Record what the lake's rows add up to; all_rows: they are all as the source had them."""
        loaded = self.committer.as_committed(state)
        if loaded is None:
            return
        recent, whole = read_plan.since(self.plan, state.watermark), all_rows and self.checks_whole
        none, parts = RowsChecksum(0, 0), {}
        if tables.rows_of(loaded):
            rows = tables.at(self.spark, self.table, loaded)
            is_recent = F.lit(1) if recent is None else F.coalesce(F.expr(recent).cast("int"), F.lit(0))
            rows = rows if whole or recent is None else rows.where(recent)
            parts = row_checksum.spark_checksums(self.plan, rows, is_recent)
        found, other = parts.get(1, none), parts.get(0, none)
        checksums = LakeChecksums(commit=state.commit, recent=str(found), whole=str(found + other) if whole else None)
        if checksums != LakeChecksums.of_state(loaded, state):
            self.committer.record_checksums(loaded, checksums)

    def _unchanged(self, state: SyncState) -> TableResult:
        return self._result(watermark=state.watermark)

    def _result(self, **numbers: Any) -> TableResult:
        return TableResult(self.plan.table.name, **numbers, note="; ".join(self.notes))
