"""Who had which role in a course, and when."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import table_names

CONTEXT_COURSE = 50
STAFF_ARCHETYPES = ("manager", "coursecreator", "editingteacher", "teacher")
STUDENT_ARCHETYPES = ("student",)
EVERYBODYS_ARCHETYPES = ("guest", "user", "frontpage")  # Moodle gives these by itself: they say nothing of a course
STAFF, STUDENT, OTHER = "staff", "student", "other"  # kinds of roles, as in fact_event
NO_END = 2**62
ROLE_ASSIGNED = r"\core\event\role_assigned"
ROLE_UNASSIGNED = r"\core\event\role_unassigned"
LIFECYCLE_EVENTS = (ROLE_ASSIGNED, ROLE_UNASSIGNED)


def course_archetypes(
    context: DataFrame, role: DataFrame, role_assignments: DataFrame, lifecycle: DataFrame
) -> DataFrame:
    """Return who had which role in a course, and when. Grain: (userid, courseid, shortname), not unique.

    userid bigint, courseid bigint; shortname string, the role's; archetype string, empty for a role that a site made from
    none; since, until bigint, seconds of Unix time, null: since ever, until now or nobody knows; is_held boolean: Moodle
    has the assignment. Roles given above a course (category, site) count in every course below. Roles taken away since
    are known from the log, so a teacher of last year stays one in last year's facts. Roles that Moodle gives to everybody
    are none.
    Source: role_assignments, role, context, log events role_assigned and role_unassigned.
    """
    kinds = F.broadcast(
        role.select(
            F.col("id").alias("roleid"), "shortname", F.coalesce("archetype", F.lit("")).alias("archetype")
        ).where(~F.col("archetype").isin(*EVERYBODYS_ARCHETYPES))
    )
    # /1/3/24 is the path of a course's context: the contexts above it and its own
    reach = context.where(F.col("contextlevel") == CONTEXT_COURSE).select(
        F.col("instanceid").alias("courseid"),
        F.explode(F.split("path", "/").cast("array<bigint>")).alias("contextid"),
    )
    columns = ("userid", "courseid", "shortname", "archetype", "since", "until", "is_held")
    now = (
        role_assignments.join(kinds, how="inner", on="roleid")
        .join(reach, how="inner", on="contextid")
        .withColumns({"since": F.nullif("timemodified", F.lit(0)), "until": F.lit(None).cast("bigint")})
        .withColumn("is_held", F.lit(True))
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
        .withColumn("is_held", F.lit(False))
        .select(*columns)
    )
    return now.unionByName(logged)


def kind(student_roles: Sequence[str]) -> Column:
    """Return what a role of course_archetypes() makes of a person: staff, student or other.

    student_roles: the short names of the roles that are students' (analytics.student_roles); none: those of Moodle's
    archetype student. A role that is named there is no staff's, whatever its archetype.
    """
    if student_roles:
        is_student = F.coalesce(F.col("shortname").isin(*student_roles), F.lit(False))
    else:
        is_student = F.col("archetype").isin(*STUDENT_ARCHETYPES)
    return F.when(is_student, STUDENT).when(F.col("archetype").isin(*STAFF_ARCHETYPES), STAFF).otherwise(OTHER)


def course_roles(archetypes: DataFrame, student_roles: Sequence[str] = ()) -> DataFrame:
    """Return who was staff, student or something else in a course, and when. Grain: (userid, courseid) with a role.

    userid bigint, courseid bigint; staff, student, other struct<since bigint, until bigint>, seconds of Unix time: from
    when such a role was first given until the last was taken away; null: never. is_student, has_role boolean: Moodle has
    a student's role, and any at all, of theirs.
    Source: course_archetypes.
    """

    def span(wanted: str) -> Column:
        given = F.col("kind") == wanted
        since = F.min(F.when(given, F.coalesce("since", F.lit(0))))
        until = F.max(F.when(given, F.coalesce("until", F.lit(NO_END))))
        return F.when(since.isNotNull(), F.struct(since.alias("since"), until.alias("until"))).alias(wanted)

    with_kind = archetypes.withColumn("kind", kind(student_roles))
    is_student = F.max((F.col("kind") == STUDENT) & F.col("is_held")).alias("is_student")
    return with_kind.groupBy("userid", "courseid").agg(
        *map(span, (STAFF, STUDENT, OTHER)), is_student, F.max("is_held").alias("has_role")
    )


def unplaced(archetypes: DataFrame, student_roles: Sequence[str] = ()) -> dict[str, int]:
    """Return the roles of people in courses that are neither students' nor staff's, with how many people hold each."""
    held = archetypes.where(F.col("is_held") & (kind(student_roles) == OTHER))
    counted = held.groupBy("shortname").agg(F.countDistinct("userid").alias("people"))
    return {row["shortname"] or "?": int(row["people"]) for row in counted.orderBy("shortname").collect()}


def check_student_roles(role: DataFrame, student_roles: Sequence[str]) -> None:
    """Refuse configured roles that Moodle does not have.

    Raises:
        LakehouseError: names them and those that there are.
    """
    known = {row["shortname"] for row in role.select("shortname").collect()} if student_roles else set()
    missing = sorted(set(student_roles) - known)
    if missing:
        raise LakehouseError(
            f"Moodle has no role {', '.join(missing)}, which analytics.student_roles names",
            where=table_names.raw("role"),
            remedy="name in lakehouse_student_roles some of: " + ", ".join(sorted(name for name in known if name)),
        )
