"""Which events are students' own activity."""

from __future__ import annotations

from moodle_lakehouse.curated import activity
from moodle_lakehouse.lake import tables
from pyspark.sql import SparkSession
from raw_rows import rows


def test_own_activity_of_students(spark: SparkSession) -> None:
    events = tables.local_rows(
        spark,
        [
            (1, "student", 2, "course_module", "viewed"),
            (2, "other", 0, "course", "viewed"),
            (3, "staff", 2, "course_module", "viewed"),
            (4, "student", activity.TEACHING, "course_module", "viewed"),
            (5, "student", 2, "user_enrolment", "created"),
            (6, "student", 2, "course", "completed"),
        ],
        "event_id bigint, role string, edulevel int, target string, action string",
    )
    assert rows(activity.by_students(events), "event_id") == [(1,), (2,)]
