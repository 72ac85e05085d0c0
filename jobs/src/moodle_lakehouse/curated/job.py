"""Dimensions and facts from the raw tables: lakehouse.curated.

Every transform is a pure function of DataFrames; run() reads and writes. Raw tables come through RawTables,
which gives each the columns that are needed here with fixed types, null where a site lacks a column, and no
rows where it lacks a table: Moodle's versions differ.

Moodle's times are seconds since 1970 with 0 or null for "not set"; here they are UTC timestamps or null.
Facts hold known users only: people who were erased from `user` vanish from every fact with the next run.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import pandas_udf

from moodle_lakehouse.config import Config, EnrolmentAttributes
from moodle_lakehouse.curated import incremental, quality
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import input_fingerprint, job_runs, table_names, tables, writers

log = logging.getLogger(__name__)

SPLIT_BYTES = 4 * 1024 * 1024
FANOUT = {"fanout-enabled": "true"}  # a task has a file open for each month that it meets
SITE_COURSE = 1
GUEST = 1
CONTEXT_COURSE = 50
CONTEXT_MODULE = 70
STAFF_ARCHETYPES = ("manager", "coursecreator", "editingteacher", "teacher")
STUDENT_ARCHETYPES = ("student",)
STAFF, STUDENT, OTHER = "staff", "student", "other"  # roles in fact_event
NO_END = 2**62
ACTIVITY_ORIGINS = ("web", "ws")  # cli and restore are the machine's; null is history that a restore brought along

ENROLMENT_CREATED = r"\core\event\user_enrolment_created"
ENROLMENT_DELETED = r"\core\event\user_enrolment_deleted"
ROLE_ASSIGNED = r"\core\event\role_assigned"
ROLE_UNASSIGNED = r"\core\event\role_unassigned"
MODULE_CREATED = r"\core\event\course_module_created"
MODULE_UPDATED = r"\core\event\course_module_updated"
MODULE_DELETED = r"\core\event\course_module_deleted"
LIFECYCLE_EVENTS = (
    ENROLMENT_CREATED, ENROLMENT_DELETED, ROLE_ASSIGNED, ROLE_UNASSIGNED, MODULE_CREATED, MODULE_UPDATED, MODULE_DELETED,
)  # fmt: skip

# What is needed of each raw table.
RAW_COLUMNS = {
    "user": "id bigint, deleted int, timecreated bigint",
    "user_info_field": "id bigint, shortname string",
    "user_info_data": "userid bigint, fieldid bigint, data string",
    "course": "id bigint, category bigint, shortname string, fullname string, startdate bigint, enddate bigint, visible int",
    "course_modules": "id bigint, course bigint, module bigint, instance bigint, section bigint, added bigint,"
    " visible int, deletioninprogress int",
    "course_sections": "id bigint, section bigint",
    "modules": "id bigint, name string",
    "context": "id bigint, contextlevel bigint, instanceid bigint, path string",
    "role": "id bigint, shortname string, archetype string",
    "role_assignments": "roleid bigint, contextid bigint, userid bigint, timemodified bigint",
    "enrol": "id bigint, courseid bigint",
    "user_enrolments": "id bigint, status bigint, enrolid bigint, userid bigint, timestart bigint, timecreated bigint",
    "course_completions": "userid bigint, course bigint, timecompleted bigint",
    "grade_items": "id bigint, courseid bigint, itemtype string, itemmodule string, iteminstance bigint,"
    " grademax decimal(10,5), aggregationcoef decimal(10,5)",
    "grade_grades": "itemid bigint, userid bigint, finalgrade decimal(10,5), timecreated bigint, timemodified bigint",
    "grade_grades_history": "id bigint, action bigint, source string, timemodified bigint, itemid bigint, userid bigint,"
    " finalgrade decimal(10,5)",
    "groups_members": "groupid bigint, userid bigint",
    "assign": "id bigint, duedate bigint",
    "assign_submission": "assignment bigint, userid bigint, groupid bigint, timemodified bigint, status string,"
    " attemptnumber bigint",
    "quiz": "id bigint, timeclose bigint",
    "quiz_attempts": "quiz bigint, userid bigint, attempt int, preview int, state string, timefinish bigint",
    "logstore_standard_log": "id bigint, eventname string, component string, action string, target string, objectid bigint,"
    " crud string, edulevel int, contextlevel bigint, contextinstanceid bigint, userid bigint, courseid bigint,"
    " relateduserid bigint, anonymous int, other string, timecreated bigint, origin string, realuserid bigint",
}
MODULE_COLUMNS = "id bigint, name string, {due} bigint"
DUE_COLUMNS = {"assign": "duedate", "quiz": "timeclose"}


class RawTables:
    """The raw layer with the columns that curate needs."""

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        self._names = {row["tableName"] for row in spark.sql(f"SHOW TABLES IN {table_names.CATALOG}.raw").collect()}

    def __getitem__(self, name: str) -> DataFrame:
        return self.select(name, RAW_COLUMNS[name])

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def select(self, name: str, columns: str) -> DataFrame:
        """A raw table with the given columns (DDL)."""
        return shaped(self._spark, self.all_columns(name), columns)

    def all_columns(self, name: str) -> DataFrame | None:
        """A raw table as it is, None when there is none."""
        if name not in self._names:
            return None
        # A million rows of the log take some 12 MB: smaller splits than usual keep every core busy.
        return self._spark.read.option("split-size", SPLIT_BYTES).table(table_names.raw(name))


def shaped(spark: SparkSession, df: DataFrame | None, columns: str) -> DataFrame:
    """df with exactly the given columns (DDL): null where it lacks one, no rows where there is no df."""
    schema = T._parse_datatype_string(columns)
    assert isinstance(schema, T.StructType)
    if df is None:
        return tables.local_rows(spark, [], schema)
    present = set(df.columns)
    return df.select(
        *[(F.col(f.name) if f.name in present else F.lit(None)).cast(f.dataType).alias(f.name) for f in schema.fields]
    )


def moment(seconds: Column | str) -> Column:
    """A UTC timestamp from Moodle's seconds; null for 0 and null."""
    column = F.col(seconds) if isinstance(seconds, str) else seconds
    return F.timestamp_seconds(F.when(column > 0, column))


