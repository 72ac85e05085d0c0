"""Students' own activity, counted in weeks of a course: what features and course profiles share."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.curated.roles import STAFF

DAY = 86400  # seconds
WEEK = 7 * DAY
MAX_WEEKS = 60  # a course that runs longer, or has no end, is no course with a beginning and an end

RUN_UP = 30 * DAY  # what happened longer than this before a course's start belongs to an earlier run of its shell

# Log rows about a student's enrolment and results are no activity, whoever is named as their user.
NO_ACTIVITY = ("user_enrolment", "role", "grade", "course_module_completion", "course_completion")
TEACHING = 1  # edulevel


def run_begins(start: Column) -> Column:
    """Return from when on what is done in a course belongs to the run that starts at `start` (epoch seconds)."""
    return start - RUN_UP


def week_known(moment: Column) -> Column:
    """Return the first week whose cutoff lies after the moment (epoch seconds) in a course that begins at the column start.

    What came before the start is known in week 0.
    """
    return F.greatest(F.floor((moment - F.col("start")) / WEEK) + 1, F.lit(0)).cast("int")


def of_this_run(enrolments: DataFrame, courses: DataFrame) -> DataFrame:
    """Return the enrolments of fact_enrolment in the courses as they are now; courses: courseid, start_at.

    A course's shell is often used again: it gets new dates, while the log keeps its former students. Whose enrolment had
    ended by the start is none of this run, and a completion from before it is another run's. Columns stay as they are.
    """
    starts = F.broadcast(courses.select("courseid", F.col("start_at").alias("starts")))
    is_earlier = F.unix_timestamp("completed_at") < run_begins(F.unix_timestamp("starts"))
    return (
        enrolments.join(starts, how="inner", on="courseid")
        .where(F.col("unenrolled_at").isNull() | F.col("starts").isNull() | (F.col("unenrolled_at") > F.col("starts")))
        .withColumn("completed_at", F.when(~F.coalesce(is_earlier, F.lit(False)), F.col("completed_at")))
        .select(*enrolments.columns)
    )


def by_students(events: DataFrame) -> DataFrame:
    """Return the rows of fact_event that students did themselves: nothing of staff, no teaching, no results of theirs."""
    result = F.col("target").isin(*NO_ACTIVITY) | ((F.col("target") == "course") & (F.col("action") == "completed"))
    return events.where((F.col("role") != STAFF) & (F.col("edulevel") != TEACHING) & ~result)
