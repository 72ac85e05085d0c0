"""Commits of rows and files: what is added arrives as it was given, and never beside what somebody else added."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from moodle_lakehouse.lake import files, snapshots, table_names, tables, writers
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

TABLE = table_names.raw("grown")
MOMENT = dt.datetime(2026, 3, 29, 1, 30, 0, 250, tzinfo=dt.UTC)
SCHEMA = T.StructType(
    [
        T.StructField("id", T.LongType(), False),
        T.StructField("at", T.TimestampType(), True),
        T.StructField("share", T.DoubleType(), True),
        T.StructField("text", T.StringType(), True),
    ]
)
ROWS: list[tuple[Any, ...]] = [(1, MOMENT, 0.5, "Zoë\x00 🎓"), (2, None, None, None)]


def with_files(spark: SparkSession, above: writers.AppendGuard, rows: list[tuple[int, str]]) -> None:
    def write(target: writers.Files) -> list[str]:
        kinds = {"id": pa.int64(), "v": pa.string()}
        schema = pa.schema([files.field(name, kind, target.field_ids[name]) for name, kind in kinds.items()])
        path = target.location("more.parquet")
        with files.parquet(path, schema, target.storage) as writer:
            writer.write_table(pa.table([pa.array(column) for column in zip(*rows, strict=True)], schema))
        return [path]

    writers.add_files(spark, above, write, run_id="r", summary={"x": "y"})


def with_spark(spark: SparkSession, above: writers.AppendGuard, rows: list[tuple[int, str]]) -> None:
    writers.add(spark.createDataFrame(rows, "id bigint, v string"), TABLE, above, run_id="r", summary={"x": "y"})


@pytest.mark.parametrize("add", [with_spark, with_files])
def test_rows_above_a_watermark_are_added_once(lake: SparkSession, add: Callable[..., None]) -> None:
    lake.sql(f"CREATE TABLE {TABLE} (id BIGINT, v STRING) USING iceberg")
    lake.sql(f"INSERT INTO {TABLE} VALUES (1, 'a'), (2, 'b')")
    above = writers.AppendGuard.of(tables.load(lake, TABLE), "id", 2)
    add(lake, above, [(3, "c"), (9, "d")])
    assert [tuple(row) for row in lake.table(TABLE).orderBy("id").collect()] == [(1, "a"), (2, "b"), (3, "c"), (9, "d")]
    summary = tables.load(lake, TABLE).currentSnapshot().summary()
    assert (summary.get("x"), summary.get(snapshots.RUN_ID), summary.get("added-records")) == ("y", "r", "2")
    with pytest.raises(Exception, match="ValidationException") as refused:
        add(lake, above, [(3, "c")])
    assert writers.was_overtaken(refused.value)
    assert lake.table(TABLE).count() == 4


def test_a_few_rows_are_appended_as_spark_would(lake: SparkSession) -> None:
    for run in ("first", "second"):
        writers.append_rows(lake, ROWS, SCHEMA, TABLE, run_id=run)
        assert tables.load(lake, TABLE).currentSnapshot().summary().get(snapshots.RUN_ID) == run
    assert [tuple(row) for row in lake.table(TABLE).where("id = 1").collect()] == [
        (1, MOMENT.replace(tzinfo=None), 0.5, "Zoë\x00 🎓")
    ] * 2
    assert lake.table(TABLE).where("id = 2 AND at IS NULL AND share IS NULL AND text IS NULL").count() == 2


def test_a_few_rows_bring_a_column_that_the_table_lacks(lake: SparkSession) -> None:
    lake.sql(f"CREATE TABLE {TABLE} (text STRING, id BIGINT) USING iceberg")
    writers.append_rows(lake, ROWS, SCHEMA, TABLE, run_id="r")
    writers.append_rows(lake, ROWS, SCHEMA, TABLE, run_id="r")  # whose columns stand in another order then
    assert lake.table(TABLE).where("text IS NOT NULL AND share = 0.5").count() == 2


def test_rows_held_by_the_driver_are_the_same_rows(spark: SparkSession) -> None:
    """Whatever their types are, and computed once; too many of them stay where they are."""
    rows = tables.local_rows(spark, ROWS, SCHEMA).selectExpr("*", "array(named_struct('n', id, 'at', at)) AS nested")
    held = tables.settled(rows)
    assert held.schema == rows.schema
    assert held.collect() == rows.collect()
    assert "LocalTableScan" in plan(held)
    moments = tables.settled(spark.range(3).selectExpr("id", "rand() AS value"))
    assert moments.collect() == moments.collect()
    assert tables.settled(rows, most=1) is rows


def test_a_broadcast_is_bounded(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows are sent to every executor; many are not, whoever joins with them."""
    threshold = "spark.sql.autoBroadcastJoinThreshold"
    usual = spark.conf.get(threshold)
    assert usual == str(tables.BROADCAST_BYTES)
    many = spark.range(100_000).selectExpr("id", "cast(id AS string) AS name").persist()
    other = spark.range(10).selectExpr("id", "id AS other")
    try:
        assert "BroadcastHashJoin" in plan(other.join(tables.bounded_broadcast(many), "id", "left"))
        monkeypatch.setattr(tables, "BROADCAST_BYTES", 1000)
        spark.conf.set(threshold, 1000)  # Spark's own, which a session has from there
        assert "BroadcastHashJoin" not in plan(other.join(tables.bounded_broadcast(many), "id", "left"))
    finally:
        spark.conf.set(threshold, usual)
        many.unpersist()


def plan(df: DataFrame) -> str:
    return str(df._jdf.queryExecution().executedPlan().toString())