def pseudonym_of(key: bytes, userid: int) -> str:
    """16 hex digits of the HMAC-SHA256 of a user's id under the key."""
    return hmac.new(key, str(userid).encode(), hashlib.sha256).hexdigest()[:16]


def pseudonym(key: bytes) -> Callable[[Column], Column]:
    """A column function: user id -> its pseudonym under the key.

    A Python function, since an expression of Spark's would show the key in query plans and event logs.
    """

    def keyed(ids: pd.Series) -> pd.Series:
        return ids.map(lambda value: pseudonym_of(key, int(value)))

    function: Callable[[Column], Column] = pandas_udf(keyed, T.StringType())  # type: ignore[call-overload]
    return function


def dim_user(user: DataFrame, user_key: Callable[[Column], Column]) -> DataFrame:
    """Users. Grain: user, deleted ones included (Moodle keeps their row).

    userid bigint; user_key string, 16 hex digits; is_deleted boolean; created_at timestamp UTC.
    Source: user.
    """
    return user.select(
        F.col("id").alias("userid"),
        user_key(F.col("id")).alias("user_key"),
        (F.coalesce("deleted", F.lit(0)) == 1).alias("is_deleted"),
        moment("timecreated").alias("created_at"),
    )


def user_attribute(data: DataFrame, fields: DataFrame, users: DataFrame, wanted: Sequence[str]) -> DataFrame:
    """Configured profile fields. Grain: user and field that has a value.

    userid bigint, user_key string, field string (its short name), value string.
    Source: user_info_data, user_info_field.
    """
    chosen = fields.where(F.col("shortname").isin(list(wanted))) if wanted else fields.limit(0)
    return (
        data.where("data is not null and data != ''")
        .join(F.broadcast(chosen.select(F.col("id").alias("fieldid"), "shortname")), how="inner", on="fieldid")
        .join(F.broadcast(users), how="inner", on="userid")
        .select("userid", "user_key", F.col("shortname").alias("field"), F.col("data").alias("value"))
    )


