"""Students' grades, submissions and finished attempts."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from moodle_lakehouse.curated.raw_tables import to_timestamp


def fact_grade(
    grades: DataFrame, history: DataFrame, items: DataFrame, resources: DataFrame, students: DataFrame
) -> DataFrame:
    """Return students' final grades of activities and manual items. Grain: (itemid, user_key).

    Unenrolling deletes a person's grades: they are taken from grade_grades_history, where the deletion's
    source is userdelete, since whoever has no grades would otherwise be known to leave.
    itemid, courseid, cmid bigint; cmid and modname null for manual items; user_key string; fraction double, grade by
    the highest possible; weight double (the item's aggregation coefficient, 0 when unknown); submitted_at timestamp,
    null when not known; graded_at timestamp, when it was last set. UTC.
    Source: grade_grades, grade_grades_history, grade_items, dim_resource, enrolments.students().
    """
    present = grades.where("finalgrade is not null").select(
        "itemid", "userid", "finalgrade", F.col("timecreated").alias("submitted"), F.col("timemodified").alias("graded")
    )
    latest = Window.partitionBy("itemid", "userid").orderBy(F.col("timemodified").desc(), F.col("id").desc())
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
        .join(students.select("userid", "courseid", "user_key"), how="inner", on=["userid", "courseid"])
        .select(
            "itemid", "courseid", "cmid", F.col("itemmodule").alias("modname"), "user_key",
            (F.col("finalgrade").cast("double") / F.col("grademax").cast("double")).alias("fraction"),
            F.coalesce(F.col("aggregationcoef").cast("double"), F.lit(0.0)).alias("weight"),
            to_timestamp("submitted").alias("submitted_at"), to_timestamp("graded").alias("graded_at"),
        )
    )  # fmt: skip


def assignments(assign_submission: DataFrame, assign: DataFrame, groups_members: DataFrame) -> DataFrame:
    """Return what was handed in. Grain: (assignment, user, attempt, status).

    A group's submission counts for each of its present members. Drafts are none.
    modname string (assign); instance, userid bigint; attempt int from 1; submitted, due bigint, seconds since 1970;
    status string. Source: assign_submission, assign, groups_members.
    """
    columns = ("assignment", "userid", "attemptnumber", "timemodified", "status")
    handed_in = assign_submission.where("status = 'submitted'")
    of_groups = (
        handed_in.where("userid = 0 and groupid > 0").drop("userid").join(groups_members, how="inner", on="groupid")
    )
    return (
        handed_in.where("userid > 0")
        .select(*columns)
        .unionByName(of_groups.select(*columns))
        .groupBy("assignment", "userid", "attemptnumber", "status")
        .agg(F.min("timemodified").alias("submitted"))
        .join(assign.select(F.col("id").alias("assignment"), F.col("duedate").alias("due")), how="inner", on="assignment")
        .select(
            F.lit("assign").alias("modname"), F.col("assignment").alias("instance"), "userid",
            (F.col("attemptnumber") + 1).cast("int").alias("attempt"), "submitted", "due", "status",
        )
    )  # fmt: skip


def attempts(quiz_attempts: DataFrame, quiz: DataFrame) -> DataFrame:
    """Return finished attempts at quizzes. Grain: (quiz, user, attempt).

    Attempts under way and teachers' previews are none. Columns as of assignments(). Source: quiz_attempts, quiz.
    """
    return (
        quiz_attempts.where("coalesce(preview, 0) = 0 and state = 'finished'")
        .join(quiz.select(F.col("id").alias("quiz"), F.col("timeclose").alias("due")), how="inner", on="quiz")
        .select(
            F.lit("quiz").alias("modname"), F.col("quiz").alias("instance"), "userid", "attempt",
            F.col("timefinish").alias("submitted"), "due", F.col("state").alias("status"),
        )
    )  # fmt: skip


def fact_submission(
    assignments: DataFrame, attempts: DataFrame, resources: DataFrame, students: DataFrame
) -> DataFrame:
    """Return students' submissions and finished attempts. Grain: (assessment module, user, attempt).

    courseid, cmid bigint; modname string (assign, quiz); user_key string; attempt int from 1;
    submitted_at timestamp; due_at timestamp, null when not set; status string. UTC.
    Source: assignments(), attempts(), dim_resource, enrolments.students().
    """
    places = resources.where("not is_deleted").select("cmid", "courseid", "modname", "instance")
    return (
        assignments.unionByName(attempts)
        .join(F.broadcast(places), how="inner", on=["modname", "instance"])
        .join(students.select("userid", "courseid", "user_key"), how="inner", on=["userid", "courseid"])
        .select(
            "courseid", "cmid", "modname", "user_key", "attempt", to_timestamp("submitted").alias("submitted_at"),
            to_timestamp("due").alias("due_at"), "status",
        )
    )  # fmt: skip
