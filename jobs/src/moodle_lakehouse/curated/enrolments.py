"""Students' enrolments, those included that Moodle deleted."""

from __future__ import annotations

import datetime as dt

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.curated.activity import DAY
from moodle_lakehouse.curated.raw_tables import to_timestamp
from moodle_lakehouse.curated.roles import NO_END, OTHER, STAFF, STUDENT
from moodle_lakehouse.curated.users import GUEST
from moodle_lakehouse.lake import contracts, table_names

ENROLMENT_CREATED = r"\core\event\user_enrolment_created"
ENROLMENT_UPDATED = r"\core\event\user_enrolment_updated"
ENROLMENT_DELETED = r"\core\event\user_enrolment_deleted"
LIFECYCLE_EVENTS = (ENROLMENT_CREATED, ENROLMENT_UPDATED, ENROLMENT_DELETED)
UNTIL_2038 = 2147483647  # what old versions of Moodle wrote for "no end"


def current(user_enrolments: DataFrame, enrol: DataFrame) -> DataFrame:
    """Return the enrolments that Moodle has. Grain: (userid, courseid), the rows of all methods taken together.

    By Moodle's rule a row lets a person into the course from timestart (without one: from its creation) to timeend, while
    neither it nor its method is suspended; one such row is enough.
    userid, courseid bigint; row_start, row_created bigint, the earliest start and creation, seconds since 1970; row_end
    bigint, the latest end of the rows that are not suspended (where all are: of all), null for none; is_suspended
    boolean, every row or its method is suspended, is_row_suspended: every row; suspended bigint, when the last of them was
    changed to that, as far as the rows say; is_current true. Source: user_enrolments, enrol.
    """
    methods = enrol.select(
        F.col("id").alias("enrolid"),
        "courseid",
        (F.coalesce("status", F.lit(0)) != 0).alias("is_disabled"),
        _changed("timemodified", "timecreated").alias("disabled"),
    )
    row_suspended = F.coalesce("status", F.lit(0)) != 0
    is_open = ~row_suspended & ~F.col("is_disabled")
    end = F.when((F.col("timeend") > 0) & (F.col("timeend") < UNTIL_2038), F.col("timeend")).otherwise(NO_END)
    since = F.least(
        F.when(row_suspended, F.coalesce(_changed("timemodified", "timecreated"), F.lit(NO_END))),
        F.when(F.col("is_disabled"), F.coalesce("disabled", F.lit(NO_END))),
    )
    return (
        user_enrolments.join(F.broadcast(methods), how="inner", on="enrolid")
        .groupBy("userid", "courseid")
        .agg(
            F.min(F.coalesce(_set("timestart"), _set("timecreated"))).alias("row_start"),
            F.min(_set("timecreated")).alias("row_created"),
            F.coalesce(F.max(F.when(is_open, end)), F.max(end)).alias("row_end"),
            (~F.max(is_open)).alias("is_suspended"),
            F.min(row_suspended).alias("is_row_suspended"),
            F.max(since).alias("suspended"),
        )
        .withColumn("row_end", F.nullif("row_end", F.lit(NO_END)))
        .withColumn("suspended", F.when(F.col("is_suspended"), F.nullif("suspended", F.lit(NO_END))))
        .withColumn("is_current", F.lit(True))
    )