def enrolment_attribute(spark: SparkSession, plugin: DataFrame | None, wanted: EnrolmentAttributes | None) -> DataFrame:
    """What a plugin keeps per enrolment. Grain: user, course and attribute that has a value.

    userid bigint, courseid bigint, attribute string (the plugin's column), value double.
    Source: the table and columns of analytics.enrolment_attributes.
    """
    shape = "userid bigint, courseid bigint, attribute string, value double"
    if plugin is None or wanted is None:
        return shaped(spark, None, shape)
    absent = [c for c in ("userid", "courseid", *wanted.columns) if c not in plugin.columns]
    if absent:
        raise LakehouseError(
            f"The table of enrolment attributes lacks {', '.join(absent)}",
            where=table_names.raw(wanted.table),
            remedy=f"name in analytics.enrolment_attributes.columns some of: {', '.join(sorted(plugin.columns))}",
        )
    attributes = F.explode(
        F.array(
            *[F.struct(F.lit(c).alias("attribute"), F.col(c).cast("double").alias("value")) for c in wanted.columns]
        )
    )
    stacked = plugin.select("userid", "courseid", attributes.alias("one")).select("userid", "courseid", "one.*")
    return shaped(spark, stacked.where("value is not null"), shape)


def dim_course(course: DataFrame) -> DataFrame:
    """Courses. Grain: course; the site's own course is none.

    courseid bigint, shortname string, fullname string, categoryid bigint, start_at and end_at timestamp UTC
    (null when not set), visible boolean. Source: course.
    """
    return course.where(F.col("id") != SITE_COURSE).select(
        F.col("id").alias("courseid"),
        "shortname",
        "fullname",
        F.col("category").alias("categoryid"),
        moment("startdate").alias("start_at"),
        moment("enddate").alias("end_at"),
        (F.coalesce("visible", F.lit(1)) == 1).alias("visible"),
    )


def dim_resource(
    modules: DataFrame, course_modules: DataFrame, sections: DataFrame, instances: DataFrame, lifecycle: DataFrame
) -> DataFrame:
    """Resources and activities. Grain: course module, those included that only the log still knows.

    cmid bigint; courseid bigint; modname string (quiz, assign, page, ...); instance bigint; name string;
    section int, its number in the course; added_at timestamp; due_at timestamp (assignments: due date,
    quizzes: closing time; null when not set); visible boolean; is_deleted boolean; deleted_at timestamp
    (null when the log does not say). Times are UTC.
    Source: course_modules, modules, course_sections, the modules' own tables (instances: modname, instance,
    name, due), log events course_module_created, _updated, _deleted.
    """
    deleted = (
        lifecycle.where(F.col("eventname") == MODULE_DELETED)
        .groupBy(F.col("contextinstanceid").alias("cmid"))
        .agg(
            F.max("courseid").alias("courseid"),
            F.max("timecreated").alias("deleted"),
            F.max(F.get_json_object("other", "$.modulename")).alias("modname"),
            F.max(F.get_json_object("other", "$.instanceid")).cast("bigint").alias("instance"),
        )
    )
    said = (
        lifecycle.where(F.col("eventname").isin(MODULE_CREATED, MODULE_UPDATED))
        .groupBy(F.col("contextinstanceid").alias("cmid"))
        .agg(
            F.max_by(F.get_json_object("other", "$.name"), F.struct("timecreated", "id")).alias("last_name"),
            F.min(F.when(F.col("eventname") == MODULE_CREATED, F.col("timecreated"))).alias("created"),
        )
    )
    present = (
        course_modules.select(
            F.col("id").alias("cmid"), F.col("course").alias("courseid"), "module", "instance",
            F.col("section").alias("sectionid"), "added", "visible", "deletioninprogress",
        )
        .join(
            F.broadcast(modules.select(F.col("id").alias("module"), F.col("name").alias("modname"))), how="left", on="module"
        )
        .join(
            sections.select(F.col("id").alias("sectionid"), F.col("section").alias("number")), how="left", on="sectionid"
        )
        .join(instances, how="left", on=["modname", "instance"])
        .join(deleted.select("cmid", "deleted"), how="left", on="cmid")
        .select(
            "cmid", "courseid", "modname", "instance", "name", F.col("number").cast("int").alias("section"),
            moment("added").alias("added_at"), moment("due").alias("due_at"),
            (F.coalesce("visible", F.lit(1)) == 1).alias("visible"),
            (F.coalesce("deletioninprogress", F.lit(0)) == 1).alias("is_deleted"),
            moment("deleted").alias("deleted_at"),
        )
    )  # fmt: skip
    gone = (
        deleted.join(course_modules.select(F.col("id").alias("cmid")), how="left_anti", on="cmid")
        .join(said, how="left", on="cmid")
        .select(
            "cmid", "courseid", "modname", "instance", F.col("last_name").alias("name"),
            F.lit(None).cast("int").alias("section"), moment("created").alias("added_at"),
            F.lit(None).cast("timestamp").alias("due_at"), F.lit(False).alias("visible"), F.lit(True).alias("is_deleted"),
            moment("deleted").alias("deleted_at"),
        )
    )  # fmt: skip
    return present.unionByName(gone)


