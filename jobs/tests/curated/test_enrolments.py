"""Enrolments by small cases whose right answer can be seen."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from moodle_lakehouse.curated.enrolments import (
    ENROLMENT_CREATED,
    ENROLMENT_DELETED,
    ENROLMENT_UPDATED,
    current,
    fact_enrolment,
    logged,
    students,
)
from moodle_lakehouse.curated.roles import NO_END
from moodle_lakehouse.lake import contracts, table_names, tables
from pyspark.sql import DataFrame, SparkSession
from raw_rows import at, event, raw, roles_of, rows


@pytest.fixture
def courses(spark: SparkSession) -> DataFrame:
    return tables.local_rows(spark, [(10,), (11,)], "courseid bigint")


@pytest.fixture
def all_students(spark: SparkSession) -> DataFrame:
    return roles_of(spark, *[(userid, 10, None, (0, NO_END)) for userid in (1, 2, 3, 4, 5, 6, 7, 999)])


def enrolment(number: int, userid: int, **columns: Any) -> dict[str, Any]:
    return {"id": number, "enrolid": 1, "userid": userid, "status": 0, "timestart": 0, "timecreated": 0, **columns}


def deleted_row(userid: int, **columns: Any) -> dict[str, Any]:
    return {"userenrolment": {k: str(v) for k, v in enrolment(1, userid, **columns).items()}, "enrol": "manual"}


def enrolments(spark: SparkSession, users: DataFrame, courses: DataFrame, roles: DataFrame, **tables: Any) -> DataFrame:
    return students(
        current(
            raw(spark, "user_enrolments", *tables.get("current", ())),
            raw(spark, "enrol", {"id": 1, "courseid": 10}, {"id": 2, "courseid": 10}),
        ),
        logged(raw(spark, "logstore_standard_log", *tables.get("lifecycle", ()))),
        raw(spark, "course_completions", *tables.get("completions", ())),
        roles,
        users,
        courses,
    )


def test_enrolment_starts_at_the_earliest_time_known(
    spark: SparkSession, users: DataFrame, courses: DataFrame, all_students: DataFrame
) -> None:
    found = enrolments(
        spark,
        users,
        courses,
        all_students,
        current=[
            enrolment(1, 2, timestart=0, timecreated=500),
            enrolment(2, 3, timestart=400, timecreated=500),
            enrolment(3, 4, timestart=600, timecreated=500),
            enrolment(4, 4, enrolid=2, timestart=0, timecreated=450, status=1),
            enrolment(5, 5, timecreated=500, status=1),
            enrolment(6, 1, timecreated=500),  # guest
            enrolment(7, 999, timecreated=500),  # unknown user
        ],
        lifecycle=[event(1, ENROLMENT_CREATED, 300, relateduserid=2, courseid=10)],
        completions=[{"userid": 3, "course": 10, "timecompleted": 900}, {"userid": 2, "course": 10}],
    )
    columns = ["userid", "user_key", "courseid", "enrolled_at", "unenrolled_at", "is_suspended", "completed_at"]
    assert rows(found, *columns) == [
        (2, "key2", 10, at(300), None, False, None),
        (3, "key3", 10, at(400), None, False, at(900)),
        (4, "key4", 10, at(450), None, False, None),
        (5, "key5", 10, at(500), None, True, None),
    ]


def test_a_suspension_is_dated_by_its_row_or_by_who_saw_it_first(
    spark: SparkSession, users: DataFrame, courses: DataFrame, all_students: DataFrame
) -> None:
    """Case A: no column of Moodle dates a suspension."""
    found = enrolments(
        spark,
        users,
        courses,
        all_students,
        current=[
            enrolment(1, 2, timecreated=100, timemodified=100, status=1),  # the row does not say when
            enrolment(2, 3, timecreated=100, timemodified=600, status=1),
            enrolment(3, 4, timecreated=100, timemodified=600, status=1),  # was seen active after that
            enrolment(4, 5, timecreated=100, timemodified=600, status=1),  # is known already
            enrolment(5, 6, timecreated=100, timemodified=600),
            enrolment(6, 7, timecreated=100, timemodified=100, status=1),  # the log says when
        ],
        lifecycle=[event(1, ENROLMENT_UPDATED, 650, relateduserid=7, courseid=10)],
    )
    was = {4: (False, None, None), 5: (True, at(400), False), 6: (True, at(400), True)}
    earlier = tables.local_rows(
        spark,
        [(f"key{userid}", 10, *values) for userid, values in was.items()],
        "user_key string, courseid bigint, is_suspended boolean, suspended_at timestamp, suspension_is_exact boolean",
    )
    read, now = (dt.datetime.fromtimestamp(moment, dt.UTC) for moment in (700, 900))
    fact = fact_enrolment(found, earlier, read, now)
    assert fact.columns == list(contracts.names(table_names.FACT_ENROLMENT))
    assert rows(fact, "user_key", "is_suspended", "suspended_at", "suspension_is_exact") == [
        ("key2", True, at(900), False),
        ("key3", True, at(600), True),
        ("key4", True, at(900), False),
        ("key5", True, at(400), False),
        ("key6", False, None, None),
        ("key7", True, at(650), True),
    ]


def test_deleted_enrolments_come_back_from_the_log(
    spark: SparkSession, users: DataFrame, courses: DataFrame, all_students: DataFrame
) -> None:
    created, deleted = ENROLMENT_CREATED, ENROLMENT_DELETED
    found = enrolments(
        spark,
        users,
        courses,
        all_students,
        current=[enrolment(9, 4, timecreated=800)],
        lifecycle=[
            event(1, deleted, 700, relateduserid=2, courseid=10, origin="cli", other=deleted_row(2, timecreated=100)),
            event(2, deleted, 700, relateduserid=3, courseid=10, other=deleted_row(3, timestart=90, timecreated=100)),
            # left and came back: the present row says so
            event(3, created, 200, relateduserid=4, courseid=10),
            event(4, deleted, 700, relateduserid=4, courseid=10, other=deleted_row(4, timecreated=200)),
            event(5, created, 800, relateduserid=4, courseid=10),
            # left, came back, left again
            event(6, deleted, 300, relateduserid=5, courseid=10, other=deleted_row(5, timecreated=200)),
            event(7, created, 400, relateduserid=5, courseid=10),
            event(8, deleted, 500, relateduserid=5, courseid=10, other=deleted_row(5, timecreated=400)),
            # enrolled again after the enrolments were read
            event(9, deleted, 300, relateduserid=6, courseid=10, other=deleted_row(6, timecreated=200)),
            event(10, created, 900, relateduserid=6, courseid=10),
            # only an old creation: nothing says how it ended
            event(11, created, 100, relateduserid=7, courseid=10),
            # a course that is gone
            event(12, deleted, 700, relateduserid=2, courseid=99, other=deleted_row(2, timecreated=100)),
        ],
    )
    assert rows(found, "userid", "courseid", "enrolled_at", "unenrolled_at") == [
        (2, 10, at(100), at(700)),
        (3, 10, at(90), at(700)),
        (4, 10, at(200), None),
        (5, 10, at(200), at(500)),
        (6, 10, at(200), None),
    ]


def test_only_who_has_a_students_role_is_a_student(spark: SparkSession, users: DataFrame, courses: DataFrame) -> None:
    span = (0, NO_END)
    roles = roles_of(spark, (2, 10, span, None), (3, 10, span, span), (4, 10, None, span), (6, 10, None, (0, 7)))
    found = enrolments(
        spark,
        users,
        courses,
        roles,
        current=[enrolment(n, n, timecreated=5) for n in (2, 3, 4, 5, 6)],
        lifecycle=[
            event(n, ENROLMENT_DELETED, 9, relateduserid=n, courseid=10, other=deleted_row(n, timecreated=1))
            for n in (2, 7)
        ],
    )
    # of 5 and 7 no role is known; 6 was a student until the role was taken away
    assert rows(found, "userid", "unenrolled_at") == [(3, None), (4, None), (5, None), (6, at(7)), (7, at(9))]


def test_a_role_given_later_changes_nothing_before(spark: SparkSession, users: DataFrame, courses: DataFrame) -> None:
    """Who becomes staff at the end stays the student of before; who was staff first is a student from the role on."""
    always, day = (0, NO_END), 86400
    roles = roles_of(
        spark,
        (2, 10, (9 * day, NO_END), always),
        (3, 10, always, (9 * day, NO_END)),
        (4, 10, always, (5 * day + 7, NO_END)),  # given together with the enrolment
        (5, 10, None, (9 * day, NO_END)),  # nobody knows of an earlier role
    )
    current = [enrolment(n, n, timestart=3 * day, timecreated=5 * day) for n in (2, 3, 4, 5)]
    found = enrolments(spark, users, courses, roles, current=current)
    assert rows(found, "userid", "enrolled_at") == [
        (2, at(3 * day)), (3, at(9 * day)), (4, at(3 * day)), (5, at(3 * day))
    ]  # fmt: skip
