"""After every run raw equals its source, and only what differs was written: on a real server and real Iceberg."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.ingest import (
    arrow_reader,
    committer,
    mysql,
    read_plan,
    source_sql,
    sync_state,
    sync_steps,
    table_sync,
)
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.lake import table_names, tables, writers
from moodle_lakehouse.lake.availability import Watch
from pyspark.sql import SparkSession
from site_files import load_dump
from small_moodle import fill, insert, lake_rows, plans, raw, snapshots, source_rows

LOG_IDS = "SELECT COUNT(*) FROM mdl_logstore_standard_log"
COURSE = "ALTER TABLE `{p}course` ADD `fullname` varchar(255), ADD `visible` tinyint(1), ADD `idnumber` varchar(99)"
GRADES = (
    "CREATE TABLE `{p}quiz_grades` (`id` bigint(10) PRIMARY KEY, `grade` decimal(10,5), `timemodified` bigint(10))"
    " DEFAULT CHARSET=utf8mb4"
)


def run(lake: SparkSession, moodle: config.Config) -> dict[str, sync_steps.TableResult]:
    return {row.table: row for row in ingest_job.run(lake, moodle).tables}


def numbers(result: sync_steps.TableResult) -> tuple[int, int, int, int]:
    return result.rows_read, result.inserted, result.updated, result.deleted


def assert_equal(lake: SparkSession, database: Server, moodle: config.Config, *names: str) -> None:
    for name, plan in plans(moodle).items():
        if name in (names or (name,)):
            assert lake_rows(lake.table(table_names.raw(name)), plan) == source_rows(database, plan), name


def log_rows(database: Server, ids: Any) -> None:
    insert(database, "INSERT INTO mdl_logstore_standard_log (id, eventname) VALUES (%s, 'e')", [(i,) for i in ids])


def with_privacy(moodle: config.Config, mode: str) -> config.Config:
    return moodle.model_copy(update={"privacy": moodle.privacy.model_copy(update={"mode": mode})})


def test_append_finds_late_ids_and_keeps_what_the_source_purged(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_plan, "OVERLAP_IDS", 10)
    fill(database, moodle)
    log_rows(database, [i for i in range(1, 101) if i != 95])
    assert run(lake, moodle)["logstore_standard_log"].watermark == 100
    log_rows(database, [95, 101])
    database.query("DELETE FROM mdl_logstore_standard_log WHERE id <= 50")
    log = run(lake, moodle)["logstore_standard_log"]
    assert numbers(log) == (11, 2, 0, 0)  # 91 to 101 were read
    assert log.watermark == 101
    assert [row["id"] for row in raw(lake, "logstore_standard_log")] == list(range(1, 102))
    made = snapshots(lake, "logstore_standard_log")
    database.query("DELETE FROM mdl_logstore_standard_log WHERE id = 99")
    assert numbers(run(lake, moodle)["logstore_standard_log"])[1:] == (0, 0, 0)
    assert snapshots(lake, "logstore_standard_log") == made


def test_row_that_is_committed_late_while_the_overlap_is_checked_is_found_by_the_next_run(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_plan, "OVERLAP_IDS", 10)
    fill(database, moodle)
    log_rows(database, [i for i in range(1, 21) if i != 15])
    run(lake, moodle)
    log_rows(database, [21])
    checksum = source_sql.checksum

    def late(cursor: Any, plan: Any, condition: Any = None) -> Any:
        found = checksum(cursor, plan, condition)
        if plan.table.name == "logstore_standard_log" and not database.value(f"{LOG_IDS} WHERE id = 15"):
            log_rows(database, [15])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(source_sql, "checksum", late)
        run(lake, moodle)
    log_rows(database, [22])
    run(lake, moodle)
    assert_equal(lake, database, moodle)


@pytest.mark.parametrize("least_rows", [10**9, 1], ids=["by JDBC", "by files"])
def test_append_adds_what_is_above_the_watermark(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch, least_rows: int
) -> None:
    monkeypatch.setattr(arrow_reader, "MIN_PIECE_ROWS", least_rows)
    monkeypatch.setattr(read_plan, "OVERLAP_IDS", 10)
    fill(database, moodle)
    log_rows(database, range(1, 101))
    run(lake, moodle)
    log_rows(database, [101, *range(150, 180)])
    log = run(lake, moodle)["logstore_standard_log"]
    assert numbers(log) == (31, 31, 0, 0)  # nothing below was read
    assert log.watermark == 179
    assert_equal(lake, database, moodle, "logstore_standard_log")
    mark = sync_state.read(tables.load(lake, table_names.raw("logstore_standard_log")))
    assert mark is not None
    assert (mark.watermark, mark.rows) == (179, 131)
    made = snapshots(lake, "logstore_standard_log")
    assert numbers(run(lake, moodle)["logstore_standard_log"]) == (0, 0, 0, 0)
    assert snapshots(lake, "logstore_standard_log") == made
    log_rows(database, [149, 180])  # too late to be looked for
    assert numbers(run(lake, moodle)["logstore_standard_log"]) == (1, 1, 0, 0)


def test_log_of_another_past_with_the_same_ids_is_read_whole(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_plan, "OVERLAP_IDS", 10)
    fill(database, moodle)
    log_rows(database, range(1, 101))
    run(lake, moodle)
    database.query("UPDATE mdl_logstore_standard_log SET timecreated = timecreated + 1 WHERE id IN (96, 98)")
    assert numbers(run(lake, moodle)["logstore_standard_log"]) == (10, 0, 2, 0)  # nothing below can differ
    database.query("DELETE FROM mdl_logstore_standard_log WHERE id <= 5")
    database.query("UPDATE mdl_logstore_standard_log SET timecreated = 7")
    log_rows(database, [101])
    log = run(lake, moodle)["logstore_standard_log"]
    assert numbers(log) == (96, 1, 95, 0)
    assert "all were compared" in log.note
    assert [row["timecreated"] for row in raw(lake, "logstore_standard_log")][5:-1] == [7] * 95


def test_log_of_another_past_is_refused(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_plan, "OVERLAP_IDS", 10)
    fill(database, moodle)
    log_rows(database, range(1, 101))
    run(lake, moodle)
    database.query("DELETE FROM mdl_logstore_standard_log WHERE id > 40")
    with pytest.raises(LakehouseError, match="ids end at 40, far below 100"):
        ingest_job.run(lake, moodle)
    assert len(raw(lake, "logstore_standard_log")) == 100
    database.query("DELETE FROM mdl_logstore_standard_log")  # all purged is no other past
    run(lake, moodle)
    assert len(raw(lake, "logstore_standard_log")) == 100


def test_merge_reads_what_the_cursor_shows_and_everything_when_numbers_disagree(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_plan, "OVERLAP_SECONDS", 10)
    fill(database, moodle, GRADES)
    insert(database, "INSERT INTO mdl_quiz_grades VALUES (%s, %s, %s)", [(i, i, 1000 + i) for i in range(1, 101)])
    assert run(lake, moodle)["quiz_grades"].watermark == 1100
    database.query("UPDATE mdl_quiz_grades SET grade = 0.5, timemodified = 1105 WHERE id = 3")
    database.query("INSERT INTO mdl_quiz_grades VALUES (101, NULL, 1106)")
    assert numbers(run(lake, moodle)["quiz_grades"]) == (12, 1, 1, 0)
    assert_equal(lake, database, moodle)
    # one deleted, one restored with an old time: the numbers tell
    database.query("DELETE FROM mdl_quiz_grades WHERE id IN (7, 8)")
    database.query("INSERT INTO mdl_quiz_grades VALUES (102, 1, 5)")
    assert numbers(run(lake, moodle)["quiz_grades"]) == (100, 1, 0, 2)
    assert_equal(lake, database, moodle)
    # a change that nothing shows waits for the comparison of everything
    database.query("UPDATE mdl_quiz_grades SET grade = 99 WHERE id = 9")
    assert not run(lake, moodle)["quiz_grades"].changed
    clock = sync_steps.time.time
    monkeypatch.setattr(sync_steps.time, "time", lambda: clock() + 21 * 3600)
    assert numbers(run(lake, moodle)["quiz_grades"]) == (100, 0, 1, 0)
    assert_equal(lake, database, moodle)
    # and costs no commit when there is nothing
    made = snapshots(lake, "quiz_grades")
    monkeypatch.setattr(sync_steps.time, "time", lambda: clock() + 42 * 3600)
    assert numbers(run(lake, moodle)["quiz_grades"]) == (0, 0, 0, 0)
    assert snapshots(lake, "quiz_grades") == made


def test_clock_that_runs_ahead_hides_nothing(lake: SparkSession, database: Server, moodle: config.Config) -> None:
    fill(database, moodle, GRADES, "INSERT INTO `{p}quiz_grades` VALUES (1, 1, 2147483647), (2, 2, 5)")
    run(lake, moodle)
    database.query("UPDATE mdl_quiz_grades SET grade = 3, timemodified = UNIX_TIMESTAMP() WHERE id = 2")
    run(lake, moodle)
    assert_equal(lake, database, moodle)


def test_snapshot_writes_differences_only_and_history_is_moodles(
    lake: SparkSession, database: Server, moodle: config.Config
) -> None:
    fill(database, moodle, COURSE)
    insert(database, "INSERT INTO mdl_course VALUES (%s, %s, 1, 'x')", [(i, f"c{i}") for i in range(1, 6)])
    run(lake, moodle)
    first = snapshots(lake, "course")
    before = raw(lake, "course")
    database.query("UPDATE mdl_course SET fullname = 'new' WHERE id = 2")
    database.query("UPDATE mdl_course SET idnumber = 'what is not read' WHERE id = 3")
    database.query("DELETE FROM mdl_course WHERE id = 5")
    database.query("INSERT INTO mdl_course VALUES (9, NULL, NULL, '')")
    assert numbers(run(lake, moodle)["course"]) == (5, 1, 1, 1)
    assert_equal(lake, database, moodle)
    second = snapshots(lake, "course")
    assert len(first) == 1
    assert len(second) == 2
    old = lake.read.option("snapshot-id", first[0]).table(table_names.raw("course")).orderBy("id").collect()
    assert [row.asDict() for row in old] == before
    differences = lake.sql(
        "CALL lakehouse.system.create_changelog_view(table => 'raw.course',"
        f" options => map('start-snapshot-id', '{first[0]}'), identifier_columns => array('id'))"
    ).collect()
    changes = lake.table(differences[0][0]).select("id", "_change_type").collect()
    assert sorted((row[0], row[1]) for row in changes) == [
        (2, "UPDATE_AFTER"),
        (2, "UPDATE_BEFORE"),
        (5, "DELETE"),
        (9, "INSERT"),
    ]


def test_what_looks_alike_is_told_apart(lake: SparkSession, database: Server, moodle: config.Config) -> None:
    fill(database, moodle, COURSE, "INSERT INTO `{p}course` VALUES (1, NULL, NULL, NULL), (2, NULL, 0, NULL)")
    run(lake, moodle)
    for change in (
        "fullname = '' WHERE id = 1",
        "fullname = ' ' WHERE id = 1",
        "fullname = 'NULL' WHERE id = 1",
        "fullname = NULL WHERE id = 1",
        "visible = NULL WHERE id = 2",
    ):
        database.query(f"UPDATE mdl_course SET {change}")
        assert numbers(run(lake, moodle)["course"]) == (2, 0, 1, 0), change
        assert_equal(lake, database, moodle)


def test_run_with_nothing_new_reads_and_writes_nothing(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyless = "CREATE TABLE `{p}local_plain` (`a` bigint(10), `b` double)"
    moodle = moodle.model_copy(update={"moodle": moodle.moodle.model_copy(update={"extra_tables": ["local_plain"]})})
    fill(database, moodle, COURSE, GRADES, keyless, "INSERT INTO `{p}local_plain` VALUES (1, 0.1), (1, 0.1)")
    insert(database, "INSERT INTO mdl_course VALUES (%s, 'c', 1, 'x')", [(1,), (2,)])
    insert(database, "INSERT INTO mdl_quiz_grades VALUES (%s, 1.5, 7)", [(1,), (2,)])
    log_rows(database, [1, 2])
    run(lake, moodle)
    before = {name: snapshots(lake, name) for name in plans(moodle)}
    assert {len(ids) for ids in before.values()} == {1}
    with monkeypatch.context() as patch:
        patch.delattr(sync_steps.TableSync, "_read")
        results = run(lake, moodle)
    assert not any(row.changed or row.rows_read for row in results.values())
    assert {name: snapshots(lake, name) for name in plans(moodle)} == before
    database.query("DELETE FROM mdl_local_plain LIMIT 1")
    assert run(lake, moodle)["local_plain"].inserted == 1
    assert_equal(lake, database, moodle)


def test_columns_are_added_widened_and_dropped(lake: SparkSession, database: Server, moodle: config.Config) -> None:
    fill(
        database,
        moodle,
        COURSE,
        "ALTER TABLE `{p}course` ADD `cost` decimal(6,2), ADD `size` int(9), ADD `rate` float, ADD `old` int(9)",
        "INSERT INTO `{p}course` VALUES (1, 'a', 1, '', 1.50, 7, 0.1, 4), (2, 'b', 0, '', NULL, 8, 0.5, 5)",
        "ALTER TABLE `{p}logstore_standard_log` ADD `seen` int(9)",
    )
    log_rows(database, [1, 2, 3])
    run(lake, moodle)
    for change in (
        "MODIFY `cost` decimal(10,2)", "MODIFY `size` bigint(10)", "MODIFY `rate` double", "DROP `old`",
        "ADD `added` int(9) NOT NULL DEFAULT 3",
    ):  # fmt: skip
        database.query(f"ALTER TABLE mdl_course {change}")
    database.query("UPDATE mdl_course SET cost = 12345678.25, size = 5000000000 WHERE id = 1")
    database.query("DELETE FROM mdl_logstore_standard_log WHERE id = 1")
    database.query("ALTER TABLE mdl_logstore_standard_log ADD added int(9) NOT NULL DEFAULT 3, DROP seen")
    results = run(lake, moodle)
    assert_equal(lake, database, moodle, "course", "user")
    assert {row["old"] for row in raw(lake, "course")} == {None}
    types = {f.name: f.dataType.simpleString() for f in lake.table(table_names.raw("course")).schema.fields}
    assert [types[c] for c in ("cost", "size", "rate", "added")] == ["decimal(10,2)", "bigint", "double", "int"]
    for told in ("added is new", "size was int, is bigint", "old is gone from the source"):
        assert told in results["course"].note
    assert [(row["id"], row["added"]) for row in raw(lake, "logstore_standard_log")] == [(1, None), (2, 3), (3, 3)]
    database.query("UPDATE mdl_course SET size = 6 WHERE id = 1")
    database.query("ALTER TABLE mdl_course MODIFY `size` int(9)")  # the lake's type holds it
    assert numbers(run(lake, moodle)["course"]) == (2, 0, 1, 0)
    assert_equal(lake, database, moodle, "course")


def test_incompatible_column_stops_its_table_alone(lake: SparkSession, database: Server, moodle: config.Config) -> None:
    fill(database, moodle, COURSE, "INSERT INTO `{p}course` VALUES (1, 'a', 1, '')")
    run(lake, moodle)
    database.query("ALTER TABLE mdl_course MODIFY `visible` decimal(10,5)")
    database.query("INSERT INTO mdl_user VALUES (7)")
    with pytest.raises(LakehouseError) as caught:
        ingest_job.run(lake, moodle)
    assert "1 of 3 tables" in str(caught.value)
    assert "visible was int and is decimal(10,5)" in str(caught.value)
    assert "drop it; the next run reads it again" in str(caught.value)
    assert raw(lake, "user") == [{"id": 7}]
    assert raw(lake, "course") == [{"id": 1, "fullname": "a", "visible": 1}]
    lake.sql(f"DROP TABLE {table_names.raw('course')} PURGE")
    run(lake, moodle)
    assert_equal(lake, database, moodle)


def test_changed_privacy_reads_anew_and_purged_log_rows_lose_what_is_no_longer_allowed(
    lake: SparkSession, database: Server, moodle: config.Config
) -> None:
    fill(database, moodle, COURSE, "INSERT INTO `{p}course` VALUES (1, 'a', 1, 'secret')")
    insert(
        database,
        "INSERT INTO mdl_logstore_standard_log (id, eventname, other, ip) VALUES (%s, 'e', '{}', '10.0.0.1')",
        [(1,), (2,)],
    )
    run(lake, with_privacy(moodle, "keep"))
    assert raw(lake, "course")[0]["idnumber"] == "secret"
    database.query("DELETE FROM mdl_logstore_standard_log WHERE id = 1")
    results = run(lake, moodle)
    assert (
        results["course"].note
        == results["logstore_standard_log"].note
        == "the privacy policy changed: all rows were read again"
    )
    assert_equal(lake, database, moodle, "course")
    assert "idnumber" not in lake.table(table_names.raw("course")).columns
    log = raw(lake, "logstore_standard_log")
    assert [(row["id"], row["eventname"], row["other"]) for row in log] == [(1, "e", None), (2, "e", None)]
    assert "ip" not in log[0]
    assert not any(row.changed for row in run(lake, moodle).values())


@pytest.mark.parametrize("boundary", ["commit", "load"])
def test_run_that_dies_between_reading_and_committing_is_made_up_for(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch, boundary: str
) -> None:
    fill(database, moodle, COURSE, "INSERT INTO `{p}course` VALUES (1, 'a', 1, ''), (2, 'b', 1, '')")
    log_rows(database, [1, 2])
    run(lake, moodle)
    database.query("UPDATE mdl_course SET fullname = 'z' WHERE id = 1")
    database.query("DELETE FROM mdl_course WHERE id = 2")
    log_rows(database, [3])
    before = {name: snapshots(lake, name) for name in plans(moodle)}

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if boundary == "commit":
            patch.setattr(writers, "merge", dies)
            patch.setattr(writers, "_with_summary", dies)  # when the files are written
        else:  # the rows are read and compared
            patch.setattr(sync_steps.TableSync, "_rows_after", dies)
            patch.setattr(table_sync.AppendSync, "_append_rows", dies)
        with pytest.raises(KeyboardInterrupt):
            ingest_job.run(lake, moodle)
    assert {name: snapshots(lake, name) for name in plans(moodle)} == before
    results = run(lake, moodle)
    assert numbers(results["course"]) == (1, 0, 1, 1)
    assert numbers(results["logstore_standard_log"])[1:] == (1, 0, 0)
    assert_equal(lake, database, moodle)


def test_run_that_dies_before_the_checksums_are_recorded_is_compared_by_the_next(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, moodle, COURSE, "INSERT INTO `{p}course` VALUES (1, 'a', 1, '')")
    log_rows(database, [1, 2])

    def dies(*_: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(committer.Committer, "record_checksums", dies)
        with pytest.raises(LakehouseError, match="3 of 3 tables"):
            ingest_job.run(lake, moodle)
    results = run(lake, moodle)
    assert numbers(results["course"])[1:] == numbers(results["logstore_standard_log"])[1:] == (0, 0, 0)
    assert_equal(lake, database, moodle)
    assert {name: len(snapshots(lake, name)) for name in results} == dict.fromkeys(results, 1)
    assert not any(row.rows_read for row in run(lake, moodle).values())


@pytest.mark.parametrize("change", ["a table", "a policy"])
def test_sync_survives_the_loss_of_a_worker(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """What executors hold is gone when the commit begins."""
    fill(database, moodle, COURSE, "INSERT INTO `{p}course` VALUES (1, 'a', 1, ''), (2, 'b', 1, '')")
    log_rows(database, [1, 2])
    run(lake, with_privacy(moodle, "keep"))
    database.query("UPDATE mdl_course SET fullname = 'z' WHERE id = 1")
    database.query("DELETE FROM mdl_logstore_standard_log WHERE id = 1")
    lost = []

    def without_worker(real: Any, *arguments: Any, **options: Any) -> None:
        for number in lake.sparkContext._jsc.getPersistentRDDs().keySet():
            lake.sparkContext._jsc.sc().env().blockManager().master().removeRdd(number, True)
        lost.append(arguments[1])
        real(*arguments, **options)

    for name in ("merge", "replace"):
        monkeypatch.setattr(writers, name, partial(without_worker, getattr(writers, name)))
    run(lake, moodle if change == "a policy" else with_privacy(moodle, "keep"))
    assert table_names.raw("course") in lost
    assert raw(lake, "course")[0]["fullname"] == "z"
    assert [row["id"] for row in raw(lake, "logstore_standard_log")] == [1, 2]
    assert not lake.sparkContext._jsc.getPersistentRDDs()
    assert not lake.catalog.databaseExists("lakehouse.staging")


@pytest.mark.parametrize("arrives", [True, False], ids=["arrived", "lost"])
@pytest.mark.parametrize("writer", ["replace", "merge"])
def test_commit_of_unknown_outcome_is_looked_up(
    lake: SparkSession,
    database: Server,
    moodle: config.Config,
    monkeypatch: pytest.MonkeyPatch,
    writer: str,
    arrives: bool,
) -> None:
    fill(database, moodle)
    if writer == "merge":
        run(lake, moodle)
    before = len(snapshots(lake, "logstore_standard_log")) if writer == "merge" else 0
    log_rows(database, [1, 2, 3])
    real, calls = getattr(writers, writer), []

    def unknown(*arguments: Any, **options: Any) -> None:
        of_the_log = arguments[1].endswith("log")
        if of_the_log:
            calls.append(arguments[1])
        if arrives or len(calls) != 1 or not of_the_log:
            real(*arguments, **options)
        if of_the_log and len(calls) == 1:
            raise RuntimeError("org.apache.iceberg.exceptions.CommitStateUnknownException: no answer")

    monkeypatch.setattr(writers, writer, unknown)
    results = run(lake, moodle)
    assert results["logstore_standard_log"].inserted == 3
    assert len(calls) == (1 if arrives else 2)
    assert len(snapshots(lake, "logstore_standard_log")) == before + 1
    assert_equal(lake, database, moodle)


def test_second_run_at_once_is_refused(lake: SparkSession, database: Server, moodle: config.Config) -> None:
    fill(database, moodle)
    with mysql.reserved(moodle.moodle, moodle.catalog.uri):
        with pytest.raises(LakehouseError, match=r"Another run copies this Moodle into this lake \(connection \d+"):
            ingest_job.run(lake, moodle)
        with mysql.reserved(moodle.moodle, "another lake"):
            pass
    run(lake, moodle)
    assert_equal(lake, database, moodle)


def test_run_that_another_one_overtakes_doubles_nothing(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the server has lost the lock that keeps runs apart."""
    fill(database, moodle)
    run(lake, moodle)

    def another() -> None:
        assert ingest_job._copy_all(lake, moodle, ingest_job.inspect(moodle), Watch(()))[1] == []

    log_rows(database, [1, 2, 3])
    real, begun = sync_steps.TableSync._rows_after, []

    def overtaken(self: Any, *arguments: Any) -> Any:
        if not begun:
            begun.append(True)
            another()
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sync_steps.TableSync, "_rows_after", overtaken)
        with pytest.raises(LakehouseError, match="Another run wrote this table meanwhile"):
            ingest_job.run(lake, moodle)
    assert_equal(lake, database, moodle)
    # in the last moment, between the look at the table and the merge: the merge finds the rows
    log_rows(database, [4])
    merge: Callable[..., None] = writers.merge
    late: list[bool] = []

    def after_another(*arguments: Any, **options: Any) -> None:
        if not late:
            late.append(True)
            another()
        merge(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(writers, "merge", after_another)
        run(lake, moodle)
    assert_equal(lake, database, moodle)


def test_merge_is_refused_when_others_wrote_the_same_rows_since_it_began(lake: SparkSession) -> None:
    """Iceberg's own validation, by a merge whose changes are computed while another commit happens."""
    table = table_names.raw("contested")
    lake.sql(f"CREATE TABLE {table} (id BIGINT, v STRING) USING iceberg")
    lake.sql(f"INSERT INTO {table} VALUES (1, 'a')")

    def slowly(rows: Any) -> Any:
        time.sleep(6)
        return rows

    changes = (
        lake.createDataFrame([("insert", 2, "b")], "lakehouse_operation string, id bigint, v string")
        .rdd.mapPartitions(slowly)
        .toDF("lakehouse_operation string, id bigint, v string")
    )
    errors: list[str] = []

    def merges() -> None:
        try:
            writers.merge(changes, table, key=["id"], bounds=(1, 9), run_id="r", summary={"x": "y"})
        except Exception as error:
            errors.append(str(error))

    thread = threading.Thread(target=merges)
    thread.start()
    time.sleep(2.5)
    lake.sql(f"INSERT INTO {table} VALUES (2, 'other')")
    thread.join()
    assert len(errors) == 1
    assert "ValidationException" in errors[0]
    assert lake.table(table).count() == 2


def test_mark_is_found_behind_commits_of_maintenance(
    lake: SparkSession, database: Server, moodle: config.Config
) -> None:
    fill(database, moodle)
    log_rows(database, [1])
    run(lake, moodle)
    log_rows(database, [2])
    run(lake, moodle)
    log = table_names.raw("logstore_standard_log")
    mark = sync_state.read(tables.load(lake, log))
    assert mark is not None
    assert (mark.watermark, mark.rows) == (2, 2)
    lake.sql(
        "CALL lakehouse.system.rewrite_data_files(table => 'raw.logstore_standard_log', options => map('rewrite-all', 'true'))"
    )
    assert len(snapshots(lake, "logstore_standard_log")) == 3
    assert sync_state.read(tables.load(lake, log)) == mark
    assert not run(lake, moodle)["logstore_standard_log"].changed
    assert len(snapshots(lake, "logstore_standard_log")) == 3


texts = st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6))
rows = st.tuples(st.integers(1, 8), texts, st.one_of(st.none(), st.integers(-128, 127)))
batches = st.lists(
    st.tuples(st.lists(rows, max_size=6), st.lists(st.integers(1, 8), max_size=3), st.lists(rows, max_size=4)),
    min_size=1,
    max_size=3,
)


