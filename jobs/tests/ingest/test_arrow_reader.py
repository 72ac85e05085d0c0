"""Large tables by files: the same rows as by JDBC, in pieces and files of any size, and a mark as every commit has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.ingest import arrow_reader, read_plan, sync_state, sync_steps
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.lake import files, snapshots, table_names, tables
from pyarrow import int64, parquet, schema, string, table
from pyspark.sql import SparkSession
from small_moodle import fill, insert, lake_rows, plans, source_rows

WIDE = (
    "CREATE TABLE `{p}local_wide` (`id` bigint(10) PRIMARY KEY, `n` bigint unsigned, `d` decimal(12,5), `t` longtext,"
    " `b` longblob, `f` tinyint(1), `r` double) DEFAULT CHARSET=utf8mb4"
)


@pytest.fixture
def wide(database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch) -> config.Config:
    """A configuration whose every table with rows is read by files, text included; the source has local_wide."""
    monkeypatch.setattr(read_plan, "RANGE_ROWS", 1)
    fill(database, moodle, WIDE)
    source = moodle.moodle.model_copy(update={"extra_tables": ["local_wide"], "max_connections": 3})
    return moodle.model_copy(update={"moodle": source, "privacy": moodle.privacy.model_copy(update={"mode": "keep"})})


def assert_arrives(lake: SparkSession, database: Server, moodle: config.Config) -> None:
    ingest_job.run(lake, moodle)
    plan = plans(moodle)["local_wide"]
    assert lake_rows(lake.table(table_names.raw("local_wide")), plan) == source_rows(database, plan)


texts = st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=9))
rows = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    st.one_of(st.none(), st.decimals(-9999999, 9999999, places=5)),
    texts,
    st.one_of(st.none(), st.binary(max_size=9)),
    st.one_of(st.none(), st.integers(-128, 127)),
    st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False, width=32)),
)


@settings(database=None, max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(rows, max_size=40, unique_by=lambda row: row[0]), piece=st.integers(1, 5))
def test_any_rows_arrive_in_pieces_of_any_size(
    lake: SparkSession,
    database: Server,
    wide: config.Config,
    monkeypatch: pytest.MonkeyPatch,
    written: list[Any],
    piece: int,
) -> None:
    monkeypatch.setattr(arrow_reader, "MIN_PIECE_ROWS", 1)
    monkeypatch.setattr(sync_steps, "PIECE_ROWS", piece)
    monkeypatch.setattr(arrow_reader, "MAX_FILE_ROWS", 7)
    lake.sql(f"DROP TABLE IF EXISTS {table_names.raw('local_wide')} PURGE")
    database.query("DELETE FROM mdl_local_wide")
    insert(database, "INSERT INTO mdl_local_wide VALUES (%s, %s, %s, %s, %s, %s, %s)", written)
    assert_arrives(lake, database, wide)


def test_later_runs_find_the_mark_and_bring_differences(
    lake: SparkSession, database: Server, wide: config.Config
) -> None:
    insert(database, "INSERT INTO mdl_local_wide (id, t) VALUES (%s, 'x')", [(i,) for i in range(1, 50)])
    assert_arrives(lake, database, wide)
    table = table_names.raw("local_wide")
    mark = sync_state.read(tables.load(lake, table))
    assert mark is not None
    assert mark.rows == 49
    assert not any(row.changed or row.rows_read for row in ingest_job.run(lake, wide).tables)
    database.query("UPDATE mdl_local_wide SET t = NULL, d = 1.5 WHERE id = 7")
    database.query("DELETE FROM mdl_local_wide WHERE id = 8")
    assert_arrives(lake, database, wide)
    summary = tables.load(lake, table).currentSnapshot().summary()
    assert snapshots.RUN_ID in summary


def test_rows_of_megabytes_are_left_to_jdbc(
    lake: SparkSession, database: Server, wide: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_reader, "writer", None)  # calling it fails
    insert(database, "INSERT INTO mdl_local_wide (id, t) VALUES (%s, %s)", [(1, "x" * 1_000_000), (2, "y")])
    assert_arrives(lake, database, wide)


def test_encrypted_sources_are_left_to_jdbc(moodle: config.Config) -> None:
    """ConnectorX would read them in plain text without a word."""
    plan = type("Plan", (), {"key": ("id",), "id_column": "id", "columns": ()})()
    plain = moodle.moodle
    assert arrow_reader.serves(plain, plan, [(1, 2)], 10**6)
    for tls in ("verify-ca", "verify-full"):
        assert not arrow_reader.serves(plain.model_copy(update={"tls": tls}), plan, [(1, 2)], 10**6)


@pytest.mark.parametrize("range_rows", [1, read_plan.RANGE_ROWS], ids=["by files", "by JDBC"])
def test_rows_a_second_are_limited(
    lake: SparkSession, database: Server, wide: config.Config, monkeypatch: pytest.MonkeyPatch, range_rows: int
) -> None:
    monkeypatch.setattr(read_plan, "RANGE_ROWS", range_rows)
    insert(database, "INSERT INTO mdl_local_wide (id) VALUES (%s)", [(i,) for i in range(4000)])
    one = wide.model_copy(
        update={"moodle": wide.moodle.model_copy(update={"max_connections": 1, "max_rows_per_second": 1000})}
    )
    (found,) = [row for row in ingest_job.run(lake, one).tables if row.table == "local_wide"]
    assert found.inserted == 4000
    assert found.seconds > 3.9


def test_text_has_dictionaries_and_numbers_have_bounds(tmp_path: Path) -> None:
    fields = schema([files.field("id", int64(), 1), files.field("eventname", string(), 2)])
    with files.parquet(str(tmp_path / "one.parquet"), fields, {}) as writer:
        writer.write_table(table([[1, 2, 3], ["a", "a", "b"]], fields))
    group = parquet.read_metadata(tmp_path / "one.parquet").row_group(0)
    number, text = group.column(0), group.column(1)
    assert (number.has_dictionary_page, number.statistics.min, number.statistics.max) == (False, 1, 3)
    assert (text.has_dictionary_page, text.statistics) == (True, None)
