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
from moodle_lakehouse.ingest import (
    moodle_tables,
    mysql,
    site_record,
    source_sql,
    suppression_list,
    sync_state,
    table_sync,
)
from moodle_lakehouse.ingest.connection_limit import ConnectionLimiter
from moodle_lakehouse.ingest.moodle_tables import SourcePlan, TablePlan
from moodle_lakehouse.ingest.source_sql import SiteIdentity
from moodle_lakehouse.ingest.sync_steps import TableResult
from moodle_lakehouse.lake import availability, job_runs, staging, table_names, tables, worker_pool
from moodle_lakehouse.lake.availability import Watch

GONE = "the lake holds this table, and Moodle's database no longer shows it"
GONE_REMEDY = (
    "let the reader's user see it again (GRANT SELECT), or bring it back; if it is meant to be gone, as after a plugin was"
    " uninstalled: DROP TABLE lakehouse.raw.{} PURGE at the spark-sql prompt"
)


@dataclass(frozen=True)
class Source:
    """The site when the run began: how each table is read, about how many rows each has (by full name), and which it is."""

    plan: SourcePlan
    sizes: dict[str, int]
    identity: SiteIdentity


@dataclass(frozen=True)
class IngestResult:
    """What a run did."""

    tables: list[TableResult]
    missing: list[str]
    missing_columns: list[str]
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
        identity = source_sql.site_identity(cursor, config.moodle, found)
        return Source(plan, source_sql.estimated_rows(cursor, config.moodle), identity)


def run(spark: SparkSession, config: Config, site: Source | None = None, *, same_site: bool = False) -> IngestResult:
    """Bring up to date every table of the site that the catalogue or the configuration names.

    same_site: the site's identity has changed, which otherwise means another site and is refused.
    """
    site = site or inspect(config)
    parts = [*availability.of_lake(spark), mysql.part(config.moodle)]
    with (
        availability.Watch(parts, spark.sparkContext.cancelAllJobs) as watch,
        mysql.reserved(config.moodle, config.catalog.uri),
        job_runs.job(spark, "ingest") as job,
    ):
        plans = watch.keep_trying(partial(_prepare, spark, config, site, same_site=same_site))
        site = dataclasses.replace(site, plan=dataclasses.replace(site.plan, tables=plans))
        with staging.namespace(spark):
            results, failures = _copy_all(spark, config, site, watch)
        hidden = {} if watch.gave_up else gone(spark, config, site)
        failures += [f"{name}: {GONE}\n    remedy: {GONE_REMEDY.format(name)}" for name in hidden]
        job.detail.update(
            rows_read=sum(r.rows_read for r in results),
            tables={r.table: _changes_detail(r) for r in results if r.changed},
            unchanged=sum(not r.changed for r in results),
            missing=list(site.plan.missing),
            missing_columns=list(site.plan.missing_columns),
            unlisted=list(site.plan.unlisted),
            notes={p.table.name: list(p.notes) for p in site.plan.tables if p.notes},
        )
        if failures:
            away = watch.gave_up
            raise LakehouseError(
                f"{len(failures)} of {len(site.plan.tables) + len(hidden)} tables could not be copied; the others are in the lake:\n"
                + bullet_list(failures)
                + (f"\n{away.what}" if away else ""),
                where=away.where if away else config.moodle.endpoint,
                remedy=f"{away.remedy if away else 'see the reasons above'}, then run ingest again: it continues from there",
            )
    return IngestResult(results, list(site.plan.missing), list(site.plan.missing_columns), list(site.plan.unlisted))


def _prepare(spark: SparkSession, config: Config, site: Source, *, same_site: bool) -> tuple[TablePlan, ...]:
    """Refuse another site before anything is written; return how each table is read, without who was erased."""
    tables.ensure_namespaces(spark)
    site_record.check(spark, site.identity, endpoint=config.moodle.endpoint, same_site=same_site)
    return suppression_list.leave_out(spark, config, site.plan.tables)


def gone(spark: SparkSession, config: Config, site: Source) -> dict[str, int]:
    """Return the raw tables that ingest wrote and Moodle's database no longer shows, with the lake's rows.

    A table that the inventory no longer names is none, as long as the database has it.
    """
    planned, found = {plan.table.name for plan in site.plan.tables}, {}
    for name in tables.names_in(spark, table_names.full_name(table_names.CATALOG, "raw")):
        if name not in planned and config.moodle.prefix + name not in site.sizes:
            loaded = tables.load(spark, table_names.raw(name))
            if sync_state.newest(loaded) is not None:
                found[name] = tables.rows_of(loaded)
    return found


def _copy_all(spark: SparkSession, config: Config, site: Source, watch: Watch) -> tuple[list[TableResult], list[str]]:
    connections = config.moodle.max_connections
    limiter = ConnectionLimiter(connections)
    largest_first = sorted(site.plan.tables, key=lambda p: -site.sizes.get(p.source, 0))
    work = {p.table.name: partial(table_sync.sync, spark, config, p, limiter, watch) for p in largest_first}
    return worker_pool.each(spark, work, workers=connections, name="ingest")


def _changes_detail(result: TableResult) -> dict[str, Any]:
    detail = {k: v for k, v in dataclasses.asdict(result).items() if k != "table" and v not in ("", None)}
    return {**detail, "seconds": round(result.seconds, 1)}
