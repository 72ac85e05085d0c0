"""Compute weekly snapshots of every enrolment: what was known of a student at the end of each week of a course.

A row is (enrolment, week); its cutoff is the course's start plus 7 * week days. A row holds only what happened
strictly before its cutoff. The risk set are the enrolments that have not ended by the cutoff. One that begins
only later is a row too, with enrolled = false: nothing is known of it, it stands in no cohort and teaches no model.

Features are meant to hold in courses never seen: shares of what was due so far, and the student against the
course's own cohort at the same week (_vs: difference to the cohort's mean, of log1p for counts and days; _z: the
same in standard deviations of the cohort, within +-4). How far a course has come is no feature: what it means
differs from course to course, and with few courses to learn from it is their calendars that would be learnt.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from moodle_lakehouse.config import AnalyticsConfig, Config
from moodle_lakehouse.curated.activity import DAY, MAX_WEEKS, WEEK, by_students, of_this_run, run_begins, week_known
from moodle_lakehouse.curated.courses import COURSE_CODE
from moodle_lakehouse.dropout import course_ends, history
from moodle_lakehouse.lake import input_fingerprint, job_runs, point_in_time, table_names, tables, writers

log = logging.getLogger(__name__)

ASSESSMENTS = ("assign", "quiz")
# What stands in a submission's status while nothing has been handed in.
NOT_HANDED_IN = ("new", "draft", "reopened", "inprogress", "overdue", "abandoned", "notsubmitted")

# Module types that serve one purpose; what a site adds (plugins) counts towards the totals only.
GROUPS = {
    "content": ("resource", "page", "book", "folder", "url", "imscp", "label"),
    "practice": ("quiz", "scorm", "h5pactivity", "hvp", "lesson", "lti"),
    "forum": ("forum", "chat", "wiki", "glossary", "data", "workshop"),
    "assign": ("assign",),
}

# Prefixes of the columns that a site's configuration adds.
ATTRIBUTE = "attr_"
PROFILE = "profile_"


@dataclass(frozen=True)
class Feature:
    """A column the model may use.

    risk: the only direction in which it may move the risk, +1 or -1; 0 leaves it free. It keeps what is learnt
    in a few courses from bending to their noise, and a reason from contradicting common sense.
    reason: the reason (see explanations.py) that its contribution counts towards; None: it explains no student.
    """

    name: str
    risk: int
    reason: str | None


FEATURES = (
    Feature("lead_z", -1, "lead"),
    Feature("handed_in_share", -1, "handed_in"),
    Feature("handed_in_vs", -1, "handed_in"),
    Feature("on_time_share", -1, "on_time"),
    Feature("on_time_vs", -1, "on_time"),
    Feature("last_due_vs", -1, "last_due"),
    Feature("handed_in_ahead", -1, "handed_in_ahead"),
    Feature("days_early_z", -1, "days_early"),
    Feature("days_since_submission_vs", 1, "days_since_submission"),
    Feature("grade_avg_vs", -1, "grade_avg"),
    Feature("grade_avg_z", -1, "grade_avg"),
    Feature("grade_last_vs", -1, "grade_last"),
    Feature("grade_last_z", -1, "grade_last"),
    Feature("credited", 0, "credited"),
    Feature("days_since_access_vs", 1, "days_since_access"),
    Feature("active_days_vs", -1, "active_days"),
    Feature("active_days_2w_vs", -1, "active_days_2w"),
    Feature("events_vs", -1, "events"),
    Feature("events_2w_vs", -1, "events_2w"),
    Feature("trend_vs", -1, "trend"),
    Feature("writes_vs", -1, "writes"),
    Feature("resources_vs", -1, "resources"),
    *(Feature(f"{group}_vs", -1, group) for group in GROUPS),
    Feature("past_non_completion", 1, "past_completed"),
    Feature("past_withdrawal", 1, "past_left"),
    Feature("past_grade_gap", -1, "past_grade"),
)

# What the outcomes of earlier runs of a course let expect, by label. No feature: with few courses a model would learn
# which course is which.
RUNS = tuple(f"runs_{label}" for label in history.COUNTED)


SOURCE_TABLES = (
    table_names.DIM_COURSE,
    table_names.DIM_COURSE_VERSION,
    table_names.FACT_ENROLMENT,
    table_names.FACT_EVENT,
    table_names.DIM_RESOURCE,
    table_names.DIM_RESOURCE_VERSION,
    table_names.FACT_SUBMISSION,
    table_names.FACT_GRADE_CHANGE,
    table_names.FACT_COURSE_GRADE,
    table_names.DUE_DATE_EXCEPTION,
    table_names.ENROLMENT_ATTRIBUTE,
    table_names.USER_ATTRIBUTE,
)


@dataclass(frozen=True)
class Sources:
    """The curated tables the features are made of; already cut at the moment of interest."""

    courses: DataFrame
    enrolments: DataFrame
    events: DataFrame
    resources: DataFrame
    versions: DataFrame
    submissions: DataFrame
    grades: DataFrame
    totals: DataFrame
    exceptions: DataFrame
    attributes: DataFrame | None = None
    attribute_names: tuple[str, ...] = ()
    profile: DataFrame | None = None
    profile_names: tuple[str, ...] = ()
    course_code: str = COURSE_CODE
    pass_share: float = 0.5


def run(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> None:
    """Write features.enrolment_week, as of a moment, unless it was made of the same."""
    at = snapshots(spark)
    inputs = stamp(config.analytics, as_of, at)
    if input_fingerprint.is_current(spark, [table_names.ENROLMENT_WEEK], inputs):
        log.info("features: nothing new")
        return
    rows = build(sources(spark, config.analytics, as_of, at), as_of)
    writers.replace(
        rows, table_names.ENROLMENT_WEEK, run_id=job_runs.run_id(), summary=input_fingerprint.summary(inputs)
    )


def read(
    spark: SparkSession, config: Config, as_of: dt.datetime | None, at: Mapping[str, int] | None = None
) -> DataFrame:
    """features.enrolment_week as of a moment: the table where it was written for just that, else computed.

    at: the sources' snapshots (see snapshots); None: those of now.
    """
    at = snapshots(spark) if at is None else at
    if input_fingerprint.is_current(spark, [table_names.ENROLMENT_WEEK], stamp(config.analytics, as_of, at)):
        return spark.table(table_names.ENROLMENT_WEEK)
    return build(sources(spark, config.analytics, as_of, at), as_of)


def stamp(analytics: AnalyticsConfig, as_of: dt.datetime | None, at: Mapping[str, int]) -> str:
    """Return what features are made of: the snapshots of their sources, the moment and the configured attributes."""
    own = (
        analytics.enrolment_attributes, analytics.demographics, analytics.profile_fields, analytics.course_code,
        analytics.pass_share,
    )  # fmt: skip
    return input_fingerprint.stamp(at, input_fingerprint.moment(as_of), own)


def snapshots(spark: SparkSession) -> dict[str, int]:
    """Return the snapshot with the current rows of each table that the features are made of; no job runs for it."""
    return input_fingerprint.rows(spark, SOURCE_TABLES)


def sources(
    spark: SparkSession, analytics: AnalyticsConfig, as_of: dt.datetime | None, at: Mapping[str, int] | None = None
) -> Sources:
    """Read the curated tables as of a moment (None: as they are), from the given snapshots, else the current ones."""

    def table(name: str) -> DataFrame | None:
        return tables.read(spark, name) if at is None or name not in at else tables.read_at(spark, name, at[name])

    known = functools.partial(point_in_time.read, table, as_of=as_of)
    events = known(table_names.FACT_EVENT)
    courses = course_ends.with_ends(known(table_names.DIM_COURSE), events, as_of)
    attributes = table(table_names.ENROLMENT_ATTRIBUTE) if analytics.enrolment_attributes else None
    profile = table(table_names.USER_ATTRIBUTE) if analytics.demographics else None
    return Sources(
        courses=courses,
        enrolments=of_this_run(known(table_names.FACT_ENROLMENT), courses),
        events=events,
        resources=known(table_names.DIM_RESOURCE),
        versions=known(table_names.DIM_RESOURCE_VERSION),
        submissions=known(table_names.FACT_SUBMISSION),
        grades=known(table_names.FACT_GRADE_CHANGE),
        totals=known(table_names.FACT_COURSE_GRADE),
        exceptions=known(table_names.DUE_DATE_EXCEPTION),
        attributes=attributes,
        attribute_names=tuple(analytics.enrolment_attributes.columns) if analytics.enrolment_attributes else (),
        profile=profile,
        profile_names=tuple(analytics.profile_fields),
        course_code=analytics.course_code or COURSE_CODE,
        pass_share=analytics.pass_share,
    )


def column_name(prefix: str, name: str) -> str:
    """Return the column of a configured attribute or profile field."""
    return prefix + re.sub(r"\W+", "_", name).strip("_").lower()


def build(src: Sources, as_of: dt.datetime | None) -> DataFrame:
    """Compute the table features.enrolment_week. Grain: (user_key, courseid, week), enrolments not ended by the cutoff.

    Every source is reduced to what a student gained in a week, stacked, and summed up along the weeks; the
    cohorts are formed last, from the rows that are in the risk set.
    """
    courses = tables.settled(_courses(src.courses, as_of))
    weeks = courses.select("courseid", F.explode(F.sequence(F.lit(0), F.col("last_week"))).alias("week"))
    calendars = _calendars(src, courses, weeks)
    graded = _in_run(src.grades, "changed_at", courses)
    ended = history.outcomes(src.enrolments, src.courses, src.totals, src.pass_share)
    earlier = history.of_students(ended, graded.where(~F.col("is_extra_credit")), src.enrolments, courses)
    assessed = _assessed(src, graded, courses, calendars)
    stacked = functools.reduce(
        lambda left, right: left.unionByName(right, allowMissingColumns=True),
        [_spine(src.enrolments, courses), _activity(src.events, courses), *assessed, earlier],
    )
    runs = tables.settled(history.of_courses(ended, src.courses, history.cutoffs(courses, weeks), src.course_code))
    own = calendars.own.select("user_key", "courseid", "week", F.struct(*_CALENDAR).alias("own"))
    stacked = stacked.unionByName(own, allowMissingColumns=True)
    known = _accumulate(_weekly(stacked), calendars.course)
    rows = _attributes(_student(known, courses, runs), src)
    return _against_cohort(rows).select(*columns(src))


def columns(src: Sources) -> list[str]:
    """Return the table's columns in order: keys, what reasons are made of, features, the site's own attributes."""
    keys = ["user_key", "courseid", "week", "cutoff_at", "enrolled"]
    named = list(dict.fromkeys([*keys, *RAW, *(feature.name for feature in FEATURES), *RUNS]))
    return [
        *named,
        *(column_name(ATTRIBUTE, name) for name in src.attribute_names if src.attributes is not None),
        *(column_name(PROFILE, name) for name in src.profile_names if src.profile is not None),
    ]


# What is known of a student in plain units. Counts are up to the cutoff, days are days, grades and shares 0 to 1.
RAW = (
    "progress",
    "due",
    "handed_in",
    "handed_in_share",
    "on_time_share",
    "last_due_share",
    "handed_in_ahead",
    "days_early",
    "days_since_submission",
    "grade_avg",
    "grade_last",
    "credited",
    "lead_days",
    "days_since_access",
    "active_days",
    "active_days_2w",
    "events",
    "events_2w",
    "trend",
    "writes",
    "resources",
    *GROUPS,
    "past_courses",
    "past_completed",
    "past_left",
    "past_grade",
)

_CALENDAR = ("due", "last_due")

_SUMS = (
    "due_handed_in",
    "on_time",
    "dated",
    "early_days",
    "early_count",
    "grade_weighted",
    "grade_weights",
    "credited",
    "events",
    "writes",
    "active_days",
    "resources",
    *GROUPS,
    *history.PAST_SUMS,
)


def _courses(courses: DataFrame, as_of: dt.datetime | None) -> DataFrame:
    """Courses with a start. Grain courseid: start, end (epoch seconds), last_week: the last week with a row."""
    start, end = F.unix_timestamp("start_at"), F.unix_timestamp("end_at")
    limits = [F.lit(MAX_WEEKS), F.floor((F.when(end > start, end) - start) / WEEK)]
    if as_of is not None:
        limits.append(F.floor((F.unix_timestamp(point_in_time.literal(as_of)) - start) / WEEK))
    return (
        courses.where(F.col("start_at").isNotNull())
        .select(
            "courseid",
            start.alias("start"),
            F.when(end > start, end).alias("end"),
            F.least(*limits).cast("int").alias("last_week"),
        )
        .where("last_week >= 0")
    )


def _spine(enrolments: DataFrame, courses: DataFrame) -> DataFrame:
    """The risk set. Grain (user_key, courseid, week): the weeks of an enrolment up to the last cutoff before its end.

    in_spine 1; enrolled: when it began (epoch seconds; one of unknown beginning began before the course).
    An end at the very cutoff has happened by then; whoever is suspended is not enrolled from then on.
    """
    end = F.least(F.unix_timestamp("unenrolled_at"), F.unix_timestamp("suspended_at"))
    last_enrolled = F.ceil((end - F.col("start")) / WEEK) - 1
    return (
        enrolments.join(F.broadcast(courses), "courseid", "inner")
        .withColumn("last", F.least("last_week", last_enrolled).cast("int"))
        .where("last >= 0")
        .select(
            "user_key",
            "courseid",
            F.explode(F.sequence(F.lit(0), F.col("last"))).alias("week"),
            F.lit(1).alias("in_spine"),
            F.coalesce(F.unix_timestamp("enrolled_at"), F.col("start") - 1).alias("enrolled"),
        )
    )


def _activity(events: DataFrame, courses: DataFrame) -> DataFrame:
    """Grain (user_key, courseid, week): what students did in the week that ends at the cutoff.

    One pass over the log: it is reduced per module and week first, where days are bits of a week, so that
    the days of several modules can be united and a module opened for the first time can be recognised.
    """
    group = F.coalesce(*[F.when(F.col("modname").isin(*names), F.lit(name)) for name, names in GROUPS.items()])
    at = F.unix_timestamp("occurred_at")
    write = (F.col("crud") != "r") & (F.col("edulevel") == 2)
    day = F.pmod(F.floor((at - F.col("start")) / DAY), F.lit(7)).cast("int")
    acts = (
        by_students(events)
        .join(F.broadcast(courses), "courseid", "inner")
        .where(at >= run_begins(F.col("start")))
        .select(
            "user_key",
            "courseid",
            F.col("cmid"),
            group.alias("module_group"),
            write.cast("int").alias("write"),
            at.alias("at"),
            F.call_function("shiftleft", F.lit(1), day).alias("day"),
            week_known(at).alias("week"),
            "last_week",
        )
        .where("week <= last_week")
        .repartition("user_key", "courseid")
    )
    of_module = acts.groupBy("user_key", "courseid", "cmid", "week").agg(
        F.count("*").alias("events"),
        F.sum("write").alias("writes"),
        F.max("module_group").alias("module_group"),
        F.bit_or("day").alias("days"),
        F.max("at").alias("last_access"),
    )
    first = F.min("week").over(Window.partitionBy("user_key", "courseid", "cmid"))
    return (
        of_module.withColumn("opened", (F.col("cmid").isNotNull() & (F.col("week") == first)).cast("int"))
        .groupBy("user_key", "courseid", "week")
        .agg(
            F.sum("events").alias("events"),
            F.sum("writes").alias("writes"),
            F.bit_count(F.bit_or("days")).alias("active_days"),
            F.sum("opened").alias("resources"),
            F.max("last_access").alias("last_access"),
            *[F.sum(F.when(F.col("module_group") == name, F.col("events"))).alias(name) for name in GROUPS],
        )
    )


@dataclass(frozen=True)
class _Calendars:
    """What is due when: of a course, and of the students for whom a date was changed (own), who have one of their own.

    course, own: as of _calendar(); course_dates, own_dates: as of _dates().
    """

    course: DataFrame
    own: DataFrame
    course_dates: DataFrame
    own_dates: DataFrame


def _calendars(src: Sources, courses: DataFrame, weeks: DataFrame) -> _Calendars:
    known = tables.settled(_known_dates(src.resources, src.versions, courses))
    start = courses.select("courseid", "start")
    changed = (
        src.exceptions.join(F.broadcast(start), "courseid", "inner")
        .join(F.broadcast(known.select("cmid").distinct()), "cmid", "left_semi")
        .select(
            "user_key", "courseid", "cmid", F.unix_timestamp("due_at").alias("own"),
            week_known(F.unix_timestamp("known_at")).alias("own_since"),
        )
    )  # fmt: skip
    changed = tables.settled(changed)
    owners = changed.select("user_key", "courseid").distinct()
    own = (
        known.join(owners, "courseid", "inner")
        .join(changed.drop("courseid"), ["user_key", "cmid"], "left")
        .withColumn("due", F.when(F.col("week") >= F.col("own_since"), F.col("own")).otherwise(F.col("due")))
    )
    of_course, of_student = _due(known, ["courseid"]), _due(own, ["user_key", "courseid"])
    return _Calendars(
        course=_calendar(of_course, weeks, ["courseid"]),
        own=_calendar(of_student, owners.join(F.broadcast(weeks), "courseid", "inner"), ["user_key", "courseid"]),
        course_dates=_dates(of_course, ["courseid"]),
        own_dates=_dates(of_student, ["user_key", "courseid"]),
    )


def _known_dates(resources: DataFrame, versions: DataFrame, courses: DataFrame) -> DataFrame:
    """Assessments that students see in a week, with what was known of them at its cutoff. Grain (cmid, week).

    courseid; due (epoch seconds, null for none), deleted (the same, null for not), start, end, last_week.
    """
    states = versions.select(
        "cmid", F.struct("due_at", "visible").alias("state"),
        F.unix_timestamp("valid_from").alias("valid_from"), F.unix_timestamp("valid_to").alias("valid_to"),
    )  # fmt: skip
    # What is added after its own date was not due before.
    first = F.greatest(week_known(F.unix_timestamp("added_at")), week_known(F.col("valid_from")))
    last = F.least("last_week", week_known(F.col("valid_to")) - 1)
    return (
        resources.where(F.col("modname").isin(*ASSESSMENTS))
        .join(F.broadcast(courses), "courseid", "inner")
        .join(states, "cmid", "left")
        .withColumn("state", F.coalesce("state", F.struct("due_at", "visible")))
        .withColumn("first", first)
        .withColumn("last", F.when(F.col("valid_to").isNull(), F.col("last_week")).otherwise(last))
        .where("state.visible and first <= last")
        .select(
            "courseid",
            "cmid",
            F.explode(F.sequence("first", "last")).alias("week"),
            F.unix_timestamp("state.due_at").alias("due"),
            F.when(F.col("is_deleted"), F.coalesce(F.unix_timestamp("deleted_at"), F.lit(0))).alias("deleted"),
            "start",
            "end",
            "last_week",
        )
    )


def _due(known: DataFrame, owner: Sequence[str]) -> DataFrame:
    """Assessments that have a date within their course. Grain (owner, cmid, week).

    owner: the columns that say whose calendar it is. due (epoch seconds), the date as it was known at the week's cutoff; since:
    the first of the weeks in a row in which it was that; week_due: the first of them whose cutoff has the date behind it,
    which may lie ahead; is_due: whether it does not; is_last: whether no other one has become due later; last_week.
    """
    due = F.col("due")
    within = (due >= F.col("start")) & (F.col("end").isNull() | (due <= F.col("end")))
    is_counted = within & (F.col("deleted").isNull() | (F.col("deleted") > due))
    in_order = Window.partitionBy(*owner, "cmid", "due").orderBy("week")
    in_row = Window.partitionBy(*owner, "cmid", "due", "run")
    due_by_then = F.when(F.col("is_due"), F.col("week_due"))
    return (
        known.where(is_counted)
        .withColumn("run", F.col("week") - F.row_number().over(in_order))
        .withColumn("since", F.min("week").over(in_row))
        .withColumn("week_due", F.greatest("since", week_known(due)))
        .withColumn("is_due", F.col("week_due") <= F.col("week"))
        .withColumn("last_due_week", F.max(due_by_then).over(Window.partitionBy(*owner, "week")))
        .withColumn("is_last", F.coalesce(due_by_then == F.col("last_due_week"), F.lit(False)))
        .select(*owner, "cmid", "week", "due", "since", "week_due", "is_due", "is_last", "last_due_week", "last_week")
    )


def _calendar(due: DataFrame, weeks: DataFrame, owner: Sequence[str]) -> DataFrame:
    """Grain (owner, week): due (assessments due so far), last_due (how many of them became due last, null while none was).

    due: as of _due(); weeks: the owners with each of their course's weeks.
    """
    counted = due.groupBy(*owner, "week").agg(
        F.sum(F.col("is_due").cast("int")).alias("due"),
        F.sum(F.when(F.col("is_last"), 1)).alias("last_due"),
    )
    return weeks.join(counted, [*owner, "week"], "left").select(
        *owner, "week", F.coalesce("due", F.lit(0)).alias("due"), "last_due"
    )


def _dates(due: DataFrame, owner: Sequence[str]) -> DataFrame:
    """Grain (owner, cmid): dates, an array of what _due() knows of an assessment, a struct for each time with one date.

    due, since, week_due; until: the first week in which it was not so any more, null for none; last: the weeks in which
    no other one has become due later.
    """
    until = F.max("week") + 1
    times = due.groupBy(*owner, "cmid", "due", "since", "week_due").agg(
        F.when(until <= F.max("last_week"), until).alias("until"),
        F.collect_list(F.when(F.col("is_last"), F.col("week"))).alias("last"),
    )
    return times.groupBy(*owner, "cmid").agg(
        F.collect_list(F.struct("due", "since", "week_due", "until", "last")).alias("dates")
    )


def _assessed(src: Sources, graded: DataFrame, courses: DataFrame, calendars: _Calendars) -> list[DataFrame]:
    """What was handed in and graded, in rows of (user_key, courseid, week): the week it became known in."""
    results = _results(src, graded, courses, calendars)
    return [_handed_in(results), _on_calendar(results), _grades(graded, courses)]


def _in_run(rows: DataFrame, at: str, courses: DataFrame) -> DataFrame:
    """The rows of a fact whose moment belongs to this run of their course."""
    begins = courses.select("courseid", run_begins(F.col("start")).alias("begins"))
    return (
        rows.join(F.broadcast(begins), "courseid", "inner")
        .where(F.unix_timestamp(at) >= F.col("begins"))
        .drop("begins")
    )


def _results(src: Sources, graded: DataFrame, courses: DataFrame, calendars: _Calendars) -> DataFrame:
    """Assessments a student has dealt with. Grain (user_key, courseid, cmid): at, credited, week_known, dates as of _dates().

    credited: the result came before any submission (from an earlier attempt, or marked offline) and asks for none.
    """
    of_course = F.broadcast(calendars.course_dates.select("cmid", F.col("dates").alias("of_course")))
    own = calendars.own_dates.withColumnRenamed("dates", "of_student")
    status = F.coalesce(F.lower("status"), F.lit(""))
    known = F.unix_timestamp(F.coalesce("known_at", "submitted_at")).alias("known")
    submitted = (
        _in_run(src.submissions, "submitted_at", courses)
        .where(~status.isin(*NOT_HANDED_IN))
        .select(
            "user_key", "courseid", "cmid",
            F.struct(known, F.unix_timestamp("submitted_at").alias("at")).alias("submitted"),
        )
    )  # fmt: skip
    # A zero is what many sites give to who did not hand in.
    results = graded.where(F.col("modname").isin(*ASSESSMENTS) & (F.col("fraction") > 0)).select(
        "user_key", "courseid", "cmid", F.unix_timestamp("changed_at").alias("graded")
    )
    handed_in = F.col("submitted.at")
    is_credited = F.col("graded").isNotNull() & (handed_in.isNull() | (F.col("graded") < handed_in))
    return (
        submitted.unionByName(results, allowMissingColumns=True)
        .unionByName(own, allowMissingColumns=True)
        .groupBy("user_key", "courseid", "cmid")
        .agg(
            F.min("submitted").alias("submitted"),
            F.min("graded").alias("graded"),
            F.first("of_student", ignorenulls=True).alias("of_student"),
        )
        .withColumn("credited", is_credited.cast("int"))
        .withColumn("at", F.when(is_credited, F.col("graded")).otherwise(handed_in))
        .where("at IS NOT NULL")
        .join(F.broadcast(courses.select("courseid", "start")), "courseid", "inner")
        .join(of_course, "cmid", "left")
        .select(
            "user_key",
            "courseid",
            "cmid",
            "at",
            "credited",
            week_known(F.when(is_credited, F.col("graded")).otherwise(F.col("submitted.known"))).alias("week_known"),
            F.coalesce("of_student", "of_course").alias("dates"),
        )
    )


def _handed_in(results: DataFrame) -> DataFrame:
    """What counts from when it was handed in, whatever its date."""

    def is_then(date: Column) -> Column:
        until = date.getField("until")
        return (date.getField("since") <= F.col("week_known")) & (until.isNull() | (until > F.col("week_known")))

    own, due = F.col("credited") == 0, F.get(F.filter("dates", is_then), 0).getField("due")
    return results.withColumn("due", due).select(
        "user_key",
        "courseid",
        F.col("week_known").alias("week"),
        "credited",
        F.when(own, F.col("at")).alias("last_submission"),
        F.when(own, (F.col("due") - F.col("at")) / DAY).alias("early_days"),
        F.when(own & F.col("due").isNotNull(), 1).alias("early_count"),
    )


def _on_calendar(results: DataFrame) -> DataFrame:
    """What counts against the calendar: from when both the submission and its date were known, for as long as that is its date."""
    date, until = F.col("date"), F.col("date.until")
    on_time = (F.col("at") <= F.col("date.due")).cast("int")

    def gain(week: Column, **counts: Column | int) -> Column:
        names = ("dated", "due_handed_in", "on_time", "last_due_handed_in")
        return F.struct(
            week.cast("int").alias("week"), *[F.lit(counts.get(name)).cast("int").alias(name) for name in names]
        )

    def while_so(since: Column, **counts: Column | int) -> list[Column]:
        """Count from a week on until the date is another."""
        is_ever = until.isNull() | (since < until)
        lost = {name: -count for name, count in counts.items()}
        return [F.when(is_ever, gain(since, **counts)), F.when(is_ever & until.isNotNull(), gain(until, **lost))]

    gains = [
        *while_so(F.greatest("week_known", "date.since"), dated=1),
        *while_so(F.greatest("week_known", "date.week_due"), due_handed_in=1, on_time=on_time),
    ]
    weeks = F.filter(date.getField("last"), lambda week: week >= F.col("week_known"))
    last = F.transform(weeks, lambda week: gain(week, last_due_handed_in=1))
    return results.select("user_key", "courseid", "at", "week_known", F.explode("dates").alias("date")).select(
        "user_key", "courseid", F.inline(F.concat(F.array_compact(F.array(*gains)), last))
    )


def _grades(graded: DataFrame, courses: DataFrame) -> DataFrame:
    """What the grades of a week add to the weighted sums, as they were then: a regrade adds its difference.

    Extra credit adds to a total of which it is no part, and counts for no average.
    """
    weight = F.greatest(F.coalesce("weight", F.lit(0.0)), F.lit(0.01))
    of_item = Window.partitionBy("user_key", "itemid").orderBy("changed_at")
    gained = F.coalesce("fraction", F.lit(0.0)) - F.coalesce("before", F.lit(0.0))
    counts = F.col("fraction").isNotNull().cast("int") - F.col("before").isNotNull().cast("int")
    is_grade = F.col("fraction").isNotNull()
    return (
        graded.where(~F.col("is_extra_credit"))
        .withColumn("before", F.lag("fraction").over(of_item))
        .join(F.broadcast(courses), "courseid", "inner")
        .groupBy("user_key", "courseid", week_known(F.unix_timestamp("changed_at")).alias("week"))
        .agg(
            F.sum(gained * weight).alias("grade_weighted"),
            F.sum(counts * weight).alias("grade_weights"),
            F.max_by(F.when(is_grade, F.col("fraction")), F.when(is_grade, F.struct("changed_at", "fraction"))).alias(
                "grade_last"
            ),
        )
    )


def _weekly(stacked: DataFrame) -> DataFrame:
    """Grain (user_key, courseid, week): the stacked gains of a week in one row."""
    return (
        stacked.repartition("user_key", "courseid")
        .groupBy("user_key", "courseid", "week")
        .agg(
            *[
                F.max(name).alias(name)
                for name in ("in_spine", "enrolled", "last_access", "last_submission", "grade_last", "own")
            ],
            *[F.sum(name).alias(name) for name in (*_SUMS, "last_due_handed_in")],
        )
    )


def _accumulate(weekly: DataFrame, calendar: DataFrame) -> DataFrame:
    """The same grain, the spine's rows only: sums up to the week, latest moments, the last two weeks.

    calendar: the courses'; a student's own (own) comes before it.
    """
    of_student = {
        name: F.when(F.col("own").isNotNull(), F.col(f"own.{name}")).otherwise(F.col(name)) for name in _CALENDAR
    }
    student = Window.partitionBy("user_key", "courseid").orderBy("week")
    so_far = student.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    two_weeks = student.rangeBetween(-1, 0)
    return (
        weekly.join(F.broadcast(calendar), ["courseid", "week"], "inner")
        .withColumns(of_student)
        .select(
            "user_key",
            "courseid",
            "week",
            "in_spine",
            "enrolled",
            "due",
            "last_due",
            F.coalesce("last_due_handed_in", F.lit(0)).alias("last_due_handed_in"),
            *[F.coalesce(F.sum(name).over(so_far), F.lit(0)).alias(name) for name in _SUMS],
            F.coalesce(F.sum("events").over(two_weeks), F.lit(0)).alias("events_2w"),
            F.coalesce(F.sum("active_days").over(two_weeks), F.lit(0)).alias("active_days_2w"),
            F.max("last_access").over(so_far).alias("last_access"),
            F.max("last_submission").over(so_far).alias("last_submission"),
            F.last("grade_last", ignorenulls=True).over(so_far).alias("grade_last"),
        )
        .where("in_spine = 1")
    )


def _student(known: DataFrame, courses: DataFrame, runs: DataFrame) -> DataFrame:
    """Each student's own figures (RAW), and what earlier courses let expect. Grain unchanged. runs: history.of_courses."""
    past = F.col("past_courses")
    due, cutoff, start, enrolled = F.col("due"), F.col("cutoff"), F.col("start"), F.col("enrolled")
    # What an absence is counted from where there was no access: who enrolled months ahead is not absent since then.
    since = F.greatest(enrolled, start - 14 * DAY)
    earlier = F.greatest(F.col("week") - 2, F.lit(1))
    figures = {
        "progress": (cutoff - start) / (F.col("end") - start),
        "due": due,
        "handed_in": F.col("due_handed_in"),
        "handed_in_share": F.when(due > 0, F.col("due_handed_in") / due),
        "on_time_share": F.when(due > 0, F.col("on_time") / due),
        "last_due_share": F.col("last_due_handed_in") / F.col("last_due"),
        "handed_in_ahead": F.col("dated") - F.col("due_handed_in"),
        "days_early": F.when(F.col("early_count") > 0, F.col("early_days") / F.col("early_count")),
        "days_since_submission": (cutoff - F.col("last_submission")) / DAY,
        "grade_avg": F.when(F.col("grade_weights") > 1e-9, F.col("grade_weighted") / F.col("grade_weights")),
        # Of who is not enrolled yet it is known only that it will be later than the cutoff.
        "lead_days": (start - F.least(enrolled, cutoff)) / DAY,
        "days_since_access": F.greatest((cutoff - F.coalesce("last_access", since)) / DAY, F.lit(0)),
        # Weekly log rows of the last two weeks against those of the weeks before, as a difference of logs.
        "trend": F.when(
            F.col("week") > 2,
            F.log1p(F.col("events_2w") / 2) - F.log1p((F.col("events") - F.col("events_2w")) / earlier),
        ),
        "past_completed": F.when(past > 0, F.col("past_completed") / past),
        "past_left": F.when(past > 0, F.col("past_left") / past),
        "past_grade": F.when(F.col("past_graded") > 0, F.col("past_grade") / F.col("past_graded")),
    }
    expected = {
        f"past_{label}": history.log_odds(f"past_{name}", "past_courses", f"usual_{name}", history.USUAL_COURSES)
        for label, name in history.COUNTED.items()
    }
    expected["past_grade_gap"] = F.col("past_grade_gap") / (F.col("past_graded") + 1)
    return (
        known.join(F.broadcast(courses), "courseid", "inner")
        .join(F.broadcast(runs), ["courseid", "week"], "inner")
        .withColumn("past_failed", past - F.col("past_completed"))
        .withColumn("cutoff", start + F.col("week") * WEEK)
        .select(
            "user_key",
            "courseid",
            "week",
            F.timestamp_seconds("cutoff").alias("cutoff_at"),
            (enrolled < cutoff).alias("enrolled"),
            *[figures.get(name, F.col(name)).cast("double").alias(name) for name in RAW],
            *[value.cast("double").alias(name) for name, value in expected.items()],
            *RUNS,
        )
    )


