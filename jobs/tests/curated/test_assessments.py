"""Grades and submissions by small cases whose right answer can be seen."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from moodle_lakehouse.curated import assessments
from moodle_lakehouse.lake import contracts, table_names, tables
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from raw_rows import at, raw, rows, written


@pytest.fixture
def places(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(
        [(1, 10, "quiz", 3, False), (2, 10, "assign", 4, False), (3, 10, "assign", 5, True)],
        "cmid bigint, courseid bigint, modname string, instance bigint, is_deleted boolean",
    )


@pytest.fixture
def students(spark: SparkSession) -> DataFrame:
    people = [(2, 10, "key2", True), (3, 10, "key3", True), (4, 10, "key4", True), (5, 10, "key5", False)]
    return spark.createDataFrame(people, "userid bigint, courseid bigint, user_key string, is_present boolean")


def weighted(spark: SparkSession, *items: dict[str, Any], categories: tuple[dict[str, Any], ...] = ()) -> DataFrame:
    own = [{"courseid": 10, "itemtype": "manual", "grademax": Decimal(10), **item} for item in items]
    return assessments.weighted_items(raw(spark, "grade_items", *own), raw(spark, "grade_categories", *categories))


def test_grades_of_activities_and_manual_items(spark: SparkSession, places: DataFrame, students: DataFrame) -> None:
    def item(number: int, kind: str, module: str | None = None, instance: int | None = None) -> dict[str, Any]:
        return {"id": number, "courseid": 10, "itemtype": kind, "itemmodule": module, "iteminstance": instance}

    items = raw(spark, "grade_items", item(1, "mod", "quiz", 3), item(2, "manual"), item(3, "course"))
    items = items.withColumn("grademax", F.lit(20).cast("decimal(10,5)")).withColumn(
        "aggregationcoef", F.when(F.col("id") == 1, F.lit(0.25).cast("decimal(10,5)"))
    )
    grades = raw(
        spark,
        "grade_grades",
        {"itemid": 1, "userid": 2, "finalgrade": Decimal("15"), "timecreated": 50, "timemodified": 60},
        {"itemid": 1, "userid": 3, "timecreated": 50, "timemodified": 60},  # a placeholder
        {"itemid": 1, "userid": 9, "finalgrade": Decimal("1"), "timemodified": 60},  # no student
        {"itemid": 2, "userid": 3, "finalgrade": Decimal("0"), "timemodified": 70},
        {"itemid": 3, "userid": 2, "finalgrade": Decimal("9"), "timemodified": 70},  # the course's total
    )
    no_categories = raw(spark, "grade_categories")
    items = assessments.weighted_items(items, no_categories)
    found = assessments.fact_grade(grades, raw(spark, "grade_grades_history"), items, places, students)
    columns = [
        "itemid",
        "courseid",
        "cmid",
        "modname",
        "user_key",
        "fraction",
        "weight",
        "is_extra_credit",
        "submitted_at",
        "graded_at",
    ]
    assert found.columns == columns
    assert rows(found, *columns) == [
        (1, 10, 1, "quiz", "key2", 0.75, 0.25, False, at(50), at(60)),
        (2, 10, None, None, "key3", 0.0, 0.0, False, None, at(70)),
    ]


def test_grades_deleted_with_the_enrolment_are_not_forgotten(
    spark: SparkSession, places: DataFrame, students: DataFrame
) -> None:
    def change(
        number: int, action: int, userid: int, time: int, grade: str | None, source: str = "mod/quiz"
    ) -> dict[str, Any]:
        final = Decimal(grade) if grade else None
        return {
            "id": number,
            "action": action,
            "itemid": 1,
            "userid": userid,
            "timemodified": time,
            "finalgrade": final,
            "source": source,
        }

    items = weighted(spark, {"id": 1, "itemtype": "mod", "itemmodule": "quiz", "iteminstance": 3})
    history = raw(
        spark,
        "grade_grades_history",
        change(1, 1, 2, 40, "2"),
        change(2, 2, 2, 50, "8"),
        change(3, 3, 2, 90, "8", "userdelete"),
        change(4, 1, 3, 40, "5"),
        change(5, 3, 3, 90, "5", "system"),  # the grade itself was deleted
    )
    found = assessments.fact_grade(raw(spark, "grade_grades"), history, items, places, students)
    assert rows(found, "user_key", "fraction", "submitted_at", "graded_at") == [("key2", 0.8, None, at(50))]
    present = raw(
        spark,
        "grade_grades",
        {"itemid": 1, "userid": 2, "finalgrade": Decimal("9"), "timecreated": 95, "timemodified": 99},
    )
    found = assessments.fact_grade(present, history, items, places, students)
    assert rows(found, "user_key", "fraction", "graded_at") == [("key2", 0.9, at(99))]


def test_what_a_grade_was_before(spark: SparkSession, places: DataFrame, students: DataFrame) -> None:
    """Every change is kept but those that changed nothing; of who left, what they had; without a history the last value."""
    items = weighted(spark, {"id": 1, "itemtype": "mod", "itemmodule": "quiz", "iteminstance": 3}, {"id": 2})

    def change(number: int, userid: int, action: int, grade: int | None, **columns: Any) -> dict[str, Any]:
        final = None if grade is None else Decimal(grade)
        own = {"id": number, "userid": userid, "action": action, "finalgrade": final, "timemodified": 30 + number}
        return {"itemid": 1, "source": "mod/quiz", **own, **columns}

    history = raw(
        spark,
        "grade_grades_history",
        change(1, 2, 1, None),
        change(2, 2, 2, 4),
        change(3, 2, 2, 4),  # feedback alone
        change(4, 2, 2, 9, rawgrademax=Decimal(20), rawgrademin=Decimal(0)),
        change(5, 5, 1, 5),
        change(6, 5, 3, 5, source="userdelete"),
        change(7, 3, 1, 7),
        change(8, 3, 3, 7, source="system"),
    )
    grades = raw(
        spark,
        "grade_grades",
        {"itemid": 1, "userid": 2, "finalgrade": Decimal(8), "timemodified": 20},  # the history was off then
        {"itemid": 2, "userid": 4, "finalgrade": Decimal(6), "timemodified": 60},
        {"itemid": 2, "userid": 3, "finalgrade": Decimal(6), "timemodified": 60, "excluded": 1},
    )
    nothing = tables.local_rows(spark, [], contracts.ddl(table_names.FACT_GRADE_CHANGE))
    found = assessments.fact_grade_change(grades, history, items, places, students, nothing)
    assert rows(found, "itemid", "cmid", "user_key", "changed_at", "fraction") == [
        (1, 1, "key2", at(32), 0.4),
        (1, 1, "key2", at(34), 0.8),
        (1, 1, "key3", at(37), 0.7),
        (1, 1, "key3", at(38), None),
        (1, 1, "key5", at(35), 0.5),
        (2, None, "key4", at(60), 0.6),
    ]


def test_a_grade_that_no_history_keeps_is_remembered(
    spark: SparkSession, places: DataFrame, students: DataFrame
) -> None:
    """What an ingest saw before Moodle overwrote it, once; not of grades that are gone, nor where Moodle knows better."""
    items = weighted(spark, {"id": 1, "itemtype": "mod", "itemmodule": "quiz", "iteminstance": 3})
    no_history = raw(spark, "grade_grades_history")
    found = tables.local_rows(spark, [], contracts.ddl(table_names.FACT_GRADE_CHANGE))
    for value, moment in ((4, 20), (4, 20), (9, 50), (9, 50)):
        grade = {"itemid": 1, "finalgrade": Decimal(value), "timemodified": moment}
        people = [{**grade, "userid": 2}, *([{**grade, "userid": 3}] if moment == 20 else [])]
        grades = raw(spark, "grade_grades", *people)
        found = written(assessments.fact_grade_change(grades, no_history, items, places, students, found))
    columns = ("itemid", "cmid", "user_key", "changed_at", "fraction", "weight", "is_extra_credit")
    assert rows(found, *columns) == [
        (1, 1, "key2", at(20), 0.4, 0.0, False), (1, 1, "key2", at(50), 0.9, 0.0, False)
    ]  # fmt: skip
    change = {"id": 1, "itemid": 1, "userid": 2, "action": 1, "finalgrade": Decimal(5), "timemodified": 10}
    grades = raw(spark, "grade_grades", {"itemid": 1, "userid": 2, "finalgrade": Decimal(9), "timemodified": 50})
    kept = raw(spark, "grade_grades_history", change)
    found = assessments.fact_grade_change(grades, kept, items, places, students, found)
    assert rows(found, "changed_at", "fraction") == [(at(10), 0.5), (at(50), 0.9)]


def test_totals_of_courses(spark: SparkSession, students: DataFrame) -> None:
    items = raw(
        spark,
        "grade_items",
        {"id": 1, "courseid": 10, "itemtype": "course", "grademin": Decimal(20), "grademax": Decimal(100),
         "gradepass": Decimal(60)},
        {"id": 2, "courseid": 10, "itemtype": "manual", "grademax": Decimal(10)},
        {"id": 3, "courseid": 11, "itemtype": "course", "grademax": Decimal(100), "gradepass": Decimal(0)},
    )  # fmt: skip
    grade = partial(dict, finalgrade=Decimal(80), timemodified=70)
    grades = raw(
        spark, "grade_grades", grade(itemid=1, userid=2), grade(itemid=2, userid=3), grade(itemid=3, userid=2),
        grade(itemid=1, userid=3, excluded=1),
    )  # fmt: skip
    left = [
        {
            "id": i,
            "action": action,
            "itemid": 1,
            "userid": 5,
            "timemodified": 30 + i,
            "finalgrade": Decimal(40),
            "source": source,
        }
        for i, action, source in ((1, 2, "mod/quiz"), (2, 3, "userdelete"))
    ]
    in_another = students.unionByName(spark.createDataFrame([(2, 11, "key2", True)], students.schema))
    found = assessments.fact_course_grade(grades, raw(spark, "grade_grades_history", *left), items, in_another)
    columns = ["courseid", "user_key", "fraction", "pass_fraction", "graded_at"]
    assert found.columns == columns
    assert rows(found, *columns) == [
        (10, "key2", 0.75, 0.5, at(70)),
        (10, "key5", 0.25, 0.5, at(31)),
        (11, "key2", 0.8, None, at(70)),
    ]


def test_submissions_and_attempts(spark: SparkSession, places: DataFrame, students: DataFrame) -> None:
    def handed_in(assignment: int, userid: int, status: str, time: int, **columns: Any) -> dict[str, Any]:
        base = {"assignment": assignment, "userid": userid, "status": status, "timemodified": time}
        return {**base, "attemptnumber": 0, "groupid": 0, **columns}

    submissions = raw(
        spark,
        "assign_submission",
        handed_in(4, 2, "submitted", 50),
        handed_in(4, 2, "submitted", 70, attemptnumber=1),
        handed_in(4, 3, "draft", 60),
        handed_in(4, 0, "submitted", 80, groupid=6),
        handed_in(5, 2, "submitted", 50),  # a deleted module
        handed_in(4, 9, "submitted", 50),  # no student
    )

    def attempt(userid: int, state: str, preview: int = 0) -> dict[str, Any]:
        return {"quiz": 3, "userid": userid, "attempt": 1, "preview": preview, "state": state, "timefinish": 90}

    found = assessments.fact_submission(
        assessments.assignments(
            submissions,
            raw(spark, "assign", {"id": 4, "duedate": 65}, {"id": 5, "duedate": 0}),
            tables.local_rows(
                spark, [(4, 6, 3, 85)], "assignment bigint, groupid bigint, userid bigint, joined bigint"
            ),
        ),
        assessments.attempts(
            raw(
                spark,
                "quiz_attempts",
                attempt(2, "finished"),
                attempt(3, "inprogress"),
                attempt(3, "finished", preview=1),
            ),
            raw(spark, "quiz", {"id": 3, "timeclose": 0}),
        ),
        tables.local_rows(
            spark, [("assign", 4, 3, 90)], "modname string, instance bigint, userid bigint, own_due bigint"
        ),
        places,
        students,
    )
    columns = ["courseid", "cmid", "modname", "user_key", "attempt", "submitted_at", "known_at", "due_at", "status"]
    assert found.columns == columns
    assert rows(found, *columns) == [
        (10, 1, "quiz", "key2", 1, at(90), at(90), None, "finished"),
        (10, 2, "assign", "key2", 1, at(50), at(50), at(65), "submitted"),
        (10, 2, "assign", "key2", 2, at(70), at(70), at(65), "submitted"),
        (10, 2, "assign", "key3", 1, at(80), at(85), at(90), "submitted"),  # joined the team later
    ]


def test_a_grade_is_its_place_between_lowest_and_highest(
    spark: SparkSession, places: DataFrame, students: DataFrame
) -> None:
    """Case D: scales begin at 1, grades may be negative, excluded ones are none, the history has its own range."""
    items = weighted(
        spark,
        {"id": 1, "gradetype": 2, "grademin": Decimal(1), "grademax": Decimal(2)},
        {"id": 2, "grademin": Decimal(-10), "grademax": Decimal(10)},
        {"id": 3, "grademin": Decimal(0)},
        {"id": 4, "gradetype": 3},  # text
        {"id": 5, "grademin": Decimal(2), "grademax": Decimal(2)},
    )

    def grade(item: int, value: int, **columns: Any) -> dict[str, Any]:
        return {"itemid": item, "userid": 2, "finalgrade": Decimal(value), "timemodified": 9, **columns}

    grades = raw(
        spark, "grade_grades", grade(1, 1), grade(2, -5), grade(3, 5, excluded=77), grade(4, 5), grade(5, 2),
        grade(3, 0, userid=3, excluded=77),
    )  # fmt: skip
    left = {"userid": 4, "itemid": 3, "rawgrademin": Decimal(0), "rawgrademax": Decimal(100), "source": "mod/quiz"}
    history = raw(
        spark,
        "grade_grades_history",
        {**left, "id": 1, "action": 1, "timemodified": 5, "finalgrade": Decimal(75)},
        {**left, "id": 2, "action": 3, "timemodified": 8, "finalgrade": Decimal(75), "source": "userdelete"},
    )
    found = assessments.fact_grade(grades, history, items, places, students)
    assert rows(found, "itemid", "user_key", "fraction") == [
        (1, "key2", 0.0), (2, "key2", 0.25), (3, "key4", 0.75)
    ]  # fmt: skip


def test_natural_weighting_and_extra_credit(spark: SparkSession) -> None:
    """Case D: what an item's columns mean follows from how its category is aggregated."""

    def item(number: int, coef: float, coef2: float, **columns: Any) -> dict[str, Any]:
        return {"id": number, "aggregationcoef": Decimal(coef), "aggregationcoef2": Decimal(coef2), **columns}

    def weights(found: DataFrame) -> dict[int, tuple[float, bool]]:
        return {row["itemid"]: (round(row["weight"], 6), row["is_extra_credit"]) for row in found.collect()}

    # no category is known: aggregationcoef2 tells natural weighting
    assert weights(weighted(spark, item(1, 0, 0.125), item(2, 0, 0.125), item(3, 1, 0))) == {
        1: (0.125, False), 2: (0.125, False), 3: (0.0, True)
    }  # fmt: skip
    assert weights(weighted(spark, item(1, 30, 0), item(2, 0, 0))) == {1: (30.0, False), 2: (0.0, False)}
    # a weighted mean (10) of an exam, 60 %, and homework, 40 %, which is natural (13), with a bonus in it
    found = weighted(
        spark,
        item(1, 60, 0, categoryid=1),
        item(2, 40, 0, itemtype="category", iteminstance=2),
        item(3, 0, 0.25, categoryid=2),
        item(4, 0, 0.75, categoryid=2),
        item(5, 1, 0.25, categoryid=2),
        item(6, 0, 0, itemtype="course", iteminstance=1),
        categories=(
            {"id": 1, "aggregation": 10, "path": "/1/"},
            {"id": 2, "aggregation": 13, "parent": 1, "path": "/1/2/"},
        ),
    )
    assert weights(found) == {1: (60, False), 3: (10, False), 4: (30, False), 5: (10, True)}
    # the simple weighted mean (11) weighs by the highest grade, a mean (0) all alike
    for how, expected in ((11, {1: (25.0, False), 2: (75.0, False)}), (0, {1: (50.0, False), 2: (50.0, False)})):
        found = weighted(
            spark,
            item(1, 0, 0, categoryid=1),
            item(2, 0, 0, categoryid=1, grademax=Decimal(30)),
            categories=({"id": 1, "aggregation": how, "path": "/1/"},),
        )
        assert weights(found) == expected, how


