"""Profiles of courses: how much their students and staff do, and with which types of resources."""

from __future__ import annotations

import datetime as dt

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.curated import activity, roles
from moodle_lakehouse.lake import point_in_time

# What a resource type is for; types that are not listed count towards the totals only.
TYPES = {
    "file": ("resource", "folder"),
    "page": ("page", "url", "book", "label", "imscp"),
    "forum": ("forum", "chat"),
    "quiz": ("quiz",),
    "assign": ("assign",),
    "collab": ("wiki", "glossary", "data", "workshop"),
    "interactive": ("scorm", "h5pactivity", "hvp", "lesson", "lti"),
}

# A log in which fewer of the students' actions are views does not show how resources are used.
MIN_VIEWS = 0.1

SHARES = tuple(f"share_{name}" for name in TYPES)  # of students' actions
CONTENTS = tuple(f"mix_{name}" for name in TYPES)  # of the course's resources
# The columns that describe a course.
DESCRIBED = (
    *(f"rate_{name}" for name in TYPES),
    *SHARES,
    *(f"breadth_{name}" for name in TYPES),
    "rate_all",
    "write_share",
    "regularity",
    "teacher_rate",
    *CONTENTS,
)


def course_profiles(
    courses: DataFrame, enrolments: DataFrame, events: DataFrame, resources: DataFrame, moment: dt.datetime
) -> DataFrame:
    """Describe how each course that has begun is used; all tables as they were at the moment.

    Grain: course. courseid, shortname, students; rate_<type>: log1p of students' actions per student and week; share_<type>: of
    students' actions in resources; breadth_<type>: share of students who used any; rate_all likewise of all
    actions; write_share: actions that change something; regularity: share of weeks with actions; teacher_rate:
    log1p of staff's actions per week; mix_<type>: of the course's resources; viewed: page views at all.
    """
    begun = courses.where(F.col("start_at") < point_in_time.literal(moment)).select(
        "courseid",
        "shortname",
        F.unix_timestamp("start_at").alias("start"),
        F.greatest(
            F.ceil(
                (
                    F.least(F.unix_timestamp("end_at"), F.unix_timestamp(point_in_time.literal(moment)))
                    - F.unix_timestamp("start_at")
                )
                / activity.WEEK
            ),
            F.lit(1),
        ).alias("weeks"),
    )
    begun = F.broadcast(begun)
    enrolments = activity.of_this_run(enrolments, courses)
    students = (
        enrolments.join(begun.select("courseid"), "courseid", "inner")
        .groupBy("courseid")
        .agg(F.count("*").alias("students"))
    )
    return (
        begun.join(students, "courseid", "left")
        .join(_student_use(events, enrolments, begun), "courseid", "left")
        .join(_teacher_use(events, begun), "courseid", "left")
        .join(_contents(resources, begun), "courseid", "left")
        .na.fill(0)
        .select("courseid", "shortname", "students", "viewed", "actions", "weeks", "active_weeks", *_columns())
    )


def _type_of(modname: str) -> Column:
    return F.coalesce(*[F.when(F.col(modname).isin(*names), F.lit(name)) for name, names in TYPES.items()])


def _student_use(events: DataFrame, enrolments: DataFrame, begun: DataFrame) -> DataFrame:
    """Count students' actions by type, users of each type and weeks with any action. Grain: course."""
    at = F.unix_timestamp("occurred_at")
    week = F.floor((at - F.col("start")) / activity.WEEK)
    acts = (
        activity.by_students(events)
        .join(begun, "courseid", "inner")
        .where(at >= activity.run_begins(F.col("start")))
        .select(
            "user_key",
            "courseid",
            _type_of("modname").alias("type"),
            (F.col("crud") != "r").cast("int").alias("write"),
            # Weeks as bits: united without a distinct count. Courses longer than a year have 60 that count.
            F.call_function(
                "shiftleft",
                F.lit(1).cast("bigint"),
                F.least(F.greatest(week, F.lit(0)), F.lit(activity.MAX_WEEKS)).cast("int"),
            ).alias("week"),
        )
    )
    per_student = (
        acts.groupBy("courseid", "user_key")
        .agg(
            F.count("*").alias("actions"),
            F.sum("write").alias("writes"),
            F.bit_or("week").alias("weeks"),
            *[F.count(F.when(F.col("type") == name, 1)).alias(name) for name in TYPES],
        )
        .join(enrolments.select("user_key", "courseid"), ["user_key", "courseid"], "inner")
    )
    return per_student.groupBy("courseid").agg(
        F.sum("actions").alias("actions"),
        F.sum("writes").alias("writes"),
        F.bit_count(F.bit_or("weeks")).alias("active_weeks"),
        (F.sum("actions") - F.sum("writes")).alias("viewed"),
        *[F.sum(name).alias(f"n_{name}") for name in TYPES],
        *[F.count(F.when(F.col(name) > 0, 1)).alias(f"users_{name}") for name in TYPES],
    )


def _teacher_use(events: DataFrame, begun: DataFrame) -> DataFrame:
    """Count staff's actions since the start of the course. Grain: course."""
    return (
        events.where(F.col("role") == roles.STAFF)
        .join(begun, "courseid", "inner")
        .where(F.unix_timestamp("occurred_at") >= F.col("start"))
        .groupBy("courseid")
        .agg(F.count("*").alias("teacher_actions"))
    )


def _contents(resources: DataFrame, begun: DataFrame) -> DataFrame:
    """Count the resources that students could see, by type. Grain: course."""
    return (
        resources.where(F.col("visible") & ~F.col("is_deleted"))
        .join(begun.select("courseid"), "courseid", "inner")
        .withColumn("type", _type_of("modname"))
        .groupBy("courseid")
        .agg(
            F.count("type").alias("modules"),
            *[F.count(F.when(F.col("type") == name, 1)).alias(f"modules_{name}") for name in TYPES],
        )
    )


def _columns() -> list[Column]:
    typed = sum((F.col(f"n_{name}") for name in TYPES), F.lit(0))

    def ratio(part: Column, whole: Column) -> Column:
        return F.coalesce(part / F.when(whole > 0, whole), F.lit(0.0))

    exposure = F.col("students") * F.col("weeks")
    return [
        *[F.log1p(ratio(F.col(f"n_{name}"), exposure)).alias(f"rate_{name}") for name in TYPES],
        *[ratio(F.col(f"n_{name}"), typed).alias(f"share_{name}") for name in TYPES],
        *[ratio(F.col(f"users_{name}"), F.col("students")).alias(f"breadth_{name}") for name in TYPES],
        F.log1p(ratio(F.col("actions"), exposure)).alias("rate_all"),
        ratio(F.col("writes"), F.col("actions")).alias("write_share"),
        F.least(F.col("active_weeks") / F.col("weeks"), F.lit(1.0)).alias("regularity"),
        F.log1p(F.col("teacher_actions") / F.col("weeks")).alias("teacher_rate"),
        *[ratio(F.col(f"modules_{name}"), F.col("modules")).alias(f"mix_{name}") for name in TYPES],
    ]
