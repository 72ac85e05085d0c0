"""The labels of enrolments by what a course has, the courses that can teach, and why others cannot."""

from __future__ import annotations

import datetime as dt
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from model_lake import Lake, number, settings_in
from moodle_lakehouse.dropout import labels
from moodle_lakehouse.lake import point_in_time
from pyspark.sql import SparkSession

START = dt.datetime(2024, 3, 4, tzinfo=dt.UTC)
END = START + dt.timedelta(days=28)
SETTLED = END + dt.timedelta(days=28)
# 1 completed, 2 stayed, 3 left early, 4 left after the end, 5 completed and then left early
COMPLETION, GRADE, WITHDRAWAL, ACTIVITY = 7, 8, 9, 11


@pytest.fixture(scope="module")
def lake() -> Lake:
    """A course for each outcome that a site may have: each lacks what comes before it."""
    lake = Lake()
    for courseid in (COMPLETION, GRADE, WITHDRAWAL):
        lake.course(courseid, START, 28.0)
        lake.resource(courseid * 10, courseid, "page")
        has_completion = courseid == COMPLETION
        lake.enrol(1, courseid, completed=27.5 if has_completion else None)
        lake.enrol(2, courseid)
        lake.enrol(3, courseid, left=10)
        lake.enrol(4, courseid, left=35)
        lake.enrol(5, courseid, left=20, completed=15 if has_completion else None)
    for userid, fraction in ((1, 0.61), (2, 0.59), (3, 0.9), (4, 0.7)):
        lake.total(userid, GRADE, 27, fraction, to_pass=0.6)
        lake.total(userid, COMPLETION, 27, fraction)
    lake.course(ACTIVITY, START, 28.0)
    lake.resource(ACTIVITY * 10, ACTIVITY, "page")
    for userid, day in ((1, 22.0), (2, 20.9), (3, 27.9), (4, 28.1)):
        lake.enrol(userid, ACTIVITY)
        lake.act(userid, ACTIVITY * 10, day)
    return lake


def found(spark: SparkSession, lake: Lake, folder: Path, as_of: dt.datetime, **analytics: Any) -> labels.Finished:
    cut = partial(lambda frame, table: point_in_time.cut(frame, table, as_of))
    return labels.finished(lake.sources(spark, cut), as_of, settings_in(folder, **analytics).analytics)


def by_course(finished: labels.Finished) -> dict[int, dict[int, float]]:
    rows: dict[int, dict[int, float]] = {}
    for row in finished.labels.collect():
        rows.setdefault(row["courseid"], {})[number(row["user_key"])] = row["label"]
    return rows


def test_each_course_is_labelled_by_what_it_has(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    finished = found(spark, lake, tmp_path, SETTLED)
    assert {course.courseid: course.outcome for course in finished.courses} == {
        COMPLETION: "completion", GRADE: "grade", WITHDRAWAL: "withdrawal", ACTIVITY: "activity",
    }  # fmt: skip
    rows = by_course(finished)
    assert rows[COMPLETION] == {1: 0, 2: 1, 3: 1, 4: 1, 5: 0}
    assert rows[GRADE] == {1: 0, 2: 1, 3: 1, 4: 0, 5: 1}, "below pass, left with a good grade, without one"
    assert rows[WITHDRAWAL] == {1: 0, 2: 0, 3: 1, 4: 0, 5: 1}
    assert rows[ACTIVITY] == {1: 0, 2: 1, 3: 0, 4: 1}, "the last quarter begins on day 21"
    counts = {course.courseid: (course.students, course.positives) for course in finished.courses}
    assert counts == {COMPLETION: (5, 3), GRADE: (5, 3), WITHDRAWAL: (5, 2), ACTIVITY: (4, 2)}
    assert finished.left_out == {}


def test_an_inventory_sets_the_order(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    finished = found(spark, lake, tmp_path, SETTLED, outcomes=["grade"], pass_share=0.65)
    assert {course.courseid: course.outcome for course in finished.courses} == {COMPLETION: "grade", GRADE: "grade"}
    assert by_course(finished)[COMPLETION] == {1: 1, 2: 1, 3: 1, 4: 0, 5: 1}, (
        "a share where Moodle has no grade to pass"
    )
    assert finished.left_out == {"no outcome that analytics.outcomes names is used in it": ["C11", "C9"]}


def test_who_leaves_is_told_without_any_other_outcome(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    finished = found(spark, lake, tmp_path, SETTLED, label="withdrawal")
    rows = by_course(finished)
    assert set(rows) == {COMPLETION, GRADE, WITHDRAWAL}
    assert rows[COMPLETION] == {1: 0, 2: 0, 3: 1, 4: 0, 5: 1}
    assert finished.left_out == {"the same outcome for everybody, by withdrawal": ["C11"]}


def test_a_course_teaches_once_it_is_over_and_settled(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    reason = "over for less than 28 days, in which grades and completions still arrive"
    assert found(spark, lake, tmp_path, END).left_out == {}, "it still runs"
    early = found(spark, lake, tmp_path, SETTLED - dt.timedelta(seconds=1))
    assert early.courses == []
    assert early.left_out == {reason: ["C11", "C7", "C8", "C9"]}
    assert len(found(spark, lake, tmp_path, END + dt.timedelta(seconds=1), settling_days=0).courses) == 4


def test_courses_that_cannot_teach_are_named(spark: SparkSession, tmp_path: Path) -> None:
    lake = Lake()
    for courseid, days, name in ((1, 28.0, "all"), (2, 61 * 7.0, "long"), (3, None, "endless"), (4, 28.0, "empty")):
        lake.course(courseid, START, days, name, category=courseid)
        lake.resource(courseid * 10, courseid, "page")
        if name != "empty":
            lake.enrol(1, courseid, completed=20)
            lake.act(1, courseid * 10, 5)
    finished = found(spark, lake, tmp_path, START + dt.timedelta(days=600))
    assert finished.courses == []
    assert finished.left_out == {
        "longer than 60 weeks": ["long"],
        "no end date, and still used": ["endless"],
        "the same outcome for everybody, by course completion": ["all"],
    }, "a course without students is none"


def test_an_unknown_label_is_refused(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use one of non_completion, withdrawal"):
        labels.finished(lake.sources(spark), END, settings_in(tmp_path).analytics, "failure")


def test_names_are_complete() -> None:
    assert set(labels.NAMES) == set(labels.LABELS)
