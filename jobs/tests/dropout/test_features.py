"""Weekly features: what they count, what they must not know."""

from __future__ import annotations

import datetime as dt
import gzip
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from model_lake import AS_OF, WEEKS, Lake, busy_course, day, key, number, small_site
from moodle_lakehouse.dropout import dataset, features
from moodle_lakehouse.lake import point_in_time, snapshots, table_names, tables
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

START = dt.datetime(2024, 3, 4, tzinfo=dt.UTC)


def rows_of(spark: SparkSession, lake: Lake, as_of: dt.datetime | None = None, **options: Any) -> pd.DataFrame:
    cut = (lambda frame, table: point_in_time.cut(frame, table, as_of)) if as_of else None
    frame = features.build(lake.sources(spark, cut, **options), as_of)
    rows = frame.toPandas()
    rows["student"] = rows.pop("user_key").map(number)
    return rows.set_index(["student", "courseid", "week"]).sort_index()


@pytest.fixture(scope="module")
def course() -> Lake:
    """Courses of four weeks. In 7 student 1 works, 2 does little, 3 leaves at the cutoff of week 2, 4 comes late."""
    lake = Lake()
    lake.course(7, START, 28)
    lake.resource(71, 7, "page")
    lake.resource(72, 7, "assign", due=5)
    lake.resource(73, 7, "quiz", due=9)
    lake.resource(74, 7, "quiz", due=11)
    lake.enrol(1, 7, at=-10)
    lake.enrol(2, 7, at=-1)
    lake.enrol(3, 7, at=-2, left=14)
    lake.enrol(4, 7, at=8)
    for days in (0.5, 0.6, 1.5, 8.0, 15.0):
        lake.act(1, 71, days)
    lake.act(1, 72, 3.0, crud="u")
    lake.act(2, 71, 6.999)
    lake.submit(1, 72, 3.0)
    lake.grade(1, 72, 8.0, 0.9, weight=30)
    lake.submit(1, 73, 8.0)
    lake.grade(1, 73, 8.0, 0.5, weight=10)
    lake.submit(2, 72, 6.0)
    lake.submit(2, 73, 10.0, status="draft")
    lake.rows[table_names.ENROLMENT_ATTRIBUTE] = [
        (key(1), 7, "studied credits", 60.0), (key(2), 7, "other", 1.0)
    ]  # fmt: skip

    lake.course(8, START, 28)
    lake.resource(81, 8, "page")
    lake.resource(82, 8, "assign", due=5)
    lake.resource(83, 8, "assign", due=20)
    lake.resource(84, 8, "assign", due=6, deleted=3)
    for user in (11, 12, 13, 14):
        lake.enrol(user, 8)
    lake.submit(11, 83, 3.0)
    lake.grade(12, 82, -1, 0.7)
    lake.grade(13, 82, -1, 0.0)
    lake.act(14, 81, 1.0)
    lake.act(14, 81, 2.0, role="staff")
    lake.act(14, 81, 2.0, edulevel=1)
    lake.act(14, 81, 2.0, target="user_enrolment")
    lake.act(14, 81, 2.0, target="course", action="completed")
    lake.act(99, 81, 2.0)  # enrolled nowhere
    return lake


@pytest.fixture(scope="module")
def known(spark: SparkSession, course: Lake) -> pd.DataFrame:
    return rows_of(spark, course, attributes=["studied credits"])


def test_rows_are_the_risk_set(known: pd.DataFrame) -> None:
    weeks = {user: sorted(known.loc[user].index.get_level_values("week")) for user in (1, 2, 3, 4)}
    assert weeks[1] == weeks[2] == weeks[4] == [0, 1, 2, 3, 4]
    assert weeks[3] == [0, 1], "an end at the very cutoff has happened by then"
    assert known["enrolled"].loc[4].tolist() == [False, False, True, True, True]
    assert known["cutoff_at"].loc[(1, 7, 2)] == pd.Timestamp("2024-03-18")


