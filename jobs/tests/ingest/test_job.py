"""What is in raw is what was in Moodle's database, with the privacy policy applied: on a real server and real Iceberg."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from away import Way, free_port, served
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.errors import LakehouseError, SourceError
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest import mysql, read_plan, sync_steps, verify
from moodle_lakehouse.lake import availability, table_names, writers
from pyspark.sql import SparkSession
from site_files import load_dump
from small_moodle import fill, insert, raw, snapshots


@pytest.mark.parametrize("range_rows", [read_plan.RANGE_ROWS, 1], ids=["small, by JDBC", "large, by files"])
def test_types_are_exact(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch, range_rows: int
) -> None:
    monkeypatch.setattr(read_plan, "RANGE_ROWS", range_rows)
    by_files, copy = [], writers.replace_with_files
    monkeypatch.setattr(
        writers, "replace_with_files", lambda *args, **kw: (by_files.append(args[1]), copy(*args, **kw))
    )
    text = 'Zoë\'s "quote" \\ back\nline\x00nul 🎓 end'
    moodle = moodle.model_copy(update={"moodle": moodle.moodle.model_copy(update={"extra_tables": ["local_types"]})})
    fill(
        database,
        moodle,
        "CREATE TABLE `{p}local_types` (`id` bigint(10) PRIMARY KEY, `flag` tinyint(1), `small` smallint, `medium` mediumint,"
        " `i` int, `iu` int unsigned, `b` bigint, `bu` bigint unsigned, `d` decimal(10,5), `big` decimal(38,10), `f` double,"
        " `y` year, `r` float, `j` json, `t` datetime) DEFAULT CHARSET=utf8mb4",
        "INSERT INTO `{p}local_types` VALUES (1, 4, -32768, -8388608, -2147483648, 4294967295, -9223372036854775808,"
        " 18446744073709551615, 12345.67890, 1234567890123456789012345678.0123456789, 0.1, 2024, 0.1234567,"
        " '{\"b\": 1,  \"a\": 2}', '0000-00-00 00:00:00'), (2" + ", NULL" * 14 + ")",
        "CREATE TABLE `{p}page` (`id` bigint(10) PRIMARY KEY, `name` longtext, `content` longblob) DEFAULT CHARSET=utf8mb4",
    )
    insert(
        database,
        "INSERT INTO `mdl_page` VALUES (%s, %s, %s)",
        [(1, text, b"\x00\xff"), (2, "", b""), (3, None, None)],
    )
    kept = moodle.model_copy(update={"privacy": moodle.privacy.model_copy(update={"mode": "keep"})})
    ingest_job.run(lake, kept)
    assert sorted(by_files) == ([table_names.raw("local_types"), table_names.raw("page")] if range_rows == 1 else [])
    types = raw(lake, "local_types")
    assert types[0] == {
        "id": 1, "flag": 4, "small": -32768, "medium": -8388608, "i": -2147483648, "iu": 4294967295,
        "b": -9223372036854775808, "bu": Decimal("18446744073709551615"), "d": Decimal("12345.67890"),
        "big": Decimal("1234567890123456789012345678.0123456789"), "f": 0.1, "y": 2024,
        "r": 0.12345670163631439, "j": '{"b": 1,  "a": 2}', "t": "0000-00-00 00:00:00",
    }  # fmt: skip
    assert set(types[1].values()) == {2, None}
    assert raw(lake, "page") == [
        {"id": 1, "name": text, "content": bytearray(b"\x00\xff")},
        {"id": 2, "name": "", "content": bytearray(b"")},
        {"id": 3, "name": None, "content": None},
    ]


def test_privacy_is_applied_at_the_source(lake: SparkSession, database: Server, moodle: config.Config) -> None:
    deleted = {
        "userenrolment": {"id": "5", "userid": "7", "timestart": "9", "modifierid": "2"},
        "enrol": "manual",
        "x": "y",
    }
    fill(
        database,
        moodle,
        "ALTER TABLE `{p}user` ADD `email` varchar(100), ADD `shoe` varchar(9), ADD `deleted` tinyint(1)",
    )
    insert(database, "INSERT INTO mdl_user VALUES (%s, %s, %s, %s)", [(7, "a@example.org", "44", 0)])
    events = [
        (1, r"\core\event\user_enrolment_deleted", json.dumps(deleted), "10.0.0.1"),
        (2, r"\core\event\user_login_failed", json.dumps({"username": "typed"}), "10.0.0.1"),
        (3, r"\core\event\user_enrolment_deleted", "no json", None),
    ]
    insert(
        database,
        "INSERT INTO mdl_logstore_standard_log (id, eventname, other, ip) VALUES (%s, %s, %s, %s)",
        events,
    )
    result = ingest_job.run(lake, moodle)
    assert raw(lake, "user") == [{"id": 7, "deleted": 0}]
    log = raw(lake, "logstore_standard_log")
    assert set(log[0]) == {"id", "eventname", "edulevel", "other", "timecreated"}
    assert [row["other"] if row["other"] is None else json.loads(row["other"]) for row in log][1:] == [None, None]
    kept = json.loads(log[0]["other"])
    assert kept["enrol"] == "manual"
    assert {k: v for k, v in kept["userenrolment"].items() if v is not None} == {
        "id": "5",
        "userid": "7",
        "timestart": "9",
    }
    assert set(kept) == {"enrol", "userenrolment"}
    (user,) = [t for t in result.tables if t.table == "user"]
    assert user.note == "shoe is text that the catalogue does not know; left out"


def test_profile_fields_are_kept_when_configured(lake: SparkSession, database: Server, moodle: config.Config) -> None:
    fill(
        database,
        moodle,
        "CREATE TABLE `{p}user_info_field` (`id` bigint(10) PRIMARY KEY, `shortname` varchar(255))",
        "CREATE TABLE `{p}user_info_data` (`id` bigint(10) PRIMARY KEY, `fieldid` bigint(10), `data` longtext)",
        "INSERT INTO `{p}user_info_field` VALUES (1, 'gender'), (2, 'shoe size')",
        "INSERT INTO `{p}user_info_data` VALUES (1, 1, 'F'), (2, 2, '44')",
    )
    ingest_job.run(lake, moodle)
    assert [row["data"] for row in raw(lake, "user_info_data")] == [None, None]
    analytics = moodle.analytics.model_copy(update={"profile_fields": ["gender"]})
    ingest_job.run(lake, moodle.model_copy(update={"analytics": analytics}))
    assert [row["data"] for row in raw(lake, "user_info_data")] == ["F", None]


def test_large_tables_are_read_in_ranges_without_loss(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_plan, "RANGE_ROWS", 100)
    fill(database, moodle)
    ids = [*range(1, 400), 5000, 9007199254740993]  # gaps, and more than a double can tell apart
    insert(database, "INSERT INTO mdl_logstore_standard_log (id, eventname) VALUES (%s, 'e')", [(i,) for i in ids])
    result = ingest_job.run(lake, moodle)
    assert [row["id"] for row in raw(lake, "logstore_standard_log")] == ids
    (log,) = [t for t in result.tables if t.table == "logstore_standard_log"]
    assert (log.rows_read, log.inserted, log.note) == (401, 401, "")


def test_second_run_writes_differences_and_keeps_history(
    lake: SparkSession, database: Server, moodle: config.Config
) -> None:
    fill(database, moodle, "INSERT INTO `{p}course` VALUES (1), (2)")
    ingest_job.run(lake, moodle)
    database.query("DELETE FROM mdl_course WHERE id = 1")
    database.query("ALTER TABLE mdl_course ADD visible tinyint(1)")
    ingest_job.run(lake, moodle)
    assert raw(lake, "course") == [{"id": 2, "visible": None}]
    made = snapshots(lake, "course")
    assert len(made) == 2
    before = lake.read.option("snapshot-id", made[0]).table(table_names.raw("course"))
    assert sorted(row["id"] for row in before.collect()) == [1, 2]


@pytest.mark.parametrize("earlier", [False, True], ids=["first load", "later"])
def test_rows_that_arrive_meanwhile_wait_for_the_next_run(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    fill(database, moodle)
    if earlier:
        ingest_job.run(lake, moodle)
    database.query("INSERT INTO mdl_course VALUES (1), (2)")
    reading = sync_steps.TableSync._read

    def changed(self: Any, *arguments: Any) -> Any:
        if self.plan.table.name == "course":
            database.query("INSERT IGNORE INTO mdl_course VALUES (3)")
            database.query("DELETE FROM mdl_course WHERE id = 1")
        return reading(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sync_steps.TableSync, "_read", changed)
        (course,) = [t for t in ingest_job.run(lake, moodle).tables if t.table == "course"]
    assert course.inserted == 1
    assert course.note == "changed while it was read (2 rows at the start)"
    assert [row["id"] for row in raw(lake, "course")] == [2]
    ingest_job.run(lake, moodle)
    assert [row["id"] for row in raw(lake, "course")] == [2, 3]


def test_source_that_returns_to_what_it_was_before_the_reading_is_read_again(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, moodle, "INSERT INTO `{p}course` VALUES (1), (2)")
    reading = sync_steps.TableSync._read

    def changed(self: Any, *arguments: Any) -> Any:
        database.query("DELETE FROM mdl_course WHERE id = 1")
        return reading(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sync_steps.TableSync, "_read", changed)
        ingest_job.run(lake, moodle)
    assert [row["id"] for row in raw(lake, "course")] == [2]
    database.query("INSERT INTO mdl_course VALUES (1)")
    ingest_job.run(lake, moodle)
    assert [row["id"] for row in raw(lake, "course")] == [1, 2]


def test_other_prefix_and_foreign_tables(lake: SparkSession, database: Server, moodle: config.Config) -> None:
    moodle = moodle.model_copy(update={"moodle": moodle.moodle.model_copy(update={"prefix": "m2_"})})
    fill(database, moodle, "CREATE TABLE `{p}config` (`id` bigint(10))", "CREATE TABLE `mdl_role` (`id` bigint(10))")
    result = ingest_job.run(lake, moodle)
    assert [t.table for t in result.tables] == ["course", "logstore_standard_log", "user"]
    assert result.unlisted == ["config"]
    assert "role" in result.missing


def test_run_is_recorded(lake: SparkSession, database: Server, moodle: config.Config) -> None:
    fill(database, moodle, "INSERT INTO `{p}course` VALUES (1)")
    ingest_job.run(lake, moodle)
    (row,) = lake.table(table_names.JOB_RUN).collect()
    assert (row["job"], row["status"]) == ("ingest", "done")
    detail = json.loads(row["detail"])
    assert (list(detail["tables"]), detail["unchanged"]) == (["course"], 2)
    assert {k: detail["tables"]["course"][k] for k in ("rows_read", "inserted", "updated", "deleted")} == {
        "rows_read": 1,
        "inserted": 1,
        "updated": 0,
        "deleted": 0,
    }
    assert row["started_at"] < row["finished_at"]


def test_failing_table_fails_the_run_and_leaves_the_others(
    lake: SparkSession, database: Server, moodle: config.Config
) -> None:
    fill(database, moodle, "INSERT INTO `{p}course` VALUES (1)")
    site = ingest_job.inspect(moodle)
    database.query("DROP TABLE mdl_user")
    with pytest.raises(LakehouseError, match=r"1 of 3 tables could not be copied(?s:.*)user: .*mdl_user"):
        ingest_job.run(lake, moodle, site)
    assert raw(lake, "course") == [{"id": 1}]
    (row,) = lake.table(table_names.JOB_RUN).collect()
    assert (row["job"], row["status"]) == ("ingest", "failed")


GRADES = "CREATE TABLE `{p}quiz_grades` (`id` bigint(10) PRIMARY KEY, `grade` decimal(10,5), `timemodified` bigint(10))"
VERSIONING = {
    "implicit": "ALTER TABLE mdl_quiz_grades ADD SYSTEM VERSIONING",
    "explicit": "ALTER TABLE mdl_quiz_grades ADD since timestamp(6) GENERATED ALWAYS AS ROW START,"
    " ADD until timestamp(6) GENERATED ALWAYS AS ROW END, ADD PERIOD FOR SYSTEM_TIME (since, until), ADD SYSTEM VERSIONING",
}


@pytest.mark.parametrize("versioning", list(VERSIONING))
def test_system_versioned_tables_and_views_are_read(
    lake: SparkSession, database: Server, moodle: config.Config, versioning: str
) -> None:
    fill(database, moodle, GRADES, "INSERT INTO `{p}quiz_grades` VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3)")
    database.query("INSERT INTO mdl_course VALUES (1), (2)")
    ingest_job.run(lake, moodle)
    database.query(VERSIONING[versioning])
    database.query("DELETE FROM mdl_quiz_grades WHERE id = 2")
    database.query("UPDATE mdl_quiz_grades SET grade = 9 WHERE id = 3")
    database.query("RENAME TABLE mdl_course TO all_courses")
    database.query("CREATE VIEW mdl_course AS SELECT * FROM all_courses WHERE id < 9")
    database.query("INSERT INTO mdl_course VALUES (3)")
    database.query("INSERT INTO all_courses VALUES (9)")
    ingest_job.run(lake, moodle)
    assert [(row["id"], row["grade"]) for row in raw(lake, "quiz_grades")] == [(1, 1), (3, 9)]
    assert [row["id"] for row in raw(lake, "course")] == [1, 2, 3]
    assert not verify.run(lake, moodle, ingest_job.inspect(moodle)).differing
    assert not any(table.changed for table in ingest_job.run(lake, moodle).tables)


def test_table_that_the_source_no_longer_shows_fails_alone(
    lake: SparkSession, database: Server, moodle: config.Config
) -> None:
    fill(database, moodle, GRADES, "INSERT INTO `{p}quiz_grades` VALUES (1, 1, 1), (2, 2, 2)")
    ingest_job.run(lake, moodle)
    lake.sql(f"CREATE TABLE {table_names.raw('of_an_operator')} (id BIGINT) USING iceberg")
    database.query("RENAME TABLE mdl_quiz_grades TO hidden")
    database.query("INSERT INTO mdl_course VALUES (7)")
    with pytest.raises(LakehouseError) as caught:
        ingest_job.run(lake, moodle)
    assert "1 of 4 tables could not be copied" in str(caught.value)
    assert "quiz_grades: the lake holds this table, and Moodle's database no longer shows it" in str(caught.value)
    assert "DROP TABLE lakehouse.raw.quiz_grades PURGE" in str(caught.value)
    assert "of_an_operator" not in str(caught.value)
    assert [row["id"] for row in raw(lake, "course")] == [7]
    assert len(raw(lake, "quiz_grades")) == 2
    with pytest.raises(verify.DifferentError) as differs:
        verify.run(lake, moodle, ingest_job.inspect(moodle))
    (table,) = differs.value.result.differing
    assert (table.table, table.source_rows, table.lake_rows) == ("quiz_grades", 0, 2)
    assert "no longer shows it" in table.note
    lake.sql(f"DROP TABLE {table_names.raw('quiz_grades')} PURGE")
    ingest_job.run(lake, moodle)


SITE = (
    "CREATE TABLE `{p}config` (`id` bigint(10) PRIMARY KEY, `name` varchar(255), `value` longtext)",
    "INSERT INTO `{p}config` VALUES (1, 'siteidentifier', 'one'), (2, 'theme', 'boost')",
    "ALTER TABLE `{p}course` ADD `timecreated` bigint(10)",
    "ALTER TABLE `{p}user` ADD `timecreated` bigint(10)",
    "INSERT INTO `{p}course` VALUES (1, 1000), (2, 2000)",
    "INSERT INTO `{p}user` VALUES (1, 1001)",
)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE mdl_config SET value = 'two' WHERE id = 1", "another siteidentifier;"),
        ("UPDATE mdl_course SET timecreated = 5 WHERE id = 1", "another creation of the first course;"),
        ("UPDATE mdl_user SET timecreated = 5 WHERE id = 1", "another creation of the first user;"),
    ],
)
def test_another_site_is_refused_before_anything_is_written(
    lake: SparkSession, database: Server, moodle: config.Config, change: str, told: str
) -> None:
    fill(database, moodle, *SITE)
    ingest_job.run(lake, moodle)
    database.query("UPDATE mdl_course SET timecreated = 3000 WHERE id = 2")
    ingest_job.run(lake, moodle)
    before = {name: snapshots(lake, name) for name in ("course", "user", "logstore_standard_log")}
    database.query(change)
    database.query("INSERT INTO mdl_course VALUES (7, 1)")
    with pytest.raises(LakehouseError, match=f"This is another Moodle than the one that the lake is of: {told}"):
        ingest_job.run(lake, moodle)
    assert {name: snapshots(lake, name) for name in before} == before
    ingest_job.run(lake, moodle, same_site=True)
    assert [row["id"] for row in raw(lake, "course")] == [1, 2, 7]
    ingest_job.run(lake, moodle)
    assert lake.table(table_names.MOODLE_SITE).count() == 2


def test_identity_that_becomes_known_later_counts_from_then_on(
    lake: SparkSession, database: Server, moodle: config.Config
) -> None:
    fill(database, moodle)
    ingest_job.run(lake, moodle)
    for statement in SITE:
        database.query(statement.replace("{p}", "mdl_"))
    ingest_job.run(lake, moodle)
    database.query("DROP TABLE mdl_config")
    ingest_job.run(lake, moodle)
    database.query("UPDATE mdl_course SET timecreated = 5 WHERE id = 1")
    with pytest.raises(LakehouseError, match="another creation of the first course"):
        ingest_job.run(lake, moodle)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(mysql, "RETRY_DELAYS", (0.1,))


def when_the_course_is_read(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """Do something once, when the rows of the course are about to be read."""
    reading, done = sync_steps.TableSync._read, []

    def read(self: Any, *arguments: Any) -> Any:
        if self.plan.table.name == "course" and not done:
            done.append(True)
            do()
        return reading(self, *arguments)

    monkeypatch.setattr(sync_steps.TableSync, "_read", read)


@pytest.mark.usefixtures("soon")
def test_source_that_is_away_is_named_and_waited_for(
    lake: SparkSession,
    database: Server,
    moodle: config.Config,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    way = Way(database.host, database.port)
    moodle = moodle.model_copy(
        update={"moodle": moodle.moodle.model_copy(update={"host": "127.0.0.1", "port": way.port})}
    )
    fill(database, moodle, "INSERT INTO `{p}course` VALUES (1), (2)")

    def away() -> None:
        way.close()
        threading.Timer(3, way.open).start()

    when_the_course_is_read(monkeypatch, away)
    ingest_job.run(lake, moodle)
    assert [row["id"] for row in raw(lake, "course")] == [1, 2]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    (told, *_, back) = [text for text in warned if text.startswith("Moodle's database")]
    assert f"where:  {moodle.moodle.endpoint}" in told
    assert "answers again" in back
    assert not verify.run(lake, moodle, ingest_job.inspect(moodle)).differing


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("returns", [True, False], ids=["returns", "stays away"])
def test_store_that_is_away_is_named_and_waited_for(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch, returns: bool
) -> None:
    """The store is a folder, and what says whether it answers is a server that goes away with it."""
    port = free_port()
    url, folder = f"http://127.0.0.1:{port}", Path(lake.conf.get("spark.sql.catalog.lakehouse.warehouse")) / "raw"
    monkeypatch.setattr(availability, "of_lake", lambda _: availability.parts_of({"s3.endpoint": url}.get))
    fill(database, moodle, "INSERT INTO `{p}course` VALUES (1), (2)")
    with ExitStack() as store:
        store.enter_context(served(port))

        def back() -> None:
            folder.chmod(0o755)
            store.enter_context(served(port))

        def away() -> None:
            store.close()
            folder.chmod(0)
            if returns:
                threading.Timer(2, back).start()

        when_the_course_is_read(monkeypatch, away)
        try:
            if returns:
                ingest_job.run(lake, moodle)
                assert [row["id"] for row in raw(lake, "course")] == [1, 2]
                return
            monkeypatch.setattr(availability, "WAIT_SECONDS", 1)
            with pytest.raises(LakehouseError) as caught:
                ingest_job.run(lake, moodle)
        finally:
            folder.chmod(0o755)
    assert "The object store does not answer: the connection is refused" in str(caught.value)
    assert caught.value.where == url
    assert "docker compose logs minio" in str(caught.value.remedy)
    ingest_job.run(lake, moodle)
    assert [row["id"] for row in raw(lake, "course")] == [1, 2]


@pytest.mark.parametrize(
    ("change", "message", "remedy"),
    [
        ({"port": 1}, "Can't connect", "check that the database runs"),
        ({"user": "nobody"}, "Access denied", "check moodle user and password"),
        ({"database": "lakehouse_test_none"}, "Unknown database", "check the name of Moodle's database"),
        ({"prefix": "none_"}, "has no table none_course, none_user", "Moodle's prefix (now 'none_')"),
    ],
)
def test_source_that_cannot_be_used_is_told(
    database: Server,
    moodle: config.Config,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
    remedy: str,
) -> None:
    monkeypatch.setattr(mysql, "RETRY_DELAYS", ())
    fill(database, moodle)
    wrong = moodle.model_copy(update={"moodle": moodle.moodle.model_copy(update=change)})
    with pytest.raises(SourceError) as caught:
        ingest_job.inspect(wrong)
    assert message in str(caught.value)
    assert remedy in str(caught.value)
    assert wrong.moodle.endpoint in str(caught.value)


def test_real_site_arrives_whole_and_without_personal_data(
    lake: SparkSession, database: Server, moodle: config.Config, test_data: Path
) -> None:
    load_dump(database, test_data / "moodle-4.3" / "before.sql.gz")
    result = ingest_job.run(lake, moodle)
    assert len(result.tables) == 48
    for row in result.tables:
        expected = database.value(f"SELECT COUNT(*) FROM `mdl_{row.table}`")
        assert (row.rows_read, row.inserted, lake.table(table_names.raw(row.table)).count()) == (expected,) * 3
        assert row.note == ""  # the catalogue knows every column
    levels = database.query("SELECT edulevel, COUNT(*) FROM mdl_logstore_standard_log GROUP BY 1")
    found = lake.table(table_names.raw("logstore_standard_log")).groupBy("edulevel").count().collect()
    assert {tuple(row) for row in found} == set(levels)

    people = database.query("SELECT username, email, lastname, lastip FROM mdl_user WHERE id > 2")
    personal = {str(value) for row in people for value in row if value}
    assert len(personal) > 100
    for row in lake.sql(f"SHOW TABLES IN {table_names.CATALOG}.raw").collect():
        df = lake.table(table_names.raw(row["tableName"]))
        for name in [f.name for f in df.schema.fields if f.dataType.simpleString() == "string"]:
            found = {value for (value,) in df.select(name).distinct().collect() if value}
            assert found.isdisjoint(personal), (row["tableName"], name)
            assert not any("tool_generator" in value or "@example" in value for value in found), (
                row["tableName"],
                name,
            )
