"""What `history` shows of a course, on a real server and Iceberg."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from history_site import ALGEBRA, Site, create, second
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.cli import main
from moodle_lakehouse.curated import course_history
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.lake import session
from pyspark.sql import SparkSession
from site_files import config_document


@pytest.fixture
def site(database: Server) -> Site:
    return create(database)


@pytest.fixture
def commands(lake: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line with the tests' session."""
    (tmp_path / "jobs.yml").write_text(yaml.safe_dump(config_document(tmp_path)))
    monkeypatch.setenv("LAKEHOUSE_CONFIG", str(tmp_path / "jobs.yml"))

    @contextlib.contextmanager
    def of_the_tests(*_: Any, **__: Any) -> Iterator[SparkSession]:
        yield lake

    monkeypatch.setattr(main, "_session", of_the_tests)


def test_verb_shows_a_course_between_two_dates(
    lake: SparkSession, site: Site, moodle: config.Config, commands: None, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest_job.run(lake, moodle)
    second(site)
    ingest_job.run(lake, moodle)
    assert main.run(["history", "--course", "alg-24", "--from", "2024-01-01", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["course"] == {"id": ALGEBRA, "shortname": "ALG-24", "fullname": "Algebra"}
    assert document["counts"] == {"added": 3, "edited": 1, "hidden": 1, "moved": 1, "removed": 2, "renamed": 2}
    assert document["notes"] == [note for note in document["notes"] if "history begins at" in note] != []
    assert [row["cmid"] for row in document["changes"] if row["change"] == "hidden"] == [12]
    arguments = ["history", "--course", str(ALGEBRA), "--from", "2024-01-15", "--to", "2024-03-01"]
    assert main.run(arguments) == 0
    out = capsys.readouterr().out
    assert "ALG-24 (2): Algebra" in out
    assert "Introduction → Intro" in out
    assert "1 edited, 1 renamed from 2024-01-15 00:00 to 2024-03-01 00:00" in out
    assert "history begins at" in out
    assert main.run(["history", "--course", "CALM", "--from", "2024-01-15"]) == 0
    assert "nothing changed" in capsys.readouterr().out
    assert main.run(["history", "--course", "ALG-25", "--from", "2024-01-15"]) == 1
    assert "did you mean ALG-24?" in capsys.readouterr().err
    with pytest.raises(LakehouseError, match="No course has the id or short name '99'"):
        course_history.find_course(lake, "99")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "2024-02-01", "--to", "2024-01-01"], "--from 2024-02-01 00:00 is not before --to 2024-01-01 00:00"),
        (["--from", "2024-01-01", "--to", "2999-01-01"], "lies in the future"),
        (["--from", "2999-01-01"], "lies in the future"),
        (["--from", "yesterday"], "'yesterday' is no moment"),
        ([], "Missing option '--from'"),
    ],
)
def test_bad_dates_are_reported_before_spark_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "jobs.yml").write_text(yaml.safe_dump(config_document(tmp_path)))
    monkeypatch.setenv("LAKEHOUSE_CONFIG", str(tmp_path / "jobs.yml"))
    monkeypatch.delattr(session, "create")
    assert main.run(["history", "--course", "x", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