def test_activity_counts_what_lies_strictly_before_the_cutoff(known: pd.DataFrame) -> None:
    one = known.loc[(1, 7)]
    assert one["events"].tolist() == [0, 4, 5, 6, 6]
    assert one["active_days"].tolist() == [0, 3, 4, 5, 5]
    assert one["resources"].tolist() == [0, 2, 2, 2, 2]
    assert one["writes"].tolist() == [0, 1, 1, 1, 1]
    assert one["content"].tolist() == [0, 3, 4, 5, 5]
    assert one["events_2w"].tolist() == [0, 4, 5, 2, 1]
    assert one["days_since_access"].iloc[2] == pytest.approx(6.0)
    two = known.loc[(2, 7)]
    assert two["events"].tolist() == [0, 1, 1, 1, 1]
    assert two["days_since_access"].iloc[0] == pytest.approx(1.0), "without access it counts from the enrolment"
    assert known.loc[(3, 7, 1), "days_since_access"] == pytest.approx(9.0)


def test_submissions_meet_the_calendar(known: pd.DataFrame) -> None:
    one, two = known.loc[(1, 7)], known.loc[(2, 7)]
    assert one["due"].tolist() == [0, 1, 3, 3, 3]
    assert one["handed_in"].tolist() == [0, 1, 2, 2, 2]
    assert math.isnan(one["handed_in_share"].iloc[0])
    assert one["handed_in_share"].tolist()[1:] == pytest.approx([1, 2 / 3, 2 / 3, 2 / 3])
    assert one["last_due_share"].tolist()[1:] == pytest.approx([1, 0.5, 0.5, 0.5])
    assert two["handed_in"].tolist() == [0, 1, 1, 1, 1], "a draft is not handed in"
    assert two["on_time_share"].tolist()[1:] == pytest.approx([0, 0, 0, 0]), "a day late"
    assert two["last_due_share"].tolist()[1:] == pytest.approx([1, 0, 0, 0])
    assert one["days_early"].iloc[1] == pytest.approx(2.0)
    assert one["days_since_submission"].iloc[2] == pytest.approx(6.0)
    assert one["handed_in_ahead"].tolist() == [0, 0, 0, 0, 0]


def test_grades_count_once_they_are_given(known: pd.DataFrame) -> None:
    one = known.loc[(1, 7)]
    assert math.isnan(one["grade_avg"].iloc[1])
    assert one["grade_avg"].iloc[2] == pytest.approx((30 * 0.9 + 10 * 0.5) / 40)
    assert one["grade_last"].iloc[2] == pytest.approx(0.9), "of two grades in one second the better"


def test_cohort_is_who_is_enrolled_at_the_cutoff(known: pd.DataFrame) -> None:
    first = known.xs((7, 1), level=("courseid", "week"))
    enrolled = first.loc[first["enrolled"], "handed_in_share"]
    assert enrolled.index.tolist() == [1, 2, 3]
    assert first.loc[1, "handed_in_vs"] == pytest.approx(1 - enrolled.mean())
    start = known.xs((7, 0), level=("courseid", "week"))
    assert start.loc[4, "lead_days"] == 0.0, "of who is not enrolled yet only that is known"
    others = start.loc[[1, 2, 3], "lead_days"]
    assert start.loc[1, "lead_z"] == pytest.approx((10 - others.mean()) / others.std())


def test_ahead_of_its_date_is_ahead(known: pd.DataFrame) -> None:
    own = known.loc[(11, 8)]
    assert own["handed_in_ahead"].tolist() == [0, 1, 1, 0, 0]
    assert own["due"].tolist() == [0, 1, 1, 2, 2], "what was deleted before its date was never due"
    assert own["handed_in"].tolist() == [0, 0, 0, 1, 1]


