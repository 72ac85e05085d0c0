"""Hashed columns: what executors are told holds no key, and the lake holds the keyed hashes all the same."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.ingest import arrow_reader, hashed_columns, jdbc_reader, read_plan, verify
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest.verify import DifferentError
from moodle_lakehouse.lake import snapshots, table_names, tables
from pyspark.sql import DataFrame, SparkSession
from small_moodle import fill, insert, plans, raw

IDNUMBER = "ALTER TABLE `{p}user` ADD `idnumber` varchar(99), ADD `phone` bigint(10)"
PEOPLE = [(1, "straße 'x'\\", 7), (2, "", 7), (3, None, None), (4, "7", 0)]


@pytest.fixture
def site(lake: SparkSession, database: Server, moodle: config.Config) -> config.Config:
    fill(database, moodle, IDNUMBER)
    insert(database, "INSERT INTO mdl_user VALUES (%s, %s, %s)", PEOPLE)
    insert(database, "INSERT INTO mdl_logstore_standard_log (id, eventname, ip) VALUES (%s, 'e', %s)", [
        (1, "10.0.0.1"), (2, "10.0.0.2"), (3, "10.0.0.1"), (4, None)
    ])  # fmt: skip
    columns = {"user": {"idnumber": "hash", "phone": "hash"}, "logstore_standard_log": {"ip": "hash"}}
    return moodle.model_copy(update={"moodle": moodle.moodle.model_copy(update={"columns": columns})})


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that executors are sent."""
    sent: list[str] = []
    real = jdbc_reader.read_query

    def noted(*args: Any, **kwargs: Any) -> DataFrame:
        sent.extend([args[2], *args[4]])
        return real(*args, **kwargs)

    monkeypatch.setattr(jdbc_reader, "read_query", noted)
    copy = arrow_reader.writer

    def copied(*args: Any, **kwargs: Any) -> Any:
        assert not any(column.hashed for column in args[2].columns), "tasks of this reader hold the plan"
        return copy(*args, **kwargs)

    monkeypatch.setattr(arrow_reader, "writer", copied)
    return sent


def hashed(site: config.Config, value: object) -> str | None:
    key = site.privacy.hash_key()
    return None if value is None else hmac.new(key, str(value).encode(), hashlib.sha256).hexdigest()


def in_lake(lake: SparkSession, site: config.Config, people: list[tuple[Any, ...]]) -> bool:
    expected = [(number, hashed(site, idnumber), hashed(site, phone)) for number, idnumber, phone in people]
    return [(row["id"], row["idnumber"], row["phone"]) for row in raw(lake, "user")] == expected


@pytest.mark.parametrize("range_rows", [read_plan.RANGE_ROWS, 1], ids=["at once", "in ranges"])
def test_executors_never_hold_the_key(
    lake: SparkSession, database: Server, site: config.Config, statements: list[str],
    monkeypatch: pytest.MonkeyPatch, range_rows: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(read_plan, "RANGE_ROWS", range_rows)
    ingest_job.run(lake, site)
    assert in_lake(lake, site, PEOPLE)
    assert [row["ip"] for row in raw(lake, "logstore_standard_log")] == [
        hashed(site, ip) for ip in ("10.0.0.1", "10.0.0.2", "10.0.0.1", None)
    ]
    written = [snapshots.snapshot_id(tables.load(lake, table_names.raw(name))) for name in plans(site)]
    ingest_job.run(lake, site)
    assert [snapshots.snapshot_id(tables.load(lake, table_names.raw(name))) for name in plans(site)] == written

    database.query("UPDATE mdl_user SET idnumber = 'new' WHERE id = 2")
    with pytest.raises(DifferentError) as different:
        verify.run(lake, site, ingest_job.inspect(site))
    (user,) = different.value.result.differing
    assert (user.table, [one.changed for one in user.differences]) == ("user", [1])
    insert(database, "INSERT INTO mdl_logstore_standard_log (id, eventname, ip) VALUES (%s, 'e', %s)", [(5, "new")])
    results = {row.table: row for row in ingest_job.run(lake, site).tables}
    assert (results["user"].updated, results["logstore_standard_log"].inserted) == (1, 1)
    assert in_lake(lake, site, [PEOPLE[0], (2, "new", 7), *PEOPLE[2:]])
    assert raw(lake, "logstore_standard_log")[-1]["ip"] == hashed(site, "new")
    assert not verify.run(lake, site, ingest_job.inspect(site)).differing

    key = site.privacy.hash_key()
    blocks = [bytes(b ^ pad for b in key.ljust(64, b"\0")).hex() for pad in (0x36, 0x5C)]
    (plan,) = [one for name, one in plans(site).items() if name == "user"]
    assert all(block in plan.select() for block in blocks), "the driver's own statement, which has it"
    assert len(statements) > 4
    assert not [one for one in statements if any(block in one.lower() for block in (*blocks, key.hex()))]


def test_value_that_comes_meanwhile_is_read_again(
    lake: SparkSession, database: Server, site: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = hashed_columns.hashes, []

    def late(*args: Any) -> dict[str, DataFrame]:
        found = real(*args)
        if found and not asked:
            asked.append(True)
            database.query("UPDATE mdl_user SET idnumber = 'late' WHERE id = 1")
        return found

    monkeypatch.setattr(hashed_columns, "hashes", late)
    ingest_job.run(lake, site)
    assert asked
    ingest_job.run(lake, site)
    assert in_lake(lake, site, [(1, "late", 7), *PEOPLE[1:]])
