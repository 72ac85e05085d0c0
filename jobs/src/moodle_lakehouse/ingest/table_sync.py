"""One table of Moodle into its raw table: what is new or different, in one commit, or nothing at all.

The source is asked first, in SQL: an answer equal to the one that the last commit noted (watermark.Mark) ends the
matter without a Spark job. Otherwise the rows in question are read, compared with the lake's, and the differences
are merged in one commit that carries the new mark. How much is in question depends on the strategy:

append, history  ids above the watermark, which are added; when something changed among the OVERLAP_IDS below it, where
                 transactions were committed late, these are compared as well. Rows that are gone from the source stay.
merge            rows whose cursor is above the watermark less OVERLAP_SECONDS; the whole table every full_every hours
                 and whenever the numbers of rows disagree, for rows that were deleted or restored with old times.
snapshot         the whole table.

Two runs at once cannot double a row: what is added or merged is validated against what was committed since it began
(serializable isolation), and the later one ends with an error.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pymysql.cursors import Cursor
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import Config, MoodleConfig
from moodle_lakehouse.errors import LakehouseError, SourceError, reason
from moodle_lakehouse.ingest import arrow_reader, mysql, row_checksum, schema_evolution, sync_state
from moodle_lakehouse.ingest.moodle_tables import TablePlan, quoted
from moodle_lakehouse.ingest.mysql import TableExtent
from moodle_lakehouse.ingest.sync_state import Mark
from moodle_lakehouse.lake import job_runs, snapshots, table_names, tables, writers

log = logging.getLogger(__name__)

RANGE_ROWS = 250_000  # a table with more rows is read in ranges of about this size
PIECE_ROWS = 250_000  # of one query of the reader by files
FETCH_ROWS = 10_000  # rows per round trip; without it the driver would hold a whole range in memory
# What a task may hold of the source at once, by the longest row there is; a row without long columns counts as ROW_BYTES.
HELD_BYTES, ROW_BYTES = 64 * 1024 * 1024, 256

# InnoDB gives ids when a row is written and shows the row when its transaction is committed, so lower ids can appear
# after higher ones. At the 69 log rows a second of the Open University's busiest hour this is 12 minutes.
OVERLAP_IDS = 50_000
# Events are buffered for a request, times are set before the commit, and a restored log runs backwards by 1,531 s.
OVERLAP_SECONDS = 7_200

_UNKNOWN = "CommitStateUnknownException"
# What the executors' JDBC driver throws when the connection or the server is gone, and what an answer cut off ends in.
_BROKEN = (
    "SQLNonTransientConnectionException", "SQLTransientConnectionException", "Connection reset", "Socket error",
    "EOFException",
)  # fmt: skip


@dataclass(frozen=True)
class TableResult:
    """One table of one run. rows_read: of the source, 0 when asking it was enough; the others: of the raw table."""

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
        return bool(self.inserted or self.updated or self.deleted)


class Gate:
    """So many connections and no more: a table that is read in n ranges takes n at once."""

    def __init__(self, permits: int) -> None:
        self._free = permits
        self._changed = threading.Condition()

    @contextmanager
    def take(self, permits: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= permits)
            self._free -= permits
        try:
            yield
        finally:
            with self._changed:
                self._free += permits
                self._changed.notify_all()


@dataclass(frozen=True)
class _Look:
    """What the source said, at one moment, before anything was read.

    part: the condition for the rows in question (None: all); total: rows of all; standing: the condition for what
    the next run looks at first, checksum: what stands for it; whole: what stands for all rows, where that is wanted;
    held: rows that a task may hold.
    """

    part: str | None
    extent: TableExtent
    total: int
    watermark: int | None
    standing: str | None
    checksum: str | None
    whole: str | None
    held: int


@dataclass(frozen=True)
class _Counts:
    """Changes by kind, and their least and greatest key where it is one whole number."""

    inserted: int
    updated: int
    deleted: int
    bounds: tuple[int, int] | None

    @property
    def all(self) -> int:
        return self.inserted + self.updated + self.deleted


class _AgainError(Exception):
    """What was read or committed is not certain: look at the table once more, at all of it if whole."""

    def __init__(self, message: str, *, whole: bool) -> None:
        super().__init__(message)
        self.whole = whole


class _OvertakenError(LakehouseError):
    """Somebody else committed to the table since it was read."""


def copy(spark: SparkSession, config: Config, plan: TablePlan, gate: Gate) -> TableResult:
    """Bring the raw table of one plan up to its source; once more when the source broke off or moved too much."""
    started = time.monotonic()
    work = _TableCopy(spark, config, plan, gate)
    try:
        result = work.run(whole=False)
    except Exception as first:
        if not isinstance(first, _AgainError) and not _broke_off(first):
            raise
        log.info("%s: %s; once more", plan.table.name, reason(first))
        if not isinstance(first, _AgainError):
            time.sleep(mysql.PAUSES[-1])
        try:
            result = work.run(whole=isinstance(first, _AgainError) and first.whole)
        except _AgainError as second:
            raise LakehouseError(str(second), where=work.table, remedy="run ingest again") from second
    return dataclasses.replace(result, seconds=time.monotonic() - started)


def _broke_off(error: Exception) -> bool:
    """Whether the source went away in the middle: for the driver, or for an executor as the driver is told of it."""
    if isinstance(error, SourceError):
        return error.passing
    return any(name in str(error) for name in _BROKEN)


def load(spark: SparkSession, config: Config, plan: TablePlan, table: str, part: str | None) -> TableResult:
    """The first load of a part of the source into any table, as copy does it: what is measured."""
    started = time.monotonic()
    work = _TableCopy(spark, config, plan, Gate(config.moodle.max_connections))
    work.table = table
    result = work._replace(work._look(None, part), None, None)
    return dataclasses.replace(result, seconds=time.monotonic() - started)


class _TableCopy:
    def __init__(self, spark: SparkSession, config: Config, plan: TablePlan, gate: Gate) -> None:
        self.spark, self.config, self.plan, self.gate = spark, config, plan, gate
        self.table = table_names.raw(plan.table.name)
        self.notes: list[str] = []

    def run(self, *, whole: bool) -> TableResult:
        """whole: compare all rows, whatever the mark says."""
        self.notes = list(self.plan.notes)
        loaded = tables.load(self.spark, self.table)
        mark = sync_state.read(loaded) if loaded is not None else None
        if mark is None:
            return self._replace(self._look(None, None), loaded, None)
        if not mark.is_of(self.plan):
            lake = self.spark.table(self.table).schema
            schema_evolution.check(self.plan, self.table, lake)
            if mark.policy_differs(self.plan):
                self.notes.append("the privacy policy changed: read anew")
                return self._replace(self._look(mark, None), loaded, mark)
            if self.plan.key:
                self.notes.extend(schema_evolution.follow(self.spark, self.plan, self.table, lake))
                loaded = tables.load(self.spark, self.table)
            return self._bring(self._look(mark, None), loaded, mark, noted=True)
        if whole:
            return self._bring(self._look(mark, None), loaded, mark, noted=True)
        part = self._above(mark.watermark)
        if part is None or self._is_due(mark):
            look = self._look(mark, None)
            known, now = (mark.whole, look.whole) if self._merges else (mark.checksum, look.checksum)
            if now is not None and known == now:
                return self._result(watermark=mark.watermark)
            return self._bring(look, loaded, mark, noted=self._merges)
        if self._merges:
            if self._is_as_noted(mark, part):
                return self._result(watermark=mark.watermark)
        elif self._is_as_noted(mark, f"{part} AND {quoted(self.plan.cursor or '')} <= {mark.watermark}"):
            return self._add(writers.AppendGuard.of(loaded, self.plan.cursor or "", mark.watermark or 0), mark)
        return self._bring(self._look(mark, part), loaded, mark, noted=False)

    # The source

    @property
    def _merges(self) -> bool:
        return self.plan.cursor is not None and not self.plan.table.keeps_purged

    def _is_due(self, mark: Mark) -> bool:
        return self._merges and time.time() - mark.full_at >= self.plan.table.full_every * 3600

    def _above(self, mark: int | None) -> str | None:
        """The condition for what may be new or different since a watermark; None: everything."""
        cursor = self.plan.cursor
        if cursor is None or mark is None:
            return None
        overlap = OVERLAP_IDS if cursor == self.plan.id_column else OVERLAP_SECONDS
        return f"{quoted(cursor)} > {mark - overlap}"

    def _until(self, extent: TableExtent) -> str | None:
        """The condition that leaves out what was added after the source was asked."""
        if self.plan.id_column is None or extent.high is None:
            return None
        return f"{quoted(self.plan.id_column)} <= {extent.high}"

    @contextmanager
    def _asking(self) -> Iterator[Cursor]:
        with self.gate.take(1), mysql.connect(self.config.moodle) as cursor:
            yield cursor

    def _is_as_noted(self, mark: Mark, part: str) -> bool:
        if mark.checksum is None:
            return False
        with self._asking() as cursor:
            if self._merges and mysql.count(cursor, self.plan, None) != mark.rows:
                return False
            return mysql.checksum(cursor, self.plan, part) == mark.checksum

    def _look(self, mark: Mark | None, part: str | None) -> _Look:
        with self._asking() as cursor:
            extent = mysql.extent(cursor, self.plan, part)
            total, last = extent.rows, extent.last
            if part is not None and (self._merges or not total):
                everything = mysql.extent(cursor, self.plan)
                total = everything.rows
                self._refuse_another_past(cursor, part, extent, everything, mark)
            if mark is not None and mark.watermark is not None and (last is None or self.plan.table.keeps_purged):
                last = max(mark.watermark, last or 0)
            standing = _both(self._above(last), self._until(extent))
            checksum = mysql.checksum(cursor, self.plan, standing)
            whole = None
            if part is None and self._merges:
                whole = mysql.checksum(cursor, self.plan, self._until(extent))
            held = max(1, HELD_BYTES // (ROW_BYTES + mysql.longest(cursor, self.plan, part)))
            return _Look(part, extent, total, last, standing, checksum, whole, held)

    def _refuse_another_past(
        self, cursor: Cursor, part: str, extent: TableExtent, everything: TableExtent, mark: Mark | None
    ) -> None:
        """A log whose ids all end far below the watermark is another one, or was set back: its ids mean other rows."""
        if self._merges or extent.rows or not everything.rows or mark is None:
            return
        if mysql.count(cursor, dataclasses.replace(self.plan, readable=None), part):  # of people who were erased
            return
        raise LakehouseError(
            f"The source's ids end at {everything.high}, far below {mark.watermark}, up to which it was read before:"
            " it is another database, or was set back to an earlier state",
            where=f"{self.plan.source} to {self.table}",
            remedy=f"if that is meant, rename {self.table} or drop it; the next run reads the source anew",
        )

    def _after(self, look: _Look, arrived: int) -> tuple[int, _Look]:
        """Rows in question after they were read, and the look without the checksums that no longer hold.

        They are counted only if another number than before arrived.
        """
        with self._asking() as cursor:
            until = self._until(look.extent)
            rows = look.extent.rows
            if arrived != rows:
                rows = mysql.count(cursor, self.plan, _both(look.part, until))
            checksum = mysql.checksum(cursor, self.plan, look.standing)
            whole = mysql.checksum(cursor, self.plan, until) if look.whole is not None else None
        return rows, dataclasses.replace(
            look,
            checksum=checksum if checksum == look.checksum else None,
            whole=whole if whole == look.whole else None,
        )

    def _read(self, look: _Look, ranges: list[tuple[int, int]]) -> DataFrame:
        condition = look.part if ranges else _both(look.part, self._until(look.extent))
        return read_jdbc(self.spark, self.config.moodle, self.plan, condition, ranges, fetch=min(FETCH_ROWS, look.held))

    def _ranges(self, look: _Look) -> list[tuple[int, int]]:
        return id_ranges(self.plan, look.extent, self.config.moodle.max_connections)

    # The lake

    def _replace(self, look: _Look, loaded: Any, mark: Mark | None) -> TableResult:
        """Write the table anew in one commit; of a log that was there already, what the source has purged is kept."""
        ranges, purged = self._ranges(look), 0
        spec = loaded.spec() if loaded is not None else None
        keeping = loaded is not None and self.plan.table.keeps_purged and bool(self.plan.key)
        with self.gate.take(max(1, len(ranges))):
            if not keeping and arrow_reader.serves(self.config.moodle, self.plan, ranges, look.held):
                fresh = self._mark(look, look.extent.rows, mark)
                self._commit(fresh, lambda: self._copy_files(look, ranges, fresh))
            else:
                df = self._read(look, ranges)
                if keeping:
                    df = df.localCheckpoint()
                    kept = self._purged(df, mark)
                    purged, df = kept.count(), df.unionByName(kept)
                fresh = self._mark(look, look.extent.rows + purged, mark)
                run_id, summary = fresh.run_id, fresh.summary()
                self._commit(fresh, lambda: writers.replace(df, self.table, run_id=run_id, summary=summary))
        if spec is not None and spec.isPartitioned():
            writers.partition_as(self.spark, self.table, spec)
        written = tables.row_count(self.spark, self.table) - purged
        rows_after, sure = self._after(look, written)
        if sure != look:  # what was written is then known by no checksum
            self._note(self._mark(sure, fresh.rows, mark))
        self._check_rows(written, look, rows_after)
        return self._result(rows_read=written, inserted=written, watermark=look.watermark)

    def _copy_files(self, look: _Look, ranges: list[tuple[int, int]], mark: Mark) -> None:
        writers.replace_with_files(
            self.spark,
            self.table,
            self.plan.schema(),
            self._files(look, ranges),
            run_id=mark.run_id,
            summary=mark.summary(),
        )

    def _files(self, look: _Look, ranges: list[tuple[int, int]]) -> Callable[[writers.Files], list[str]]:
        rows = min(PIECE_ROWS, look.held)
        return arrow_reader.writer(self.spark, self.config.moodle, self.plan, ranges, condition=look.part, rows=rows)

    def _purged(self, df: DataFrame, mark: Mark | None) -> DataFrame:
        """Rows of the lake that the source no longer has, null in the columns that are read in another way now."""
        lake = self.spark.table(self.table)
        same = mark.same_sql(self.plan) if mark is not None else set(lake.columns)
        kept = lake.join(df.select(*self.plan.key), how="left_anti", on=list(self.plan.key))
        kept = kept.select(*[quoted(c) for c in lake.columns if c in same or c in self.plan.key])
        return schema_evolution.shaped(kept, df.schema).localCheckpoint()

    def _bring(self, look: _Look, loaded: Any, mark: Mark, *, noted: bool) -> TableResult:
        """Merge the differences in one commit. noted: it is due even when there are none."""
        if not self.plan.key:
            return self._replace(look, loaded, mark)
        ranges = self._ranges(look)
        with self.gate.take(max(1, len(ranges))):
            changes = self._changes(self._read(look, ranges), look).localCheckpoint()
        counts = self._count(changes)
        rows = tables.rows_of(loaded) + counts.inserted - counts.deleted
        if look.part is not None and self._merges and rows != look.total:
            # Rows were deleted, or restored with old times.
            return self._bring(self._look(mark, None), loaded, mark, noted=True)
        if look.part is not None and not self._merges and counts.updated * 2 > look.extent.rows - counts.inserted:
            # Nobody changes a log: the database was set back, or replaced, and gave the same ids to other rows.
            self.notes.append("other rows than before under the same ids: all were compared")
            return self._bring(self._look(mark, None), loaded, mark, noted=True)
        if self.plan.table.keeps_purged:
            lake = self.spark.table(self.table)
            arrived = (lake.where(look.part) if look.part is not None else lake).count() + counts.inserted
        else:
            arrived = look.extent.rows if look.part is not None else rows
        rows_after, sure = self._after(look, arrived)
        self._check_rows(arrived, look, rows_after)
        fresh = self._mark(sure, rows, mark)
        moved = fresh.checksum is not None and fresh.checksum != mark.checksum
        if self.plan.table.keeps_purged and moved:  # not worth a snapshot when rows were purged; they will be for long
            moved = row_checksum.as_many(str(fresh.checksum), str(mark.checksum))
        if counts.all or noted or moved:
            if not self._rows_are_of(loaded):
                raise self._overtaken()
            self._write(changes, counts, fresh, loaded)
        return self._result(
            rows_read=look.extent.rows,
            inserted=counts.inserted,
            updated=counts.updated,
            deleted=counts.deleted,
            watermark=look.watermark,
        )

    def _add(self, above: writers.AppendGuard, mark: Mark) -> TableResult:
        """Add the rows above the watermark in one commit: nothing is compared."""
        part = f"{quoted(above.key)} > {above.watermark}"
        with self._asking() as cursor:
            if not mysql.count(cursor, self.plan, part):
                return self._result(watermark=mark.watermark)
        look = self._look(mark, part)
        ranges, before = self._ranges(look), tables.rows_of(above.loaded)
        fresh = self._mark(look, before + look.extent.rows, mark)
        with self.gate.take(max(1, len(ranges))):
            self._commit_among(above.loaded, fresh, lambda: self._add_rows(above, look, ranges, fresh))
        arrived = tables.row_count(self.spark, self.table) - before
        if arrived != look.extent.rows:
            rows_after, sure = self._after(look, arrived)
            self._note(self._mark(sure, before + arrived, mark))
            self._check_rows(arrived, look, rows_after)
        return self._result(rows_read=arrived, inserted=arrived, watermark=look.watermark)

    def _add_rows(self, above: writers.AppendGuard, look: _Look, ranges: list[tuple[int, int]], mark: Mark) -> None:
        run_id, summary = mark.run_id, mark.summary()
        parts = ranges or [(look.extent.low or 0, look.extent.high or 0)]
        if above.takes_files and arrow_reader.serves(self.config.moodle, self.plan, parts, look.held):
            writers.add_files(self.spark, above, self._files(look, parts), run_id=run_id, summary=summary)
        else:
            rows = schema_evolution.shaped(self._read(look, ranges), self.spark.table(self.table).schema)
            writers.add(rows, self.table, above, run_id=run_id, summary=summary)

    def _changes(self, rows: DataFrame, look: _Look) -> DataFrame:
        """What has to be done to the lake's rows, as tables.merge wants it: nothing for those that are equal."""
        lake = self.spark.table(self.table)
        new, key = schema_evolution.shaped(rows, lake.schema), list(self.plan.key)
        if look.part is not None and self.plan.table.keeps_purged:
            lake = lake.where(look.part)
        every = [quoted(c) for c in lake.columns]
        gone_are_deleted = look.part is None and not self.plan.table.keeps_purged
        pairs = new.select(*key, F.struct(*every).alias("new")).join(
            lake.select(*key, F.struct(*every).alias("old")),
            how="full_outer" if gone_are_deleted else "left_outer",
            on=key,
        )
        operation = (
            F.when(F.col("old").isNull(), F.lit(writers.INSERT))
            .when(F.col("new").isNull(), F.lit(writers.DELETE))
            .when(~F.col("new").eqNullSafe(F.col("old")), F.lit(writers.UPDATE))
        )
        columns = [(F.col(quoted(c)) if c in key else F.col("new").getField(c)).alias(c) for c in lake.columns]
        different = pairs.withColumn(writers.OPERATION, operation).where(F.col(writers.OPERATION).isNotNull())
        return different.select(writers.OPERATION, *columns)

    def _count(self, changes: DataFrame) -> _Counts:
        key = self.plan.id_column
        ends = [F.min(quoted(key)), F.max(quoted(key))] if key else [F.lit(None), F.lit(None)]
        kinds = [
            F.count(F.when(F.col(writers.OPERATION) == kind, 1))
            for kind in (writers.INSERT, writers.UPDATE, writers.DELETE)
        ]
        row = changes.agg(*kinds, *ends).first()
        assert row is not None
        inserted, updated, deleted, low, high = row
        return _Counts(inserted, updated, deleted, None if low is None else (low, high))

    def _check_rows(self, arrived: int, look: _Look, rows_after: int) -> None:
        """As many rows as at the source; where purged ones stay, at least as many."""
        low, high = sorted((look.extent.rows, rows_after))
        if arrived < low or (arrived > high and not self.plan.table.keeps_purged):
            raise _AgainError(f"{arrived} rows arrived of {low} to {high} at the source", whole=True)
        if low != high:
            self.notes.append(f"changed while it was read ({look.extent.rows} rows at the start)")

    def _mark(self, look: _Look, rows: int, mark: Mark | None) -> Mark:
        return Mark(
            source=self.plan.source,
            strategy=self.plan.table.strategy,
            columns=sync_state.columns(self.plan),
            run_id=job_runs.run_id(),
            watermark=look.watermark,
            checksum=look.checksum,
            whole=look.whole,
            rows=rows,
            full_at=int(time.time()) if look.part is None or mark is None else mark.full_at,
        )

    def _rows_are_of(self, loaded: Any) -> bool:
        """Whether the table still holds the rows of the loaded one: maintenance may have moved them to other files."""
        now, then = snapshots.newest_rows(tables.load(self.spark, self.table)), snapshots.newest_rows(loaded)
        return then is not None and now is not None and now.snapshotId() == then.snapshotId()

    def _write(self, changes: DataFrame, counts: _Counts, mark: Mark, loaded: Any) -> None:
        if not counts.all:
            self._note(mark)
            return

        def merge() -> None:
            writers.merge(
                changes,
                self.table,
                key=self.plan.key,
                bounds=counts.bounds,
                run_id=mark.run_id,
                summary=mark.summary(),
            )

        self._commit_among(loaded, mark, merge)

    def _commit_among(self, loaded: Any, mark: Mark, commit: Callable[[], None]) -> None:
        """Commit what is validated against other commits: maintenance's are no reason to give up."""
        try:
            self._commit(mark, commit)
        except _OvertakenError as error:
            if self._rows_are_of(loaded):
                raise _AgainError("maintenance rewrote the files to be changed", whole=False) from error
            raise

    def _note(self, mark: Mark) -> None:
        """Commit a mark and no rows."""
        nothing = tables.local_rows(self.spark, [], self.spark.table(self.table).schema)
        self._commit(mark, lambda: writers.append(nothing, self.table, run_id=mark.run_id, summary=mark.summary()))

    def _commit(self, mark: Mark, commit: Callable[[], None]) -> None:
        """Commit; when that ends in an error, see whether the commit arrived before anything else is done."""
        try:
            commit()
        except Exception as error:
            if self._arrived(mark):
                log.warning("%s: the commit is in the table, though it ended in: %s", self.table, reason(error))
            elif writers.was_overtaken(error):
                raise self._overtaken() from error
            elif _UNKNOWN in str(error):
                raise _AgainError(f"the commit did not arrive: {reason(error)}", whole=False) from error
            else:
                raise

    def _arrived(self, mark: Mark) -> bool:
        try:
            return sync_state.arrived(self.spark, self.table, mark)
        except Exception as error:  # then the next run finds out
            log.warning("%s: whether the commit arrived cannot be told: %s", self.table, reason(error))
            return False

    def _overtaken(self) -> _OvertakenError:
        return _OvertakenError(
            "Another run wrote this table meanwhile; nothing of this one was written to it",
            where=self.table,
            remedy="let one ingest end before the next begins, then run it again",
        )

    def _result(self, **numbers: Any) -> TableResult:
        return TableResult(self.plan.table.name, **numbers, note="; ".join(self.notes))


