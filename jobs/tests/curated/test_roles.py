"""Roles in courses by small cases whose right answer can be seen."""

from __future__ import annotations

from moodle_lakehouse.curated.roles import NO_END, ROLE_ASSIGNED, ROLE_UNASSIGNED, course_archetypes, course_roles
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
        event(1, ROLE_ASSIGNED, 5, courseid=11, relateduserid=5, objectid=3),
        event(2, ROLE_UNASSIGNED, 6, courseid=11, relateduserid=5, objectid=3),
        event(3, ROLE_ASSIGNED, 5, courseid=11, relateduserid=6, objectid=3, contextlevel=70),
        # The log begins later than the role; it was given again to one of the two.
        event(4, ROLE_UNASSIGNED, 6, courseid=11, relateduserid=7, objectid=3),
        event(5, ROLE_UNASSIGNED, 6, courseid=11, relateduserid=8, objectid=5),
        event(6, ROLE_ASSIGNED, 7, courseid=11, relateduserid=8, objectid=5),
    )
    found = course_roles(course_archetypes(contexts, roles, assignments, lifecycle))
    assert rows(found, "userid", "courseid", "staff", "student") == [
        (2, 10, (0, NO_END), None),
        (3, 10, (8, NO_END), (4, NO_END)),
        (5, 11, (5, 6), None),
        (7, 11, (0, 6), None),
        (8, 11, None, (0, NO_END)),
    ]
