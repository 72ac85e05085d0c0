"""The labels of enrolments, and the courses that can teach."""

from __future__ import annotations

import datetime as dt

import pytest
from model_lake import Lake, number
from moodle_lakehouse.dropout import labels
from moodle_lakehouse.lake import point_in_time, table_names
from pyspark.sql import SparkSession

START = dt.datetime(2024, 3, 4, tzinfo=dt.UTC)
END = START + dt.timedelta(days=28)


@pytest.fixture(scope="module")
def lake() -> Lake:
    """7 is over; 8 has no end; 9 is over and nobody completed it; 10 ends later."""
    lake = Lake()
    for courseid, days in ((7, 28.0), (8, None), (9, 28.0), (10, 60.0)):
        lake.course(courseid, START, days, f"C{courseid}")
        lake.enrol(1, courseid, completed=None if courseid == 9 else 27.5)
        lake.enrol(2, courseid)
        lake.enrol(3, courseid, left=10)
        lake.enrol(4, courseid, left=35)
        lake.enrol(5, courseid, left=20, completed=None if courseid == 9 else 15)
    return lake


def frames(spark: SparkSession, lake: Lake, as_of: dt.datetime) -> tuple:  # type: ignore[type-arg]
    enrolments = point_in_time.cut(lake.frame(spark, table_names.FACT_ENROLMENT), table_names.FACT_ENROLMENT, as_of)
    return enrolments, lake.frame(spark, table_names.DIM_COURSE)


def labelled(spark: SparkSession, lake: Lake, as_of: dt.datetime, label: str) -> dict[int, float]:
    enrolments, courses = frames(spark, lake, as_of)
    rows = labels.build(enrolments, labels.over(courses, as_of), label).where("courseid = 7").collect()
    return {number(row["user_key"]): row["label"] for row in rows}


def test_labels_of_a_course_that_is_over(spark: SparkSession, lake: Lake) -> None:
    later = END + dt.timedelta(days=30)
    assert labelled(spark, lake, later, "non_completion") == {1: 0, 2: 1, 3: 1, 4: 1, 5: 0}
    assert labelled(spark, lake, later, "withdrawal") == {1: 0, 2: 0, 3: 1, 4: 0, 5: 1}


def test_a_course_teaches_only_once_it_is_over(spark: SparkSession, lake: Lake) -> None:
    assert labelled(spark, lake, END, "non_completion") == {}, "its end is not before its own moment"
    assert len(labelled(spark, lake, END + dt.timedelta(seconds=1), "non_completion")) == 5


def test_courses_without_a_telling_outcome_are_named(spark: SparkSession, lake: Lake) -> None:
    later = END + dt.timedelta(days=1)
    found = labels.finished(*frames(spark, lake, later), later, "non_completion")
    assert [row["courseid"] for row in found.courses.collect()] == [7]
    assert found.courses.first()["students"] == 5  # type: ignore[index]
    assert found.courses.first()["positives"] == 3  # type: ignore[index]
    assert found.without_label == ("C9",)


def test_an_unknown_label_is_refused(spark: SparkSession, lake: Lake) -> None:
    with pytest.raises(ValueError, match="use one of non_completion, withdrawal"):
        labels.build(*frames(spark, lake, END), "failure")


def test_label_names_are_complete() -> None:
    assert set(labels.NAMES) == set(labels.LABELS)