def read_jdbc(
    spark: SparkSession,
    moodle: MoodleConfig,
    plan: TablePlan,
    condition: str | None,
    ranges: list[tuple[int, int]],
    fetch: int,
) -> DataFrame:
    """The rows that fulfil a condition, by Spark's JDBC: in one part, or one for each range of ids."""
    key = quoted(plan.id_column or "")
    parts = [f"{key} BETWEEN {low} AND {high}" for low, high in ranges]
    return query_jdbc(spark, moodle, plan.select(condition), plan.schema(), parts, fetch)


def query_jdbc(
    spark: SparkSession, moodle: MoodleConfig, query: str, schema: str, parts: Sequence[str], fetch: int
) -> DataFrame:
    """What a query of the source gives, by Spark's JDBC, no faster than moodle.max_rows_per_second.

    schema: its columns in Spark's words; parts: conditions, each read by a task of its own; none: all at once.
    """
    properties = {**mysql.jdbc_properties(moodle), "fetchsize": str(fetch), "customSchema": schema}
    df = spark.read.jdbc(mysql.jdbc_url(moodle), f"({query}) t", predicates=list(parts) or None, properties=properties)
    rate = moodle.rows_per_second
    return df if rate is None else df.mapInArrow(arrow_reader.slowly(rate), df.schema)


def id_ranges(plan: TablePlan, extent: TableExtent, most: int) -> list[tuple[int, int]]:
    """Ranges of ids, both ends included, that together hold the rows; none when they are read at once."""
    if plan.id_column is None or extent.low is None or extent.high is None or extent.rows <= RANGE_ROWS:
        return []
    parts = min(most, -(-extent.rows // RANGE_ROWS))
    width = -(-(extent.high - extent.low + 1) // parts)
    starts = range(extent.low, extent.high + 1, width)
    return [(start, min(start + width - 1, extent.high)) for start in starts]


def _both(*conditions: str | None) -> str | None:
    return " AND ".join(c for c in conditions if c) or None
