"""Read the source by Spark's JDBC: any table, any connection, rows through the executors' JVM."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession

from moodle_lakehouse.config import MoodleConfig
from moodle_lakehouse.ingest import arrow_reader, hashed_columns, mysql, read_plan
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
    """Return the rows that fulfil a condition: in one partition, or in one for each range of ids.

    Of hashed columns the driver reads first what the executors' stand-ins mean (see hashed_columns).
    """
    salt = hashed_columns.new_salt()
    ends = f"{quoted_name(plan.id_column or '')} BETWEEN {ranges[0][0]} AND {ranges[-1][1]}" if ranges else None
    hashes = hashed_columns.hashes(spark, moodle, plan, read_plan.all_of(condition, ends), salt)
    plan = hashed_columns.in_place(plan, salt)
    # Spark's dialect of MySQL puts names between backticks as they are: columns travel under names of our own.
    names = {column.name: f"c{place}" for place, column in enumerate(plan.columns)}
    query = plan.select(condition, list(names.values()))
    schema = ", ".join(f"{names[column.name]} {column.spark_type}" for column in plan.columns)
    key = names.get(plan.id_column or "", "")
    partitions = [f"{key} BETWEEN {low} AND {high}" for low, high in ranges]
    return hashed_columns.put_in(read_query(spark, moodle, query, schema, partitions, fetch_rows).toDF(*names), hashes)


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
    query, variables = _without_ids(query)
    properties = {
        **mysql.jdbc_properties(moodle),
        "fetchsize": str(fetch_rows),
        "customSchema": schema,
        **({"initSql": f"SET {variables}"} if variables else {}),
    }
    df = spark.read.jdbc(
        mysql.jdbc_url(moodle), f"({query}) t", predicates=list(partitions) or None, properties=properties
    )
    rate = moodle.rows_per_second
    return df if rate is None else df.mapInArrow(arrow_reader.throttled(rate), df.schema)


# A name, or a number as private_number() writes it
_NAME_OR_ID = re.compile(r"`(?:[^`]|``)*`|/\*id\*/(-?\d+)")


def _without_ids(query: str) -> tuple[str, str]:
    """Return a query with variables of the session in place of people's ids, and the assignments that set them.

    Spark writes the query into its plans and these into its event log, but not what is told to the driver of a connection.
    """
    ids: dict[str, str] = {}

    def variable(match: re.Match[str]) -> str:
        return match[0] if match[1] is None else ids.setdefault(match[1], f"@lakehouse_id_{len(ids)}")

    query = _NAME_OR_ID.sub(variable, query)
    return query, ", ".join(f"{name} = {number}" for number, name in ids.items())
