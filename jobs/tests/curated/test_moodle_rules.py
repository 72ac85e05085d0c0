"""Moodle's own rules, on one small site of raw rows: what real sites do to a lake, each with its right value."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from moodle_lakehouse import config
from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.curated.enrolments import ENROLMENT_CREATED, ENROLMENT_DELETED
from moodle_lakehouse.dropout import dataset, features
from moodle_lakehouse.lake import contracts, session, table_names, writers
from pyspark.sql import DataFrame, SparkSession
from raw_rows import event, kept, raw
from site_files import config_document

COURSE = 10
Row = dict[str, Any]


def on(month: int, day: int, year: int = 2025) -> int:
    return int(dt.datetime(year, month, day, tzinfo=dt.UTC).timestamp())


START, END = on(9, 29), on(1, 19, 2026)
AS_OF = dt.datetime(2025, 11, 24, tzinfo=dt.UTC)
MADE = on(9, 1)

# People by what the test says of them.
(ORDINARY, ENDED, SUSPENDED, ACCOUNT_SUSPENDED, ACCOUNT_DELETED, METHOD_DISABLED, NOT_YET, TWO_METHODS, EXAMINER,
 TEACHER, COPIED, WITHOUT_ROLE) = range(2, 14)  # fmt: skip
STUDENT_ROLE, TEACHER_ROLE, EXAMINER_ROLE = 5, 3, 9
MANUAL, SELF, OTHER_METHOD = 44, 902, 903


def enrolment(number: int, userid: int, **columns: Any) -> Row:
    base = {"enrolid": MANUAL, "status": 0, "timestart": MADE, "timeend": 0, "timecreated": MADE, "timemodified": MADE}
    return {"id": number, "userid": userid, **base, **columns}


def handed_in(assignment: int, userid: int, at: int, **columns: Any) -> Row:
    base = {"groupid": 0, "status": "submitted", "attemptnumber": 0}
    return {"assignment": assignment, "userid": userid, "timemodified": at, **base, **columns}


def site() -> dict[str, list[Row]]:
    """The site's rows by table; what a table has not is empty."""
    people = range(ORDINARY, WITHOUT_ROLE + 1)
    users: dict[int, Row] = {n: {"id": n, "timecreated": MADE, "timemodified": MADE} for n in people}
    users[ACCOUNT_SUSPENDED]["suspended"] = 1
    users[ACCOUNT_DELETED]["deleted"] = 1
    rows = {n: enrolment(n, n) for n in people if n != COPIED}
    rows[ENDED]["timeend"] = on(10, 20)
    rows[SUSPENDED]["status"] = 1
    rows[METHOD_DISABLED]["enrolid"] = SELF
    rows[NOT_YET]["timestart"] = on(12, 1)
    rows[TWO_METHODS]["timeend"] = on(10, 20)
    roles = dict.fromkeys(rows, STUDENT_ROLE) | {EXAMINER: EXAMINER_ROLE, TEACHER: TEACHER_ROLE, WITHOUT_ROLE: 0}
    copied = {"courseid": COURSE, "relateduserid": COPIED, "origin": None}
    row_of_copied = {"userenrolment": {"timestart": str(on(10, 1)), "timecreated": str(on(10, 1))}}
    return {
        "user": list(users.values()),
        "course": [
            {"id": COURSE, "shortname": "C10", "startdate": START, "enddate": END, "visible": 1},
        ],
        "modules": [{"id": 1, "name": "assign"}, {"id": 2, "name": "quiz"}],
        "assign": [
            {"id": 1, "course": COURSE, "duedate": on(10, 27)},
            {"id": 2, "course": COURSE, "duedate": on(11, 3), "teamsubmission": 1},
            {"id": 3, "course": COURSE, "duedate": on(11, 17)},
        ],
        "course_modules": [
            *[
                {"id": 100 + n, "course": COURSE, "module": 1, "instance": n, "added": MADE, "visible": 1}
                for n in (1, 2, 3)
            ],
            {"id": 199, "course": COURSE, "module": 1, "instance": 1, "added": MADE, "visible": 1},
        ],
        "assign_user_flags": [
            {"assignment": 1, "userid": ORDINARY, "extensionduedate": on(11, 10)},
            {"assignment": 3, "userid": ORDINARY, "extensionduedate": on(12, 7)},
        ],
        "assign_submission": [
            handed_in(1, ORDINARY, on(11, 5)),
            handed_in(2, 0, on(11, 1)),
            handed_in(2, ENDED, on(11, 1), attemptnumber=-1),
        ],
        "groups": [{"id": 6, "courseid": COURSE}],
        "groups_members": [{"groupid": 6, "userid": TWO_METHODS}],
        "grade_items": [
            {
                "id": 1,
                "courseid": COURSE,
                "itemtype": "mod",
                "itemmodule": "assign",
                "iteminstance": 1,
                "grademax": Decimal(10),
            },
        ],
        "grade_grades": [{"itemid": 1, "userid": ORDINARY, "finalgrade": Decimal(8), "timemodified": on(11, 6)}],
        "context": [{"id": 24, "contextlevel": 50, "instanceid": COURSE, "path": "/1/24"}],
        "role": [
            {"id": STUDENT_ROLE, "shortname": "student", "archetype": "student"},
            {"id": TEACHER_ROLE, "shortname": "teacher", "archetype": "teacher"},
            {"id": EXAMINER_ROLE, "shortname": "examiner", "archetype": ""},
        ],
        "role_assignments": [
            {"roleid": role, "contextid": 24, "userid": n, "timemodified": MADE} for n, role in roles.items() if role
        ],
        "enrol": [
            {"id": MANUAL, "courseid": COURSE, "status": 0},
            {"id": SELF, "courseid": COURSE, "status": 1},
            {"id": OTHER_METHOD, "courseid": COURSE, "status": 0},
        ],
        "user_enrolments": [*rows.values(), enrolment(99, TWO_METHODS, enrolid=OTHER_METHOD)],
        "logstore_standard_log": [
            event(1, ENROLMENT_CREATED, on(10, 1), **copied),
            event(2, ENROLMENT_DELETED, on(11, 15), other=row_of_copied, **copied),
            event(3, r"\core\event\course_viewed", on(11, 15), userid=ORDINARY, courseid=COURSE),
            event(4, r"\core\event\course_viewed", 0, userid=ORDINARY, courseid=COURSE),
        ],
    }


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> config.Config:
    return config.parse(config_document(tmp_path_factory.mktemp("settings")), "test")


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the first curate logged."""
    return []


@pytest.fixture(scope="module")
def curated(emptied: Callable[[], SparkSession], settings: config.Config, said: list[str]) -> SparkSession:
    """The lake after curate."""
    spark = emptied()
    session.use_utc()
    write(spark, site())
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("moodle_lakehouse")
    logger.addHandler(handler)
    try:
        curated_job.run(spark, settings)
    finally:
        logger.removeHandler(handler)
    return spark


def write(spark: SparkSession, rows: dict[str, list[Row]]) -> None:
    for table in contracts.RAW_COLUMNS:
        writers.replace(raw(spark, table, *rows.get(table, [])), table_names.raw(table), run_id="test")


@pytest.fixture(scope="module")
def people(curated: SparkSession) -> dict[str, int]:
    return {key: userid for userid, key in kept(curated).items()}


@pytest.fixture(scope="module")
def enrolments(curated: SparkSession, people: dict[str, int]) -> dict[int, Row]:
    rows = curated.table(table_names.FACT_ENROLMENT).where(f"courseid = {COURSE}").collect()
    return {people[row["user_key"]]: row.asDict() for row in rows}


@pytest.fixture(scope="module")
def weeks(curated: SparkSession, settings: config.Config) -> DataFrame:
    src = features.sources(curated, settings.analytics, AS_OF)
    return dataset.current_rows(src, AS_OF, features.build(src, AS_OF)).cache()


def test_who_is_on_the_list(weeks: DataFrame, people: dict[str, int]) -> None:
    """Cases A and K: only who is enrolled by all five parts of Moodle's rule, and has a student's role."""
    found = weeks.where(f"courseid = {COURSE} and is_current and enrolled and at_risk").select("user_key").collect()
    assert {people[row["user_key"]] for row in found} == {ORDINARY, TWO_METHODS, WITHOUT_ROLE}


def test_what_enrolments_say(enrolments: dict[int, Row]) -> None:
    """Case A: an end counts from its moment, one open enrolment is enough, a start of the future is the beginning."""
    ends = {userid: row["unenrolled_at"] for userid, row in enrolments.items() if row["unenrolled_at"] is not None}
    assert ends == {ENDED: dt.datetime(2025, 10, 20)}
    suspended = {userid for userid, row in enrolments.items() if row["is_suspended"]}
    assert suspended == {SUSPENDED, ACCOUNT_SUSPENDED, ACCOUNT_DELETED, METHOD_DISABLED}
    assert enrolments[NOT_YET]["enrolled_at"] == dt.datetime(2025, 12, 1)
    assert enrolments[TWO_METHODS]["enrolled_at"] == dt.datetime(2025, 9, 1)


def test_who_is_a_student(enrolments: dict[int, Row], said: list[str]) -> None:
    """Case K: an examiner and a teacher are none; the unknown role is reported."""
    assert not {EXAMINER, TEACHER} & enrolments.keys()
    assert WITHOUT_ROLE in enrolments, "Moodle says nothing else of them"
    assert any("examiner (1 people)" in line and "lakehouse_student_roles" in line for line in said)


def test_what_a_restore_copied_happened_to_nobody(enrolments: dict[int, Row]) -> None:
    """Case E: log rows without an origin are another course's history."""
    assert COPIED not in enrolments


