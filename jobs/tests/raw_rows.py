"""Rows of raw tables, for tests of what is made of them."""

from __future__ import annotations

import json
from typing import Any

from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.lake import tables
from pyspark.sql import DataFrame, SparkSession


def raw(spark: SparkSession, table: str, *rows: dict[str, Any]) -> DataFrame:
    """A raw table with the columns curate needs, null where a row does not say."""
    schema = curated_job.T._parse_datatype_string(curated_job.RAW_COLUMNS[table])
    return tables.local_rows(spark, [tuple(row.get(name) for name in schema.names) for row in rows], schema)


def event(number: int, name: str, time: int, **columns: Any) -> dict[str, Any]:
    other = columns.pop("other", None)
    base = {"id": number, "eventname": name, "timecreated": time, "contextlevel": 50, "anonymous": 0, "origin": "web"}
    return {**base, "other": json.dumps(other) if other is not None else None, **columns}
