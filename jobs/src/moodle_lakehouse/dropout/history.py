"""Count what earlier courses tell, as it was known in each week: a student's own, and earlier runs of the same course.

A course is over when its end has passed and somebody has completed it: where nobody ever does, completion is not
tracked, and to have passed the course's total counts instead. An outcome counts from when it was known; who completes later than the
course's end counts as not having completed until then. Outcomes are told as log odds against those of all courses
over by then, drawn towards them where there are few, so that 0 is a student, or a course, of which nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.curated import courses as curated_courses
from moodle_lakehouse.curated.activity import DAY, WEEK, week_known

# How many courses, or students of earlier runs, with the usual outcomes everybody begins with.
USUAL_COURSES, USUAL_STUDENTS = 2, 20

# Labels (labels.py) -> what is counted for them.
COUNTED = {"non_completion": "failed", "withdrawal": "left"}

PAST_SUMS = ("past_courses", "past_completed", "past_left", "past_graded", "past_grade", "past_grade_gap")


def outcomes(enrolments: DataFrame, courses: DataFrame, totals: DataFrame, pass_share: float) -> DataFrame:
    """Return the outcomes of courses that end. Grain (user_key, courseid).

    known: when the course is over for the student, completed: when they completed it, null for never (epoch seconds);
    left: 1 who left before the end, else 0. enrolments, courses, totals: fact_enrolment, dim_course and fact_course_grade;
    pass_share: what passes a total that has no grade to pass.
    """
    is_passed = F.col("fraction") >= F.coalesce("pass_fraction", F.lit(pass_share))
    passed = totals.where(is_passed).select("user_key", "courseid", F.unix_timestamp("graded_at").alias("passed"))
    end = F.unix_timestamp("end_at")
    dated = courses.where(F.col("end_at") > F.col("start_at")).select("courseid", end.alias("ends"))
    inside = (
        enrolments.where("enrolled_at IS NOT NULL")
        .join(F.broadcast(dated), "courseid", "inner")
        .select(
            "user_key",
            "courseid",
            "ends",
            F.unix_timestamp("enrolled_at").alias("enrolled"),
            F.unix_timestamp("completed_at").alias("completed"),
            F.coalesce(F.unix_timestamp("unenrolled_at") < F.col("ends"), F.lit(False)).cast("int").alias("left"),
        )
    )
    counted = inside.join(passed, ["user_key", "courseid"], "left").withColumn(
        "passed", F.when(F.col("left") == 0, F.col("passed"))
    )
    first = (
        counted.groupBy("courseid")
        .agg(F.min("completed").alias("first_completed"), F.min("passed").alias("first_passed"))
        .withColumn("first", F.coalesce("first_completed", "first_passed"))
        .where("first IS NOT NULL")
    )
    return counted.join(F.broadcast(first), "courseid", "inner").select(
        "user_key",
        "courseid",
        F.greatest("ends", "first", "enrolled").alias("known"),
        F.when(F.col("first_completed").isNotNull(), F.col("completed")).otherwise(F.col("passed")).alias("completed"),
        "left",
    )


def of_students(ended: DataFrame, graded: DataFrame, enrolments: DataFrame, courses: DataFrame) -> DataFrame:
    """Return what a student's earlier courses add in a week. Grain (user_key, courseid, week), several rows a week.

    PAST_SUMS: courses that are over; completed and left of them; of those with grades their number, the sum of the
    student's mean grades before the end, and of their differences to those courses' means. ended: outcomes(); graded:
    fact_grade_change; enrolments: fact_enrolment; courses: those that have weeks, with start, end
    (epoch seconds) and last_week.
    """
    mean = (
        graded.join(F.broadcast(courses.select("courseid", "end")), "courseid", "inner")
        .where(F.unix_timestamp("changed_at") < F.col("end"))
        .groupBy("user_key", "courseid", "itemid")
        .agg(F.max_by("fraction", "changed_at").alias("fraction"))
        .groupBy("user_key", "courseid")
        .agg(F.avg("fraction").alias("grade"))
    )
    of_course = mean.groupBy("courseid").agg(F.avg("grade").alias("course_grade"))
    with_grades = (
        ended.join(mean, ["user_key", "courseid"], "left")
        .join(F.broadcast(of_course), "courseid", "left")
        .withColumnRenamed("courseid", "earlier")
    )
    is_graded = F.col("grade").isNotNull()
    over = F.struct(
        F.col("known").alias("moment"),
        F.lit(1).alias("past_courses"),
        F.lit(0).alias("past_completed"),
        F.col("left").alias("past_left"),
        is_graded.cast("int").alias("past_graded"),
        F.col("grade").alias("past_grade"),
        (F.col("grade") - F.col("course_grade")).alias("past_grade_gap"),
    )
    nothing = [F.lit(0).alias(name) for name in ("past_left", "past_graded")]
    nothing += [F.lit(None).cast("double").alias(name) for name in ("past_grade", "past_grade_gap")]
    completed = F.struct(
        F.greatest("known", "completed").alias("moment"),
        F.lit(0).alias("past_courses"),
        F.lit(1).alias("past_completed"),
        *nothing,
    )
    facts = F.array_compact(F.array(over, F.when(F.col("completed").isNotNull(), completed)))
    return (
        enrolments.select("user_key", "courseid")
        .join(with_grades, "user_key", "inner")
        .where(F.col("earlier") != F.col("courseid"))
        .join(F.broadcast(courses.select("courseid", "start", "last_week")), "courseid", "inner")
        .select("user_key", "courseid", "start", "last_week", F.inline(facts))
        .withColumn("week", week_known(F.col("moment")))
        .where("week <= last_week")
        .select("user_key", "courseid", "week", *PAST_SUMS)
    )


def of_courses(ended: DataFrame, all_courses: DataFrame, weeks: DataFrame, pattern: str) -> DataFrame:
    """Return what was known of outcomes at each course's weeks. Grain (courseid, week).

    usual_failed, usual_left: shares among all courses over by then; runs_non_completion, runs_withdrawal: log odds of
    the outcomes in earlier runs of the course against those shares, 0 without one. ended: outcomes(); all_courses:
    dim_course; weeks: courseid, week, cutoff (epoch seconds); pattern: finds the code that the runs' short names share.
    """
    codes = all_courses.select("courseid", curated_courses.code("shortname", pattern).alias("code"))
    counted = ended.join(F.broadcast(codes), "courseid", "inner")
    # From the first midnight after it was known on: counts a day instead of counts a second.
    day = (F.floor(F.col("moment") / DAY) + 1) * DAY
    completed = F.struct(
        F.greatest("known", "completed").alias("moment"), *_counts(students=0, failed=-1, left=F.lit(0))
    )
    over = F.struct(F.col("known").alias("moment"), *_counts(students=1, failed=1, left=F.col("left")))
    facts = F.array_compact(F.array(over, F.when(F.col("completed").isNotNull(), completed)))
    daily = (
        counted.select("code", F.inline(facts))
        .groupBy("code", day.alias("day"))
        .agg(*[F.sum(name).alias(name) for name in _COUNTS])
    )
    at = weeks.join(F.broadcast(codes), "courseid", "inner")
    by = ("courseid", "week")
    totals = daily.groupBy("day").agg(*[F.sum(name).alias(name) for name in _COUNTS])
    usual = at.join(F.broadcast(totals), F.col("day") <= F.col("cutoff"), "left").groupBy(*by).agg(*_sums("all"))
    runs = (
        at.where("code IS NOT NULL")
        .join(F.broadcast(daily), "code", "inner")
        .where("day <= cutoff")
        .groupBy(*by)
        .agg(*_sums("run"))
    )
    shares = {name: (F.col(f"all_{name}") + 1) / (F.col("all_students") + 2) for name in COUNTED.values()}
    return (
        usual.join(runs, list(by), "left")
        .na.fill(0)
        .withColumns({f"usual_{name}": share for name, share in shares.items()})
        .select(
            *by,
            *[f"usual_{name}" for name in COUNTED.values()],
            *[
                log_odds(f"run_{name}", "run_students", f"usual_{name}", USUAL_STUDENTS).alias(f"runs_{label}")
                for label, name in COUNTED.items()
            ],
        )
    )


def log_odds(hits: str, of: str, usual: str, weight: int) -> Column:
    """Return the log odds of hits among of, with weight more of the usual share, less the log odds of that; 0 of nothing."""
    share = (F.col(hits) + weight * F.col(usual)) / (F.col(of) + weight)
    return F.log(share / (1 - share)) - F.log(F.col(usual) / (1 - F.col(usual)))


def cutoffs(courses: DataFrame, weeks: DataFrame) -> DataFrame:
    """Return courseid, week and cutoff (epoch seconds). courses: courseid and start; weeks: courseid and week."""
    cutoff = (F.col("start") + F.col("week") * WEEK).alias("cutoff")
    return weeks.join(F.broadcast(courses.select("courseid", "start")), "courseid", "inner").select(
        "courseid", "week", cutoff
    )


_COUNTS = ("students", "failed", "left")


def _counts(students: int, failed: int, left: Column) -> Sequence[Column]:
    return [F.lit(students).alias("students"), F.lit(failed).alias("failed"), left.alias("left")]


def _sums(prefix: str) -> Sequence[Column]:
    return [F.coalesce(F.sum(name), F.lit(0)).alias(f"{prefix}_{name}") for name in _COUNTS]