@pytest.fixture(scope="module")
def figures(weeks: DataFrame, people: dict[str, int]) -> dict[int, Row]:
    rows = weeks.where(f"courseid = {COURSE} and is_current").collect()
    return {people[row["user_key"]]: row.asDict() for row in rows}


def test_dates_and_teams_of_single_students(figures: dict[int, Row]) -> None:
    """Cases B and C: an extension moves what is due and what is late; group 0 is the team of who is in no group."""
    one, other = figures[ORDINARY], figures[TWO_METHODS]
    assert (one["due"], one["handed_in"], one["on_time_share"]) == (2, 2, 1.0)
    assert (other["due"], other["handed_in"], other["on_time_share"]) == (3, 0, 0.0)


def test_exceptions_are_kept(curated: SparkSession, people: dict[str, int]) -> None:
    """Case B: whose date is not everybody's."""
    rows = curated.table(table_names.DUE_DATE_EXCEPTION).collect()
    assert {(people[row["user_key"]], row["cmid"], row["due_at"]) for row in rows} == {
        (ORDINARY, 101, dt.datetime(2025, 11, 10)),
        (ORDINARY, 103, dt.datetime(2025, 12, 7)),
    }
    dates = {row["cmid"]: row["due_at"] for row in curated.table(table_names.FACT_SUBMISSION).collect()}
    assert dates == {101: dt.datetime(2025, 11, 10), 102: dt.datetime(2025, 11, 3)}


def test_one_bad_row_is_set_aside_and_told(curated: SparkSession, said: list[str]) -> None:
    """Case G: a log row without a moment, a second course module of an activity, an attempt that cannot be."""
    assert [row["event_id"] for row in curated.table(table_names.FACT_EVENT).collect()] == [3]
    assert [row["cmid"] for row in curated.table(table_names.FACT_GRADE).collect()] == [101]
    assert {row["cmid"] for row in curated.table(table_names.DIM_RESOURCE).collect()} == {101, 102, 103}
    found = curated.table(table_names.DATA_QUALITY).where("violations > 0 and table like 'raw.%'").collect()
    assert {row["table"]: (row["violations"], row["rows"], row["stops"], row["example"]) for row in found} == {
        "raw.logstore_standard_log": (1, 4, False, "id 4"),
        "raw.course_modules": (1, 4, False, "id 199: of the same activity as id 101"),
        "raw.assign_submission": (1, 3, False, "assignment 2, attemptnumber -1"),
    }
    assert any("id 199: of the same activity as id 101" in line for line in said)
