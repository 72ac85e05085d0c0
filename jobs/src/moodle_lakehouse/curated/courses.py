"""Courses, their resources and activities."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from moodle_lakehouse.curated.raw_tables import DUE_COLUMNS, MODULE_COLUMNS, RawTables, shaped, to_timestamp

SITE_COURSE = 1

# What stays the same in the short name of a course that is given again: what stands before the year and the season's
# name, as in C01-2024A and BIO 1 WiSe 2024/25.
COURSE_CODE = r"^(.+?)[\s._/-]+\(?(?:[A-Za-z]{1,8}[\s._/-]?)?(?:19|20)\d\d"

MODULE_CREATED = r"\core\event\course_module_created"
MODULE_UPDATED = r"\core\event\course_module_updated"
MODULE_DELETED = r"\core\event\course_module_deleted"
COURSE_UPDATED = r"\core\event\course_updated"
LIFECYCLE_EVENTS = (MODULE_CREATED, MODULE_UPDATED, MODULE_DELETED, COURSE_UPDATED)


def code(shortname: str, pattern: str) -> Column:
    """Return what the pattern's group finds in the column shortname; null where it finds nothing."""
    found = F.regexp_extract(shortname, pattern, 1)
    return F.when(found != "", found)


def dim_course(course: DataFrame) -> DataFrame:
    """Return courses. Grain: course; the site's own course is none.

    courseid bigint, shortname string, fullname string, categoryid bigint, start_at and end_at timestamp UTC
    (null when not set), visible boolean. Source: course.
    """
    return course.where(F.col("id") != SITE_COURSE).select(
        F.col("id").alias("courseid"),
        "shortname",
        "fullname",
        F.col("category").alias("categoryid"),
        to_timestamp("startdate").alias("start_at"),
        to_timestamp("enddate").alias("end_at"),
        (F.coalesce("visible", F.lit(1)) == 1).alias("visible"),
    )


def changes(lifecycle: DataFrame, eventname: str, key: Column) -> DataFrame:
    """Return when the settings of each course or resource were last changed, by the log: its id (key) and changed, seconds since 1970."""
    return lifecycle.where(F.col("eventname") == eventname).groupBy(key).agg(F.max("timecreated").alias("changed"))


def duplicates(course_modules: DataFrame) -> DataFrame:
    """Return the course modules whose activity another one stands for, with that one's id, first. Grain: course module.

    Moodle has one for each activity; a failed restore or duplication leaves a second, with which every grade and
    submission would count twice. The oldest that is not being deleted stands for the activity.
    """
    of_activity = Window.partitionBy("module", "instance")
    oldest = of_activity.orderBy(F.coalesce("deletioninprogress", F.lit(0)), "id")
    return (
        course_modules.where("instance > 0")
        .withColumn("first", F.first("id").over(oldest))
        .where(F.col("id") != F.col("first"))
    )


def dim_resource(
    modules: DataFrame, course_modules: DataFrame, sections: DataFrame, instances: DataFrame, lifecycle: DataFrame
) -> DataFrame:
    """Return resources and activities. Grain: course module, those included that only the log still knows.

    Of several course modules of one activity there is the first only (duplicates()).

    cmid bigint; courseid bigint; modname string (quiz, assign, page, ...); instance bigint; name string;
    section int, its number in the course; added_at timestamp; due_at timestamp (assignments: due date,
    quizzes: closing time; null when not set); visible boolean; is_deleted boolean; deleted_at timestamp
    (null when the log does not say). Times are UTC.
    Source: course_modules, modules, course_sections, the modules' own tables (instances: modname, instance,
    name, due), log events course_module_created, _updated, _deleted.
    """
    deleted = _deleted(lifecycle)
    present = (
        course_modules.join(duplicates(course_modules).select("id"), how="left_anti", on="id")
        .select(
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
            to_timestamp("added").alias("added_at"), to_timestamp("due").alias("due_at"),
            (F.coalesce("visible", F.lit(1)) == 1).alias("visible"),
            (F.coalesce("deletioninprogress", F.lit(0)) == 1).alias("is_deleted"),
            to_timestamp("deleted").alias("deleted_at"),
        )
    )  # fmt: skip
    only_logged = _only_logged(deleted, _logged_names(lifecycle), course_modules)
    return present.unionByName(only_logged)


def _deleted(lifecycle: DataFrame) -> DataFrame:
    """Return what the log says of deleted course modules. Grain: cmid."""
    return (
        lifecycle.where(F.col("eventname") == MODULE_DELETED)
        .groupBy(F.col("contextinstanceid").alias("cmid"))
        .agg(
            F.max("courseid").alias("courseid"),
            F.max("timecreated").alias("deleted"),
            F.max(F.get_json_object("other", "$.modulename")).alias("modname"),
            F.max(F.get_json_object("other", "$.instanceid")).cast("bigint").alias("instance"),
        )
    )


def _logged_names(lifecycle: DataFrame) -> DataFrame:
    """Return the last name and the creation of course modules by the log. Grain: cmid."""
    return (
        lifecycle.where(F.col("eventname").isin(MODULE_CREATED, MODULE_UPDATED))
        .groupBy(F.col("contextinstanceid").alias("cmid"))
        .agg(
            F.max_by(F.get_json_object("other", "$.name"), F.struct("timecreated", "id")).alias("last_name"),
            F.min(F.when(F.col("eventname") == MODULE_CREATED, F.col("timecreated"))).alias("created"),
        )
    )


def _only_logged(deleted: DataFrame, names: DataFrame, course_modules: DataFrame) -> DataFrame:
    """Return the deleted course modules that Moodle has no row of, with dim_resource's columns."""
    return (
        deleted.join(course_modules.select(F.col("id").alias("cmid")), how="left_anti", on="cmid")
        .join(names, how="left", on="cmid")
        .select(
            "cmid", "courseid", "modname", "instance", F.col("last_name").alias("name"),
            F.lit(None).cast("int").alias("section"), to_timestamp("created").alias("added_at"),
            F.lit(None).cast("timestamp").alias("due_at"), F.lit(False).alias("visible"), F.lit(True).alias("is_deleted"),
            to_timestamp("deleted").alias("deleted_at"),
        )
    )  # fmt: skip


def module_instances(spark: SparkSession, raw: RawTables, names: Sequence[str]) -> DataFrame:
    """Return name and due time of every activity. Grain: (modname, instance). Source: the modules' own tables."""
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
