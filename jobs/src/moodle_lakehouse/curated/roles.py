"""Who had which role in a course, and when."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

CONTEXT_COURSE = 50
STAFF_ARCHETYPES = ("manager", "coursecreator", "editingteacher", "teacher")
STUDENT_ARCHETYPES = ("student",)
STAFF, STUDENT, OTHER = "staff", "student", "other"  # roles in fact_event
NO_END = 2**62
ROLE_ASSIGNED = r"\core\event\role_assigned"
ROLE_UNASSIGNED = r"\core\event\role_unassigned"
LIFECYCLE_EVENTS = (ROLE_ASSIGNED, ROLE_UNASSIGNED)


def course_archetypes(
    context: DataFrame, role: DataFrame, role_assignments: DataFrame, lifecycle: DataFrame
) -> DataFrame:
    """Return who had a role of which kind in a course, and when. Grain: (userid, courseid, archetype), not unique.

    userid bigint, courseid bigint, archetype string; since, until bigint, seconds of Unix time, null: since ever, until
    now. Roles given above a course (category, site) count in every course below. Roles taken away since are known from
    the log, so a teacher of last year stays one in last year's facts.
    Source: role_assignments, role, context, log events role_assigned and role_unassigned.
    """
    kinds = F.broadcast(role.select(F.col("id").alias("roleid"), "archetype").where("archetype != ''"))
    # /1/3/24 is the path of a course's context: the contexts above it and its own
    reach = context.where(F.col("contextlevel") == CONTEXT_COURSE).select(
        F.col("instanceid").alias("courseid"),
        F.explode(F.split("path", "/").cast("array<bigint>")).alias("contextid"),
    )
    columns = ("userid", "courseid", "archetype", "since", "until")
    now = (
        role_assignments.join(kinds, how="inner", on="roleid")
        .join(reach, how="inner", on="contextid")
        .withColumns({"since": F.nullif("timemodified", F.lit(0)), "until": F.lit(None).cast("bigint")})
        .select(*columns)
    )
    event = F.struct("timecreated", "id", "eventname")
    logged = (
        lifecycle.where(
            F.col("eventname").isin(ROLE_ASSIGNED, ROLE_UNASSIGNED) & (F.col("contextlevel") == CONTEXT_COURSE)
        )
        .groupBy(F.col("relateduserid").alias("userid"), "courseid", F.col("objectid").alias("roleid"))
        .agg(F.min(event).alias("first"), F.max(event).alias("last"))
        .join(kinds, how="inner", on="roleid")
        .withColumn("since", F.when(F.col("first.eventname") == ROLE_ASSIGNED, F.col("first.timecreated")))
        .withColumn("until", F.when(F.col("last.eventname") == ROLE_UNASSIGNED, F.col("last.timecreated")))
        .select(*columns)
    )
    return now.unionByName(logged)


def course_roles(archetypes: DataFrame) -> DataFrame:
    """Return who was staff or student of a course, and when. Grain: (userid, courseid) with a role of interest.

    userid bigint, courseid bigint; staff, student struct<since bigint, until bigint>, seconds of Unix time: from when
    such a role was first given until the last was taken away; null: never. Source: course_archetypes.
    """

    def span(kinds: Sequence[str]) -> Column:
        given = F.col("archetype").isin(*kinds)
        since = F.min(F.when(given, F.coalesce("since", F.lit(0))))
        until = F.max(F.when(given, F.coalesce("until", F.lit(NO_END))))
        return F.when(since.isNotNull(), F.struct(since.alias("since"), until.alias("until")))

    return (
        archetypes.where(F.col("archetype").isin(*STAFF_ARCHETYPES, *STUDENT_ARCHETYPES))
        .groupBy("userid", "courseid")
        .agg(span(STAFF_ARCHETYPES).alias(STAFF), span(STUDENT_ARCHETYPES).alias(STUDENT))
    )
