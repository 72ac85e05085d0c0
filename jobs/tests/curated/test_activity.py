"""Which events are students' own activity."""

from __future__ import annotations

import datetime as dt

from model_lake import Lake
from moodle_lakehouse.curated import activity
from moodle_lakehouse.lake import contracts, table_names, tables
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


def test_a_reused_shell_has_the_students_of_this_run(spark: SparkSession) -> None:
    """Case J: whose enrolment had ended by the new start, and completions from before it, are another run's."""
    lake = Lake()
    lake.course(7, dt.datetime(2025, 9, 29, tzinfo=dt.UTC), 100)
    lake.course(8, dt.datetime(2025, 9, 29, tzinfo=dt.UTC), 100)
    lake.enrol(1, 7, at=-200, left=-20)
    lake.enrol(2, 7, at=-200, left=0)
    lake.enrol(3, 7, at=-200, completed=-60)  # takes it again
    lake.enrol(4, 7, at=-5, left=3, completed=2)
    lake.enrol(5, 8, at=-200)
    enrolments = lake.frame(spark, table_names.FACT_ENROLMENT)
    found = activity.of_this_run(enrolments, lake.frame(spark, table_names.DIM_COURSE))
    assert found.columns == list(contracts.names(table_names.FACT_ENROLMENT))
    assert [(int(key, 16), completed is None) for key, completed in rows(found, "user_key", "completed_at")] == [
        (3, True), (4, False), (5, True)
    ]  # fmt: skip
