"""Read the raw tables with the columns that curate needs.

Moodle's versions differ: a column that a site lacks is null, a table that it lacks has no rows.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from moodle_lakehouse.lake import contracts, table_names, tables

SPLIT_BYTES = 4 * 1024 * 1024  # a million rows of the log take some 12 MB: smaller splits keep every core busy

MODULE_COLUMNS = "id bigint, name string, {due} bigint"
DUE_COLUMNS = {"assign": "duedate", "quiz": "timeclose"}


class RawTables:
    """The raw tables by name, each with the columns of contracts.RAW_COLUMNS."""

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        self._names = set(tables.names_in(spark, table_names.full_name(table_names.CATALOG, "raw")))

    def __getitem__(self, name: str) -> DataFrame:
        return self.select(name, contracts.RAW_COLUMNS[name])

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def select(self, name: str, columns: str) -> DataFrame:
        """Return a raw table with the given columns (DDL)."""
        return shaped(self._spark, self.all_columns(name), columns)

    def all_columns(self, name: str) -> DataFrame | None:
        """Return a raw table with its own columns; None when there is none."""
        if name not in self._names:
            return None
        return self._spark.read.option("split-size", SPLIT_BYTES).table(table_names.raw(name))


def shaped(spark: SparkSession, df: DataFrame | None, columns: str) -> DataFrame:
    """Return df with exactly the given columns (DDL): null where it lacks one, no rows where df is None."""
    schema = T._parse_datatype_string(columns)
    assert isinstance(schema, T.StructType)
    if df is None:
        return tables.local_rows(spark, [], schema)
    present = set(df.columns)
    return df.select(
        *[(F.col(f.name) if f.name in present else F.lit(None)).cast(f.dataType).alias(f.name) for f in schema.fields]
    )


def to_timestamp(seconds: Column | str) -> Column:
    """Return the UTC timestamp of seconds since 1970; null for 0 (Moodle's "not set") and null."""
    column = F.col(seconds) if isinstance(seconds, str) else seconds
    return F.timestamp_seconds(F.when(column > 0, column))
