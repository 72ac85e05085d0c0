"""When courses end that have no end date."""

from __future__ import annotations

import datetime as dt

import pytest
from model_lake import Lake, day
from moodle_lakehouse.dropout import course_ends
from moodle_lakehouse.lake import table_names
from pyspark.sql import SparkSession

START = dt.datetime(2024, 9, 2, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def lake() -> Lake:
    """Courses of category 1 end after 100, 120 and 130 days; those of category 2 have no dates."""
    lake = Lake()
    for courseid, days in ((1, 100.0), (2, 120.0), (3, 130.0)):
        lake.course(courseid, day(START, courseid), days - courseid, f"dated {courseid}")
    lake.course(4, day(START, 20), None, "term")
    lake.course(5, day(START, 200), None, "other term")
    lake.course(6, START, None, "quiet", category=2)
    lake.course(7, START, None, "used", category=2)
    lake.course(8, START, None, "reused shell", category=2)
    lake.course(9, START, -1.0, "ends before it starts", category=2)
    for courseid in (6, 7, 8):
        lake.resource(courseid * 10, courseid, "page")
        lake.enrol(1, courseid)
    lake.act(1, 60, 70.25)
    lake.act(1, 60, 95.0, role="staff")
    lake.act(1, 70, 95.0)
    lake.act(1, 80, -200.0)
    return lake


def ends(spark: SparkSession, lake: Lake, days: float) -> dict[str, float | None]:
    courses = lake.frame(spark, table_names.DIM_COURSE)
    found = course_ends.with_ends(courses, lake.frame(spark, table_names.FACT_EVENT), day(START, days))
    assert found.columns == courses.columns
    rows = {row["shortname"]: row["end_at"] for row in found.collect()}
    return {
        name: None if end is None else (end.replace(tzinfo=dt.UTC) - START).total_seconds() / 86400
        for name, end in rows.items()
        if not name.startswith("dated")
    }


def test_a_course_takes_the_end_of_its_term_or_of_its_last_activity(spark: SparkSession, lake: Lake) -> None:
    assert ends(spark, lake, 100) == {
        "term": 120, "other term": None, "quiet": 71, "used": None, "reused shell": None, "ends before it starts": None,
    }  # fmt: skip


def test_a_course_is_over_only_after_four_quiet_weeks(spark: SparkSession, lake: Lake) -> None:
    assert ends(spark, lake, 98.2)["quiet"] is None
    assert ends(spark, lake, 98.3)["quiet"] == 71
    assert ends(spark, lake, 124)["used"] == 96
