"""The command line: what it prints where, and with which exit code it ends."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mariadb import Server
from moodle_lakehouse import config, pipeline
from moodle_lakehouse.cli import main
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.ingest import mysql
from moodle_lakehouse.lake import job_runs, session, table_names
from site_files import config_document
from small_moodle import fill, insert

VERBS = [
    "bench",
    "cluster",
    "curate",
    "erase-user",
    "evaluate",
    "features",
    "history",
    "identify",
    "ingest",
    "maintain",
    "pipeline",
    "promote",
    "report",
    "reproduce",
    "score",
    "train",
    "verify",
]


@pytest.fixture
def no_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting Spark fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Spark was started")

    monkeypatch.setattr(session, "create", refuse)


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A configuration file that the command line finds; port 1 answers nobody."""
    document: dict[str, Any] = config_document(tmp_path)
    document["moodle"]["port"] = 1
    monkeypatch.setattr(mysql, "RETRY_DELAYS", ())
    (tmp_path / "jobs.yml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("LAKEHOUSE_CONFIG", str(tmp_path / "jobs.yml"))
    return document


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    out = capsys.readouterr().out
    lines = out.split("Commands:")[1].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == VERBS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["publish"], "No such command 'publish'"),
        (["ingest", "--fast"], "--fast"),
        (["train", "--as-of", "soon"], "'soon' is no moment"),
        (["pipeline", "--as-of", "2014-02-31"], "'2014-02-31' is no moment"),
        (["evaluate", "--train-until", "2013-09-01"], "Missing option '--test-from'"),
        (["evaluate", "--leave-one-course-out", "--test-from", "2013-09-01"], "give it or the dates, not both"),
        (["evaluate", "--leave-one-course-out", "--capacity", "0"], "0 is not in the range x>=1"),
        (["evaluate", "--train-until", "2014-01-01", "--test-from", "2013-01-01"], "courses would be in both sets"),
        (
            ["evaluate", "--train-until", "2013-09-01", "--test-from", "2013-09-01", "--weeks", "0;2"],
            "use whole numbers with commas",
        ),
        (["evaluate", "--train-until", "2013-09-01", "--test-from", "2013-09-01", "--label", "x"], "'x' is not one of"),
    ],
)
def test_bad_usage_is_refused_before_anything_starts(
    configured: dict[str, Any], no_spark: None, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("verb", ["ingest", "curate", "features", "cluster", "train", "score", "report", "pipeline"])
def test_missing_configuration_ends_with_two(
    monkeypatch: pytest.MonkeyPatch, no_spark: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    monkeypatch.setenv("LAKEHOUSE_CONFIG", str(tmp_path / "none.yml"))
    assert main.run([verb]) == 2
    assert "none.yml" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["ingest", "pipeline"])
def test_unreachable_source_ends_with_one_before_spark_starts(
    configured: dict[str, Any], no_spark: None, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert main.run([verb]) == 1
    captured = capsys.readouterr()
    assert "Can't connect" in captured.err
    assert "remedy: check that the database runs" in captured.err
    assert captured.out == ""


def test_debug_shows_the_traceback_and_debug_messages(
    configured: dict[str, Any], no_spark: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["--debug", "ingest"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert logging.getLogger("moodle_lakehouse").level == logging.DEBUG
    assert main.run(["ingest"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert logging.getLogger("moodle_lakehouse").level == logging.INFO


def test_job_of_a_job_is_counted_once_and_a_failure_is_recorded(lake: Any) -> None:
    with job_runs.job(lake, "outer"), job_runs.job(lake, "outer") as inner:
        inner.detail["rows"] = 3
    with pytest.raises(LakehouseError), job_runs.job(lake, "failing"):
        raise LakehouseError("no luck")
    rows = {row["job"]: row for row in lake.table(table_names.JOB_RUN).collect()}
    assert (rows["outer"]["status"], rows["failing"]["status"]) == ("done", "failed")
    assert '"rows": 3' in rows["outer"]["detail"]
    assert "no luck" in rows["failing"]["detail"]
    assert {row["run_id"] for row in rows.values()} == {job_runs.run_id()}


def test_steps_name_functions_that_exist() -> None:
    for name in pipeline.AS_OF_STEPS:
        assert callable(pipeline._step(name))


@pytest.fixture
def installed(tmp_path: Path, database: Server) -> dict[str, str]:
    """The environment of a job as the stack sets it up, with a catalog in a folder and an empty database."""
    document: dict[str, Any] = config_document(tmp_path)
    (tmp_path / "password").write_text(database.password)
    document["moodle"].update(host=database.host, port=database.port, user=database.user, database=database.database)
    (tmp_path / "jobs.yml").write_text(yaml.safe_dump(document))
    (tmp_path / "conf").mkdir()
    settings = {
        "spark.master": "local[2]",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.ui.enabled": "false",
        "spark.jars": ",".join(session.test_jars()),
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.defaultCatalog": "lakehouse",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.catalog.lakehouse": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.lakehouse.type": "hadoop",
        "spark.sql.catalog.lakehouse.warehouse": str(tmp_path / "warehouse"),
    }
    lines = [f"{key} {value}" for key, value in settings.items() if value]
    (tmp_path / "conf" / "spark-defaults.conf").write_text("\n".join(lines) + "\n")
    (tmp_path / "warehouse").mkdir()
    return {
        **os.environ,
        "LAKEHOUSE_CONFIG": str(tmp_path / "jobs.yml"),
        "SPARK_CONF_DIR": str(tmp_path / "conf"),
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(Path(main.__file__).parents[2]),
    }


JOB = [sys.executable, "-m", "moodle_lakehouse.cli.main"]


def test_ingest_and_curate_as_a_user_runs_them(installed: dict[str, str], database: Server) -> None:
    fill(database, config.load(installed["LAKEHOUSE_CONFIG"]))
    database.query("CREATE TABLE mdl_modules (id bigint(10) PRIMARY KEY, name varchar(20)) DEFAULT CHARSET=utf8mb4")
    insert(database, "INSERT INTO mdl_logstore_standard_log (eventname) VALUES (%s)", [("a",), ("b",)])
    insert(database, "INSERT INTO mdl_course VALUES (%s)", [(1,), (2,), (3,)])

    def job(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*JOB, *arguments], env=installed, capture_output=True, text=True, timeout=600, check=False
        )

    early = job("curate")
    assert early.returncode == 1
    assert "remedy: run ingest first" in early.stderr
    assert early.stdout == ""

    ingested = job("ingest")
    assert ingested.returncode == 0, ingested.stderr
    lines = {line.split()[0]: line.split()[1:3] for line in ingested.stdout.splitlines() if len(line.split()) > 3}
    assert lines["logstore_standard_log"] == ["2", "2"]
    assert lines["4"] == ["tables", "5"]
    assert "Unchanged: 2 tables" in ingested.stdout  # those without rows
    assert "WARN" not in ingested.stdout
    assert "Not in this Moodle: assign, " in ingested.stdout
    assert "Columns not in this Moodle: course.cacherev, " in ingested.stdout

    again = job("ingest")
    assert again.returncode == 0, again.stderr
    assert "Unchanged: 4 tables" in again.stdout
    assert "logstore_standard_log" not in again.stdout

    curated = job("curate")
    assert curated.returncode == 0, curated.stderr
    lines = {line.split()[0]: line.split()[1:] for line in curated.stdout.splitlines() if len(line.split()) == 2}
    assert lines["dim_course"] == ["2"]  # the site itself is none

    no_term = job("features", "--as-of", "mid-term")
    assert no_term.returncode == 1
    assert "No course has both a start and an end" in no_term.stderr
    assert "Traceback" not in no_term.stderr
