"""The smallest Moodle there is, for tests that write its database themselves, and what is in the lake of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mariadb import Server
from moodle_demo import schema
from moodle_lakehouse import config
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest.moodle_tables import TablePlan
from moodle_lakehouse.lake import table_names
from pyspark.sql import DataFrame, SparkSession

LOG = """CREATE TABLE `{p}logstore_standard_log` (`id` bigint(10) NOT NULL AUTO_INCREMENT, `eventname` varchar(255) NOT NULL,
 `edulevel` tinyint(1) NOT NULL DEFAULT 0, `other` longtext, `timecreated` bigint(10) NOT NULL DEFAULT 0, `ip` varchar(45),
 PRIMARY KEY (`id`)) DEFAULT CHARSET=utf8mb4"""
MINIMAL = [
    LOG,
    "CREATE TABLE `{p}course` (`id` bigint(10) PRIMARY KEY)",
    "CREATE TABLE `{p}user` (`id` bigint(10) PRIMARY KEY)",
]


def fill(database: Server, moodle: config.Config, *statements: str) -> None:
    """The smallest Moodle, and what a test adds."""
    for statement in (*MINIMAL, *statements):
        database.query(statement.replace("{p}", moodle.moodle.prefix))


def insert(database: Server, sql: str, rows: list[tuple[Any, ...]]) -> None:
    """Insert rows with the client's quoting."""
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.executemany(sql, rows)


def raw(lake: SparkSession, name: str) -> list[dict[str, Any]]:
    """A raw table's rows by id."""
    return [row.asDict() for row in lake.table(table_names.raw(name)).orderBy("id").collect()]


def plans(moodle: config.Config) -> dict[str, TablePlan]:
    """How each table is read, by its short name."""
    return {plan.table.name: plan for plan in ingest_job.inspect(moodle).plan.tables}


def source_rows(database: Server, plan: TablePlan) -> Counter[tuple[Any, ...]]:
    """The source's rows with the privacy policy applied, asked over another way than the jobs'."""
    return Counter(tuple(row) for row in database.query(plan.select()))


def lake_rows(df: DataFrame, plan: TablePlan) -> Counter[tuple[Any, ...]]:
    """A table's rows with the columns of a plan, comparable to source_rows."""
    rows = df.select(*[table_names.quoted_name(c.name) for c in plan.columns]).collect()
    return Counter(tuple(bytes(v) if isinstance(v, bytearray) else v for v in row) for row in rows)


def snapshots(lake: SparkSession, name: str) -> list[int]:
    """The ids of a raw table's snapshots in order of time."""
    return [
        row["snapshot_id"] for row in lake.table(table_names.raw(name) + ".snapshots").orderBy("committed_at").collect()
    ]


def put(database: Server, table: str, *rows: dict[str, Any]) -> None:
    """Insert rows of which only some columns are told; the others get what Moodle's schema says, or nothing."""
    known = schema.tables()[table].columns if table in schema.tables() else ()
    needed = {c.name: "" if c.is_text else 0 for c in known if not c.nullable and c.default is None and c.name != "id"}
    for row in rows:
        filled = needed | row
        names, places = ", ".join(f"`{name}`" for name in filled), ", ".join(["%s"] * len(filled))
        insert(database, f"INSERT INTO mdl_{table} ({names}) VALUES ({places})", [tuple(filled.values())])
