"""Keep the key of hashed columns in the driver: an executor's statements must not hold it.

The source makes the keyed hashes in SQL, which holds the key (moodle_tables): only the driver sends such SQL. What an
executor reads is a stand-in, the SHA-256 of the value behind a random salt of this one read. Of each distinct value the
driver asks the source for stand-in and keyed hash, and Spark puts the one in the other's place.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import pandas as pd
from pymysql.cursors import SSCursor
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import MoodleConfig
from moodle_lakehouse.ingest import mysql
from moodle_lakehouse.ingest.moodle_tables import ReadColumn, TablePlan
from moodle_lakehouse.lake.table_names import quoted_name

PIECE = 200_000  # distinct values that the driver holds as Python's objects at a time: some 40 MB
CAME_MEANWHILE = "a value to be hashed came while the table was read"


def new_salt() -> str:
    """Return the salt of one read."""
    return secrets.token_hex(16)


def in_place(plan: TablePlan, salt: str) -> TablePlan:
    """Return the plan with stand-ins in place of keyed hashes, for executors."""

    def read(column: ReadColumn) -> ReadColumn:
        if not column.hashed:
            return column
        return replace(column, sql=column.sql.replace(_keyed(column), _stand_in(column.hashed, salt)))

    return replace(plan, columns=tuple(map(read, plan.columns)))


def hashes(
    spark: SparkSession, moodle: MoodleConfig, plan: TablePlan, condition: str | None, salt: str
) -> dict[str, DataFrame]:
    """Return stand_in and keyed (32 bytes each) of the distinct values of each hashed column, by its name.

    Of the rows that fulfil a condition; the driver reads them.
    """
    found: dict[str, DataFrame] = {}
    columns = [column for column in plan.columns if column.hashed]
    if not columns:
        return found
    with mysql.connect(moodle) as cursor, cursor.connection.cursor(SSCursor) as stream:
        for column in columns:
            keyed = _keyed(column).replace(column.hashed, "v")
            stream.execute(
                f"SELECT UNHEX({_stand_in('v', salt)}), UNHEX({keyed}) FROM (SELECT DISTINCT {column.hashed} AS v"
                f" FROM {quoted_name(plan.source)}{plan.where(condition)}) t WHERE v IS NOT NULL"
            )
            parts = [_pairs(spark, [])]
            while piece := stream.fetchmany(PIECE):
                parts.append(_pairs(spark, piece))
            found[column.name] = reduce(DataFrame.unionAll, parts)
    return found


def _pairs(spark: SparkSession, rows: Sequence[tuple[Any, ...]]) -> DataFrame:
    pairs = pd.DataFrame(list(rows), columns=["stand_in", "keyed"], dtype=object)
    return spark.createDataFrame(pairs, "stand_in binary, keyed binary")


def put_in(rows: DataFrame, found: Mapping[str, DataFrame]) -> DataFrame:
    """Return rows as executors read them with the keyed hashes (64 hex digits) in place of stand-ins.

    It fails with CAME_MEANWHILE where a value came after the driver had asked.
    """
    columns = rows.columns
    for place, (name, pairs) in enumerate(found.items()):
        one, hashed = F.col(quoted_name(name)), f"lakehouse_hash_{place}"
        named = pairs.select(F.lower(F.hex("stand_in")).alias(f"{hashed}_of"), F.lower(F.hex("keyed")).alias(hashed))
        late = F.when(one.isNotNull(), F.raise_error(F.lit(CAME_MEANWHILE)))
        rows = rows.join(named, how="left", on=one == F.col(f"{hashed}_of"))
        rows = rows.withColumn(name, F.coalesce(hashed, late.cast("string"))).drop(hashed, f"{hashed}_of")
    return rows.select(*map(quoted_name, columns))


def _keyed(column: ReadColumn) -> str:
    """Return the SQL of a column's keyed hash alone, without what leaves out erased people."""
    return column.policy or column.sql


def _stand_in(value: str, salt: str) -> str:
    return f"SHA2(CONCAT(X'{salt}', {value}), 256)"