def test_a_result_without_submission_is_credited_but_a_zero_is_not(known: pd.DataFrame) -> None:
    assert known.loc[(12, 8), "credited"].tolist() == [1] * 5
    assert known.loc[(12, 8), "handed_in"].tolist() == [0, 1, 1, 1, 1]
    assert known.loc[(13, 8), "credited"].tolist() == [0] * 5
    assert known.loc[(13, 8), "handed_in_share"].tolist()[1:] == [0.0] * 4


def test_what_is_no_activity_of_a_student(known: pd.DataFrame) -> None:
    assert known.loc[(14, 8), "events"].tolist() == [0, 1, 1, 1, 1]
    assert 99 not in known.index.get_level_values("student")


def test_configured_attributes_become_columns(known: pd.DataFrame) -> None:
    assert known.loc[(1, 7, 0), "attr_studied_credits"] == 60.0
    assert math.isnan(known.loc[(2, 7, 0), "attr_studied_credits"])


def test_nothing_after_the_cutoff_is_known(spark: SparkSession, course: Lake, known: pd.DataFrame) -> None:
    """The leak: whatever is planted at or after a cutoff leaves the rows up to it as they were."""
    planted = Lake()
    planted.starts, planted.due = course.starts, course.due
    planted.modname, planted.course_of = course.modname, course.course_of
    planted.rows = {table: list(rows) for table, rows in course.rows.items()}
    planted.act(2, 71, 14.0)
    planted.act(2, 74, 20.0, crud="u")
    planted.submit(2, 74, 14.0)
    planted.submit(2, 73, 15.0)
    planted.grade(2, 72, 14.0, 0.1)
    planted.resource(75, 7, "assign", due=14)
    enrolments = planted.rows[table_names.FACT_ENROLMENT]
    two = next(row for row in enrolments if row[0] == key(2))
    enrolments[enrolments.index(two)] = (*two[:3], day(START, 15), *two[4:])
    changed = rows_of(spark, planted, attributes=["studied credits"])
    upto = known.index.get_level_values("week") <= 2
    pd.testing.assert_frame_equal(
        changed[changed.index.get_level_values("week") <= 2], known[upto], check_exact=False, rtol=1e-12
    )
    assert (2, 7, 3) not in changed.index, "the planted end is seen once it has happened"


def test_a_due_date_of_ones_own(spark: SparkSession) -> None:
    """Case B: what is due, and late, goes by the student's own date; everybody else keeps the course's."""
    lake = Lake()
    lake.course(7, START, 28)
    for cmid, due in ((72, 5), (73, 10), (74, 19)):
        lake.resource(cmid, 7, "assign", due=due)
    for user in (1, 2, 3):
        lake.enrol(user, 7)
    lake.extend(1, 72, 12)
    lake.extend(1, 73, 40)  # after the course's end
    lake.extend(3, 74, 26, known=24)  # given when the date had passed
    lake.extend(2, 74, None)
    lake.submit(1, 72, 9.0)
    lake.submit(3, 72, 9.0)
    known = rows_of(spark, lake)
    one, two, three = known.loc[(1, 7)], known.loc[(2, 7)], known.loc[(3, 7)]
    assert one["due"].tolist() == [0, 0, 1, 2, 2]
    assert one["handed_in"].tolist() == [0, 0, 1, 1, 1]
    assert one["on_time_share"].tolist()[2:] == [1, 0.5, 0.5]
    assert one["last_due_share"].tolist()[2:] == [1, 0, 0]
    assert one["handed_in_ahead"].tolist() == [0, 0, 0, 0, 0]
    assert one["days_early"].iloc[2] == pytest.approx(3.0)
    assert two["due"].tolist() == [0, 1, 2, 2, 2]
    assert three["due"].tolist() == [0, 1, 2, 3, 3]
    assert three["last_due_share"].tolist()[1:] == [0, 0, 0, 0]
    assert three["on_time_share"].tolist()[1:] == [0, 0, 0, 0]


