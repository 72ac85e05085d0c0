"""verify finds what differs between a real server and real Iceberg tables, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import reduce
from typing import Any

import pytest
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.cli import main
from moodle_lakehouse.errors import ConfigError
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest import row_checksum, verify
from moodle_lakehouse.ingest.verify import Difference, DifferentError, TableCheck
from moodle_lakehouse.lake import session, table_names
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from small_moodle import fill, insert, lake_rows, plans, source_rows

COURSE = "ALTER TABLE `{p}course` ADD `fullname` varchar(255), ADD `visible` tinyint(1)"
PLAIN = "CREATE TABLE `{p}local_plain` (`id` bigint(10), `n` int(9)) DEFAULT CHARSET=utf8mb4"


def check(lake: SparkSession, moodle: config.Config, *names: str) -> dict[str, TableCheck]:
    """What verify says of each table, equal or not."""
    site = ingest_job.inspect(moodle)
    try:
        result = verify.run(lake, moodle, site, names)
    except DifferentError as error:
        result = error.result
        assert not result.failures
    return {one.table: one for one in result.tables}


def log_rows(database: Server, ids: Sequence[int]) -> None:
    insert(database, "INSERT INTO mdl_logstore_standard_log (id, eventname) VALUES (%s, 'e')", [(i,) for i in ids])


def with_extra(moodle: config.Config, *names: str) -> config.Config:
    return moodle.model_copy(
        update={
            "moodle": moodle.moodle.model_copy(update={"extra_tables": list(names)}),
            "privacy": moodle.privacy.model_copy(update={"mode": "keep"}),
        }
    )


TYPES = """CREATE TABLE `{p}local_types` (`id` bigint(10) PRIMARY KEY, `tiny` tinyint(1), `whole` int unsigned, `big` bigint,
 `unsigned` bigint unsigned, `d5` decimal(10,5), `d10` decimal(20,10), `d30` decimal(38,30), `d0` decimal(12,0), `f` float,
 `f2` float(8,2), `double` double, `text` longtext, `latin` varchar(20) CHARACTER SET latin1, `bytes` longblob, `bit` bit(64),
 `day` date, `moment` datetime(3), `choice` enum('a','ü'), `y` year) DEFAULT CHARSET=utf8mb4"""
NULLS = (None,) * 19
VALUES: list[tuple[Any, ...]] = [
    (1, *NULLS),
    (2, 4, 2**32 - 1, 2**63 - 1, 2**64 - 1, "-12345.00001", "0.0000000001", "-0." + "0" * 29 + "1", "-999999999999",
     0.1, 123456.78, 1 / 3, "a\x00b'\"\\\n\t\r\U0001f393 ü", "Grüße", bytes(range(256)), 2**63, "2014-02-28",
     "2014-02-28 12:34:56.789", "ü", 2014),
    (3, 0, 0, -(2**63), 0, "0", "0", "0", "0", 0.0, 0.0, 0.0, "", "", b"", 0, "0000-00-00", "0000-00-00 00:00:00", "a", 0),
    (4, -128, 1, -1, 1, "99999.99999", "-9999999999.9999999999", "12345678.123456789012345678901234567891", "1", 16777217.0,
     -0.01, -0.0, ",", " trailing ", b"\x00", 1, "9999-12-31", "1970-01-01 00:00:00.001", "", 1901),
    (5, 1, 1, 1, 1, "1", "1", "1", "1", 3.4028234e38, 999999.99, 1.7976931348623157e308, "1,2", "x", b",", 2**64 - 1, None, None,
     None, 2155),
    (6, 1, 1, 1, 1, "1", "1", "1", "1", 1.17549435e-38, 1.0, 5e-324, "e\u0301", "x", b"\xff", 1, None, None, None, None),
    (7, 1, 1, 1, 1, "1", "1", "1", "1", 1.4e-45, 1.0, 2.2250738585072014e-308, "\u00e9", "x", b"1", 1, None, None, None, None),
    (8, 1, 1, 1, 1, "1", "1", "1", "1", 123456789.0, 1.0, 5.684341886080802e-14, "MD5", "x", b"1", 1, None, None, None, None),
    (9, 1, 1, 1, 1, "1", "1", "1", "1", 0.3333333, 1.0, 2e23, "null", "x", b"1", 1, None, None, None, None),
]  # fmt: skip


def test_every_type_has_one_checksum_on_both_sides(lake: SparkSession, database: Server, moodle: config.Config) -> None:
    moodle = with_extra(moodle, "local_types")
    fill(database, moodle, TYPES)
    database_rows(database)
    ingest_job.run(lake, moodle)
    plan = plans(moodle)["local_types"]
    assert lake_rows(lake.table(table_names.raw("local_types")), plan) == source_rows(database, plan)
    told = check(lake, moodle, "local_types")["local_types"]
    assert (told.source_rows, told.lake_rows, told.differences) == (9, 9, ())
    # every column counts: without one of them a row has another hash
    df = lake.table(table_names.raw("local_types")).where("id = 2")
    altered = [df.withColumn(f.name, F.lit(None).cast(f.dataType)) for f in df.schema.fields]
    hashes = [one.select(row_checksum.spark_hash(plan, one.schema)) for one in (df, *altered)]
    assert len(set(reduce(DataFrame.unionAll, hashes).collect())) == len(hashes)


def test_text_that_moves_over_the_border_of_two_columns_differs(
    lake: SparkSession, database: Server, moodle: config.Config
) -> None:
    moodle = with_extra(moodle, "local_pair")
    fill(database, moodle, "CREATE TABLE `{p}local_pair` (`id` bigint(10) PRIMARY KEY, `a` varchar(9), `b` varchar(9))")
    insert(
        database, "INSERT INTO mdl_local_pair VALUES (%s, %s, %s)", [(1, "x,y", "z"), (2, "x,1:y", "z"), (3, "", "1:x")]
    )
    ingest_job.run(lake, moodle)
    assert check(lake, moodle, "local_pair")["local_pair"].equal
    for row, first, second in ((1, "x", "y,z"), (2, "x", "1:y,z"), (3, "1:x", "")):
        database.query(f"UPDATE mdl_local_pair SET a = '{first}', b = '{second}' WHERE id = {row}")
    (difference,) = check(lake, moodle, "local_pair")["local_pair"].differences
    assert (difference.low, difference.high, difference.changed) == (1, 3, 3)


def database_rows(database: Server) -> None:
    """The values as they are, zero dates included."""
    with database.connect(init_command="SET SESSION sql_mode = ''") as connection, connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO mdl_local_types VALUES ({', '.join(['%s'] * 20)})", VALUES)


def test_differences_are_named_and_what_arrived_or_was_purged_is_none(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "MIN_RANGE_IDS", 10)
    moodle = with_extra(moodle, "local_plain")
    fill(database, moodle, COURSE, PLAIN, "INSERT INTO `{p}local_plain` VALUES (1, 1), (1, 1), (2, NULL)")
    insert(database, "INSERT INTO mdl_course VALUES (%s, 'c', 1)", [(i,) for i in range(1, 51)])
    log_rows(database, range(1, 301))
    ingest_job.run(lake, moodle)
    equal = check(lake, moodle)
    assert {name: (one.source_rows, one.lake_rows, one.differences) for name, one in equal.items()} == {
        "course": (50, 50, ()),
        "local_plain": (3, 3, ()),
        "logstore_standard_log": (300, 300, ()),
        "user": (0, 0, ()),
    }

    # the source goes on
    database.query("INSERT INTO mdl_course VALUES (51, 'new', 1)")
    log_rows(database, range(301, 306))
    database.query("DELETE FROM mdl_logstore_standard_log WHERE id <= 105 OR id IN (120, 130)")
    told = check(lake, moodle)
    assert all(one.equal for one in told.values())
    assert (told["course"].arrived, told["logstore_standard_log"].arrived) == (1, 5)
    assert [(one.purged, one.source_rows, one.lake_rows) for one in [told["logstore_standard_log"]]] == [
        (107, 193, 300)
    ]

    # the lake is damaged
    course, log = table_names.raw("course"), table_names.raw("logstore_standard_log")
    lake.sql(f"DELETE FROM {course} WHERE id IN (7, 8, 50)")
    lake.sql(f"UPDATE {course} SET fullname = NULL WHERE id = 20")
    lake.sql(f"INSERT INTO {course} SELECT * FROM {course} WHERE id = 30")
    lake.sql(f"INSERT INTO {course} VALUES (0, 'never there', 1)")
    lake.sql(f"DELETE FROM {log} WHERE id IN (110, 200)")
    lake.sql(f"UPDATE {table_names.raw('local_plain')} SET n = 2 WHERE id = 2")
    told = check(lake, moodle)
    assert told["course"].differences == (
        Difference(0, 0, 0, 1, extra=1),
        Difference(7, 8, 2, 0, missing=2),
        Difference(20, 20, 1, 1, changed=1),
        Difference(30, 30, 1, 2, doubled=1),
        Difference(50, 50, 1, 0, missing=1),
    )
    assert told["course"].arrived == 1
    assert told["logstore_standard_log"].differences == (
        Difference(110, 110, 1, 0, missing=1),
        Difference(200, 200, 1, 0, missing=1),
    )
    assert told["logstore_standard_log"].purged == 107
    assert told["local_plain"].differences == (Difference(None, None, 3, 3),)
    assert told["local_plain"].note == "no key: only the whole is compared"
    assert told["user"].equal

    # too many rows to name each
    monkeypatch.setattr(verify, "MAX_ROWS_NAMED", 1)
    monkeypatch.setattr(verify, "SPLITS", 2)
    ranges = check(lake, moodle, "logstore_standard_log")["logstore_standard_log"].differences
    assert ranges == (Difference(106, 110, 5, 4, missing=1), Difference(196, 200, 5, 4, missing=1))

    # ingest explains what Moodle changed; a run in between and it is equal
    database.query("UPDATE mdl_course SET fullname = 'other' WHERE id = 3")
    lake.sql(f"DROP TABLE {course} PURGE")
    assert check(lake, moodle, "course")["course"].note == "not in the lake"
    ingest_job.run(lake, moodle)
    assert check(lake, moodle, "course")["course"].equal


def test_row_changed_since_the_last_ingest_differs_until_the_next(
    lake: SparkSession,
    database: Server,
    moodle: config.Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(database, moodle, COURSE, "INSERT INTO `{p}course` VALUES (1, 'a', 1), (2, 'b', 1)")
    ingest_job.run(lake, moodle)
    database.query("UPDATE mdl_course SET fullname = 'z' WHERE id = 2")
    monkeypatch.setattr(config, "load", lambda: moodle)
    monkeypatch.setattr(session, "create", lambda *_, **__: lake)
    monkeypatch.setattr(type(lake), "stop", lambda _: None)
    assert main.run(["verify"]) == 1
    out, err = capsys.readouterr()
    (line,) = [one.split() for one in out.splitlines() if one.strip().startswith("course") and " 2 " in one][:1]
    assert line == ["course", "2", "1", "1", "1"]
    assert "Equal: 2 of 3 tables" in out
    assert "1 of 3 tables differ from the source" in err
    assert "what Moodle changed since the last ingest differs, too: run ingest, then verify again" in err
    assert main.run(["verify", "--format", "json", "--table", "course"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["equal"] is False
    (course,) = document["tables"]
    assert (course["table"], course["equal"], len(course["differences"])) == ("course", False, 1)
    assert course["differences"][0]["low"] == course["differences"][0]["high"] == 2
    runs = lake.table(table_names.JOB_RUN).where("job = 'verify'").orderBy("started_at").collect()
    assert [row["status"] for row in runs] == ["failed", "failed"]
    assert json.loads(runs[0]["detail"])["differing"]["course"][0]["low"] == 2
    ingest_job.run(lake, moodle)
    capsys.readouterr()
    assert main.run(["verify", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"] is True


def test_connections_stay_within_the_limit(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "MIN_RANGE_IDS", 10)
    moodle = moodle.model_copy(update={"moodle": moodle.moodle.model_copy(update={"max_connections": 1})})
    fill(database, moodle)
    log_rows(database, range(1, 101))
    ingest_job.run(lake, moodle)
    lake.sql(f"DELETE FROM {table_names.raw('logstore_standard_log')} WHERE id % 30 = 0")
    told = check(lake, moodle)["logstore_standard_log"]
    assert [one.low for one in told.differences] == [30, 60, 90]


def test_unknown_table_is_refused(database: Server, moodle: config.Config) -> None:
    fill(database, moodle)
    with pytest.raises(
        ConfigError, match=r"by the name mdl_course(?s:.*)there are: course, logstore_standard_log, user"
    ):
        verify.chosen(ingest_job.inspect(moodle), ["course", "mdl_course"])
