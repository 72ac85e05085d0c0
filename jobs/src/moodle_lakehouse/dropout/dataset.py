"""Select the rows that a model learns from and those that it scores, with the courses that they belong to."""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import Config
from moodle_lakehouse.curated import activity
from moodle_lakehouse.dropout import features, labels
from moodle_lakehouse.dropout.labels import Course
from moodle_lakehouse.errors import LakehouseError, bullet_list
from moodle_lakehouse.lake import point_in_time

MAX_FOLDS = 5

# Below this a model would learn noise and its calibration would be luck.
MIN_COURSES = 2
MIN_ENROLMENTS = 100
MIN_OF_EACH_OUTCOME = 20

KEYS = ("user_key", "courseid", "week")

log = logging.getLogger(__name__)


class TooLittleDataError(LakehouseError):
    """A model is refused; the message says what is missing."""


@dataclass(frozen=True)
class Holdout:
    """Which courses are held out in turn, each fold predicted by models of all the other courses.

    latest_term: whether folds are terms, the latest last, which alone measures the model; else they are courses, which
    all do.
    """

    latest_term: bool
    folds: Sequence[Sequence[Course]]

    @property
    def measured(self) -> Sequence[Sequence[Course]]:
        """The folds that measure the model: their models know nothing that came later."""
        return self.folds[-1:] if self.latest_term else self.folds


def terms(courses: Sequence[Course]) -> list[list[Course]]:
    """Group courses by term, earliest first: what starts within 30 days before a term's last start belongs to it."""
    found: list[list[Course]] = []
    rest = sorted(courses, key=lambda course: course.start_at)
    while rest:
        first = rest[-1].start_at - dt.timedelta(days=point_in_time.TERM_DAYS)
        found.insert(0, [course for course in rest if course.start_at >= first])
        rest = [course for course in rest if course.start_at < first]
    return found


def check_enough(courses: Sequence[Course], left_out: Mapping[str, Sequence[str]], label: str, when: str) -> None:
    """Refuse to learn from too little, saying what is missing and which courses were left out for what (reason -> names)."""
    students, positives = sum(c.students for c in courses), sum(c.positives for c in courses)
    missing = []
    if len(courses) < MIN_COURSES:
        missing.append(f"{len(courses)} finished courses with an outcome ({when}); at least {MIN_COURSES} are needed")
    if students < MIN_ENROLMENTS:
        missing.append(f"{students} enrolments in them; at least {MIN_ENROLMENTS} are needed")
    if min(positives, students - positives) < MIN_OF_EACH_OUTCOME:
        missing.append(
            f"{positives} of them with the outcome {labels.NAMES[label]!r} and {students - positives} without;"
            f" at least {MIN_OF_EACH_OUTCOME} of each are needed"
        )
    if not missing:
        return
    missing += describe_left_out(left_out)
    raise TooLittleDataError(
        "Too little data to learn from:\n" + bullet_list(missing),
        where="the courses' end dates and completions",
        remedy="set end dates in Moodle, track completion or grade, or wait for courses to end (docs/analytics.md, Labels);"
        " until then score lists students by rules",
    )