def test_extra_credit_counts_for_no_average(spark: SparkSession) -> None:
    """Case D: a bonus adds to a total of which it is no part."""
    lake = Lake()
    lake.course(7, START, 28)
    for cmid in (72, 73, 74):
        lake.resource(cmid, 7, "assign", due=20)
    lake.enrol(1, 7)
    lake.grade(1, 72, 2.0, 0.9, weight=0.125)
    lake.grade(1, 73, 3.0, 0.7, weight=0.125)
    lake.grade(1, 74, 4.0, 0.0, weight=1.0, extra=True)
    one = rows_of(spark, lake).loc[(1, 7, 1)]
    assert (one["grade_avg"], one["grade_last"]) == pytest.approx((0.8, 0.7))


def test_what_is_added_later_was_not_due_before(spark: SparkSession) -> None:
    lake = Lake()
    lake.course(7, START, 35)
    lake.resource(72, 7, "assign", due=6)
    lake.resource(73, 7, "assign", due=6, added=15)
    lake.enrol(1, 7)
    lake.submit(1, 73, 16)
    one = rows_of(spark, lake).loc[(1, 7)]
    assert one["due"].tolist() == [0, 1, 1, 2, 2, 2]
    assert one["handed_in"].tolist() == [0, 0, 0, 1, 1, 1]
    assert one["last_due_share"].tolist()[1:] == [0, 0, 1, 1, 1]


