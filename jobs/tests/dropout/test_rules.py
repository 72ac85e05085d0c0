"""The list by rules, for a site whose data cannot teach a model yet."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_lake import Lake, empty, follows_contract, number, settings_in
from moodle_lakehouse.config import Config
from moodle_lakehouse.dropout import scoring
from moodle_lakehouse.lake import table_names
from moodle_lakehouse.reporting import report
from pyspark.sql import Row, SparkSession

START = dt.datetime(2025, 2, 3, tzinfo=dt.UTC)
AS_OF = START + dt.timedelta(days=22)  # week 3
DILIGENT, ABSENT, NEVER, MISSED, FAILING, LATE, GONE = range(1, 8)


def first_term() -> Lake:
    """A site whose only course began three weeks ago."""
    lake = Lake()
    lake.course(1, START, 60, "first")
    lake.resource(10, 1, "page")
    lake.resource(11, 1, "assign", due=8)
    lake.resource(12, 1, "quiz", due=15)
    for userid in range(1, 8):
        lake.enrol(userid, 1, at=18 if userid == LATE else -5, left=10 if userid == GONE else None)
    for userid in (DILIGENT, MISSED, FAILING):
        lake.act(userid, 10, 20)
    lake.act(ABSENT, 10, 6.5)
    for userid in (DILIGENT, ABSENT, NEVER, FAILING, LATE):
        for cmid in (11, 12):
            lake.submit(userid, cmid, 5)
    for userid in (DILIGENT, FAILING):
        lake.grade(userid, 11, 9, 0.45 if userid == FAILING else 0.8)
    return lake


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        yield settings_in(tmp_path_factory.mktemp("rules"))


@pytest.fixture(scope="module")
def listed(spark: SparkSession, settings: Config) -> Iterator[dict[int, Row]]:
    empty(spark)
    first_term().write(spark)
    scoring.score(spark, settings, AS_OF)
    yield {number(row["user_key"]): row for row in spark.table(table_names.STUDENT_RISK).collect()}
    empty(spark)


def reasons(row: Row) -> list[str]:
    return [row[f"reason_{place}"] for place in (1, 2, 3) if row[f"reason_{place}"]]


def test_a_site_has_a_list_from_day_one(spark: SparkSession, listed: dict[int, Row]) -> None:
    assert set(listed) == {DILIGENT, ABSENT, NEVER, MISSED, FAILING, LATE}
    assert {row["model_version"] for row in listed.values()} == {"rules"}
    assert {row["probability"] for row in listed.values()} == {None}
    bands = {userid: row["band"] for userid, row in listed.items()}
    assert bands == {
        DILIGENT: "low", ABSENT: "medium", NEVER: "high", MISSED: "medium", FAILING: "medium", LATE: "low",
    }  # fmt: skip
    follows_contract(spark, table_names.STUDENT_RISK)


def test_reasons_are_the_rules_in_the_words_of_the_model(listed: dict[int, Row]) -> None:
    assert reasons(listed[DILIGENT]) == []
    (absent,) = reasons(listed[ABSENT])
    assert absent.startswith("last seen in the course 14 days ago (course: ")
    assert reasons(listed[NEVER])[0].startswith("active on 0 days so far (course: ")
    assert reasons(listed[MISSED]) == ["handed in 0 % of what was due (course: 83 %)"]
    assert reasons(listed[FAILING]) == ["average grade 45 % (course: 62 %)"]


def test_the_report_says_that_it_is_by_rules(spark: SparkSession, settings: Config, listed: dict[int, Row]) -> None:
    text = report.render(spark, settings, AS_OF)
    assert "Students at risk by rules" in text
    assert (
        "by rules, since there is no model yet: 1 high (two rules, or never came), 3 medium (one rule), 2 low."
        in " ".join(text.split())
    )
    shown = [line.split()[0] for line in text.splitlines() if line.strip().startswith("0000")]
    assert number(shown[0]) == NEVER, "the gravest first"
    assert len(shown) == 4, "whom no rule lists is not shown"


def test_a_list_by_rules_can_be_made_again(spark: SparkSession, settings: Config, listed: dict[int, Row]) -> None:
    assert scoring.reproduce(spark, settings, next(iter(listed.values()))["run_id"]) == (6, 0)


def test_rules_are_the_inventorys(
    spark: SparkSession, tmp_path: Path, listed: dict[int, Row], caplog: pytest.LogCaptureFixture
) -> None:
    strict = settings_in(tmp_path, rules={"days_without_access": 30, "missed": 3}, pass_share=0.4)
    with caplog.at_level(logging.WARNING):
        scoring.score(spark, strict, AS_OF)
    assert "rules list the students" in caplog.text
    newest = spark.table(table_names.STUDENT_RISK).orderBy("scored_at").collect()[-6:]
    assert {number(row["user_key"]): row["band"] for row in newest if row["band"] != "low"} == {NEVER: "high"}
