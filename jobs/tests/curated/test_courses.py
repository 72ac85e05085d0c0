"""Courses and their resources by small cases whose right answer can be seen."""

from __future__ import annotations

from moodle_lakehouse.curated import courses
from pyspark.sql import SparkSession
from raw_rows import at, event, raw, rows

MODULES = [(1, "quiz"), (2, "page"), (3, "assign")]


def test_course_leaves_out_the_site(spark: SparkSession) -> None:
    source = raw(
        spark, "course", {"id": 1}, {"id": 2, "shortname": "A", "startdate": 86400, "enddate": 0, "visible": 0}
    )
    found = rows(courses.dim_course(source), "courseid", "shortname", "start_at", "end_at", "visible")
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
    found = courses.dim_resource(
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