def test_a_date_that_moves_counts_as_it_was_known(spark: SparkSession) -> None:
    """Case F: put off, hidden for a while, dropped: each week has the calendar of its own time."""
    lake = Lake()
    lake.course(7, START, 42)
    lake.resource(72, 7, "assign", due=5)
    lake.resource(73, 7, "assign", due=12)
    for user in (1, 2):
        lake.enrol(user, 7)
    lake.submit(1, 72, 4.0)
    lake.submit(2, 72, 20.0)
    lake.submit(1, 73, 11.0)
    lake.change(72, 9, due=26)  # put off in the second week
    lake.change(73, 16, due=12, visible=False)
    lake.change(73, 23, due=12)
    lake.change(73, 30, due=None)
    known = rows_of(spark, lake)
    one, two = known.loc[(1, 7)], known.loc[(2, 7)]
    assert one["due"].tolist() == two["due"].tolist() == [0, 1, 1, 0, 2, 1, 1]
    assert one["handed_in"].tolist() == [0, 1, 1, 0, 2, 1, 1]
    assert one["on_time_share"].tolist()[1:3] == [1, 1]
    assert one["handed_in_ahead"].tolist() == [0, 0, 1, 1, 0, 0, 0]
    assert two["handed_in"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert two["on_time_share"].tolist()[4:] == [0.5, 1, 1]
    assert one["last_due_share"].tolist()[1:3] == [1, 1]
    assert two["last_due_share"].tolist()[4:] == [0.5, 1, 1]
    assert math.isnan(one["last_due_share"].iloc[3])
    assert two["days_early"].iloc[3] == pytest.approx(6.0)


def test_a_regrade_is_known_from_when_it_was_made(spark: SparkSession) -> None:
    """Moodle overwrites a grade: who is graded anew at the end had the grade of then until then."""
    lake = Lake()
    lake.course(7, START, 35)
    for cmid in (72, 73):
        lake.resource(cmid, 7, "assign", due=20)
    lake.enrol(1, 7)
    lake.grade(1, 72, 2.0, 0.4, weight=3)
    lake.grade(1, 73, 9.0, 0.8)
    lake.grade(1, 72, 23.0, 0.9, weight=3)
    lake.grade(1, 73, 30.0, None)
    one = rows_of(spark, lake).loc[(1, 7)]
    assert one["grade_avg"].tolist()[1:] == pytest.approx([0.4, 0.5, 0.5, 0.875, 0.9])
    assert one["grade_last"].tolist()[1:] == pytest.approx([0.4, 0.8, 0.8, 0.9, 0.9])


def test_what_a_shell_held_before_is_another_runs(spark: SparkSession) -> None:
    """Case J: former students are no rows, and of who takes the course again only this run counts."""
    lake = Lake()
    lake.course(7, START, 28)
    lake.resource(71, 7, "page")
    lake.resource(72, 7, "assign", due=5)
    lake.enrol(1, 7, at=-200, left=-60)
    lake.enrol(2, 7, at=-200, completed=-70)
    for user in (1, 2):
        lake.act(user, 71, -100)
        lake.submit(user, 72, -95)
        lake.grade(user, 72, -90, 1.0)
    lake.act(2, 71, -5)
    known = rows_of(spark, lake)
    assert set(known.index.get_level_values("student")) == {2}
    assert known.loc[(2, 7), "events"].tolist() == [1] * 5
    assert known.loc[(2, 7), "handed_in"].tolist() == [0] * 5
    assert known["grade_avg"].isna().all()


def test_who_is_suspended_is_in_no_week_after(spark: SparkSession) -> None:
    """Case A: a suspension ends the weeks of an enrolment, and the list has nobody who is suspended by then."""
    lake = Lake()
    lake.course(7, START, 28)
    for user, suspended, is_exact in ((1, None, True), (2, 10, True), (3, 60, False), (4, 60, True)):
        lake.enrol(user, 7, suspended=suspended, is_exact=is_exact)
    moment = START + dt.timedelta(days=21)
    src = lake.sources(spark, lambda frame, table: point_in_time.cut(frame, table, moment))
    known = features.build(src, moment)
    weeks = known.groupBy("user_key").agg(F.max("week")).collect()
    assert {number(key): week for key, week in weeks} == {1: 3, 2: 1, 3: 3, 4: 3}
    listed = dataset.current_rows(src, moment, known).where("is_current and at_risk")
    # 3 was first seen suspended later, nobody knows since when; 4 was suspended later, says Moodle
    assert {number(row["user_key"]) for row in listed.collect()} == {1, 4}


def test_hidden_courses_are_scored_unless_the_site_says_otherwise(spark: SparkSession) -> None:
    """Case M: hiding a running course ends no enrolment; a setting leaves it out."""
    lake = Lake()
    for courseid in (7, 8):
        lake.course(courseid, START, 28)
        lake.enrol(1, courseid)
    courses = lake.rows[table_names.DIM_COURSE]
    courses[1] = (*courses[1][:-1], False)
    moment = START + dt.timedelta(days=21)
    src = lake.sources(spark)
    known = features.build(src, moment)

    def scored(**how: bool) -> set[int]:
        return {row["courseid"] for row in dataset.current_rows(src, moment, known, **how).collect()}

    assert scored() == {7, 8}
    assert scored(hidden_courses=False) == {7}


def test_earlier_courses_count_once_they_are_over(spark: SparkSession) -> None:
    """A student's own outcomes, and those of earlier runs of the course, against the usual; nothing of what runs yet."""
    lake = Lake()
    lake.course(1, START - dt.timedelta(days=100), 28, "ALG-2023")
    lake.course(2, START - dt.timedelta(days=100), 28, "BIO-2023")
    lake.course(3, START - dt.timedelta(days=18), 28, "CHE-2024")  # over after ten days of 7
    lake.course(4, START - dt.timedelta(days=100), 28, "NOT TRACKED 2023")
    lake.course(7, START, 28, "ALG-2024")
    lake.course(8, START, 28, "DEU-2024")
    lake.resource(11, 1, "assign", due=20)
    for user in range(20):
        lake.enrol(user, 1, completed=27 if user < 5 else None, left=10 if user >= 15 else None)
        lake.enrol(user, 2, completed=27 if user < 15 else None)
        lake.enrol(user, 3, completed=27 if user < 10 else None)
        lake.enrol(user, 4)
        lake.grade(user, 11, 20, user / 20)
    for user in (0, 19, 30):
        lake.enrol(user, 7)
        lake.enrol(user, 8)
    known = rows_of(spark, lake)
    best, worst, new = (known.loc[(user, 7)] for user in (0, 19, 30))
    assert best["past_courses"].tolist() == worst["past_courses"].tolist() == [2, 2, 3, 3, 3], (
        "where completion is tracked"
    )
    assert best["past_completed"].tolist() == [1] * 5
    assert worst["past_completed"].tolist() == [0] * 5
    assert worst["past_left"].tolist() == pytest.approx([0.5, 0.5, 1 / 3, 1 / 3, 1 / 3])
    assert (new["past_courses"] == 0).all()
    # Usually 20 of 40 failed, with one of each more; two courses with the usual outcome are added to a student's own.
    usual = 21 / 42
    share = (2 + 2 * usual) / 4
    expected = math.log(share / (1 - share)) - math.log(usual / (1 - usual))
    assert worst["past_non_completion"].iloc[0] == pytest.approx(expected)
    assert best["past_non_completion"].iloc[0] == pytest.approx(-expected)
    assert (new[["past_non_completion", "past_withdrawal", "past_grade_gap"]] == 0).all(axis=None)
    assert best["past_grade_gap"].iloc[0] == pytest.approx((0 - 9.5 / 20) / 2)
    assert best["past_grade"].iloc[0] == 0.0
    run = (15 + 20 * usual) / 40
    assert known.loc[(0, 7, 0), "runs_non_completion"] == pytest.approx(math.log(run / (1 - run)))
    assert (known.loc[0].xs(8, level="courseid")["runs_non_completion"] == 0).all(), "never given before"
    assert known.loc[(0, 7, 0), "runs_withdrawal"] > 0


# At this moment the staggered courses are at the end of their weeks 0 to 6.
THEN = dt.datetime(2024, 6, 3, tzinfo=dt.UTC)


def staggered_courses() -> Lake:
    """Course 2w0 is at the end of week w at THEN. Student 1 was in a course that was over before."""
    lake, rng = Lake(), np.random.default_rng(4)
    for week in range(WEEKS + 1):
        first = 1000 * (week + 1)
        courseid = 200 + 10 * week
        name = f"W{week}-2024"
        busy_course(lake, rng, courseid, THEN - dt.timedelta(days=7 * week), name, range(first, first + 30))
    busy_course(lake, rng, 300, THEN - dt.timedelta(days=200), "W3-2023", range(1, 40))
    lake.enrol(1, 230)
    # What 300 comes to is known later: after its end, and after THEN.
    for user, completed in ((50, 60), (51, 300)):
        lake.enrol(user, 300, completed=completed)
        lake.enrol(user, 220)
    return lake


def at_the_cutoff(
    spark: SparkSession, lake: Lake
) -> tuple[features.Sources, features.Sources, pd.DataFrame, pd.DataFrame]:
    """What the whole lake and the lake as it stood at THEN tell of the rows whose cutoff is THEN."""

    def cut(frame: DataFrame, table: str) -> DataFrame:
        return point_in_time.cut(frame, table, THEN)

    whole, cut_off = lake.sources(spark), lake.sources(spark, cut)
    known = []
    for src in (whole, cut_off):
        at_then = (F.col("cutoff_at") == point_in_time.literal(THEN)) & F.col("enrolled")
        rows = features.build(src, None).where(at_then).toPandas()
        known.append(rows.set_index(["user_key", "courseid", "week"]).sort_index())
    return whole, cut_off, known[0], known[1]


Known = tuple[features.Sources, features.Sources, pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def known_twice(spark: SparkSession) -> Known:
    return at_the_cutoff(spark, staggered_courses())


def check_equal(whole: pd.DataFrame, cut_off: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(whole, cut_off, check_exact=False, rtol=1e-12)


def test_every_row_is_that_of_a_lake_that_ends_at_its_cutoff(known_twice: Known) -> None:
    """The general form of the leak test: no source may look ahead, in no week and in no column."""
    _, _, whole, cut_off = known_twice
    assert sorted(whole.index.get_level_values("week").unique()) == list(range(WEEKS + 1))
    assert len(whole) > 150
    assert whole["events"].sum() > 500
    check_equal(whole, cut_off)


def test_the_past_is_what_was_known_of_it(known_twice: Known) -> None:
    """Of those who took course 300, which was over by THEN, one completed it late and one only after THEN."""
    rows = known_twice[2]
    past = {user: rows.loc[(key(user), 220, 2)] for user in (50, 51)}
    assert [past[user]["past_courses"] for user in (50, 51)] == [1, 1]
    assert [past[user]["past_completed"] for user in (50, 51)] == [1, 0]
    assert past[50]["past_non_completion"] < 0 < past[51]["past_non_completion"]
    new = rows.loc[(key(3001), 220, 2)]
    assert new["past_courses"] == new["past_non_completion"] == new["past_grade_gap"] == 0
    assert math.isnan(new["past_completed"])


def test_what_moodle_overwrote_later_does_not_reach_back(spark: SparkSession, known_twice: Known) -> None:
    """Leaks that a cut of both sides by one rule cannot see, since Moodle holds the last state alone, each planted after THEN."""
    lake = staggered_courses()
    lake.change(2302, 25, due=60)
    lake.change(2401, 30, due=10, visible=False)
    lake.change(2502, 40, due=None)
    lake.resource(2599, 250, "quiz", due=12, added=40)
    for user in range(3000, 3010):
        lake.grade(user + 1000, 2301, 24, 1.0)
        lake.extend(user + 1000, 2301, 50, known=25)
        lake.submit(user + 1000, 2302, 8, known=23)
    at_then = (F.col("cutoff_at") == point_in_time.literal(THEN)) & F.col("enrolled")
    rows = features.build(lake.sources(spark), None).where(at_then).toPandas()
    check_equal(rows.set_index(["user_key", "courseid", "week"]).sort_index(), known_twice[3])


def per_enrolment(df: DataFrame, value: Column) -> DataFrame:
    return df.groupBy("user_key", "courseid").agg(value.cast("double").alias("leak"))


def user_rates(src: features.Sources) -> DataFrame:
    """Each user's share of courses not completed, their own outcome included."""
    rates = src.enrolments.groupBy("user_key").agg(F.avg(F.col("completed_at").isNull().cast("int")).alias("leak"))
    return src.enrolments.select("user_key", "courseid").join(rates, "user_key", "inner")


LEAKS: dict[str, Callable[[features.Sources], DataFrame]] = {
    "unregistration date": lambda src: per_enrolment(src.enrolments, F.max(F.unix_timestamp("unenrolled_at"))),
    "whether they leave": lambda src: per_enrolment(src.enrolments, F.count("unenrolled_at")),
    "final grade": lambda src: per_enrolment(src.grades, F.avg("fraction")),
    "exam's grade": lambda src: per_enrolment(src.grades, F.max_by("fraction", "changed_at")),
    "completion": lambda src: per_enrolment(src.enrolments, F.count("completed_at")),
    "last access": lambda src: per_enrolment(src.events, F.max(F.unix_timestamp("occurred_at"))),
    "all events": lambda src: per_enrolment(src.events, F.count("*")),
    "all submissions": lambda src: per_enrolment(src.submissions, F.count("*")),
    "a user's rate of failing": user_rates,
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_feature_from_after_the_cutoff_is_caught(known_twice: Known, leak: str) -> None:
    """Each leak, planted as a feature beside the others, makes the general test fail, by that feature."""
    planted = []
    for src, rows in zip(known_twice[:2], known_twice[2:], strict=True):
        values = LEAKS[leak](src).toPandas().set_index(["user_key", "courseid"])["leak"]
        planted.append(rows.join(values, on=["user_key", "courseid"]))
    with pytest.raises(AssertionError, match=r'column name="leak"'):
        check_equal(planted[0], planted[1])


def test_models_see_the_checked_columns_only(known_twice: Known) -> None:
    """What a model may use are columns that the general test compares; keys, moments and outcomes are none."""
    columns = list(known_twice[2].columns)
    used = set(dataset.feature_names([*columns, "label", "completed_at", "unenrolled_at"]))
    assert used <= set(columns) - {"cutoff_at", "enrolled"}


def test_relative_features_do_not_depend_on_the_course(spark: SparkSession) -> None:
    """The same course three years later, its cohort twice: nothing that the model sees changes."""
    one, two = Lake(), Lake()
    for lake, start, copies in ((one, START, 1), (two, START + dt.timedelta(days=1001), 2)):
        lake.course(7, start, 28)
        lake.resource(71, 7, "page")
        lake.resource(72, 7, "assign", due=5)
        for copy, user in itertools.product(range(copies), range(1, 6)):
            lake.enrol(100 * copy + user, 7, at=-user)
            lake.act(100 * copy + user, 71, 2.0 + user)
            if user % 2:
                lake.submit(100 * copy + user, 72, 1.0 * user)
    names = [f.name for f in features.FEATURES if not f.name.endswith("_z")]
    first, second = rows_of(spark, one)[names], rows_of(spark, two)[names].loc[1:5]
    pd.testing.assert_frame_equal(first, second, check_exact=False, rtol=1e-9)


def test_table_is_read_back_only_for_what_it_was_made_of(
    lake: SparkSession, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = small_site(students=4)
    site.write(lake)
    features.run(lake, settings, AS_OF)
    assert lake.table(table_names.ENROLMENT_WEEK).where("courseid >= 30").agg(F.max("week")).first()[0] == 3  # type: ignore[index]
    written = snapshots.snapshot_id(tables.load(lake, table_names.ENROLMENT_WEEK))
    features.run(lake, settings, AS_OF)
    assert snapshots.snapshot_id(tables.load(lake, table_names.ENROLMENT_WEEK)) == written, "nothing new"
    computed: list[dt.datetime | None] = []
    monkeypatch.setattr(features, "build", lambda src, as_of: computed.append(as_of))
    features.read(lake, settings, AS_OF)
    assert computed == []
    later = AS_OF + dt.timedelta(hours=7)
    features.read(lake, settings, later)
    assert computed == [later], "another moment"
    site.act(2100, 300, 2.0)
    site.write(lake)
    features.read(lake, settings, AS_OF)
    assert computed == [later, AS_OF], "other data"


def test_every_feature_is_a_column_with_a_known_direction() -> None:
    names = [feature.name for feature in features.FEATURES]
    assert len(set(names)) == len(names)
    assert all(feature.risk in (-1, 0, 1) for feature in features.FEATURES)
    assert not {"user_key", "courseid", "week", "progress"} & set(names)


def test_risk_set_of_real_records(spark: SparkSession, test_data: Path) -> None:
    """OULAD's 2013J: as many students at each week as the protocol's reference has."""

    def csv(name: str) -> pd.DataFrame:
        with gzip.open(test_data / "oulad-2013" / f"{name}.csv.gz", "rt", encoding="utf-8") as file:
            return pd.read_csv(file, na_values="?")

    by = ["code_module", "code_presentation"]
    courses = csv("courses").query("code_presentation == '2013J'").reset_index(drop=True)
    courses["courseid"] = courses.index + 2
    start = dt.datetime(2013, 10, 1, tzinfo=dt.UTC)
    lake = Lake()
    for course in courses.itertuples():
        lake.course(int(course.courseid), start, int(course.module_presentation_length), course.code_module)
    students = csv("studentRegistration").merge(courses, on=by)
    for student in students.itertuples():
        at = 0.0 if math.isnan(student.date_registration) else student.date_registration
        left = None if math.isnan(student.date_unregistration) else student.date_unregistration
        lake.enrol(int(student.id_student), int(student.courseid), at, left)
    counted = features.build(lake.sources(spark), None).groupBy("week").count().toPandas().set_index("week")["count"]
    reference = {0: 7903, 2: 7763, 4: 7683, 8: 7465, 12: 7310, 16: 7068, 20: 6899}
    assert {week: int(counted[week]) for week in reference} == reference