def course_archetypes(
    context: DataFrame, role: DataFrame, role_assignments: DataFrame, lifecycle: DataFrame
) -> DataFrame:
    """Who had a role of which kind in a course, and when. Grain: (userid, courseid, archetype), not unique.

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
    """Who was staff or student of a course, and when. Grain: (userid, courseid) with a role of interest.

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


def fact_event(events: DataFrame, users: DataFrame, resources: DataFrame, roles: DataFrame) -> DataFrame:
    """What people did. Grain: log row after hygiene.

    Left out: anonymous rows, people logged in as others (realuserid), nobody and guests (userid <= 1), and
    what the machine did: origin cli or restore, and null, which is history that a course restore copied.
    event_id bigint; occurred_at timestamp UTC; userid bigint; user_key string; courseid bigint (0 or 1: the
    site); cmid bigint and modname string (null outside of modules); component, eventname, action, target,
    crud string; edulevel int; role string: the person's in the course at that time, staff, student (who was
    not staff as well) or other.
    Source: logstore_standard_log.
    """
    done_by_people = events.where(
        (F.coalesce("anonymous", F.lit(0)) == 0)
        & F.col("realuserid").isNull()
        & (F.col("userid") > GUEST)
        & F.col("origin").isin(*ACTIVITY_ORIGINS)
    ).withColumn("cmid", F.when(F.col("contextlevel") == CONTEXT_MODULE, F.col("contextinstanceid")))

    def was(role: str) -> Column:
        return F.col("timecreated").between(F.col(f"{role}.since"), F.col(f"{role}.until"))

    known = resources.select("cmid", F.col("modname").alias("resource_modname"))
    plugin = F.when(F.col("component").startswith("mod_"), F.expr("substring(component, 5)"))
    return (
        done_by_people.join(F.broadcast(users), how="inner", on="userid")
        .join(F.broadcast(roles), how="left", on=["userid", "courseid"])
        .join(F.broadcast(known), how="left", on="cmid")
        .select(
            F.col("id").alias("event_id"),
            moment("timecreated").alias("occurred_at"),
            "userid", "user_key", "courseid", "cmid",
            F.when(F.col("cmid").isNotNull(), F.coalesce("resource_modname", plugin)).alias("modname"),
            "component", "eventname", "action", "target", "crud", "edulevel",
            F.when(was(STAFF), STAFF).when(was(STUDENT), STUDENT).otherwise(OTHER).alias("role"),
        )
    )  # fmt: skip


