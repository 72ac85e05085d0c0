"""Events by small cases whose right answer can be seen."""

from __future__ import annotations

from moodle_lakehouse.curated.events import fact_event
from moodle_lakehouse.curated.roles import NO_END
from moodle_lakehouse.lake import tables
from pyspark.sql import DataFrame, SparkSession
from raw_rows import at, event, raw, roles_of, rows


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
    found = fact_event(events, users, resources, roles)
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
    roles = roles_of(spark, (3, 10, (8, 12), (4, NO_END)))
    resources = tables.local_rows(spark, [], "cmid bigint, modname string")
    found = fact_event(events, users, resources, roles)
    assert dict(rows(found, "event_id", "role")) == {
        1: "other", 4: "student", 8: "staff", 12: "staff", 13: "student", 20: "other",
    }  # fmt: skip