def test_due_dates_of_single_users(spark: SparkSession) -> None:
    """Case B: a user's override, then the first group's (a quiz: the latest), then everybody's; an extension moves it."""
    members = [
        {"groupid": group, "userid": user, "timeadded": 10 * group + user}
        for group, user in ((6, 3), (7, 3), (6, 4), (6, 5))
    ]
    found = assessments.own_due_dates(
        raw(spark, "assign", {"id": 4, "duedate": 100}, {"id": 5, "duedate": 0}),
        raw(
            spark,
            "assign_overrides",
            {"assignid": 4, "groupid": 6, "sortorder": 2, "duedate": 200},
            {"assignid": 4, "groupid": 7, "sortorder": 1, "duedate": 300},
            {"assignid": 4, "userid": 4, "duedate": 0},
            {"assignid": 4, "userid": 8, "duedate": 100},
        ),
        raw(
            spark,
            "assign_user_flags",
            {"assignment": 4, "userid": 5, "extensionduedate": 250},
            {"assignment": 4, "userid": 6, "extensionduedate": 90},
            {"assignment": 4, "userid": 7, "extensionduedate": 150},
            {"assignment": 5, "userid": 7, "extensionduedate": 150},
        ),
        raw(spark, "quiz", {"id": 4, "timeclose": 100}),
        raw(
            spark,
            "quiz_overrides",
            {"quiz": 4, "groupid": 6, "timeclose": 500},
            {"quiz": 4, "groupid": 7, "timeclose": 400},
            {"quiz": 4, "userid": 5, "timeclose": 50},
        ),
        raw(spark, "groups_members", *members),
    )
    assert rows(found, "modname", "instance", "userid", "own_due", "joined") == [
        ("assign", 4, 3, 300, 73), ("assign", 4, 4, 0, None), ("assign", 4, 5, 250, 65), ("assign", 4, 7, 150, None),
        ("quiz", 4, 3, 500, 73), ("quiz", 4, 4, 500, 64), ("quiz", 4, 5, 50, None),
    ]  # fmt: skip


