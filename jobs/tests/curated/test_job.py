"""Curated tables by small cases whose right answer can be seen."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from typing import Any

import pytest
from moodle_lakehouse.config import EnrolmentAttributes
from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import tables
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from raw_rows import event, raw

MODULES = [(1, "quiz"), (2, "page"), (3, "assign")]


def at(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).replace(tzinfo=None)


def rows(df: DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in df.select(*columns).collect()), key=str)


@pytest.fixture
def users(spark: SparkSession) -> DataFrame:
    return tables.local_rows(spark, [(n, f"key{n}") for n in range(1, 10)], "userid bigint, user_key string")


@pytest.fixture
def courses(spark: SparkSession) -> DataFrame:
    return tables.local_rows(spark, [(10,), (11,)], "courseid bigint")


def roles_of(spark: SparkSession, *given: tuple[int, int, tuple[int, int] | None, tuple[int, int] | None]) -> DataFrame:
    """Roles as course_roles() gives them: user, course, from when until when staff, from when until when student."""
    span = "struct<since: bigint, until: bigint>"
    return spark.createDataFrame(list(given), f"userid bigint, courseid bigint, staff {span}, student {span}")


@pytest.fixture
def no_roles(spark: SparkSession) -> DataFrame:
    return roles_of(spark)


def test_user_key_is_a_keyed_hash(spark: SparkSession) -> None:
    source = raw(spark, "user", {"id": 7, "deleted": 0, "timecreated": 100}, {"id": 8, "deleted": 1, "timecreated": 0})
    found = rows(
        curated_job.dim_user(source, curated_job.pseudonym(b"secret")), "userid", "user_key", "is_deleted", "created_at"
    )
    expected = [hmac.new(b"secret", str(n).encode(), hashlib.sha256).hexdigest()[:16] for n in (7, 8)]
    assert found == [(7, expected[0], False, at(100)), (8, expected[1], True, None)]
    other = rows(curated_job.dim_user(source, curated_job.pseudonym(b"another")), "user_key")
    assert {key for (key,) in other}.isdisjoint(expected)


def test_course_leaves_out_the_site(spark: SparkSession) -> None:
    source = raw(
        spark, "course", {"id": 1}, {"id": 2, "shortname": "A", "startdate": 86400, "enddate": 0, "visible": 0}
    )
    found = rows(curated_job.dim_course(source), "courseid", "shortname", "start_at", "end_at", "visible")
    assert found == [(2, "A", at(86400), None, False)]


def test_resource_present_hidden_and_deleted(spark: SparkSession) -> None:
    module = "\\core\\event\\course_module_"
    lifecycle = raw(
        spark,
        "logstore_standard_log",
        event(1, module + "created", 50, contextinstanceid=5, courseid=10, other={"name": "Old", "modulename": "page"}),
        event(2, module + "updated", 60, contextinstanceid=5, courseid=10, other={"name": "New", "modulename": "page"}),
        event(
            3, module + "deleted", 70, contextinstanceid=5, courseid=10, other={"modulename": "page", "instanceid": "9"}
        ),
    )
    instances = spark.createDataFrame(
        [("quiz", 3, "Quiz 3", 500), ("page", 3, "Page 3", 0)],
        "modname string, instance bigint, name string, due bigint",
    )
    found = curated_job.dim_resource(
        raw(spark, "modules", *[{"id": i, "name": n} for i, n in MODULES]),
        raw(
            spark,
            "course_modules",
            {
                "id": 1,
                "course": 10,
                "module": 1,
                "instance": 3,
                "section": 77,
                "added": 40,
                "visible": 1,
                "deletioninprogress": 0,
            },
            {
                "id": 2,
                "course": 10,
                "module": 2,
                "instance": 3,
                "section": 78,
                "added": 0,
                "visible": 0,
                "deletioninprogress": 1,
            },
        ),
        raw(spark, "course_sections", {"id": 77, "section": 2}),
        instances,
        lifecycle,
    )
    columns = [
        "cmid",
        "courseid",
        "modname",
        "instance",
        "name",
        "section",
        "added_at",
        "due_at",
        "visible",
        "is_deleted",
        "deleted_at",
    ]
    assert rows(found, *columns) == [
        (1, 10, "quiz", 3, "Quiz 3", 2, at(40), at(500), True, False, None),
        (2, 10, "page", 3, "Page 3", None, None, None, False, True, None),
        (5, 10, "page", 9, "New", None, at(50), None, False, True, at(70)),
    ]


def test_roles_reach_down_and_back_in_time(spark: SparkSession) -> None:
    contexts = raw(
        spark,
        "context",
        {"id": 1, "contextlevel": 10, "instanceid": 0, "path": "/1"},
        {"id": 3, "contextlevel": 40, "instanceid": 1, "path": "/1/3"},
        {"id": 24, "contextlevel": 50, "instanceid": 10, "path": "/1/3/24"},
        {"id": 25, "contextlevel": 50, "instanceid": 11, "path": "/1/25"},
    )
    roles = raw(
        spark,
        "role",
        {"id": 1, "shortname": "manager", "archetype": "manager"},
        {"id": 3, "shortname": "editingteacher", "archetype": "editingteacher"},
        {"id": 5, "shortname": "student", "archetype": "student"},
        {"id": 7, "shortname": "user", "archetype": "user"},
    )
    assignments = raw(
        spark,
        "role_assignments",
        {"roleid": 1, "contextid": 3, "userid": 2, "timemodified": 0},  # manager of the category: of course 10 only
        {"roleid": 5, "contextid": 24, "userid": 3, "timemodified": 4},
        {"roleid": 3, "contextid": 24, "userid": 3, "timemodified": 8},  # student and then teacher of one course
        {"roleid": 1, "contextid": 24, "userid": 3, "timemodified": 9},
        {"roleid": 7, "contextid": 1, "userid": 4, "timemodified": 1},
    )
    lifecycle = raw(
        spark,
        "logstore_standard_log",
        event(1, curated_job.ROLE_ASSIGNED, 5, courseid=11, relateduserid=5, objectid=3),
        event(2, curated_job.ROLE_UNASSIGNED, 6, courseid=11, relateduserid=5, objectid=3),
        event(3, curated_job.ROLE_ASSIGNED, 5, courseid=11, relateduserid=6, objectid=3, contextlevel=70),
        # The log begins later than the role; it was given again to one of the two.
        event(4, curated_job.ROLE_UNASSIGNED, 6, courseid=11, relateduserid=7, objectid=3),
        event(5, curated_job.ROLE_UNASSIGNED, 6, courseid=11, relateduserid=8, objectid=5),
        event(6, curated_job.ROLE_ASSIGNED, 7, courseid=11, relateduserid=8, objectid=5),
    )
    found = curated_job.course_roles(curated_job.course_archetypes(contexts, roles, assignments, lifecycle))
    assert rows(found, "userid", "courseid", "staff", "student") == [
        (2, 10, (0, curated_job.NO_END), None),
        (3, 10, (8, curated_job.NO_END), (4, curated_job.NO_END)),
        (5, 11, (5, 6), None),
        (7, 11, (0, 6), None),
        (8, 11, None, (0, curated_job.NO_END)),
    ]


def test_event_hygiene(spark: SparkSession, users: DataFrame) -> None:
    seen = r"\mod_quiz\event\course_module_viewed"
    own = {"userid": 3, "courseid": 10, "component": "mod_quiz", "crud": "r", "edulevel": 2}
    module = {"contextlevel": 70, "contextinstanceid": 1}
    events = raw(
        spark,
        "logstore_standard_log",
        event(1, seen, 100, **own, **module),
        event(2, seen, 101, **own, origin="ws"),
        event(3, seen, 102, **{**own, "userid": 2}, contextlevel=70, contextinstanceid=99),  # staff; module unknown
        event(4, seen, 103, **own, anonymous=1),
        event(5, seen, 104, **own, realuserid=2),
        event(6, seen, 105, **{**own, "userid": 1}),
        event(7, seen, 105, **{**own, "userid": 0}),
        event(8, seen, 105, **{**own, "userid": -1}),
        event(9, seen, 106, **own, origin="cli"),
        event(10, seen, 107, **own, origin="restore"),
        event(11, seen, 108, **own, origin=None),  # brought by a restore: it happened in another course
        event(12, seen, 109, **{**own, "userid": 999}),  # nobody the site knows any more
    )
    resources = tables.local_rows(spark, [(1, "quiz")], "cmid bigint, modname string")
    roles = roles_of(spark, (2, 10, (0, 102), None), (3, 10, None, (100, 100)))
    found = curated_job.fact_event(events, users, resources, roles)
    assert rows(found, "event_id", "occurred_at", "user_key", "cmid", "modname", "role") == [
        (1, at(100), "key3", 1, "quiz", "student"),
        (2, at(101), "key3", None, None, "other"),
        (3, at(102), "key2", 99, "quiz", "staff"),
    ]


def test_the_role_is_the_one_of_that_time(spark: SparkSession, users: DataFrame) -> None:
    events = raw(
        spark,
        "logstore_standard_log",
        *[event(time, r"\core\event\course_viewed", time, userid=3, courseid=10) for time in (1, 4, 8, 12, 13)],
        event(20, r"\core\event\course_viewed", 8, userid=3, courseid=11),
    )
    roles = roles_of(spark, (3, 10, (8, 12), (4, curated_job.NO_END)))
    resources = tables.local_rows(spark, [], "cmid bigint, modname string")
    found = curated_job.fact_event(events, users, resources, roles)
    assert dict(rows(found, "event_id", "role")) == {
        1: "other", 4: "student", 8: "staff", 12: "staff", 13: "student", 20: "other",
    }  # fmt: skip


def enrolment(number: int, userid: int, **columns: Any) -> dict[str, Any]:
    return {"id": number, "enrolid": 1, "userid": userid, "status": 0, "timestart": 0, "timecreated": 0, **columns}


def deleted_row(userid: int, **columns: Any) -> dict[str, Any]:
    return {"userenrolment": {k: str(v) for k, v in enrolment(1, userid, **columns).items()}, "enrol": "manual"}


def enrolments(spark: SparkSession, users: DataFrame, courses: DataFrame, roles: DataFrame, **tables: Any) -> DataFrame:
    return curated_job.fact_enrolment(
        raw(spark, "user_enrolments", *tables.get("current", ())),
        raw(spark, "enrol", {"id": 1, "courseid": 10}, {"id": 2, "courseid": 10}),
        raw(spark, "logstore_standard_log", *tables.get("lifecycle", ())),
        raw(spark, "course_completions", *tables.get("completions", ())),
        roles,
        users,
        courses,
    )


def test_enrolment_starts_at_the_earliest_time_known(
    spark: SparkSession, users: DataFrame, courses: DataFrame, no_roles: DataFrame
) -> None:
    found = enrolments(
        spark,
        users,
        courses,
        no_roles,
        current=[
            enrolment(1, 2, timestart=0, timecreated=500),
            enrolment(2, 3, timestart=400, timecreated=500),
            enrolment(3, 4, timestart=600, timecreated=500),
            enrolment(4, 4, enrolid=2, timestart=0, timecreated=450, status=1),
            enrolment(5, 5, timecreated=500, status=1),
            enrolment(6, 1, timecreated=500),  # guest
            enrolment(7, 999, timecreated=500),  # unknown user
        ],
        lifecycle=[event(1, curated_job.ENROLMENT_CREATED, 300, relateduserid=2, courseid=10)],
        completions=[{"userid": 3, "course": 10, "timecompleted": 900}, {"userid": 2, "course": 10}],
    )
    columns = ["userid", "user_key", "courseid", "enrolled_at", "unenrolled_at", "is_suspended", "completed_at"]
    assert rows(found, *columns) == [
        (2, "key2", 10, at(300), None, False, None),
        (3, "key3", 10, at(400), None, False, at(900)),
        (4, "key4", 10, at(450), None, False, None),
        (5, "key5", 10, at(500), None, True, None),
    ]


def test_deleted_enrolments_come_back_from_the_log(
    spark: SparkSession, users: DataFrame, courses: DataFrame, no_roles: DataFrame
) -> None:
    created, deleted = curated_job.ENROLMENT_CREATED, curated_job.ENROLMENT_DELETED
    found = enrolments(
        spark,
        users,
        courses,
        no_roles,
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


def test_staff_is_no_student(spark: SparkSession, users: DataFrame, courses: DataFrame) -> None:
    span = (0, curated_job.NO_END)
    roles = roles_of(spark, (2, 10, span, None), (3, 10, span, span), (4, 10, None, span))
    found = enrolments(
        spark,
        users,
        courses,
        roles,
        current=[enrolment(n, n, timecreated=5) for n in (2, 3, 4, 5)],
        lifecycle=[
            event(
                1, curated_job.ENROLMENT_DELETED, 9, relateduserid=2, courseid=10, other=deleted_row(2, timecreated=1)
            )
        ],
    )
    assert [userid for (userid,) in rows(found, "userid")] == [3, 4, 5]


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
        {"itemid": 1, "userid": 2, "finalgrade": curate_decimal("15"), "timecreated": 50, "timemodified": 60},
        {"itemid": 1, "userid": 3, "timecreated": 50, "timemodified": 60},  # a placeholder
        {"itemid": 1, "userid": 9, "finalgrade": curate_decimal("1"), "timemodified": 60},  # no student
        {"itemid": 2, "userid": 3, "finalgrade": curate_decimal("0"), "timemodified": 70},
        {"itemid": 3, "userid": 2, "finalgrade": curate_decimal("9"), "timemodified": 70},  # the course's total
    )
    found = curated_job.fact_grade(grades, raw(spark, "grade_grades_history"), items, places, students)
    columns = [
        "itemid",
        "courseid",
        "cmid",
        "modname",
        "userid",
        "user_key",
        "fraction",
        "weight",
        "submitted_at",
        "graded_at",
    ]
    assert rows(found, *columns) == [
        (1, 10, 1, "quiz", 2, "key2", 0.75, 0.25, at(50), at(60)),
        (2, 10, None, None, 3, "key3", 0.0, 0.0, None, at(70)),
    ]


def test_grades_deleted_with_the_enrolment_are_not_forgotten(
    spark: SparkSession, places: DataFrame, students: DataFrame
) -> None:
    def change(
        number: int, action: int, userid: int, time: int, grade: str | None, source: str = "mod/quiz"
    ) -> dict[str, Any]:
        final = curate_decimal(grade) if grade else None
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
            "grademax": curate_decimal("10"),
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
    found = curated_job.fact_grade(raw(spark, "grade_grades"), history, items, places, students)
    assert rows(found, "userid", "fraction", "submitted_at", "graded_at") == [(2, 0.8, None, at(50))]
    present = raw(
        spark,
        "grade_grades",
        {"itemid": 1, "userid": 2, "finalgrade": curate_decimal("9"), "timecreated": 95, "timemodified": 99},
    )
    found = curated_job.fact_grade(present, history, items, places, students)
    assert rows(found, "userid", "fraction", "graded_at") == [(2, 0.9, at(99))]


def curate_decimal(value: str) -> Any:
    from decimal import Decimal

    return Decimal(value)


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

    found = curated_job.fact_submission(
        submissions,
        raw(spark, "assign", {"id": 4, "duedate": 65}, {"id": 5, "duedate": 0}),
        raw(
            spark, "quiz_attempts", attempt(2, "finished"), attempt(3, "inprogress"), attempt(3, "finished", preview=1)
        ),
        raw(spark, "quiz", {"id": 3, "timeclose": 0}),
        raw(spark, "groups_members", {"groupid": 6, "userid": 3}),
        places,
        students,
    )
    columns = ["courseid", "cmid", "modname", "userid", "attempt", "submitted_at", "due_at", "status"]
    assert rows(found, *columns) == [
        (10, 1, "quiz", 2, 1, at(90), None, "finished"),
        (10, 2, "assign", 2, 1, at(50), at(65), "submitted"),
        (10, 2, "assign", 2, 2, at(70), at(65), "submitted"),
        (10, 2, "assign", 3, 1, at(80), at(65), "submitted"),
    ]


def test_profile_fields_by_configuration(spark: SparkSession, users: DataFrame) -> None:
    fields = raw(spark, "user_info_field", {"id": 1, "shortname": "gender"}, {"id": 2, "shortname": "secret"})
    data = raw(
        spark,
        "user_info_data",
        {"userid": 2, "fieldid": 1, "data": "F"},
        {"userid": 3, "fieldid": 1, "data": ""},
        {"userid": 2, "fieldid": 2, "data": "x"},
    )
    found = curated_job.user_attribute(data, fields, users, ["gender"])
    assert rows(found, "userid", "user_key", "field", "value") == [(2, "key2", "gender", "F")]
    assert curated_job.user_attribute(data, fields, users, []).count() == 0


def test_enrolment_attributes_of_a_plugin(spark: SparkSession) -> None:
    plugin = spark.createDataFrame(
        [(1, 2, 10, 60, None)], "id bigint, userid bigint, courseid bigint, credits int, tries int"
    )
    found = curated_job.enrolment_attribute(spark, plugin, EnrolmentAttributes("local_x", ["credits", "tries"]))
    assert rows(found, "userid", "courseid", "attribute", "value") == [(2, 10, "credits", 60.0)]
    assert curated_job.enrolment_attribute(spark, None, None).count() == 0
    with pytest.raises(LakehouseError, match="lacks points"):
        curated_job.enrolment_attribute(spark, plugin, EnrolmentAttributes("local_x", ["points"]))


def test_missing_columns_and_tables_are_null_and_empty(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1, "x")], "id int, name string")
    shaped = curated_job.shaped(spark, df, "id bigint, added bigint")
    assert shaped.dtypes == [("id", "bigint"), ("added", "bigint")]
    assert [tuple(row) for row in shaped.collect()] == [(1, None)]
    assert curated_job.shaped(spark, None, "id bigint").count() == 0
