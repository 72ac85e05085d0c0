"""Read the source by Spark's JDBC: any table, any connection, rows through the executors' JVM."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession

from moodle_lakehouse.config import MoodleConfig
from moodle_lakehouse.ingest import arrow_reader, mysql
from moodle_lakehouse.ingest.moodle_tables import TablePlan
from moodle_lakehouse.lake.table_names import quoted_name

FETCH_ROWS = 10_000  # rows per round trip; without it the driver would hold a whole range in memory


def read_table(
    spark: SparkSession,
    moodle: MoodleConfig,
    plan: TablePlan,
    condition: str | None,
    ranges: list[tuple[int, int]],
    fetch_rows: int = FETCH_ROWS,
) -> DataFrame:
    """Return the rows that fulfil a condition: in one partition, or in one for each range of ids."""
    key = quoted_name(plan.id_column or "")
    partitions = [f"{key} BETWEEN {low} AND {high}" for low, high in ranges]
    return read_query(spark, moodle, plan.select(condition), plan.schema(), partitions, fetch_rows)


def read_query(
    spark: SparkSession,
    moodle: MoodleConfig,
    query: str,
    schema: str,
    partitions: Sequence[str],
    fetch_rows: int = FETCH_ROWS,
) -> DataFrame:
    """Return the result of a query of the source, read no faster than moodle.max_rows_per_second.

    schema: its columns as DDL of Spark; partitions: conditions, each read by a task of its own; none: all at once.
    """
    properties = {**mysql.jdbc_properties(moodle), "fetchsize": str(fetch_rows), "customSchema": schema}
    df = spark.read.jdbc(
        mysql.jdbc_url(moodle), f"({query}) t", predicates=list(partitions) or None, properties=properties
    )
    rate = moodle.rows_per_second
    return df if rate is None else df.mapInArrow(arrow_reader.throttled(rate), df.schema)