def fact_enrolment(
    user_enrolments: DataFrame,
    enrol: DataFrame,
    lifecycle: DataFrame,
    completions: DataFrame,
    roles: DataFrame,
    users: DataFrame,
    courses: DataFrame,
) -> DataFrame:
    """Students' enrolments, those included that Moodle deleted. Grain: (userid, courseid).

    Moodle deletes the row of whoever is unenrolled: the log's event user_enrolment_deleted holds it. A person
    is left out who is or was staff of the course and never a student of it.
    userid bigint; user_key string; courseid bigint; enrolled_at timestamp, the earliest start or creation of
    any of the person's enrolments in the course; unenrolled_at timestamp, null for who is still enrolled or
    enrolled again; is_suspended boolean, every present enrolment suspended; completed_at timestamp. UTC.
    Source: user_enrolments, enrol, course_completions, the log's user_enrolment_created and _deleted.
    """
    current = (
        user_enrolments.join(enrol.select(F.col("id").alias("enrolid"), "courseid"), how="inner", on="enrolid")
        .groupBy("userid", "courseid")
        .agg(
            F.min(_earliest("timestart", "timecreated")).alias("row_start"),
            (F.min("status") == 1).alias("is_suspended"),
        )
        .withColumn("is_current", F.lit(True))
    )
    order = F.struct("timecreated", "id")
    is_created, is_deleted = F.col("eventname") == ENROLMENT_CREATED, F.col("eventname") == ENROLMENT_DELETED
    row = "$.userenrolment."
    logged = (
        lifecycle.where(is_created | is_deleted)
        .withColumn("userid", F.col("relateduserid"))
        .withColumn("timestart", F.get_json_object("other", row + "timestart").cast("bigint"))
        .withColumn("rowcreated", F.get_json_object("other", row + "timecreated").cast("bigint"))
        .groupBy("userid", "courseid")
        .agg(
            F.min(F.when(is_created, F.col("timecreated"))).alias("first_created"),
            F.min(_earliest("timestart", "rowcreated")).alias("deleted_start"),
            F.max(F.when(is_created, order)).alias("last_created"),
            F.max(F.when(is_deleted, order)).alias("last_deleted"),
        )
    )
    left = F.col("is_current").isNull() & F.col("last_deleted").isNotNull()
    again = F.col("last_created").isNotNull() & (F.col("last_created") > F.col("last_deleted"))
    completed = completions.groupBy("userid", F.col("course").alias("courseid")).agg(
        F.max("timecompleted").alias("timecompleted")
    )
    return (
        current.join(logged, how="full", on=["userid", "courseid"])
        .where("is_current or last_deleted is not null")
        .join(F.broadcast(users), how="inner", on="userid")
        .join(F.broadcast(courses.select("courseid")), how="inner", on="courseid")
        .join(roles, how="left", on=["userid", "courseid"])
        .where((F.col("userid") > GUEST) & (F.col(STUDENT).isNotNull() | F.col(STAFF).isNull()))
        .join(completed, how="left", on=["userid", "courseid"])
        .select(
            "userid", "user_key", "courseid",
            moment(F.least("row_start", "first_created", "deleted_start")).alias("enrolled_at"),
            moment(F.when(left & ~again, F.col("last_deleted.timecreated"))).alias("unenrolled_at"),
            F.coalesce("is_suspended", F.lit(False)).alias("is_suspended"),
            moment("timecompleted").alias("completed_at"),
        )
    )  # fmt: skip


def _earliest(*columns: str) -> Column:
    """The smallest of columns of seconds, where 0 is no time."""
    return F.least(*[F.when(F.col(c) > 0, F.col(c)) for c in columns])


