"""Grades and submissions by small cases whose right answer can be seen."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from moodle_lakehouse.curated import assessments
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from raw_rows import at, raw, rows


@pytest.fixture
def places(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(
        [(1, 10, "quiz", 3, False), (2, 10, "assign", 4, False), (3, 10, "assign", 5, True)],
        "cmid bigint, courseid bigint, modname string, instance bigint, is_deleted boolean",
    )


@pytest.fixture
def students(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame([(2, 10, "key2"), (3, 10, "key3")], "userid bigint, courseid bigint, user_key string")


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
    found = assessments.fact_grade(grades, raw(spark, "grade_grades_history"), items, places, students)
    columns = [
        "itemid",
        "courseid",
        "cmid",
        "modname",
        "user_key",
        "fraction",
        "weight",
        "submitted_at",
        "graded_at",
    ]
    assert found.columns == columns
    assert rows(found, *columns) == [
        (1, 10, 1, "quiz", "key2", 0.75, 0.25, at(50), at(60)),
        (2, 10, None, None, "key3", 0.0, 0.0, None, at(70)),
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

    items = raw(
        spark,
        "grade_items",
        {
            "id": 1,
            "courseid": 10,
            "itemtype": "mod",
            "itemmodule": "quiz",
            "iteminstance": 3,
            "grademax": Decimal("10"),
        },
    )
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
            raw(spark, "groups_members", {"groupid": 6, "userid": 3}),
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
        places,
        students,
    )
    columns = ["courseid", "cmid", "modname", "user_key", "attempt", "submitted_at", "due_at", "status"]
    assert found.columns == columns
    assert rows(found, *columns) == [
        (10, 1, "quiz", "key2", 1, at(90), None, "finished"),
        (10, 2, "assign", "key2", 1, at(50), at(65), "submitted"),
        (10, 2, "assign", "key2", 2, at(70), at(65), "submitted"),
        (10, 2, "assign", "key3", 1, at(80), at(65), "submitted"),
    ]
