"""Copy Moodle's tables into lakehouse.raw: full load, exact types, privacy applied in the SQL that reads.

Executors read the source; the driver only asks what there is. Large tables are read in ranges of their id,
small ones whole, several at a time, never with more connections than moodle.max_connections. Rows that
arrive while it runs (ids beyond the highest at its start) wait for the next run, so that what was written
can be compared with what was there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession

from moodle_lakehouse import catalogue, ops, source, tables
from moodle_lakehouse.catalogue import SourcePlan, TablePlan, quoted
from moodle_lakehouse.config import Config
from moodle_lakehouse.errors import LakehouseError, bullet_list, reason
from moodle_lakehouse.source import TableExtent

log = logging.getLogger(__name__)

RANGE_ROWS = 250_000  # a table with more rows is read in ranges of about this size
FETCH_ROWS = 10_000  # rows per round trip; without it the driver would hold a whole range in memory


@dataclass(frozen=True)
class Source:
    """The site at one moment: how each table is read and how much of it there was."""

    plan: SourcePlan
    extents: dict[str, TableExtent]


@dataclass(frozen=True)
class TableResult:
    """One table of one run. rows_read: rows of the source; rows_written: rows of the raw table afterwards."""

    table: str
    rows_read: int
    rows_written: int
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class IngestResult:
    """What a run did."""

    tables: list[TableResult]
    missing: list[str]
    unlisted: list[str]


def inspect(config: Config) -> Source:
    """Ask the source what there is: fails early and clearly, before Spark starts or anything is written."""
    attributes = config.analytics.enrolment_attributes
    extra = list(config.moodle.extra_tables) + ([attributes.table] if attributes else [])
    with source.connect(config.moodle) as cursor:
        found = source.tables(cursor, config.moodle)
        modules = source.module_names(cursor, config.moodle) if config.moodle.prefix + "modules" in found else []
        plan = catalogue.plan(
            catalogue.load(),
            found,
            prefix=config.moodle.prefix,
            privacy=config.privacy.mode,
            modules=modules,
            extra_tables=extra,
            extra_keep={attributes.table: attributes.columns} if attributes else None,
            profile_fields=config.analytics.profile_fields,
        )
        return Source(plan, source.extents(cursor, plan.tables))


def run(spark: SparkSession, config: Config, site: Source | None = None) -> IngestResult:
    """Copy every table of the site that the catalogue or the configuration names."""
    site = site or inspect(config)
    with ops.job(spark, "ingest") as job:
        tables.ensure_namespaces(spark)
        results, failures = _copy_all(spark, config, site)
        job.detail.update(
            rows=sum(r.rows_written for r in results),
            tables={r.table: r.rows_written for r in results},
            missing=list(site.plan.missing),
            unlisted=list(site.plan.unlisted),
            notes={p.table.name: list(p.notes) for p in site.plan.tables if p.notes},
        )
        if failures:
            raise LakehouseError(
                f"{len(failures)} of {len(site.plan.tables)} tables could not be copied; the others are in the lake:\n"
                + bullet_list(failures),
                where=config.moodle.endpoint,
                remedy="see the reasons above, then run ingest again: it starts afresh",
            )
    return IngestResult(results, list(site.plan.missing), list(site.plan.unlisted))


def _copy_all(spark: SparkSession, config: Config, site: Source) -> tuple[list[TableResult], list[str]]:
    connections = config.moodle.max_connections
    gate = _Gate(connections)
    largest_first = sorted(site.plan.tables, key=lambda p: -site.extents[p.table.name].rows)
    results, failures = [], []
    with ThreadPoolExecutor(max_workers=connections, thread_name_prefix="ingest") as pool:
        tasks = {pool.submit(_copy, spark, config, p, site.extents[p.table.name], gate): p for p in largest_first}
        try:
            for task in as_completed(tasks):
                name = tasks[task].table.name
                try:
                    results.append(task.result())
                except Exception as error:
                    log.debug("copying %s failed", name, exc_info=True)
                    failures.append(f"{name}: {reason(error)}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            spark.sparkContext.cancelAllJobs()
            raise
    return sorted(results, key=lambda r: r.table), sorted(failures)


def _copy(spark: SparkSession, config: Config, plan: TablePlan, extent: TableExtent, gate: _Gate) -> TableResult:
    """One table; when what arrived is not what was there, it is read once more before it counts as failed."""
    started = time.monotonic()
    name = plan.table.name
    ranges = id_ranges(plan, extent, config.moodle.max_connections)
    note = "; ".join(plan.notes)
    known = {extent.rows}
    for _attempt in range(2):
        with gate.take(max(1, len(ranges))):
            tables.replace(_read(spark, config, plan, extent, ranges), tables.raw(name), run_id=ops.run_id())
        written = tables.row_count(spark, tables.raw(name))
        if written == extent.rows:
            break
        # Rows were deleted meanwhile, or a transaction with an id below the highest was committed late.
        with source.connect(config.moodle) as cursor:
            known.add(source.count(cursor, plan, upper_bound(plan, extent)))
        if min(known) <= written <= max(known):
            note = "; ".join(filter(None, [note, f"changed while it was read ({extent.rows} rows at the start)"]))
            break
    else:
        raise LakehouseError(f"{written} rows arrived of {sorted(known)} at the source")
    return TableResult(name, extent.rows, written, time.monotonic() - started, note)


def id_ranges(plan: TablePlan, extent: TableExtent, most: int) -> list[tuple[int, int]]:
    """Ranges of ids, both ends included, that together hold the table; none when it is read whole."""
    if plan.id_column is None or extent.low is None or extent.high is None or extent.rows <= RANGE_ROWS:
        return []
    parts = min(most, -(-extent.rows // RANGE_ROWS))
    width = -(-(extent.high - extent.low + 1) // parts)
    starts = range(extent.low, extent.high + 1, width)
    return [(start, min(start + width - 1, extent.high)) for start in starts]


def upper_bound(plan: TablePlan, extent: TableExtent) -> str | None:
    """The condition that leaves out what was added after the run began."""
    if plan.id_column is None or extent.high is None:
        return None
    return f"{quoted(plan.id_column)} <= {extent.high}"


def _read(
    spark: SparkSession, config: Config, plan: TablePlan, extent: TableExtent, ranges: list[tuple[int, int]]
) -> DataFrame:
    properties = {
        "user": config.moodle.user,
        "password": config.moodle.password(),
        "driver": "org.mariadb.jdbc.Driver",
        "fetchsize": str(FETCH_ROWS),
        "customSchema": plan.schema(),
    }
    url = source.jdbc_url(config.moodle)
    if not ranges:
        return spark.read.jdbc(url, f"({plan.select(upper_bound(plan, extent))}) t", properties=properties)
    key = quoted(plan.id_column or "")
    predicates = [f"{key} BETWEEN {low} AND {high}" for low, high in ranges]
    return spark.read.jdbc(url, f"({plan.select()}) t", predicates=predicates, properties=properties)


class _Gate:
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
