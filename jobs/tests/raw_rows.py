"""Rows of raw tables, for tests of what is made of them."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from moodle_lakehouse.curated.roles import NO_END
from moodle_lakehouse.lake import contracts, table_names, tables
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T


def raw(spark: SparkSession, table: str, *rows: dict[str, Any]) -> DataFrame:
    """Return a raw table with the columns that curate needs, null where a row does not say."""
    schema = T._parse_datatype_string(contracts.RAW_COLUMNS[table])
    return tables.local_rows(spark, [tuple(row.get(name) for name in schema.names) for row in rows], schema)


def event(number: int, name: str, time: int, **columns: Any) -> dict[str, Any]:
    """Return a row of the log with the columns that most have."""
    other = columns.pop("other", None)
    base = {"id": number, "eventname": name, "timecreated": time, "contextlevel": 50, "anonymous": 0, "origin": "web"}
    return {**base, "other": json.dumps(other) if other is not None else None, **columns}


def at(seconds: int) -> dt.datetime:
    """Return the moment of seconds since 1970 as Spark gives it: UTC, without time zone."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).replace(tzinfo=None)


def rows(df: DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    """Return the rows of some columns in a fixed order."""
    return sorted((tuple(row) for row in df.select(*columns).collect()), key=str)


def written(df: DataFrame) -> DataFrame:
    """Return the rows as the table that they would be written to has them: what comes of it is not planned with them."""
    return tables.local_rows(df.sparkSession, [tuple(row) for row in df.collect()], df.schema)


def roles_of(spark: SparkSession, *given: tuple[int, int, tuple[int, int] | None, tuple[int, int] | None]) -> DataFrame:
    """Return roles as course_roles() gives them: user, course, from when until when staff, from when until when student."""
    span = "struct<since: bigint, until: bigint>"
    held = [[span is not None and span[1] == NO_END for span in one[2:]] for one in given]
    rows = [(*one, None, student, staff or student) for one, (staff, student) in zip(given, held, strict=True)]
    columns = f"userid bigint, courseid bigint, staff {span}, student {span}, other {span}"
    columns += ", is_student boolean, has_role boolean"
    return spark.createDataFrame(rows, columns)


def kept(spark: SparkSession) -> dict[int, str]:
    """Return everybody's pseudonym, by id."""
    rows = spark.table(table_names.USER_KEY).collect()
    found = {row["userid"]: row["user_key"] for row in rows}
    assert len(found) == len(rows), "one row each"
    return found
