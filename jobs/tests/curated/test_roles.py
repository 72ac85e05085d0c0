"""Roles in courses by small cases whose right answer can be seen."""

from __future__ import annotations

import pytest
from moodle_lakehouse.curated.roles import (
    NO_END,
    ROLE_ASSIGNED,
    ROLE_UNASSIGNED,
    check_student_roles,
    course_archetypes,
    course_roles,
    unplaced,
)
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import tables
from pyspark.sql import SparkSession
from raw_rows import event, raw, rows


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
        {"id": 9, "shortname": "examiner", "archetype": ""},
    )
    assignments = raw(
        spark,
        "role_assignments",
        {"roleid": 1, "contextid": 3, "userid": 2, "timemodified": 0},  # manager of the category: of course 10 only
        {"roleid": 5, "contextid": 24, "userid": 3, "timemodified": 4},
        {"roleid": 3, "contextid": 24, "userid": 3, "timemodified": 8},  # student and then teacher of one course
        {"roleid": 1, "contextid": 24, "userid": 3, "timemodified": 9},
        {"roleid": 7, "contextid": 1, "userid": 4, "timemodified": 1},
        {"roleid": 9, "contextid": 24, "userid": 9, "timemodified": 2},
    )
    lifecycle = raw(
        spark,
        "logstore_standard_log",
        event(1, ROLE_ASSIGNED, 5, courseid=11, relateduserid=5, objectid=3),
        event(2, ROLE_UNASSIGNED, 6, courseid=11, relateduserid=5, objectid=3),
        event(3, ROLE_ASSIGNED, 5, courseid=11, relateduserid=6, objectid=3, contextlevel=70),
        # The log begins later than the role; it was given again to one of the two.
        event(4, ROLE_UNASSIGNED, 6, courseid=11, relateduserid=7, objectid=3),
        event(5, ROLE_UNASSIGNED, 6, courseid=11, relateduserid=8, objectid=5),
        event(6, ROLE_ASSIGNED, 7, courseid=11, relateduserid=8, objectid=5),
    )
    archetypes = course_archetypes(contexts, roles, assignments, lifecycle)
    columns = ("userid", "courseid", "staff", "student", "other", "is_student", "has_role")
    assert rows(course_roles(archetypes), *columns) == [
        (2, 10, (0, NO_END), None, None, False, True),
        (3, 10, (8, NO_END), (4, NO_END), None, True, True),
        (5, 11, (5, 6), None, None, False, False),
        (7, 11, (0, 6), None, None, False, False),
        (8, 11, None, (0, NO_END), None, False, False),  # the log gave it, Moodle does not have it
        (9, 10, None, None, (2, NO_END), False, True),
    ]
    assert unplaced(archetypes) == {"examiner": 1}


def test_a_setting_names_the_roles_that_are_students(spark: SparkSession) -> None:
    """Case K: by default the archetype decides; named roles are students' and all others are not."""
    held = [(2, "student", "student"), (3, "examiner", ""), (4, "teacher", "teacher"), (5, "trainee", "teacher")]
    archetypes = tables.local_rows(
        spark,
        [(userid, 10, name, archetype, None, None, True) for userid, name, archetype in held],
        "userid bigint, courseid bigint, shortname string, archetype string, since bigint, until bigint, is_held boolean",
    )

    def kinds(*student_roles: str) -> dict[int, str]:
        found = course_roles(archetypes, student_roles).collect()
        return {row["userid"]: next(k for k in ("staff", "student", "other") if row[k] is not None) for row in found}

    assert kinds() == {2: "student", 3: "other", 4: "staff", 5: "staff"}
    assert kinds("student", "trainee") == {2: "student", 3: "other", 4: "staff", 5: "student"}
    assert unplaced(archetypes, ["trainee"]) == {"examiner": 1, "student": 1}
    with pytest.raises(LakehouseError, match=r"no role trainee, .*\n.*\n.*examiner, student"):
        check_student_roles(archetypes.where("userid < 4"), ["student", "trainee"])
