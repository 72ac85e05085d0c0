"""Keep what a job has computed where no worker's end can lose it: in a table of its own, for as long as it is needed.

What Spark keeps on executors (persist, localCheckpoint) is gone with them. Persisted rows are then computed again, which
is right for what comes of the lake's snapshots and wrong for what comes of Moodle's database: it has changed meanwhile.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyspark.sql import DataFrame, SparkSession

from moodle_lakehouse.errors import reason
from moodle_lakehouse.lake import job_runs, table_names, tables, writers

log = logging.getLogger(__name__)


@contextmanager
def namespace(spark: SparkSession) -> Iterator[None]:
    """Make the namespace of staged rows, empty, for the one job that uses it now; drop it at the end."""
    clear(spark)
    tables.create_namespace(spark, _NAMESPACE)
    with _afterwards(lambda: clear(spark)):
        yield


def clear(spark: SparkSession) -> None:
    """Drop what a job that was killed has left, and the namespace."""
    if not spark.catalog.databaseExists(_NAMESPACE):
        return
    for name in tables.names_in(spark, _NAMESPACE):
        _drop(spark, table_names.staging(name))
    spark.sql(f"DROP NAMESPACE IF EXISTS {table_names.quoted(_NAMESPACE)}")


@contextmanager
def staged(rows: DataFrame) -> Iterator[DataFrame]:
    """Compute rows once and yield them as they were then, until the end of the block."""
    spark, table = rows.sparkSession, table_names.staging(f"rows_{secrets.token_hex(8)}")
    with _afterwards(lambda: _drop(spark, table)):
        writers.replace(rows, table, run_id=job_runs.run_id())
        yield spark.table(table)


_NAMESPACE = table_names.full_name(table_names.CATALOG, table_names.STAGING)


@contextmanager
def _afterwards(clean: Callable[[], None]) -> Iterator[None]:
    """Clean up at the end; of two failures the first is raised."""
    try:
        yield
    except BaseException:
        try:
            clean()
        except Exception as error:
            log.warning("staged rows are left until the next ingest: %s", reason(error))
        raise
    clean()


def _drop(spark: SparkSession, table: str) -> None:
    spark.sql(f"DROP TABLE IF EXISTS {table_names.quoted(table)} PURGE")
