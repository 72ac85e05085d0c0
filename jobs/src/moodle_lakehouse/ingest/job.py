"""Keep lakehouse.raw equal to Moodle's tables: exact types, privacy applied in the SQL that reads, only differences written.

Executors read the source; the driver only queries its metadata. Several tables at a time, large parts in ranges of
their id, never with more connections than moodle.max_connections. Rows that arrive while a table is read (ids beyond
the highest when it was queried) wait for the next run, so that what was written can be compared with the source.
table_sync syncs one table.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyspark.sql import SparkSession

from moodle_lakehouse.config import Config
from moodle_lakehouse.errors import LakehouseError, bullet_list
from moodle_lakehouse.ingest import moodle_tables, mysql, source_sql, suppression_list, table_sync
from moodle_lakehouse.ingest.connection_limit import ConnectionLimiter
from moodle_lakehouse.ingest.moodle_tables import SourcePlan
from moodle_lakehouse.ingest.sync_steps import TableResult
from moodle_lakehouse.lake import job_runs, tables, worker_pool


@dataclass(frozen=True)
class Source:
    """The site when the run began: how each table is read, and about how many rows it has (by full name)."""

    plan: SourcePlan
    sizes: dict[str, int]


@dataclass(frozen=True)
class IngestResult:
    """What a run did."""

    tables: list[TableResult]
    missing: list[str]
    unlisted: list[str]


def inspect(config: Config) -> Source:
    """Inspect the source; fails early and clearly, before Spark starts or anything is written."""
    attributes = config.analytics.enrolment_attributes
    extra = list(config.moodle.extra_tables) + ([attributes.table] if attributes else [])
    columns: dict[str, dict[str, str]] = {table: {**rules} for table, rules in config.moodle.columns.items()}
    if attributes:
        columns[attributes.table] = dict.fromkeys(attributes.columns, "keep") | columns.get(attributes.table, {})
    with mysql.connect(config.moodle) as cursor:
        found = source_sql.tables(cursor, config.moodle)
        modules = source_sql.module_names(cursor, config.moodle) if config.moodle.prefix + "modules" in found else []
        plan = moodle_tables.plan(
            moodle_tables.load(),
            found,
            prefix=config.moodle.prefix,
            privacy=config.privacy.mode,
            modules=modules,
            extra_tables=extra,
            columns=columns,
            profile_fields=config.analytics.profile_fields,
            hash_key=config.privacy.hash_key(),
        )
        return Source(plan, source_sql.estimated_rows(cursor, config.moodle))


def run(spark: SparkSession, config: Config, site: Source | None = None) -> IngestResult:
    """Bring up to date every table of the site that the catalogue or the configuration names."""
    site = site or inspect(config)
    with mysql.reserved(config.moodle, config.catalog.uri), job_runs.job(spark, "ingest") as job:
        tables.ensure_namespaces(spark)
        plans = suppression_list.leave_out(spark, config, site.plan.tables)
        site = dataclasses.replace(site, plan=dataclasses.replace(site.plan, tables=plans))
        results, failures = _copy_all(spark, config, site)
        job.detail.update(
            rows_read=sum(r.rows_read for r in results),
            tables={r.table: _changes_detail(r) for r in results if r.changed},
            unchanged=sum(not r.changed for r in results),
            missing=list(site.plan.missing),
            unlisted=list(site.plan.unlisted),
            notes={p.table.name: list(p.notes) for p in site.plan.tables if p.notes},
        )
        if failures:
            raise LakehouseError(
                f"{len(failures)} of {len(site.plan.tables)} tables could not be copied; the others are in the lake:\n"
                + bullet_list(failures),
                where=config.moodle.endpoint,
                remedy="see the reasons above, then run ingest again: it continues from there",
            )
    return IngestResult(results, list(site.plan.missing), list(site.plan.unlisted))


def _copy_all(spark: SparkSession, config: Config, site: Source) -> tuple[list[TableResult], list[str]]:
    connections = config.moodle.max_connections
    limiter = ConnectionLimiter(connections)
    largest_first = sorted(site.plan.tables, key=lambda p: -site.sizes.get(p.source, 0))
    work = {p.table.name: partial(table_sync.sync, spark, config, p, limiter) for p in largest_first}
    return worker_pool.each(spark, work, workers=connections, name="ingest")


def _changes_detail(result: TableResult) -> dict[str, Any]:
    detail = {k: v for k, v in dataclasses.asdict(result).items() if k != "table" and v not in ("", None)}
    return {**detail, "seconds": round(result.seconds, 1)}
