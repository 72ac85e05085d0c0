"""Who was erased: lakehouse.ops.erased_user, and what that means for reading Moodle.

Moodle keeps what its users did: rows of the log, posts whose text was cleared, names of who changed a grade. A person who
was erased from the lake must not come back with them, so every ingest leaves out what names the person, in the SQL
that reads the source (leave_out). The table tells nobody who was erased: it holds keyed hashes, and the jobs' key is
needed to try them.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pyspark.sql import SparkSession
from pyspark.sql import types as T

from moodle_lakehouse.config import Config
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.ingest.moodle_tables import ReadColumn, TablePlan, quoted
from moodle_lakehouse.lake import job_runs, table_names, tables, writers

STEP = 10_000  # ids are noted as "somewhere up to the next multiple of it"

# Grain: person. person: keyed hash of the id; key_check: tells keys apart; ids_up_to: no id of the row is greater.
_SCHEMA = T.StructType(
    [
        T.StructField("person", T.StringType(), False),
        T.StructField("key_check", T.StringType(), False),
        T.StructField("ids_up_to", T.LongType(), False),
        T.StructField("erased_at", T.TimestampType(), False),
        T.StructField("run_id", T.StringType(), False),
    ]
)


def remember(spark: SparkSession, key: bytes, ids: Iterable[int]) -> None:
    """Note that people were erased, before anything of theirs is; who is noted already is left alone."""
    known = set(recall(spark, key))
    rows = [
        (_hash(key, f"user {i}"), _check(key), -(-i // STEP) * STEP, dt.datetime.now(dt.UTC), job_runs.run_id())
        for i in sorted(set(ids) - known)
    ]
    if rows:
        writers.append_rows(spark, rows, _SCHEMA, table_names.ERASED_USER, run_id=job_runs.run_id())


def recall(spark: SparkSession, key: bytes) -> list[int]:
    """The ids of everybody who was erased, found by trying every id that there can be."""
    noted = tables.read(spark, table_names.ERASED_USER)
    rows = [] if noted is None else noted.collect()
    if not rows:
        return []
    if any(row["key_check"] != _check(key) for row in rows):
        raise LakehouseError(
            "The key of the pseudonyms is not the one with which people were erased: nobody can tell who they are, and they"
            " would come back",
            where=table_names.ERASED_USER,
            remedy="put the old key back (vault_privacy_key); or erase those people again under the new one, after"
            f" DELETE FROM {table_names.ERASED_USER}",
        )
    wanted, most = {row["person"] for row in rows}, max(row["ids_up_to"] for row in rows)
    return [i for i in range(1, most + 1) if _hash(key, f"user {i}") in wanted]


def leave_out(spark: SparkSession, config: Config, plans: Sequence[TablePlan]) -> tuple[TablePlan, ...]:
    """The plans, by which nobody who was erased is read."""
    ids = recall(spark, config.privacy.key())
    return tuple(without(plan, ids) for plan in plans) if ids else tuple(plans)


def without(plan: TablePlan, ids: Sequence[int]) -> TablePlan:
    """A table without the rows about some people, and null where other rows name them."""
    values = [str(i) for i in ids]
    gone = " OR ".join(column.condition(values) for column in plan.person if not column.clears)
    cleared = {column.name for column in plan.person if column.clears}

    def read(column: ReadColumn) -> ReadColumn:
        if column.name not in cleared:
            return column
        sql = f"CASE WHEN {quoted(column.name)} IN ({', '.join(values)}) THEN NULL ELSE {column.sql} END"
        return replace(column, sql=sql, policy=column.sql)

    return replace(
        plan,
        columns=tuple(read(column) for column in plan.columns),
        readable=f"({gone}) IS NOT TRUE" if gone else None,
    )


def _hash(key: bytes, text: str) -> str:
    return hmac.digest(key, f"erased {text}".encode(), hashlib.sha256).hex()


def _check(key: bytes) -> str:
    return _hash(key, "users: which key")[:16]
