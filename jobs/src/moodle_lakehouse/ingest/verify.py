"""Compare the source with raw, privacy policy applied: by count and checksum per key range, then row by row.

Of each table the source makes the checksum of every range of ids in one statement, Spark makes the same of the lake
(row_checksum). Only the ranges that differ are read, as ids and hashes of rows, and compared on the executors.

What is no difference: rows that arrived since the last ingest (ids beyond those of the lake), and rows of a log that
the source has purged; both are counted. A row that Moodle changed since the last ingest is one: ingest explains it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import Config
from moodle_lakehouse.errors import ConfigError, LakehouseError
from moodle_lakehouse.ingest import mysql, row_checksum, suppression_list, sync_state
from moodle_lakehouse.ingest.job import Source
from moodle_lakehouse.ingest.moodle_tables import TablePlan, quoted
from moodle_lakehouse.ingest.row_checksum import Sum
from moodle_lakehouse.ingest.table_sync import FETCH_ROWS, Gate, query_jdbc
from moodle_lakehouse.lake import job_runs, snapshots, table_names, tables, worker_pool

RANGES = 256  # of a table whose checksums are compared first
RANGE_IDS = 1_000  # but no range is narrower than this
NARROWER = 64  # times, where too many rows differ for each to be named
ROWS_NAMED = 100

MISSING, EXTRA, CHANGED, DOUBLED = "missing", "extra", "changed", "doubled"
KINDS = (MISSING, EXTRA, CHANGED, DOUBLED)


@dataclass(frozen=True)
class Difference:
    """A range of ids (both ends included; None: the whole table), its rows, and how many differ in which way.

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
        return not self.differences


@dataclass(frozen=True)
class VerifyResult:
    """What was compared, and which tables could not be."""

    tables: list[TableCheck] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def differing(self) -> list[TableCheck]:
        return [check for check in self.tables if not check.equal]

    def document(self) -> dict[str, Any]:
        """The result as JSON holds it."""
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
            " differs then is wrong in the lake: rename its raw table or drop it, and ingest reads the source anew",
        )


def chosen(site: Source, names: Sequence[str]) -> list[TablePlan]:
    """The plans of the named tables, or of all."""
    plans = {plan.table.name: plan for plan in site.plan.tables}
    unknown = [name for name in names if name not in plans]
    if unknown:
        raise ConfigError(
            f"Moodle has no table that is read by the name {', '.join(unknown)}",
            remedy=f"names are without Moodle's prefix; there are: {', '.join(sorted(plans))}",
        )
    return [plans[name] for name in dict.fromkeys(names)] if names else list(plans.values())


def run(spark: SparkSession, config: Config, plans: Sequence[TablePlan]) -> VerifyResult:
    """Compare the tables; DifferentError, which holds the result, when they are not all equal."""
    with job_runs.job(spark, "verify") as job:
        gate, plans = Gate(config.moodle.max_connections), suppression_list.leave_out(spark, config, plans)
        work = {plan.table.name: partial(_check, spark, config, plan, gate) for plan in plans}
        result = VerifyResult(*worker_pool.each(spark, work, workers=config.moodle.max_connections, name="verify"))
        job.detail.update(
            tables=len(result.tables),
            rows=sum(check.source_rows for check in result.tables),
            differing={c.table: _kept(c, plans) for c in result.differing},
            failures=result.failures,
        )
        if result.differing or result.failures:
            raise DifferentError(result, config)
    return result


def _kept(check: TableCheck, plans: Sequence[TablePlan]) -> list[dict[str, Any]]:
    """What the lake keeps of a table's differences; ids of people are no part of it."""
    (plan,) = (plan for plan in plans if plan.table.name == check.table)
    is_person = plan.id_column in {rule.name for rule in plan.person}
    told = [dataclasses.asdict(one) for one in check.differences[:10]]
    return [{k: v for k, v in one.items() if not is_person or k not in ("low", "high")} for one in told]


def _check(spark: SparkSession, config: Config, plan: TablePlan, gate: Gate) -> TableCheck:
    started = time.monotonic()
    loaded = tables.load(spark, table_names.raw(plan.table.name))
    if loaded is None or loaded.currentSnapshot() is None:
        with gate.take(1), mysql.connect(config.moodle) as cursor:
            rows = mysql.count(cursor, plan, None)
        told = TableCheck(
            plan.table.name, rows, 0, differences=(Difference(None, None, rows, 0),), note="not in the lake"
        )
    else:
        told = _TableCheck(spark, config, plan, gate, loaded).run()
    return dataclasses.replace(told, seconds=time.monotonic() - started)