def describe_left_out(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """Say which courses teach nothing and why, a line a reason."""
    lines = []
    for reason, names in left_out.items():
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        lines.append(f"left out ({reason}): {shown}")
    return lines


def describe_outcomes(courses: Sequence[Course]) -> str:
    """Say by which outcome the courses are labelled, in a line."""
    counts = Counter(course.outcome for course in courses)
    return ", ".join(f"{counts[name]:,} by {words}" for name, words in labels.OUTCOMES.items() if counts[name])


def teaching_weeks() -> Column:
    """Select the weeks that rows are taken from: all at first, when most can be done, then every other."""
    return (F.col("week") <= 4) | (F.col("week") % 2 == 0)


def labelled(rows: DataFrame, outcomes: DataFrame) -> DataFrame:
    """Return rows of features.enrolment_week with their enrolment's label; rows without one go."""
    return rows.join(outcomes, ["user_key", "courseid"], "inner")


def in_courses(courses: Sequence[Course]) -> Column:
    """Select rows of these courses."""
    return F.col("courseid").isin([course.courseid for course in courses])


def holdout(courses: Sequence[Course]) -> Holdout:
    """Hold out the latest terms, one at a time, where the earlier ones can teach a model, else the courses in folds."""
    *earlier, latest = terms(courses)
    if sum(course.students for term in earlier for course in term) < MIN_ENROLMENTS:
        return Holdout(latest_term=False, folds=folds(courses))
    students = sum(course.students for course in courses)
    others = [term for term in earlier if students - sum(course.students for course in term) >= MIN_ENROLMENTS]
    return Holdout(latest_term=True, folds=[*others[1 - MAX_FOLDS :], latest])


def folds(courses: Sequence[Course], count: int = MAX_FOLDS) -> list[list[Course]]:
    """Deal whole courses to at most count folds of like size."""
    ordered = sorted(courses, key=lambda course: (-course.students, course.courseid))
    count = min(count, len(ordered))
    return [ordered[i::count] for i in range(count)]


def describe(courses: Sequence[Course]) -> str:
    """Describe a term's or a training set's courses in a line."""
    starts = sorted({f"{course.start_at:%Y-%m-%d}" for course in courses})
    span = starts[0] if len(starts) == 1 else f"{starts[0]} to {starts[-1]}"
    return f"{len(courses)} courses that started {span}, {sum(c.students for c in courses):,} enrolments"


def fingerprint(rows: DataFrame) -> str:
    """Return a fingerprint, the same for the same rows in any order; figures that differ beyond the sixth digit are the same."""
    values = [F.round(f.name, 6) if f.dataType.typeName() == "double" else F.col(f.name) for f in rows.schema.fields]
    found = rows.agg(F.count("*").alias("rows"), F.sum(F.xxhash64(*values).cast("decimal(38,0)")).alias("sum")).first()
    assert found is not None
    return f"{found['rows']}-{found['sum']}"


def feature_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the feature table that a model may use, in the table's order of prefixes."""
    own = [feature.name for feature in features.FEATURES]
    site = [name for name in columns if name.startswith((features.ATTRIBUTE, features.PROFILE))]
    return (*own, *site)


def model_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns of labelled rows that models and baselines are made of."""
    wanted = [*KEYS, "enrolled", "label", "days_since_access", *feature_names(columns), *features.RUNS]
    return list(dict.fromkeys(wanted))


def training_rows(
    spark: SparkSession, config: Config, as_of: dt.datetime | None, snapshots: Mapping[str, int] | None = None
) -> tuple[DataFrame, labels.Finished]:
    """Return labelled rows of the courses over at as_of, in the weeks taught from; raises TooLittleDataError."""
    label = config.analytics.label
    src = features.sources(spark, config.analytics, as_of, snapshots)
    found = labels.finished(src, as_of, config.analytics)
    check_enough(found.courses, found.left_out, label, _when(as_of))
    known = features.read(spark, config, as_of, snapshots).where(
        in_courses(found.courses) & F.col("enrolled") & teaching_weeks()
    )
    rows = labelled(known, found.labels)
    return rows.select(*model_columns(rows.columns)), found


def refusal(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> TooLittleDataError | None:
    """Return why no model can be trained at as_of; None when one can."""
    src = features.sources(spark, config.analytics, as_of)
    found = labels.finished(src, as_of, config.analytics)
    try:
        check_enough(found.courses, found.left_out, config.analytics.label, _when(as_of))
    except TooLittleDataError as error:
        return error
    return None


def too_long(src: features.Sources, moment: dt.datetime) -> list[str]:
    """Return the short names of the running courses that have run for too long to have rows of features."""
    now = F.unix_timestamp(point_in_time.literal(moment))
    over = F.col("end_at").isNotNull() & (F.unix_timestamp("end_at") <= now)
    running = src.courses.where(
        ~over & (now - F.unix_timestamp("start_at") >= (activity.MAX_WEEKS + 1) * activity.WEEK)
    )
    with_students = src.enrolments.where("unenrolled_at is null").select("courseid").distinct()
    found = running.join(F.broadcast(with_students), "courseid", "left_semi").orderBy("shortname")
    return [row["shortname"] for row in found.select("shortname").collect()]


def _when(as_of: dt.datetime | None) -> str:
    return f"over on {point_in_time.utc(as_of):%Y-%m-%d}" if as_of else "over by now"


def current_rows(
    src: features.Sources, moment: dt.datetime, known: DataFrame, *, hidden_courses: bool = True
) -> DataFrame:
    """Return feature rows of the last complete week at the moment and of the week before, for running courses.

    Grain (user_key, courseid, week); is_current tells the two apart, at_risk says whether the enrolment is still
    open: neither ended, suspended nor completed. A suspension that Moodle dates after the moment had not happened; one
    whose date is not known counts, since nobody acts on a list for who is not enrolled now. The rest of the cohort
    stays, for it is what a student is compared with. hidden_courses: also courses that are hidden from their students
    now (analytics.score_hidden_courses).
    """
    now = point_in_time.literal(moment)
    running = src.courses.where((F.col("start_at") <= now) & (F.col("end_at").isNull() | (F.col("end_at") > now)))
    if not hidden_courses:
        running = running.where("visible")
    current = running.select(
        "courseid",
        F.floor((F.unix_timestamp(now) - F.unix_timestamp("start_at")) / activity.WEEK).cast("int").alias("current"),
    )
    # src is cut at the moment: what came later is null.
    is_later = F.col("suspended_at").isNull() & F.coalesce("suspension_is_exact", F.lit(False))
    is_open = F.col("unenrolled_at").isNull() & F.col("completed_at").isNull() & (~F.col("is_suspended") | is_later)
    enrolments = src.enrolments.select("user_key", "courseid", is_open.alias("at_risk"))
    return (
        known.join(F.broadcast(current), "courseid", "inner")
        .where("week in (current, current - 1)")
        .withColumn("is_current", F.col("week") == F.col("current"))
        .join(enrolments, ["user_key", "courseid"], "inner")
        .drop("current")
    )