def _attributes(rows: DataFrame, src: Sources) -> DataFrame:
    """The rows with the configured attributes of enrolment and student."""
    if src.attributes is not None and src.attribute_names:
        wide = (
            src.attributes.groupBy("user_key", "courseid")
            .pivot("attribute", list(src.attribute_names))
            .agg(F.max("value"))
            .select(
                "user_key",
                "courseid",
                *[
                    F.col(f"`{name}`").cast("double").alias(column_name(ATTRIBUTE, name))
                    for name in src.attribute_names
                ],
            )
        )
        rows = rows.join(wide, ["user_key", "courseid"], "left")
    if src.profile is not None and src.profile_names:
        wide = (
            src.profile.groupBy("user_key")
            .pivot("field", list(src.profile_names))
            .agg(F.max("value"))
            .select("user_key", *[F.col(f"`{name}`").alias(column_name(PROFILE, name)) for name in src.profile_names])
        )
        rows = rows.join(wide, ["user_key"], "left")
    return rows


def _against_cohort(rows: DataFrame) -> DataFrame:
    """The rows with their _vs and _z columns: each student against those enrolled in the course at that week."""
    cohort = Window.partitionBy("courseid", "week")

    def among_peers(aggregate: Callable[[Column], Column], value: Column) -> Column:
        return aggregate(F.when(F.col("enrolled"), value)).over(cohort)

    def vs(name: str) -> Column:
        value = F.log1p(F.greatest(name, F.lit(0.0))) if name in _LOGGED else F.col(name)
        return value - among_peers(F.avg, value)

    def z(name: str) -> Column:
        spread = among_peers(F.stddev_samp, F.col(name))
        scaled = F.coalesce(vs(name) / F.when(spread > 1e-9, spread), F.lit(0.0))
        return F.when(F.col(name).isNotNull(), F.least(F.greatest(scaled, F.lit(-4.0)), F.lit(4.0)))

    relative = []
    for feature in FEATURES:
        name, _, kind = feature.name.rpartition("_")
        if kind == "vs":
            relative.append(vs(_SOURCES.get(name, name)).alias(feature.name))
        elif kind == "z":
            relative.append(z(_SOURCES.get(name, name)).alias(feature.name))
    return rows.repartition("courseid", "week").select("*", *relative)


# The figure behind a relative feature whose name is shorter.
_SOURCES = {
    "lead": "lead_days",
    "handed_in": "handed_in_share",
    "on_time": "on_time_share",
    "last_due": "last_due_share",
}

# Figures compared on a log scale: counts and days, where twice as many is the same step everywhere.
_LOGGED = frozenset(
    ("days_since_submission", "days_since_access", "active_days", "events", "events_2w", "writes", "resources", *GROUPS)
)
