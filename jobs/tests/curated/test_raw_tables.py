"""Raw tables whose columns and rows a site lacks."""

from __future__ import annotations

from moodle_lakehouse.curated import raw_tables
from pyspark.sql import SparkSession


def test_missing_columns_and_tables_are_null_and_empty(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1, "x")], "id int, name string")
    shaped = raw_tables.shaped(spark, df, "id bigint, added bigint")
    assert shaped.dtypes == [("id", "bigint"), ("added", "bigint")]
    assert [tuple(row) for row in shaped.collect()] == [(1, None)]
    assert raw_tables.shaped(spark, None, "id bigint").count() == 0