class _TableCheck:
    """One table, the lake's side as it was when this began."""

    def __init__(self, spark: SparkSession, config: Config, plan: TablePlan, gate: Gate, loaded: Any) -> None:
        self.spark, self.config, self.plan, self.gate = spark, config, plan, gate
        self.marked = sync_state.newest(loaded)
        self.snapshot_id = snapshots.snapshot_id(loaded)
        self.lake = self._at(self.snapshot_id)
        self.key = plan.id_column if plan.key else None

    def run(self) -> TableCheck:
        if self.key is None:
            return self._whole()
        bottom, top, lake_rows = self._extent(self.lake)
        bound = self._bound(top)
        condition = None if bound is None else f"{quoted(self.key)} <= {bound}"
        with self.gate.take(1), mysql.connect(self.config.moodle) as cursor:
            extent = mysql.extent(cursor, self.plan, condition)
            arrived = 0 if bound is None else mysql.count(cursor, self.plan, f"{quoted(self.key)} > {bound}")
            ends = [end for end in (bottom, top, extent.low, extent.high) if end is not None]
            parts = _Parts.of(self.key, min(ends, default=0), max(ends, default=0))
            there = self._known(mysql.sums(cursor, self.plan, condition, parts.sql))
        here = self._sums(parts)
        different = [part for part in sorted(there.keys() | here.keys()) if there.get(part) != here.get(part)]
        purged, differences = self._narrow(parts, bound, different, there, here)
        return self._told(extent.rows, lake_rows, differences, arrived=arrived, purged=purged)

    def _whole(self) -> TableCheck:
        with self.gate.take(1), mysql.connect(self.config.moodle) as cursor:
            there = self._known(mysql.sums(cursor, self.plan)).get(0, Sum(0, 0))
        here = self._sums(None).get(0, Sum(0, 0))
        differences = [] if there == here else [Difference(None, None, there.rows, here.rows)]
        return self._told(there.rows, here.rows, differences)

    def _told(
        self, source_rows: int, lake_rows: int, differences: Sequence[Difference], *, arrived: int = 0, purged: int = 0
    ) -> TableCheck:
        notes = []
        if self.marked is None:
            notes.append("not written by ingest")
        elif not self.marked.mark.is_of(self.plan):
            notes.append("read in another way since then")
        if differences and self.key is None:
            notes.append("no key: only the whole is compared")
        return TableCheck(
            self.plan.table.name,
            source_rows,
            lake_rows,
            arrived=arrived,
            purged=purged,
            differences=tuple(differences),
            ingested_at=self.marked.committed_at if self.marked else None,
            note="; ".join(notes),
        )

    def _known(self, sums: dict[int, Sum] | None) -> dict[int, Sum]:
        if sums is None:
            raise LakehouseError(
                "The source makes no SHA-256, so it cannot be compared", where=self.config.moodle.endpoint
            )
        return sums

    # The lake

    def _at(self, snapshot_id: int | None) -> DataFrame:
        return self.spark.read.option("snapshot-id", str(snapshot_id)).table(table_names.raw(self.plan.table.name))

    def _extent(self, lake: DataFrame) -> tuple[int | None, int | None, int]:
        """Least and greatest id and the number of rows, by the files' statistics."""
        row = lake.agg(F.min(quoted(self.key or "")), F.max(quoted(self.key or "")), F.count("*")).first()
        assert row is not None
        return row[0], row[1], row[2]

    def _bound(self, top: int | None) -> int | None:
        """The id beyond which rows arrived since the last ingest; None: all rows are compared."""
        if self.marked is None:
            return None
        ends = [top]
        if self.plan.cursor == self.key:
            ends.append(self.marked.mark.watermark)
        if self.marked.snapshot_id != self.snapshot_id:
            ends.append(self._extent(self._at(self.marked.snapshot_id))[1])
        return max((end for end in ends if end is not None), default=None)

    def _hashed(self, lake: DataFrame, column: Column) -> DataFrame:
        return lake.select(column, row_checksum.spark_hash(self.plan, lake.schema).alias("h"))

    def _sums(self, parts: _Parts | None) -> dict[int, Sum]:
        hashed = self._hashed(self.lake, (parts.column if parts else F.lit(0)).alias("part"))
        totals = hashed.groupBy("part").agg(F.count("*"), row_checksum.spark_total("h"))
        return {int(number): Sum(rows, int(total)) for number, rows, total in totals.collect()}

    # What differs

    def _narrow(
        self, parts: _Parts, bound: int | None, different: list[int], there: dict[int, Sum], here: dict[int, Sum]
    ) -> tuple[int, list[Difference]]:
        """Rows that the source has purged, and the ranges that differ, as narrow as they can be told."""
        purged = 0
        if self.plan.table.keeps_purged:
            purged = sum(here[part].rows for part in different if part not in there)
            different = [part for part in different if part in there]
        if not different:
            return purged, []
        size = -(-len(different) // self.config.moodle.max_connections)
        pieces = [parts.where(different[i : i + size], bound) for i in range(0, len(different), size)]
        with self.gate.take(len(pieces)):
            rows = self._compared(pieces).persist()
            try:
                kinds = {kind: count for kind, count in rows.groupBy("kind").count().collect() if kind is not None}
                if self.plan.table.keeps_purged:
                    purged += kinds.pop(EXTRA, 0)
                if sum(kinds.values()) <= ROWS_NAMED:
                    found = rows.where(F.col("kind").isin(list(kinds))).orderBy("id").collect()
                    return purged, _runs([(row["id"], row["kind"], row["copies"]) for row in found])
                return purged, _joined(_finer(rows, parts, list(kinds)))
            finally:
                rows.unpersist()

    def _compared(self, conditions: list[str]) -> DataFrame:
        """Grain: an id, under the conditions, of source or lake. Columns id, kind (null: equal), copies in the lake."""
        key = quoted(self.key or "")
        row_hash = row_checksum.sql_hash(self.plan)
        query = f"SELECT {key}, {row_hash} AS h FROM {quoted(self.plan.source)}{self.plan.where()}"
        there = query_jdbc(
            self.spark, self.config.moodle, query, f"{key} BIGINT, h STRING", conditions, FETCH_ROWS
        ).withColumnRenamed(self.key or "", "id")
        here = self._hashed(self.lake.where(" OR ".join(conditions)), F.col(key).cast("bigint").alias("id"))
        here = here.groupBy("id").agg(F.count("*").alias("copies"), F.min("h").alias("lake"))
        kind = (
            F.when(F.col("lake").isNull(), F.lit(MISSING))
            .when(F.col("h").isNull(), F.lit(EXTRA))
            .when(F.col("copies") > 1, F.lit(DOUBLED))
            .when(F.col("h") != F.col("lake"), F.lit(CHANGED))
        )
        joined = there.join(here, how="full_outer", on="id")
        return joined.select("id", kind.alias("kind"), F.coalesce("copies", F.lit(0)).alias("copies"))


@dataclass(frozen=True)
class _Parts:
    """Ranges of ids of one width: part 0 begins at base."""

    key: str
    base: int
    width: int

    @classmethod
    def of(cls, key: str, low: int, high: int) -> _Parts:
        return cls(key, low, max(RANGE_IDS, -(-(high - low + 1) // RANGES)))

    @property
    def sql(self) -> str:
        return f"({quoted(self.key)} - {self.base}) DIV {self.width}"

    @property
    def column(self) -> Column:
        return F.expr(f"(CAST({quoted(self.key)} AS BIGINT) - {self.base}) DIV {self.width}")

    def where(self, parts: Sequence[int], bound: int | None) -> str:
        """The condition for the ids of some parts, in SQL of source and lake; neighbours make one range."""
        ranges: list[list[int]] = []
        for part in sorted(parts):
            if ranges and ranges[-1][1] == part - 1:
                ranges[-1][1] = part
            else:
                ranges.append([part, part])
        key = quoted(self.key)
        inside = " OR ".join(
            f"{key} BETWEEN {self.base + low * self.width} AND {self.base + (high + 1) * self.width - 1}"
            for low, high in ranges
        )
        return f"({inside})" if bound is None else f"({inside}) AND {key} <= {bound}"


def _runs(rows: Sequence[tuple[int, str, int]]) -> list[Difference]:
    """Single rows that differ (id, kind, copies in the lake) as ranges of neighbours."""
    return _joined(Difference(number, number, int(kind != EXTRA), copies, **{kind: 1}) for number, kind, copies in rows)


def _finer(rows: DataFrame, parts: _Parts, kinds: Sequence[str]) -> list[Difference]:
    """The narrower ranges in which rows differ."""
    width = max(1, parts.width // NARROWER)
    part = F.expr(f"(id - {parts.base}) DIV {width}").alias("part")
    counts = [F.count(F.when(F.col("kind") == kind, 1)).alias(kind) for kind in KINDS]
    at_source = F.count(F.when(F.col("kind").isNull() | (F.col("kind") != EXTRA), 1))
    found = rows.groupBy(part).agg(at_source.alias("source"), F.sum("copies").alias("lake"), *counts)
    any_differs = reduce(lambda a, b: a | b, [F.col(kind) > 0 for kind in kinds])
    return [
        Difference(
            parts.base + row["part"] * width,
            parts.base + (row["part"] + 1) * width - 1,
            row["source"],
            row["lake"],
            **{kind: row[kind] for kind in kinds},
        )
        for row in found.where(any_differs).orderBy("part").collect()
    ]


def _joined(differences: Sequence[Difference] | Iterator[Difference]) -> list[Difference]:
    """Neighbouring ranges as one."""
    joined: list[Difference] = []
    for one in differences:
        last = joined[-1] if joined else None
        if last is None or last.high is None or one.low != last.high + 1:
            joined.append(one)
            continue
        numbers = {n: getattr(last, n) + getattr(one, n) for n in ("source_rows", "lake_rows", *KINDS)}
        joined[-1] = Difference(last.low, one.high, **numbers)
    return joined


def _iso(check: TableCheck) -> str | None:
    return check.ingested_at.isoformat() if check.ingested_at else None