def test_an_own_due_date_is_known_from_when_it_was_given(
    spark: SparkSession, places: DataFrame, students: DataFrame
) -> None:
    """By the log; of a group's, not before the student came into it."""

    def event(number: int, name: str, time: int, userid: int | None = None, group: int | None = None) -> dict[str, Any]:
        other = None if group is None else json.dumps({"groupid": group})
        return {
            "id": number, "eventname": name, "timecreated": time, "contextinstanceid": 2, "relateduserid": userid,
            "other": other, "origin": "web",
        }  # fmt: skip

    events = raw(
        spark,
        "logstore_standard_log",
        event(1, r"\mod_assign\event\user_override_created", 30, userid=2),
        event(2, r"\mod_assign\event\extension_granted", 40, userid=2),
        event(3, r"\mod_assign\event\group_override_created", 35, group=6),
    )
    members = raw(spark, "groups_members", {"groupid": 6, "userid": 3, "timeadded": 50})
    own = tables.local_rows(
        spark,
        [("assign", 4, 2, 300, None), ("assign", 4, 3, 300, 50), ("assign", 4, 4, 300, None)],
        "modname string, instance bigint, userid bigint, own_due bigint, joined bigint",
    )
    found = assessments.due_date_exception(own, assessments.granted(events, members), places, students)
    assert rows(found, "user_key", "due_at", "known_at") == [
        ("key2", at(300), at(40)), ("key3", at(300), at(50)), ("key4", at(300), None)
    ]  # fmt: skip


def test_teams(spark: SparkSession, students: DataFrame) -> None:
    """Case C: the default team, 0, is of who is in no group or in several, unless the assignment forbids it."""
    assign = [
        {"id": 1, "course": 10, "teamsubmission": 1},
        {"id": 2, "course": 10, "teamsubmission": 1, "preventsubmissionnotingroup": 1},
        {"id": 3, "course": 10, "teamsubmission": 1, "teamsubmissiongroupingid": 9},
        {"id": 4, "course": 10, "teamsubmission": 0},
    ]
    found = assessments.teams(
        raw(spark, "assign", *assign),
        raw(spark, "groups", *[{"id": number, "courseid": 10} for number in (6, 7)], {"id": 8, "courseid": 11}),
        raw(spark, "groupings_groups", {"groupingid": 9, "groupid": 7}),
        raw(
            spark,
            "groups_members",
            *[{"groupid": group, "userid": user} for group, user in ((6, 2), (6, 3), (7, 3), (8, 4))],
        ),
        students,
    )
    assert rows(found, "assignment", "userid", "groupid") == [
        (1, 2, 6), (1, 3, 0), (1, 4, 0), (2, 2, 6), (3, 2, 0), (3, 3, 7), (3, 4, 0)
    ]  # fmt: skip
