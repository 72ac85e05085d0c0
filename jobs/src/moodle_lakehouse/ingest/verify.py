"""Compare the source with raw, privacy policy applied: by count and checksum per key range, then row by row.

The source computes a table's checksum of every range of ids in one statement, Spark computes the same of the lake
(row_checksum). Only the ranges that differ are read, as ids and hashes of rows, and compared on the executors.

Not a difference: rows that arrived since the last ingest (ids beyond those of the lake), and rows of a log that
the source has purged; both are counted. A row that Moodle changed since the last ingest is one: ingest explains it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import or_
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import Config
from moodle_lakehouse.errors import ConfigError, LakehouseError
from moodle_lakehouse.ingest import jdbc_reader, mysql, row_checksum, source_sql, suppression_list, sync_state
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest.connection_limit import ConnectionLimiter
from moodle_lakehouse.ingest.job import Source
from moodle_lakehouse.ingest.moodle_tables import TablePlan, private_number
from moodle_lakehouse.ingest.row_checksum import RowsChecksum
from moodle_lakehouse.lake import job_runs, snapshots, table_names, tables, worker_pool
from moodle_lakehouse.lake.table_names import quoted_name

RANGES = 256  # of a table whose checksums are compared first
MIN_RANGE_IDS = 1_000  # no range is narrower
SPLITS = 64  # of a range, where too many rows differ to name each
MAX_ROWS_NAMED = 100

MISSING, EXTRA, CHANGED, DOUBLED = "missing", "extra", "changed", "doubled"
KINDS = (MISSING, EXTRA, CHANGED, DOUBLED)


@dataclass(frozen=True)
class Difference:
    """A range of ids (both ends included; None: the whole table), its rows, and how many differ in which way.

    Of a table whose ids are users' no ranges are told: results are printed, and what is printed is kept in the journal.
    missing: not in the lake; extra: not in the source; doubled: several times in the lake. They are unknown (0) of a
    table without a key, of which only the whole is compared.
    """

    low: int | None
    high: int | None
    source_rows: int
    lake_rows: int
    missing: int = 0
    extra: int = 0
    changed: int = 0
    doubled: int = 0


@dataclass(frozen=True)
class TableCheck:
    """One table: its rows that were compared, those that were not because they arrived since or are purged."""

    table: str
    source_rows: int
    lake_rows: int
    arrived: int = 0
    purged: int = 0
    differences: tuple[Difference, ...] = ()
    ingested_at: dt.datetime | None = None
    seconds: float = 0.0
    note: str = ""

    @property
    def equal(self) -> bool:
        """Whether no difference was found."""
        return not self.differences


@dataclass(frozen=True)
class VerifyResult:
    """The tables that were compared, and the failures of those that could not be."""

    tables: list[TableCheck] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def differing(self) -> list[TableCheck]:
        """The tables that differ."""
        return [check for check in self.tables if not check.equal]

    def document(self) -> dict[str, Any]:
        """Return the result as a JSON document."""
        return {
            "equal": not self.differing and not self.failures,
            "tables": [{**dataclasses.asdict(c), "equal": c.equal, "ingested_at": _iso(c)} for c in self.tables],
            "failures": self.failures,
        }


class DifferentError(LakehouseError):
    """Source and lake differ, or could not be compared; the result tells where."""

    def __init__(self, result: VerifyResult, config: Config) -> None:
        self.result = result
        compared = len(result.tables)
        super().__init__(
            f"{len(result.differing)} of {compared} tables differ from the source"
            + (f", {len(result.failures)} could not be compared" if result.failures else ""),
            where=config.moodle.endpoint,
            remedy="what Moodle changed since the last ingest differs, too: run ingest, then verify again (some changes"
            " of a table of strategy merge arrive only when it is compared whole, every full_every hours). What still"
            " differs then is wrong in the lake: rename its raw table or drop it, and ingest reads the source again",
        )


def chosen(site: Source, names: Sequence[str]) -> list[TablePlan]:
    """Return the plans of the named tables, or of all; ConfigError when a name is unknown."""
    plans = {plan.table.name: plan for plan in site.plan.tables}
    unknown = [name for name in names if name not in plans]
    if unknown:
        raise ConfigError(
            f"Moodle has no table that is read by the name {', '.join(unknown)}",
            remedy=f"names are without Moodle's prefix; there are: {', '.join(sorted(plans))}",
        )
    return [plans[name] for name in dict.fromkeys(names)] if names else list(plans.values())


def run(spark: SparkSession, config: Config, site: Source, names: Sequence[str] = ()) -> VerifyResult:
    """Compare the named tables, or all and those that the lake holds and the source no longer shows.

    Raises DifferentError, which holds the result, when they are not all equal.
    """
    with job_runs.job(spark, "verify") as job:
        limiter = ConnectionLimiter(config.moodle.max_connections)
        plans = suppression_list.leave_out(spark, config, chosen(site, names))
        work = {plan.table.name: partial(check, spark, config, plan, limiter) for plan in plans}
        result = VerifyResult(*worker_pool.each(spark, work, workers=config.moodle.max_connections, name="verify"))
        if not names:
            result.tables.extend(
                TableCheck(name, 0, rows, differences=(Difference(None, None, 0, rows),), note=ingest_job.GONE)
                for name, rows in ingest_job.gone(spark, config, site).items()
            )
        job.detail.update(
            tables=len(result.tables),
            rows=sum(one.source_rows for one in result.tables),
            differing={c.table: [dataclasses.asdict(one) for one in c.differences[:10]] for c in result.differing},
            failures=result.failures,
        )
        if result.differing or result.failures:
            raise DifferentError(result, config)
    return result


def check(spark: SparkSession, config: Config, plan: TablePlan, limiter: ConnectionLimiter) -> TableCheck:
    """Compare one table with its source; a table that is not in the lake differs by all rows."""
    started = time.monotonic()
    loaded = tables.load(spark, table_names.raw(plan.table.name))
    if loaded is None or loaded.currentSnapshot() is None:
        with limiter.take(1), mysql.connect(config.moodle) as cursor:
            rows = source_sql.count(cursor, plan, None)
        result = TableCheck(
            plan.table.name, rows, 0, differences=(Difference(None, None, rows, 0),), note="not in the lake"
        )
    else:
        result = _TableCheck(spark, config, plan, limiter, loaded).run()
    return dataclasses.replace(result, seconds=time.monotonic() - started)


class _TableCheck:
    """Compare one table with the lake's snapshot that was current at the start."""

    def __init__(
        self, spark: SparkSession, config: Config, plan: TablePlan, limiter: ConnectionLimiter, loaded: Any
    ) -> None:
        self.spark, self.config, self.plan, self.limiter = spark, config, plan, limiter
        self.recorded = sync_state.newest(loaded)
        self.snapshot_id = snapshots.snapshot_id(loaded)
        self.lake = self._at(self.snapshot_id)
        self.key = plan.id_column if plan.key else None

    def run(self) -> TableCheck:
        if self.key is None:
            return self._check_whole()
        bottom, top, lake_rows = self._extent(self.lake)
        bound = self._bound(top)
        condition = None if bound is None else f"{quoted_name(self.key)} <= {private_number(bound)}"
        with self.limiter.take(1), mysql.connect(self.config.moodle) as cursor:
            extent = source_sql.extent(cursor, self.plan, condition)
            arrived = 0 if bound is None else source_sql.count(cursor, self.plan, f"{quoted_name(self.key)} > {bound}")
            ends = [end for end in (bottom, top, extent.low, extent.high) if end is not None]
            parts = _IdRanges.of(
                self.key, min(ends, default=0), max(ends, default=0), rounded=self.plan.is_keyed_by_person
            )
            source = self._require(source_sql.checksums(cursor, self.plan, condition, parts.sql))
        lake = self._lake_checksums(parts)
        different = [part for part in sorted(source.keys() | lake.keys()) if source.get(part) != lake.get(part)]
        purged, differences = self._find_differences(parts, bound, different, source, lake)
        return self._result(extent.rows, lake_rows, differences, arrived=arrived, purged=purged)

    def _check_whole(self) -> TableCheck:
        with self.limiter.take(1), mysql.connect(self.config.moodle) as cursor:
            source = self._require(source_sql.checksums(cursor, self.plan)).get(0, RowsChecksum(0, 0))
        lake = self._lake_checksums(None).get(0, RowsChecksum(0, 0))
        differences = [] if source == lake else [Difference(None, None, source.rows, lake.rows)]
        return self._result(source.rows, lake.rows, differences)

    def _result(
        self, source_rows: int, lake_rows: int, differences: Sequence[Difference], *, arrived: int = 0, purged: int = 0
    ) -> TableCheck:
        notes = []
        if self.recorded is None:
            notes.append("not written by ingest")
        elif not self.recorded.state.is_of(self.plan):
            notes.append("read in another way since then")
        if differences and self.key is None:
            notes.append("no key: only the whole is compared")
        if differences and self.plan.is_keyed_by_person:
            notes.append("ids are people's: none is told")
            differences = [_whole(differences)]
        return TableCheck(
            self.plan.table.name,
            source_rows,
            lake_rows,
            arrived=arrived,
            purged=purged,
            differences=tuple(differences),
            ingested_at=self.recorded.committed_at if self.recorded else None,
            note="; ".join(notes),
        )

    def _require(self, sums: dict[int, RowsChecksum] | None) -> dict[int, RowsChecksum]:
        if sums is None:
            raise LakehouseError(
                "The source computes no SHA-256, so it cannot be compared", where=self.config.moodle.endpoint
            )
        return sums

    # The lake

    def _at(self, snapshot_id: int | None) -> DataFrame:
        return self.spark.read.option("snapshot-id", str(snapshot_id)).table(table_names.raw(self.plan.table.name))

    def _extent(self, lake: DataFrame) -> tuple[int | None, int | None, int]:
        """Return the least and greatest id and the number of rows, from the files' statistics."""
        row = lake.agg(F.min(quoted_name(self.key or "")), F.max(quoted_name(self.key or "")), F.count("*")).first()
        assert row is not None
        return row[0], row[1], row[2]

    def _bound(self, top: int | None) -> int | None:
        """Return the id beyond which rows arrived since the last ingest; None: all rows are compared."""
        if self.recorded is None:
            return None
        ends = [top]
        if self.plan.cursor == self.key:
            ends.append(self.recorded.state.watermark)
        if self.recorded.snapshot_id != self.snapshot_id:
            ends.append(self._extent(self._at(self.recorded.snapshot_id))[1])
        return max((end for end in ends if end is not None), default=None)

    def _hashed(self, lake: DataFrame, column: Column) -> DataFrame:
        return lake.select(column, row_checksum.spark_hash(self.plan, lake.schema).alias("h"))

    def _lake_checksums(self, parts: _IdRanges | None) -> dict[int, RowsChecksum]:
        return row_checksum.spark_checksums(self.plan, self.lake, parts.column if parts else F.lit(0))

    # What differs

    def _find_differences(
        self,
        parts: _IdRanges,
        bound: int | None,
        different: list[int],
        source: dict[int, RowsChecksum],
        lake: dict[int, RowsChecksum],
    ) -> tuple[int, list[Difference]]:
        """Compare the rows of the parts that differ.

        Returns the number of rows that the source has purged, and the differences: single rows as far as they are few.
        """
        purged = 0
        if self.plan.table.keeps_purged:
            purged = sum(lake[part].rows for part in different if part not in source)
            different = [part for part in different if part in source]
        if not different:
            return purged, []
        size = -(-len(different) // self.config.moodle.max_connections)
        pieces = [different[i : i + size] for i in range(0, len(different), size)]
        with self.limiter.take(len(pieces)):
            rows = self._compare_rows(parts, pieces, bound).persist()
            try:
                kinds = {kind: count for kind, count in rows.groupBy("kind").count().collect() if kind is not None}
                if self.plan.table.keeps_purged:
                    purged += kinds.pop(EXTRA, 0)
                is_few = sum(kinds.values()) <= MAX_ROWS_NAMED
                found = _rows_that_differ(rows, kinds) if is_few else _ranges_that_differ(rows, parts, kinds)
                return purged, _merged_neighbours(found)
            finally:
                rows.unpersist()

    def _compare_rows(self, parts: _IdRanges, pieces: list[list[int]], bound: int | None) -> DataFrame:
        """Grain: an id of source or lake in some parts. Columns id, kind (null: equal), copies in the lake.

        pieces: parts that are read from the source at once; bound: of the source's ids, which the lake's never exceed.
        """
        key = quoted_name(self.key or "")
        source = self._source_hashes([parts.where(piece, bound) for piece in pieces])
        lake = self.lake.where(parts.where([part for piece in pieces for part in piece], None))
        lake = self._hashed(lake, F.col(key).cast("bigint").alias("id"))
        lake = lake.groupBy("id").agg(F.count("*").alias("copies"), F.min("h").alias("lake"))
        kind = (
            F.when(F.col("lake").isNull(), F.lit(MISSING))
            .when(F.col("h").isNull(), F.lit(EXTRA))
            .when(F.col("copies") > 1, F.lit(DOUBLED))
            .when(F.col("h") != F.col("lake"), F.lit(CHANGED))
        )
        joined = source.join(lake, how="full_outer", on="id")
        return joined.select("id", kind.alias("kind"), F.coalesce("copies", F.lit(0)).alias("copies"))

    def _source_hashes(self, conditions: list[str]) -> DataFrame:
        """Return id and hash (h) of the source's rows; each condition's are read at once. Executors read them."""
        moodle, key = self.config.moodle, quoted_name(self.key or "")
        if any(column.hashed for column in self.plan.columns):  # by SQL of their hash it would hold the columns' key
            rows = jdbc_reader.read_table(self.spark, moodle, self.plan, f"({' OR '.join(conditions)})", [])
            return self._hashed(rows, F.col(key).cast("bigint").alias("id"))
        row_hash = row_checksum.sql_hash(self.plan)
        query = f"SELECT {key}, {row_hash} AS h FROM {quoted_name(self.plan.source)}{self.plan.where()}"
        found = jdbc_reader.read_query(self.spark, moodle, query, f"{key} BIGINT, h STRING", conditions)
        return found.withColumnRenamed(self.key or "", "id")


@dataclass(frozen=True)
class _IdRanges:
    """Ranges of ids of one width: part 0 begins at base."""

    key: str
    base: int
    width: int

    @classmethod
    def of(cls, key: str, low: int, high: int, *, rounded: bool) -> _IdRanges:
        """Return the ranges that hold all ids; rounded: their ends are nobody's id in particular, as plans are logged."""
        unit = MIN_RANGE_IDS if rounded else 1
        base = low - low % unit
        width = max(MIN_RANGE_IDS, -(-(high - base + 1) // RANGES))
        return cls(key, base, -(-width // unit) * unit)

    @property
    def sql(self) -> str:
        return f"({quoted_name(self.key)} - {self.base}) DIV {self.width}"

    @property
    def column(self) -> Column:
        return F.expr(f"(CAST({quoted_name(self.key)} AS BIGINT) - {self.base}) DIV {self.width}")

    def ends(self, first: int, last: int | None = None) -> tuple[int, int]:
        """Return the least and greatest id of a part, or of neighbours from the first to the last."""
        return self.base + first * self.width, self.base + ((first if last is None else last) + 1) * self.width - 1

    def where(self, parts: Sequence[int], bound: int | None) -> str:
        """Return the condition for the ids of some parts, in SQL of source and lake; neighbours make one range."""
        neighbours: list[list[int]] = []
        for part in sorted(parts):
            if neighbours and neighbours[-1][1] == part - 1:
                neighbours[-1][1] = part
            else:
                neighbours.append([part, part])
        ranges = [self.ends(first, last) for first, last in neighbours]
        inside = " OR ".join(f"{quoted_name(self.key)} BETWEEN {low} AND {high}" for low, high in ranges)
        return f"({inside})" if bound is None else f"({inside}) AND {quoted_name(self.key)} <= {private_number(bound)}"


def _rows_that_differ(rows: DataFrame, kinds: Iterable[str]) -> Iterator[Difference]:
    """Yield a difference for each row of the kinds, in order of id."""
    for row in rows.where(F.col("kind").isin(list(kinds))).orderBy("id").collect():
        yield Difference(row["id"], row["id"], int(row["kind"] != EXTRA), row["copies"], **{row["kind"]: 1})


def _ranges_that_differ(rows: DataFrame, parts: _IdRanges, kinds: Iterable[str]) -> Iterator[Difference]:
    """Yield a difference for each split of the parts in which rows differ, in order of id."""
    splits = _IdRanges("id", parts.base, max(1, parts.width // SPLITS))
    counts = [F.count(F.when(F.col("kind") == kind, 1)).alias(kind) for kind in kinds]
    at_source = F.count(F.when(F.col("kind").isNull() | (F.col("kind") != EXTRA), 1))
    found = rows.groupBy(splits.column.alias("part")).agg(
        at_source.alias("source"), F.sum("copies").alias("lake"), *counts
    )
    differs = reduce(or_, [F.col(kind) > 0 for kind in kinds])
    for row in found.where(differs).orderBy("part").collect():
        low, high = splits.ends(row["part"])
        yield Difference(low, high, row["source"], row["lake"], **{kind: row[kind] for kind in kinds})


def _whole(differences: Sequence[Difference]) -> Difference:
    """Return all differences of a table as one, without ids."""
    numbers = {n: sum(getattr(one, n) for one in differences) for n in ("source_rows", "lake_rows", *KINDS)}
    return Difference(None, None, **numbers)


def _merged_neighbours(differences: Iterable[Difference]) -> list[Difference]:
    """Merge neighbouring ranges into one."""
    merged: list[Difference] = []
    for one in differences:
        last = merged[-1] if merged else None
        if last is None or last.high is None or one.low != last.high + 1:
            merged.append(one)
            continue
        numbers = {n: getattr(last, n) + getattr(one, n) for n in ("source_rows", "lake_rows", *KINDS)}
        merged[-1] = Difference(last.low, one.high, **numbers)
    return merged


def _iso(check: TableCheck) -> str | None:
    return check.ingested_at.isoformat() if check.ingested_at else None
