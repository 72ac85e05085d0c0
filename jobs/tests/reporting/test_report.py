"""The report: what a reader of a terminal sees, and the same as a document."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from model_lake import AS_OF, empty, key, small_site
from moodle_lakehouse.clustering import job as clustering_job
from moodle_lakehouse.config import Config
from moodle_lakehouse.errors import ConfigError
from moodle_lakehouse.lake import table_names, writers
from moodle_lakehouse.reporting import report
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

RISK = (
    "run_id string, as_of timestamp, scored_at timestamp, user_key string, courseid bigint, week int,"
    " probability double, band string, change double, reason_1 string, reason_2 string, reason_3 string,"
    " model_version string"
)
REASON = "has not handed in what was due last, which is a long reason that needs the room of a line (course: 90 %)"


def risks(spark: SparkSession, run_id: str, as_of: dt.datetime, students: int, version: str) -> None:
    rows = [
        (
            run_id, as_of, as_of, key(2100 + i), 30, 3, 0.9 - i / 100, "high", None if i else 0.05,
            REASON, f"{i} actions so far (course: 40)" if i else None, None, version,
        )
        for i in range(students)
    ]  # fmt: skip
    writers.append(spark.createDataFrame(rows, RISK), table_names.STUDENT_RISK, run_id=run_id)


@pytest.fixture(scope="module")
def scored(spark: SparkSession) -> SparkSession:
    empty(spark)
    small_site(students=10).write(spark)
    risks(spark, "20250201T000000Z-a", AS_OF - dt.timedelta(days=7), 3, "1")
    risks(spark, "20250225T000000Z-b", AS_OF, 12, "2")
    risks(spark, "20250301T000000Z-c", AS_OF + dt.timedelta(days=7), 1, "3")
    return spark


def test_text_holds_the_ten_most_at_risk(scored: SparkSession, settings: Config) -> None:
    analytics = settings.analytics.model_copy(update={"course_code": r"^(K\d)-"})
    clustering_job.run(scored, settings.model_copy(update={"analytics": analytics}), AS_OF)
    text = report.render(scored, settings, AS_OF)
    assert max(map(len, text.splitlines())) <= report.WIDTH
    assert "…" not in text
    assert next(line for line in text.splitlines() if key(2100) in line).split()[1:4] == ["3", "90", "%"]
    assert key(2109) in text
    assert key(2110) not in text, "ten, no more"
    assert "+5 pts" in text
    assert "new" in text
    assert report.WHO in text
    assert "localhost" not in text, "who it is, identify tells"
    assert "K0-2" in text
    assert "12 students in 1 running courses scored as of 2025-02-25 by model version 2" in text
    assert "everything from 2025-02-25 00:00 UTC on left out" in text
    assert "Courses by the use of their resources" in text
    assert "Of 4 courses given again in a later term 4 stayed what they were." in text
    words = " ".join(text.replace("1. ", "").split())
    assert " ".join(REASON.split()[:8]) in words, "reasons are wrapped between words"


@pytest.mark.parametrize("name", ["C04-2025A [/old]", "[chem] C04-2025A", "[bold]x[/bold] :smile:"])
def test_names_are_text(scored: SparkSession, settings: Config, name: str) -> None:
    """Case I: a course's name is printed as it is, whatever rich's markup would make of it."""
    courses = scored.table(table_names.DIM_COURSE)
    renamed = courses.withColumn("shortname", F.when(F.col("courseid") == 30, name).otherwise(F.col("shortname")))
    changed = renamed.localCheckpoint()
    before = courses.localCheckpoint()
    try:
        writers.replace(changed, table_names.DIM_COURSE, run_id="test")
        assert name in report.render(scored, settings, AS_OF)
    finally:
        writers.replace(before, table_names.DIM_COURSE, run_id="test")


def test_moves_between_terms_begin_with_the_most_frequent() -> None:
    moves = [{"from": f"k{i}", "to": "forum", "courses": ["x"] * (5 - i)} for i in range(5)]
    line = report._moves_line({"again": 20, "stayed": 5, "moves": moves})
    assert line == (
        "Of 20 courses given again in a later term 5 stayed what they were; moved: 5 from k0 to forum, 4 from k1 to forum,"
        " 3 from k2 to forum, 3 others."
    )


def test_document_says_the_same(scored: SparkSession, settings: Config) -> None:
    document = json.loads(report.render(scored, settings, AS_OF, format="json"))
    assert len(document["students"]) == 10
    assert {"userid", "link"}.isdisjoint(document["students"][0])
    assert document["students"][0]["reasons"] == [REASON]
    assert document["students"][1]["reasons"][1] == "1 actions so far (course: 40)"
    assert document["scored"]["high"] == 12
    assert document["as_of"] == "2025-02-25T00:00:00+00:00"
    assert document["not_scored"] is None


def test_an_earlier_moment_shows_the_run_of_then(scored: SparkSession, settings: Config) -> None:
    text = report.render(scored, settings, AS_OF - dt.timedelta(days=1))
    assert "3 students in 1 running courses" in text
    assert "model version 1" in text


def test_missing_results_are_explained(spark: SparkSession, settings: Config) -> None:
    empty(spark)
    small_site(students=2, terms=(2,)).write(spark)
    text = report.render(spark, settings, AS_OF)
    assert "No students at risk to show" in text
    assert "0 finished courses with an outcome" in text
    assert "No clusters of courses yet" in text


def test_an_unknown_format_is_refused(spark: SparkSession, settings: Config) -> None:
    with pytest.raises(ConfigError, match="no format 'html'"):
        report.render(spark, settings, AS_OF, format="html")
