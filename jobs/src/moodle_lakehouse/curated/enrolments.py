"""Students' enrolments, those included that Moodle deleted."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.curated.raw_tables import to_timestamp
from moodle_lakehouse.curated.roles import STAFF, STUDENT
from moodle_lakehouse.curated.users import GUEST

ENROLMENT_CREATED = r"\core\event\user_enrolment_created"
ENROLMENT_DELETED = r"\core\event\user_enrolment_deleted"
LIFECYCLE_EVENTS = (ENROLMENT_CREATED, ENROLMENT_DELETED)


def current(user_enrolments: DataFrame, enrol: DataFrame) -> DataFrame:
    """Return the enrolments that Moodle has. Grain: (userid, courseid).

    userid, courseid bigint; row_start bigint, the earliest start or creation, seconds since 1970; is_suspended boolean,
    every one suspended; is_current true. Source: user_enrolments, enrol.
    """
    return (
        user_enrolments.join(enrol.select(F.col("id").alias("enrolid"), "courseid"), how="inner", on="enrolid")
        .groupBy("userid", "courseid")
        .agg(
            F.min(_earliest(F.col("timestart"), F.col("timecreated"))).alias("row_start"),
            (F.min("status") == 1).alias("is_suspended"),
        )
        .withColumn("is_current", F.lit(True))
    )


def logged(lifecycle: DataFrame) -> DataFrame:
    """Return what the log says of enrolments. Grain: (userid, courseid).

    userid, courseid bigint; logged_start bigint, seconds since 1970: the earliest of the first creation and of the starts
    and creations in the deleted rows; deleted_at bigint: when the last one was deleted, null for none;
    is_created_again boolean: whether one was created after that.
    Source: log events user_enrolment_created and _deleted; the latter holds the deleted row.
    """

    def deleted_row(column: str) -> Column:
        return F.get_json_object("other", f"$.userenrolment.{column}").cast("bigint")

    order = F.struct("timecreated", "id")
    is_created, is_deleted = F.col("eventname") == ENROLMENT_CREATED, F.col("eventname") == ENROLMENT_DELETED
    return (
        lifecycle.where(is_created | is_deleted)
        .groupBy(F.col("relateduserid").alias("userid"), "courseid")
        .agg(
            F.min(F.when(is_created, F.col("timecreated"))).alias("first_created"),
            F.min(_earliest(deleted_row("timestart"), deleted_row("timecreated"))).alias("deleted_start"),
            F.max(F.when(is_created, order)).alias("last_created"),
            F.max(F.when(is_deleted, order)).alias("last_deleted"),
        )
        .select(
            "userid",
            "courseid",
            F.least("first_created", "deleted_start").alias("logged_start"),
            F.col("last_deleted.timecreated").alias("deleted_at"),
            F.coalesce(F.col("last_created") > F.col("last_deleted"), F.lit(False)).alias("is_created_again"),
        )
    )


def students(
    current: DataFrame,
    logged: DataFrame,
    completions: DataFrame,
    roles: DataFrame,
    users: DataFrame,
    courses: DataFrame,
) -> DataFrame:
    """Return students' enrolments with id and pseudonym, for curate's own joins. Grain: (userid, courseid).

    Moodle deletes the row of whoever is unenrolled: the log's event user_enrolment_deleted holds it. A person
    is left out who is or was staff of the course and never a student of it.
    userid bigint; user_key string; courseid bigint; enrolled_at timestamp, the earliest start or creation of
    any of the person's enrolments in the course; unenrolled_at timestamp, null for who is still enrolled or
    enrolled again; is_suspended boolean, every present enrolment suspended; completed_at timestamp. UTC.
    Source: current(), logged(), course_completions.
    """
    key = ["userid", "courseid"]
    completed = completions.groupBy("userid", F.col("course").alias("courseid")).agg(
        F.max("timecompleted").alias("timecompleted")
    )
    has_left = F.col("is_current").isNull() & ~F.col("is_created_again")
    return (
        current.join(logged, how="full", on=key)
        .where("is_current or deleted_at is not null")
        .join(F.broadcast(users), how="inner", on="userid")
        .join(F.broadcast(courses.select("courseid")), how="inner", on="courseid")
        .join(roles, how="left", on=key)
        .where((F.col("userid") > GUEST) & (F.col(STUDENT).isNotNull() | F.col(STAFF).isNull()))
        .join(completed, how="left", on=key)
        .select(
            "userid", "user_key", "courseid",
            to_timestamp(F.least("row_start", "logged_start")).alias("enrolled_at"),
            to_timestamp(F.when(has_left, F.col("deleted_at"))).alias("unenrolled_at"),
            F.coalesce("is_suspended", F.lit(False)).alias("is_suspended"),
            to_timestamp("timecompleted").alias("completed_at"),
        )
    )  # fmt: skip


def fact_enrolment(students: DataFrame) -> DataFrame:
    """Return students' enrolments, those included that Moodle deleted. Grain: (user_key, courseid).

    Columns as of students(), without the id.
    """
    return students.drop("userid")


def _earliest(*columns: Column) -> Column:
    """Return the smallest of columns of seconds, where 0 is no time."""
    return F.least(*[F.when(column > 0, column) for column in columns])