def fact_grade(
    grades: DataFrame, history: DataFrame, items: DataFrame, resources: DataFrame, enrolments: DataFrame
) -> DataFrame:
    """Students' final grades of activities and manual items. Grain: (itemid, userid).

    Unenrolling deletes a person's grades: they are taken from grade_grades_history, where the deletion's
    source is userdelete, since whoever has no grades would otherwise be known to leave.
    itemid, courseid, cmid, userid bigint; cmid and modname null for manual items; user_key string; fraction
    double, grade by the highest possible; weight double (the item's aggregation coefficient, 0 when unknown);
    submitted_at timestamp, null when not known; graded_at timestamp, when it was last set. UTC.
    Source: grade_grades, grade_grades_history, grade_items.
    """
    present = grades.where("finalgrade is not null").select(
        "itemid", "userid", "finalgrade", F.col("timecreated").alias("submitted"), F.col("timemodified").alias("graded")
    )
    one = Window.partitionBy("itemid", "userid")
    latest = one.orderBy(F.col("timemodified").desc(), F.col("id").desc())
    deleted = (
        history.join(grades.select("itemid", "userid"), how="left_anti", on=["itemid", "userid"])
        .withColumn("last_action", F.first(F.struct("action", "source")).over(latest))
        .where("last_action.action = 3 and last_action.source = 'userdelete' and action != 3")
        .withColumn("place", F.row_number().over(latest))
        .where("place = 1 and finalgrade is not null")
        .select(
            "itemid", "userid", "finalgrade", F.lit(None).cast("bigint").alias("submitted"),
            F.col("timemodified").alias("graded"),
        )
    )  # fmt: skip
    graded_items = items.where("itemtype in ('mod', 'manual') and grademax > 0").select(
        F.col("id").alias("itemid"), "courseid", "itemmodule", "iteminstance", "grademax", "aggregationcoef"
    )
    places = resources.where("not is_deleted").select(
        "cmid", F.col("modname").alias("itemmodule"), F.col("instance").alias("iteminstance")
    )
    return (
        present.unionByName(deleted)
        .join(F.broadcast(graded_items), how="inner", on="itemid")
        .join(F.broadcast(places), how="left", on=["itemmodule", "iteminstance"])
        .join(enrolments.select("userid", "courseid", "user_key"), how="inner", on=["userid", "courseid"])
        .select(
            "itemid", "courseid", "cmid", F.col("itemmodule").alias("modname"), "userid", "user_key",
            (F.col("finalgrade").cast("double") / F.col("grademax").cast("double")).alias("fraction"),
            F.coalesce(F.col("aggregationcoef").cast("double"), F.lit(0.0)).alias("weight"),
            moment("submitted").alias("submitted_at"), moment("graded").alias("graded_at"),
        )
    )  # fmt: skip


def fact_submission(
    assign_submission: DataFrame,
    assign: DataFrame,
    quiz_attempts: DataFrame,
    quiz: DataFrame,
    groups_members: DataFrame,
    resources: DataFrame,
    enrolments: DataFrame,
) -> DataFrame:
    """Students' submissions and finished attempts. Grain: (assessment module, user, attempt).

    A group's submission counts for each of its present members. Drafts, attempts under way and teachers'
    previews are none.
    courseid, cmid bigint; modname string (assign, quiz); userid bigint; user_key string; attempt int from 1;
    submitted_at timestamp; due_at timestamp, null when not set; status string. UTC.
    Source: assign_submission, quiz_attempts, groups_members.
    """
    handed_in = assign_submission.where("status = 'submitted'")
    own = handed_in.where("userid > 0").select("assignment", "userid", "attemptnumber", "timemodified", "status")
    shared = (
        handed_in.where("userid = 0 and groupid > 0")
        .select("assignment", "groupid", "attemptnumber", "timemodified", "status")
        .join(groups_members, how="inner", on="groupid")
        .select("assignment", "userid", "attemptnumber", "timemodified", "status")
    )
    assignments = (
        own.unionByName(shared)
        .groupBy("assignment", "userid", "attemptnumber", "status")
        .agg(F.min("timemodified").alias("submitted"))
        .join(assign.select(F.col("id").alias("assignment"), F.col("duedate").alias("due")), how="inner", on="assignment")
        .select(
            F.lit("assign").alias("modname"), F.col("assignment").alias("instance"), "userid",
            (F.col("attemptnumber") + 1).cast("int").alias("attempt"), "submitted", "due", "status",
        )
    )  # fmt: skip
    attempts = (
        quiz_attempts.where("coalesce(preview, 0) = 0 and state = 'finished'")
        .join(quiz.select(F.col("id").alias("quiz"), F.col("timeclose").alias("due")), how="inner", on="quiz")
        .select(
            F.lit("quiz").alias("modname"), F.col("quiz").alias("instance"), "userid", "attempt",
            F.col("timefinish").alias("submitted"), "due", F.col("state").alias("status"),
        )
    )  # fmt: skip
    places = resources.where("not is_deleted").select("cmid", "courseid", "modname", "instance")
    return (
        assignments.unionByName(attempts)
        .join(F.broadcast(places), how="inner", on=["modname", "instance"])
        .join(enrolments.select("userid", "courseid", "user_key"), how="inner", on=["userid", "courseid"])
        .select(
            "courseid", "cmid", "modname", "userid", "user_key", "attempt", moment("submitted").alias("submitted_at"),
            moment("due").alias("due_at"), "status",
        )
    )  # fmt: skip


