"""The benchmark: what one reader has measured stays when another one fails."""

from __future__ import annotations

import json

import pytest
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.cli import main
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.ingest import benchmark
from moodle_lakehouse.lake import session
from small_moodle import fill, insert


@pytest.fixture
def log(database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch) -> config.Config:
    """Three rows of a log, which the command line finds; Spark has no master."""
    fill(database, moodle)
    insert(database, "INSERT INTO mdl_logstore_standard_log (id, eventname) VALUES (%s, 'e')", [(1,), (5,), (9,)])

    def no_master(*_: object, **__: object) -> None:
        raise LakehouseError("no master answers")

    monkeypatch.setattr(session, "create", no_master)
    monkeypatch.setattr(config, "load", lambda: moodle)
    return moodle


def test_a_reader_that_fails_is_told_and_the_others_go_on(
    log: config.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["bench", "ingest", "--rows", "3", "--runs", "2", "--format", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 3
    assert told["readers"]["dlt"] is None
    assert len(told["readers"]["raw"]["seconds"]) == 2
    assert told["readers"]["raw"]["rows_per_second"] > 0
    for name in ("lakehouse", "spark_jdbc"):
        assert told["readers"][name]["error"] == "no master answers"
    assert main.run(["bench", "ingest", "--rows", "3", "--runs", "1"]) == 1
    assert "failed: no master answers" in capsys.readouterr().out


def test_more_rows_than_there_are_is_refused_before_anything_is_read(log: config.Config) -> None:
    with pytest.raises(LakehouseError, match=r"The log has only 3 of 1,000 rows"):
        benchmark.ingest_log(log, 1000, 1)
