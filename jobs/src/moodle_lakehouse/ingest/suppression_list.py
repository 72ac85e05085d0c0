"""Keep the suppression list of erased users (lakehouse.ops.erased_user) and apply it to what ingest reads.

Moodle keeps what its users did: rows of the log, posts whose text was cleared, names of who changed a grade. A person who
was erased from the lake must not come back with them, so every ingest leaves out what names the person, in the SQL
that reads the source (leave_out). The table does not reveal who was erased: it holds keyed hashes, and the jobs' key is
needed to try them.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pyspark.sql import SparkSession

from moodle_lakehouse.config import Config
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.ingest.moodle_tables import ReadColumn, TablePlan, private_number
from moodle_lakehouse.lake import contracts, job_runs, table_names, tables, writers
from moodle_lakehouse.lake.table_names import quoted_name

STEP = 10_000  # ids are recorded as "somewhere up to the next multiple of it"


def remember(spark: SparkSession, key: bytes, ids: Iterable[int]) -> None:
    """Record that people are erased, before any of their rows is; who is recorded already is left alone."""
    known = set(recall(spark, key))
    rows = [
        (_hash(key, f"user {i}"), _check(key), -(-i // STEP) * STEP, dt.datetime.now(dt.UTC), job_runs.run_id())
        for i in sorted(set(ids) - known)
    ]
    if rows:
        writers.append_rows(
            spark, rows, contracts.schema(table_names.ERASED_USER), table_names.ERASED_USER, run_id=job_runs.run_id()
        )


def recall(spark: SparkSession, key: bytes) -> list[int]:
    """Return the ids of everybody who was erased, found by trying every possible id."""
    recorded = tables.read(spark, table_names.ERASED_USER)
    rows = [] if recorded is None else recorded.collect()
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
    hashes, highest = {row["person"] for row in rows}, max(row["ids_up_to"] for row in rows)
    return [i for i in range(1, highest + 1) if _hash(key, f"user {i}") in hashes]


def leave_out(spark: SparkSession, config: Config, plans: Sequence[TablePlan]) -> tuple[TablePlan, ...]:
    """Return the plans, by which nobody who was erased is read."""
    ids = recall(spark, config.privacy.key())
    return tuple(without(plan, ids) for plan in plans) if ids else tuple(plans)


def without(plan: TablePlan, ids: Sequence[int]) -> TablePlan:
    """Return a plan that reads no row about some people, and null where other rows mention them."""
    values = [private_number(i) for i in ids]
    gone = " OR ".join(column.condition(values) for column in plan.person if not column.mentioned)
    mentioned = {column.name for column in plan.person if column.mentioned}

    def read(column: ReadColumn) -> ReadColumn:
        if column.name not in mentioned:
            return column
        sql = f"CASE WHEN {quoted_name(column.name)} IN ({', '.join(values)}) THEN NULL ELSE {column.sql} END"
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