def module_instances(spark: SparkSession, raw: RawTables, names: Sequence[str]) -> DataFrame:
    """Name and due time of every activity. Grain: (modname, instance). Source: the modules' own tables."""
    parts = []
    for name in names:
        if name in raw:
            due = DUE_COLUMNS.get(name, "no_due_time")
            part = raw.select(name, MODULE_COLUMNS.format(due=due))
            parts.append(
                part.select(
                    F.lit(name).alias("modname"), F.col("id").alias("instance"), "name", F.col(due).alias("due")
                )
            )
    empty = shaped(spark, None, "modname string, instance bigint, name string, due bigint")
    return reduce(DataFrame.unionByName, parts) if parts else empty


def run(spark: SparkSession, config: Config) -> dict[str, int]:
    """Write the curated tables anew, unless all were made of the same raw tables; returns rows by table.

    Of fact_event only the months that may differ are written (see growth).
    """
    with job_runs.job(spark, "curate") as job:
        tables.ensure_namespaces(spark)
        raw = RawTables(spark)
        if "logstore_standard_log" not in raw or "course" not in raw:
            raise LakehouseError(
                "The lake has no raw tables yet", where=table_names.raw("*"), remedy="run ingest first"
            )
        attributes = config.analytics.enrolment_attributes
        module_names = [row["name"] for row in raw["modules"].collect()]
        read = {*RAW_COLUMNS, *module_names, *([attributes.table] if attributes else [])}
        inputs = input_fingerprint.rows(spark, [table_names.raw(name) for name in read if name in raw])
        made_of = input_fingerprint.stamp(
            inputs,
            attributes,
            config.analytics.profile_fields,
            hashlib.sha256(config.privacy.key()).hexdigest(),
        )
        if input_fingerprint.is_current(spark, table_names.CURATED, made_of):
            log.info("curate: nothing new")
        else:
            _write_all(
                spark, config, raw, module_names, inputs.get(incremental.LOG, 0), input_fingerprint.summary(made_of)
            )
        rows = {name.rsplit(".", 1)[-1]: tables.row_count(spark, name) for name in table_names.CURATED}
        job.detail["rows"] = rows
        quality.check(spark, fresh=config.analytics.as_of == "now")
        return rows


