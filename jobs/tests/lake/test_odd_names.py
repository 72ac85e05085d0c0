"""Whatever a table or a column is called, in the catalog or in Moodle's database, it is only a name: every job works on it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from history_site import create
from hypothesis import given
from hypothesis import strategies as st
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.curated import course_history, resource_history
from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest import read_plan, verify
from moodle_lakehouse.lake import maintenance, table_names, tables, writers
from moodle_lakehouse.privacy import erasure
from pyspark.sql import SparkSession
from small_moodle import insert, lake_rows, plans, source_rows

VICTIM, OTHER = 54_321, 54_322
# The last one is replaced by a setting wherever Spark reads it as SQL, unless it is told not to.
TABLES = (
    "o'x",
    "ba`ck",
    "a.b",
    "da-sh",
    'quo"te',
    "semi; DROP TABLE x--",
    "hash#quest?",
    "back\\slash",
    "${spark.app.name}",
)
COLUMNS = (
    "o'c",
    "b`t",
    "d.o.t",
    "per%cent %s",
    'quo"te',
    "back\\slash",
    "sp ace",
    "c0",
    "${spark.app.name}",
    "question?",
)
OUTSIDE = ("my-space", "my-space.in`ner")  # as their parts: a namespace in another


@given(st.lists(st.text(min_size=1), min_size=1))
def test_full_name_has_its_parts(parts: list[str]) -> None:
    name = table_names.full_name(*parts)
    assert table_names.parts(name) == tuple(parts)
    assert table_names.parts(table_names.quoted(name)) == tuple(parts)


@pytest.mark.parametrize("name", ["", ".", "a.", "a..b", "`a", "a`b`", "``"])
def test_what_is_no_full_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no full name"):
        table_names.parts(name)


def test_literals_are_what_was_given(spark: SparkSession) -> None:
    for text in (*TABLES, *COLUMNS, "\\'", "\\\\'", "'; --", "\n\t\\n", "é🎓", ""):
        assert spark.sql(f"SELECT {table_names.literal(text)}").first()[0] == text, text  # type: ignore[index]


@pytest.fixture
def odd(lake: SparkSession) -> Iterator[list[str]]:
    """Tables with odd names in a namespace of the jobs and in two of somebody else's; each names two people."""
    spaces = [table_names.full_name(table_names.CATALOG, *space.split(".")) for space in OUTSIDE]
    for space in spaces:
        lake.sql(f"CREATE NAMESPACE {table_names.quoted(space)}")
    places = [("lakehouse.marts", TABLES), *[(space, TABLES[:2]) for space in spaces]]
    names = [f"{space}.{table_names.full_name(name)}" for space, held in places for name in held]
    for name in names:
        rows = tables.local_rows(lake, [(VICTIM, 1), (OTHER, 2)], "userid bigint, n int")
        rows = rows.toDF("userid", COLUMNS[0]) if name.endswith("`o'x`") else rows
        writers.replace(rows, name, run_id="odd")
    yield names
    for name in names:
        lake.sql(f"DROP TABLE IF EXISTS {table_names.quoted(name)}")
    for space in reversed(spaces):
        lake.sql(f"DROP NAMESPACE {table_names.quoted(space)}")


def place_of(lake: SparkSession, name: str) -> Path:
    return Path(str(tables.load(lake, name).location()).removeprefix("file:"))


def test_tables_of_any_name_are_found_maintained_and_searched(
    lake: SparkSession, odd: list[str], moodle: config.Config, database: Server
) -> None:
    found = tables.table_locations(lake)
    assert {f"{table_names.CATALOG}.{name}" for name in found} == set(odd)
    assert len(set(found.values())) == len(odd)

    # an old file that nothing names goes from a folder of any name
    orphans = []
    for name in odd[: len(TABLES)]:
        orphans.append(place_of(lake, name) / "data" / "of-a-dead-job.parquet")
        orphans[-1].write_bytes(b"x")
        os.utime(orphans[-1], (time.time() - 864_000,) * 2)
    results = {one.table: one for one in maintenance.run(lake)}
    assert {f"{table_names.CATALOG}.{name}" for name in results} >= set(odd[: len(TABLES)])
    assert not [path for path in orphans if path.exists()]
    assert [one.table for one in maintenance.run(lake, ["marts.o'x", "marts.`a.b`"])] == ["marts.`a.b`", "marts.`o'x`"]

    # and people are erased from all of them
    database.query("CREATE TABLE mdl_user (id bigint PRIMARY KEY)")
    result = erasure.run(lake, moodle, [VICTIM])
    erasure.check(result)
    assert {row.table: row.deleted for row in result.tables} == dict.fromkeys(odd, 1)
    for name in odd:
        assert [row["userid"] for row in lake.table(name).collect()] == [OTHER], name


def test_tables_and_columns_of_any_name_come_from_moodle(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = create(database)
    names = ["o'x`a.b", "${spark.app.name}"]  # of activity modules, which Moodle's own table of them names
    site.put("modules", *({"id": 50 + i, "name": name} for i, name in enumerate(names)))
    columns = ", ".join(f"{table_names.quoted_name(name)} varchar(20)" for name in COLUMNS)
    for place, name in enumerate(names):
        source = table_names.quoted_name(f"mdl_{name}")
        database.query(
            f"CREATE TABLE {source} (id bigint PRIMARY KEY, name varchar(20), timemodified bigint, {columns})"
        )
        cells = ", ".join(["%%s"] * (3 + len(COLUMNS)))
        rows = [(i, f"it's {i}", 1, *[f"{i}{c}" for c in COLUMNS]) for i in (1, 2, 3)]
        insert(database, f"INSERT INTO {source.replace('%', '%%')} VALUES ({cells.replace('%%s', '%s')})", rows)
        module = {"id": 60 + place, "course": 2, "module": 50 + place, "instance": 1, "section": 21}
        site.put("course_modules", module)
    settings = moodle.model_copy(update={"privacy": moodle.privacy.model_copy(update={"mode": "keep"})})

    def assert_equal() -> None:
        for name in names:
            plan = plans(settings)[name]
            assert lake_rows(lake.table(table_names.raw(name)), plan) == source_rows(database, plan), name
        assert not verify.run(lake, settings, ingest_job.inspect(settings)).differing

    monkeypatch.setattr(read_plan, "RANGE_ROWS", 2)  # the first half by files, as large tables are
    for name in names[:1]:
        database.query(f"DELETE FROM {table_names.quoted_name(f'mdl_{name}')} WHERE id = 3")
    ingest_job.run(lake, settings)
    assert_equal()
    resource_history.run(lake)

    for place, name in enumerate(names):  # changed, and with a column more
        source = table_names.quoted_name(f"mdl_{name}")
        database.query(f"UPDATE {source} SET `o'c` = 'other', name = 'renamed', timemodified = 2 WHERE id = 1")
        if place % 2:
            database.query(f"ALTER TABLE {source} ADD `ne``w'` int DEFAULT 7")
    with pytest.raises(verify.DifferentError) as different:
        verify.run(lake, settings, ingest_job.inspect(settings))
    assert {one.table for one in different.value.result.differing} >= set(names[::2])
    assert not different.value.result.failures
    ingest_job.run(lake, settings)
    assert_equal()
    curated_job.run(lake, settings)
    resource_history.run(lake)
    period = course_history.period("2000-01-01", None)
    document = course_history.collect(lake, course_history.find_course(lake, "2"), period)
    renamed = {row["modname"] for row in document["changes"] if row["change"] == "renamed"}
    assert renamed >= set(names)