def logged(lifecycle: DataFrame) -> DataFrame:
    """Return what the log says of enrolments. Grain: (userid, courseid).

    userid, courseid bigint; first_created bigint, seconds since 1970: the first creation; deleted_start, deleted_created
    bigint: the earliest start and creation in the deleted rows; deleted_at bigint: when the last one ended, by its
    deletion or by its own end before that, null for none; last_updated bigint: when one was last changed;
    is_created_again boolean: whether one was created after the last deletion.
    Source: log events user_enrolment_created, _updated and _deleted; the latter holds the deleted row.
    """

    def deleted_row(column: str) -> Column:
        return F.get_json_object("other", f"$.userenrolment.{column}").cast("bigint")

    order = F.struct("timecreated", "id")
    is_created, is_deleted = F.col("eventname") == ENROLMENT_CREATED, F.col("eventname") == ENROLMENT_DELETED
    is_updated = F.col("eventname") == ENROLMENT_UPDATED
    return (
        lifecycle.where(is_created | is_updated | is_deleted)
        .groupBy(F.col("relateduserid").alias("userid"), "courseid")
        .agg(
            F.min(F.when(is_created, F.col("timecreated"))).alias("first_created"),
            F.min(F.coalesce(_set(deleted_row("timestart")), _set(deleted_row("timecreated")))).alias("deleted_start"),
            F.min(_set(deleted_row("timecreated"))).alias("deleted_created"),
            F.max(F.when(is_updated, F.col("timecreated"))).alias("last_updated"),
            F.max(F.when(is_created, order)).alias("last_created"),
            F.max(F.when(is_deleted, order)).alias("last_deleted"),
            F.max_by(_set(deleted_row("timeend")), F.when(is_deleted, order)).alias("last_end"),
        )
        .select(
            "userid",
            "courseid",
            "first_created",
            "deleted_start",
            "deleted_created",
            "last_updated",
            F.least("last_deleted.timecreated", "last_end").alias("deleted_at"),
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

    Moodle deletes the row of whoever is unenrolled: the log's event user_enrolment_deleted holds it. A student is who
    has a student's role; of those without any role (it goes with the enrolment), who had one or no known role. Whose role
    was taken away was a student until then; who held another one before it, and got it later than the enrolment, is a
    student since then.
    userid bigint; user_key string; courseid bigint; is_present boolean, Moodle has a row; enrolled_at timestamp, the
    earliest start of any of the person's enrolments in the course, where that is not known its creation; unenrolled_at
    timestamp, when the last one ended or will end, null for no end; is_suspended boolean: no present enrolment is active, or the account is suspended or
    deleted; suspended_since bigint, since when by what the rows say, null for unknown; is_exact boolean: they say just
    that (an account's last change may be another one); completed_at timestamp. UTC.
    Source: current(), logged(), course_completions, course_roles, users.known().
    """
    key = ["userid", "courseid"]
    completed = completions.groupBy("userid", F.col("course").alias("courseid")).agg(
        F.max("timecompleted").alias("timecompleted")
    )
    is_current = F.coalesce("is_current", F.lit(False))
    has_left = ~is_current & ~F.col("is_created_again")
    was_student = F.col(STUDENT).isNotNull()
    role_end = F.when(~F.coalesce("is_student", F.lit(False)), F.nullif(f"{STUDENT}.until", F.lit(NO_END)))
    knows_no_role = ~was_student & F.col(STAFF).isNull() & F.col(OTHER).isNull()
    may_be = was_student | knows_no_role
    has_no_role = ~F.coalesce("has_role", F.lit(False))
    holds = F.coalesce("is_student", F.lit(False)) | role_end.isNotNull()
    is_student = F.when(is_current, holds | (has_no_role & may_be)).otherwise(may_be)
    # A creation in the log that is older than every known row is that of an enrolment of which nothing else is known.
    earlier = F.when(
        F.col("first_created") < F.coalesce(F.least("row_created", "deleted_created"), F.lit(NO_END)),
        F.col("first_created"),
    )
    role_start = F.col(f"{STUDENT}.since")
    was_other = F.least(f"{STAFF}.since", f"{OTHER}.since") < role_start
    # Within a day a role still comes with its enrolment.
    became_student = F.when(was_other & (role_start > F.col("row_created") + DAY), role_start)
    suspended = F.when(F.col("is_row_suspended"), F.greatest("suspended", "last_updated")).otherwise(F.col("suspended"))
    is_suspended = is_current & (F.coalesce("is_suspended", F.lit(False)) | F.col("is_closed"))
    return (
        current.join(logged, how="full", on=key)
        .where("is_current or deleted_at is not null")
        .join(users.select("userid", "user_key", "is_closed", "closed"), how="inner", on="userid")
        .join(F.broadcast(courses.select("courseid")), how="inner", on="courseid")
        .join(roles, how="left", on=key)
        .where((F.col("userid") > GUEST) & is_student)
        .join(completed, how="left", on=key)
        .select(
            "userid", "user_key", "courseid", is_current.alias("is_present"),
            to_timestamp(F.greatest(F.least("row_start", "deleted_start", earlier), became_student)).alias("enrolled_at"),
            to_timestamp(
                F.when(is_current, F.least("row_end", role_end)).when(has_left, F.col("deleted_at"))
            ).alias("unenrolled_at"),
            F.coalesce(is_suspended, F.lit(False)).alias("is_suspended"),
            F.when(is_suspended, F.least(suspended, "closed")).alias("suspended_since"),
            F.coalesce(~F.col("is_closed") | (suspended <= F.col("closed")), F.lit(False)).alias("is_exact"),
            to_timestamp("timecompleted").alias("completed_at"),
        )
    )  # fmt: skip


def fact_enrolment(students: DataFrame, earlier: DataFrame, read: dt.datetime | None, now: dt.datetime) -> DataFrame:
    """Return students' enrolments, those included that Moodle deleted. Grain: (user_key, courseid).

    Columns as of students(), without the id, and suspended_at, timestamp UTC: Moodle has no column for it, so it is the
    last change of the row that is suspended, by itself or the log, unless it was seen active after that, else the moment
    when it was first seen suspended, which is never exact. earlier: the table until now, which was made at `read`.
    """
    was = earlier.select(
        "user_key", "courseid", F.col("is_suspended").alias("was_suspended"), F.col("suspended_at").alias("was_at"),
        F.col("suspension_is_exact").alias("was_exact"),
    )  # fmt: skip
    changed = to_timestamp("suspended_since")
    was_active = F.col("was_suspended").isNotNull() & ~F.col("was_suspended")
    seen_active = F.when(was_active, F.lit(read))
    # What was changed before it was last seen active is something else.
    dated = F.when(seen_active.isNull() | (changed > seen_active), changed)
    kept = F.when(F.col("was_suspended"), F.col("was_at"))
    is_exact = F.when(kept.isNotNull(), F.col("was_exact")).otherwise(F.col("is_exact") & dated.isNotNull())
    return (
        students.join(was, how="left", on=["user_key", "courseid"])
        .withColumn("suspended_at", F.when(F.col("is_suspended"), F.coalesce(kept, dated, F.lit(now))))
        .withColumn("suspension_is_exact", F.when(F.col("is_suspended"), F.coalesce(is_exact, F.lit(False))))
        .select(*contracts.names(table_names.FACT_ENROLMENT))
    )


def _set(seconds: Column | str) -> Column:
    """Return seconds since 1970, null for Moodle's "not set"."""
    column = F.col(seconds) if isinstance(seconds, str) else seconds
    return F.when(column > 0, column)


def _changed(modified: str, created: str) -> Column:
    """Return when a row was last changed; null where it has not been since it was made."""
    return F.when(F.col(modified) > F.coalesce(created, F.lit(0)), F.col(modified))