@settings(database=None, max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches)
def test_any_sequence_of_changes_arrives(
    lake: SparkSession, database: Server, moodle: config.Config, batches: list[Any]
) -> None:
    if not database.query("SHOW TABLES"):
        fill(database, moodle, COURSE)
    database.query("DELETE FROM mdl_logstore_standard_log")
    known = (
        {row["id"]: row["eventname"] for row in raw(lake, "logstore_standard_log")}
        if tables.exists(lake, table_names.raw("logstore_standard_log"))
        else {}
    )
    for written, deleted, logged in batches:
        insert(database, "REPLACE INTO mdl_course VALUES (%s, %s, %s, '')", written)
        for one in deleted:
            database.query(f"DELETE FROM mdl_course WHERE id = {one}")
        insert(
            database,
            "REPLACE INTO mdl_logstore_standard_log (id, eventname) VALUES (%s, %s)",
            [(i, t or "") for i, t, _ in logged],
        )
        run(lake, moodle)
        assert_equal(lake, database, moodle, "course")
        known.update(database.query("SELECT id, eventname FROM mdl_logstore_standard_log"))
        assert {row["id"]: row["eventname"] for row in raw(lake, "logstore_standard_log")} == known


def test_real_site_before_and_after(
    lake: SparkSession, database: Server, moodle: config.Config, test_data: Path
) -> None:
    folder = test_data / "moodle-4.3"
    load_dump(database, folder / "before.sql.gz")
    run(lake, moodle)
    assert_equal(lake, database, moodle)
    before = {name: (snapshots(lake, name), source_rows(database, plan)) for name, plan in plans(moodle).items()}
    database.query(f"DROP DATABASE {database.database}")
    database_again = dataclasses.replace(database, database="")
    database_again.query(f"CREATE DATABASE {database.database} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
    load_dump(database, folder / "after.sql.gz")
    results = run(lake, moodle)
    changed = 0
    for name, plan in plans(moodle).items():
        made, rows_before = before[name]
        now, rows_now = lake_rows(lake.table(table_names.raw(name)), plan), source_rows(database, plan)
        if plan.table.keeps_purged:
            assert now == rows_before | rows_now, name
        else:
            assert now == rows_now, name
        assert len(snapshots(lake, name)) == len(made) + (rows_now != rows_before), name
        changed += rows_now != rows_before
        if rows_now == rows_before:
            assert not results[name].changed, name
    assert changed > 10
    again = run(lake, moodle)
    assert not any(row.changed or row.rows_read for row in again.values())
