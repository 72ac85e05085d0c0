"""Every version of Moodle in the range arrives exactly, and what it lacks of the catalogue's is reported.

LAKEHOUSE_TEST_MYSQL_OTHERS names servers of other versions, of which the same is asked: docs/ingestion.md says which were.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

from mariadb import Server
from moodle_demo import schema
from moodle_demo.schema import Column, Table
from moodle_lakehouse import config
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest import moodle_tables
from moodle_lakehouse.lake import table_names
from pyspark.sql import SparkSession
from small_moodle import lake_rows, plans, source_rows

CATALOGUE = moodle_tables.load()
BYTES = {"tinyint": 1, "smallint": 2, "mediumint": 3, "int": 4, "bigint": 8}
# What the catalogue names and a version has not, and what ingest says about tables when a site is upgraded to it.
SINCE_52 = ["quiz_overrides.reasonformat"]
SINCE_51 = [
    "assign.gradepenalty", "course.enableaitools", "course_modules.enableaitools", "course_modules.enabledaiactions",
    "quiz.precreateattempts",
]  # fmt: skip
SINCE_45 = ["assign.markinganonymous", "course_sections.component", "course_sections.itemid"]
MISSING = {"4.3": [*SINCE_45, *SINCE_51, *SINCE_52], "4.5": [*SINCE_51, *SINCE_52], "5.1": SINCE_52}
NOTES = {
    "4.3": {},
    "4.5": {"assign": "markinganonymous is new", "course_sections": "component is new; itemid is new"},
    "5.1": {
        "assign": "gradepenalty is new",
        "assign_grades": "penalty is new",
        "course": "enableaitools is new",
        "course_modules": "enableaitools is new; enabledaiactions is new",
        "grade_grades": "deductedmark is new",
        "quiz": "precreateattempts is new",
    },
}


def extremes(column: Column) -> tuple[Any, Any]:
    """Return the least and the greatest value of a column's type; of text a hard short one and the longest."""
    kind, _, size = column.type.rstrip(")").partition("(")
    if kind in BYTES:
        limit = 2 ** (8 * BYTES[kind] - 1)
        return -limit, limit - 1
    if kind == "decimal":
        precision, scale = (int(part) for part in size.split(","))
        greatest = Decimal(10**precision - 1).scaleb(-scale)
        return -greatest, greatest
    if kind == "double":
        return -sys.float_info.max, sys.float_info.min
    if kind == "varchar":
        return "\\", "\N{GRADUATION CAP}" * int(size)
    assert kind == "longtext", column
    return 'Zoë\'s "quote" \\ back\nline\x00nul', "\N{GRADUATION CAP}" * 20_000


def rows(table: Table) -> list[list[Any]]:
    """Return three rows in the order of the table's columns: all least, all greatest, all NULL or 0 or empty."""
    low, high = zip(*[extremes(column) for column in table.columns[1:]], strict=True)
    nothing = [None if c.nullable else "" if c.is_text else 0 for c in table.columns[1:]]
    return [[1, *low], [2, *high], [3, *nothing]]


def build(database: Server, version: str) -> None:
    """Make the catalogue's tables as a version of Moodle has them, with their rows."""
    with database.connect() as connection, connection.cursor() as cursor:
        for table in (schema.tables(version)[name] for name in CATALOGUE.tables):
            cursor.execute(f"DROP TABLE IF EXISTS mdl_{table.name}")
            cursor.execute(table.create("mdl_"))
            places = ", ".join(["%s"] * len(table.columns))
            cursor.executemany(f"INSERT INTO mdl_{table.name} VALUES ({places})", rows(table))


def test_every_version_arrives_exactly_and_what_it_lacks_is_reported(
    lake: SparkSession,
    database: Server,
    other_servers: list[Server],
    reading: Callable[[Server], config.Config],
) -> None:
    """A site of the oldest version is read for the first time, and again after each upgrade.

    Rows come from the last server, from which no other test reads; the others are then found to hold the same.
    """
    before: dict[str, Any] = {}
    with ExitStack() as made:
        databases = [made.enter_context(one.temporary()) for one in reversed(other_servers)] + [database]
        for version, one in itertools.product(schema.VERSIONS, databases):
            moodle, first, place = reading(one), one is databases[0], f"{version} on {one.host}"
            build(one, version)
            result = ingest_job.run(lake, moodle)
            assert result.missing == [], place
            assert result.missing_columns == sorted(MISSING[version]), place
            assert result.unlisted == [], place
            assert {row.table: row.note for row in result.tables if row.note} == (NOTES[version] if first else {}), (
                place
            )

            planned = plans(moodle)
            assert planned.keys() == CATALOGUE.tables.keys(), place
            found = {name: (plan.schema(), source_rows(one, plan)) for name, plan in planned.items()}
            assert {rows.total() for _, rows in found.values()} == {3}, place
            changed = {name for name in found if found[name] != before.get(name)}
            assert bool(changed) is first, place
            assert {row.table for row in result.tables if row.changed} == changed, place
            for name in changed:
                assert lake_rows(lake.table(table_names.raw(name)), planned[name]) == found[name][1], (place, name)
            before = found