def _write_all(
    spark: SparkSession,
    config: Config,
    raw: RawTables,
    module_names: Sequence[str],
    log_snapshot: int,
    summary: Mapping[str, str],
) -> None:
    attributes = config.analytics.enrolment_attributes
    events = raw["logstore_standard_log"]
    cached: list[DataFrame] = []

    def keep(df: DataFrame) -> DataFrame:
        """What several tables are made from is made once, by the first that needs it."""
        cached.append(df.persist())
        return df

    try:
        # Few rows, but of every file of the log: brought together, or each use would be as many tasks as there are files.
        lifecycle = keep(events.where(F.col("eventname").isin(*LIFECYCLE_EVENTS)).hint("rebalance"))
        all_users = keep(dim_user(raw["user"], pseudonym(config.privacy.key())))
        users = all_users.select("userid", "user_key")
        courses = keep(dim_course(raw["course"]))
        instances = module_instances(spark, raw, module_names)
        resources = keep(
            dim_resource(raw["modules"], raw["course_modules"], raw["course_sections"], instances, lifecycle)
        )
        roles = keep(course_roles(course_archetypes(raw["context"], raw["role"], raw["role_assignments"], lifecycle)))
        enrolments = keep(
            fact_enrolment(
                raw["user_enrolments"], raw["enrol"], lifecycle, raw["course_completions"], roles, users, courses
            )
        )
        outputs: dict[str, DataFrame] = {
            table_names.FACT_ENROLMENT: enrolments,
            table_names.DIM_USER: all_users,
            table_names.DIM_COURSE: courses,
            table_names.DIM_RESOURCE: resources,
            table_names.FACT_GRADE: fact_grade(
                raw["grade_grades"], raw["grade_grades_history"], raw["grade_items"], resources, enrolments
            ),
            table_names.FACT_SUBMISSION: fact_submission(
                raw["assign_submission"], raw["assign"], raw["quiz_attempts"], raw["quiz"], raw["groups_members"],
                resources, enrolments,
            ),
            table_names.USER_ATTRIBUTE: user_attribute(
                raw["user_info_data"], raw["user_info_field"], users, config.analytics.profile_fields
            ),
            table_names.ENROLMENT_ATTRIBUTE: enrolment_attribute(
                spark, raw.all_columns(attributes.table) if attributes else None, attributes
            ),
        }  # fmt: skip
        assert {table_names.FACT_EVENT, *outputs} == set(table_names.CURATED)
        joined = incremental.Joined(all_users, roles, resources)
        rules = input_fingerprint.stamp({}, hashlib.sha256(config.privacy.key()).hexdigest())
        with ThreadPoolExecutor(max_workers=3, thread_name_prefix="curate") as pool:
            tasks = [pool.submit(write_events, events, log_snapshot, joined, rules=rules, summary=summary)]
            tasks += [
                pool.submit(writers.replace, df, name, run_id=job_runs.run_id(), summary=summary)
                for name, df in outputs.items()
            ]
            for task in tasks:
                task.result()
    finally:
        for df in cached:
            df.unpersist()


def write_events(
    events: DataFrame, snapshot: int, joined: incremental.Joined, *, rules: str, summary: Mapping[str, str]
) -> None:
    """Write fact_event; of its months only those that may differ from what is there.

    snapshot: of the raw log that the events were read from; rules: a stamp of what else the rows follow from.
    """
    spark = events.sparkSession
    now = incremental.present(events, snapshot, joined, rules)
    past = incremental.noted(spark, table_names.FACT_EVENT)
    notes = {**summary, **(now.summary() if now else {})}
    users = joined.users.select("userid", "user_key")
    why = incremental.why_anew(spark, past, now, joined)
    if past is None or why is not None:
        log.info("fact_event: every month is made anew, since %s", why)
        # The log is nearly in order of time, so a task meets few months: no need to shuffle it by month.
        writers.replace(
            fact_event(events, users, joined.resources, joined.roles),
            table_names.FACT_EVENT,
            run_id=job_runs.run_id(),
            partition=F.months("occurred_at"),
            properties={"write.distribution-mode": "none"},
            options=FANOUT,
            summary=notes,
        )
        return
    log.info("fact_event: what happened before %s stays", incremental.day(past.before))
    recent = events.where(F.col("timecreated") >= past.before)
    writers.replace_part(
        fact_event(recent, users, joined.resources, joined.roles),
        table_names.FACT_EVENT,
        F.col("occurred_at") >= F.timestamp_seconds(F.lit(past.before)),
        run_id=job_runs.run_id(),
        options=FANOUT,
        summary=notes,
    )
