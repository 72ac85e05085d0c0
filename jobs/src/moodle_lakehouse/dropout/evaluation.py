"""Measure how well the model would have done on courses that taught it nothing.

Either it is trained on courses that started before a date and tested on later ones, or every course in turn is
predicted by a model of the others.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import Config
from moodle_lakehouse.curated import activity
from moodle_lakehouse.dropout import baselines, dataset, features, labels, learner, metrics, subgroups
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import point_in_time, table_names, tables

log = logging.getLogger(__name__)

# With more courses than this they are left out in as many folds of whole courses: each costs a training.
MAX_FOLDS = 40


@dataclass(frozen=True)
class EvaluationSpec:
    """What is evaluated.

    split: train on courses that start before the first moment, test on those that start at the second or later;
    None leaves out one course at a time. group_by: a field to compare groups by. capacity: how many students of a
    course an advisor can see to in a week.
    """

    label: str
    weeks: Sequence[int]
    capacity: int
    split: tuple[dt.datetime, dt.datetime] | None
    group_by: str | None = None


@dataclass(frozen=True)
class CvFold:
    """Courses to predict and the courses that teach the model for it."""

    test: Sequence[labels.Course]
    train: Sequence[labels.Course]
    without_students: bool  # whether the test's students are kept out of the training


def run(spark: SparkSession, config: Config, question: EvaluationSpec) -> dict[str, Any]:
    """Return {"model": [...], "baselines": {name: [...]}, "protocol": {...}}, and "courses" or "groups" where asked for.

    Each list holds the measures (see metrics) of every given week. The baselines are logistic_regression,
    days_since_last_access and training_base_rate. A student's earlier courses may be among those trained on; of a
    course that is left out its students' other courses are left out, too. What is tried and blended is learnt within training.
    """
    known_until = data_end(spark, config.analytics.settling_days)
    src = features.sources(spark, config.analytics, known_until)
    found = labels.finished(src, known_until, config.analytics, question.label)
    outcomes = found.labels
    cv_folds, refused = _cv_folds(found, question)
    tested = [course for fold in cv_folds for course in fold.test]
    if question.group_by:
        of_tested = outcomes.where(dataset.in_courses(tested))
        subgroups.check_enough(subgroups.by(spark, question.group_by, of_tested), question.group_by)
    taught = {course.courseid: course for fold in cv_folds for course in fold.train}
    wanted = (dataset.in_courses(list(taught.values())) & F.col("enrolled") & dataset.teaching_weeks()) | (
        dataset.in_courses(tested) & F.col("week").isin(list(question.weeks))
    )
    rows = dataset.labelled(features.build(src, known_until).where(wanted), outcomes)
    # Of the many plans to come each would hold all of this one's: it is computed here and forgotten.
    rows = rows.select(*dataset.model_columns(rows.columns)).localCheckpoint()
    scored = _predicted(rows, cv_folds, question)
    document = _document(scored, question)
    document["protocol"] = _protocol(cv_folds, question, known_until)
    if question.split is None:
        document["courses"] = _by_course(scored["model"], tested, question) + refused
    if question.group_by:
        document["groups"] = _by_group(spark, scored["model"], question, question.group_by)
    return document


def _cv_folds(found: labels.Finished, question: EvaluationSpec) -> tuple[list[CvFold], list[dict[str, Any]]]:
    """The trainings to do, and the courses that are refused, each with its reason."""
    courses, left_out = found.courses, found.left_out
    if question.split is not None:
        before, after = (point_in_time.utc(moment) for moment in question.split)
        train = [course for course in courses if point_in_time.utc(course.start_at) < before]
        test = [course for course in courses if point_in_time.utc(course.start_at) >= after]
        dataset.check_enough(train, left_out, question.label, f"started before {before:%Y-%m-%d}")
        if not test:
            raise dataset.TooLittleDataError(
                f"No finished course with an outcome started on {after:%Y-%m-%d} or later",
                where="--test-from",
                remedy="choose an earlier date; courses count once they are over and their outcomes are known",
            )
        return [CvFold(test, train, without_students=False)], []
    dataset.check_enough(courses, left_out, question.label, "over in these data")
    cv_folds, refused, last = [], [], None
    for fold in dataset.folds(courses, MAX_FOLDS):
        tested = sorted(fold, key=_by_start)
        rest = _without(courses, tested, found.labels)
        try:
            dataset.check_enough(rest, {}, question.label, f"beside {tested[0].shortname}, without its students")
        except dataset.TooLittleDataError as refusal:
            last = refusal
            note = "refused: the other courses, without its students, hold too little to learn from"
            refused += [{**_named(course), "weeks": [], "note": note} for course in tested]
            continue
        cv_folds.append(CvFold(tested, rest, without_students=True))
    if last is not None and not cv_folds:
        raise last
    return sorted(cv_folds, key=lambda fold: _by_start(fold.test[0])), refused


def _by_start(course: labels.Course) -> tuple[dt.datetime, int]:
    return course.start_at, course.courseid


def _without(
    courses: Sequence[labels.Course], left_out: Sequence[labels.Course], outcomes: DataFrame
) -> list[labels.Course]:
    """The other courses, counted without the students of those left out."""
    counts = {
        row["courseid"]: (row["students"], int(row["positives"]))
        for row in _others(outcomes, left_out)
        .groupBy("courseid")
        .agg(F.count("*").alias("students"), F.sum("label").alias("positives"))
        .collect()
    }
    return [
        dataclasses.replace(course, students=counts[course.courseid][0], positives=counts[course.courseid][1])
        for course in courses
        if course.courseid in counts
    ]


def _others(rows: DataFrame, left_out: Sequence[labels.Course]) -> DataFrame:
    """The rows of other courses and other students than those of the courses left out."""
    inside = dataset.in_courses(left_out)
    return rows.where(~inside).join(rows.where(inside).select("user_key").distinct(), "user_key", "left_anti")


def _predicted(rows: DataFrame, cv_folds: Sequence[CvFold], question: EvaluationSpec) -> dict[str, DataFrame]:
    """KEYS, label and probability by the model and each baseline, of the tested courses in the weeks asked for."""
    found: dict[str, list[DataFrame]] = {}
    for number, fold in enumerate(cv_folds, 1):
        log.info("train: %s", dataset.describe(fold.train))
        log.info(
            "test:  %s%s", dataset.describe(fold.test), f" ({number} of {len(cv_folds)})" if len(cv_folds) > 1 else ""
        )
        inside = dataset.in_courses(fold.test)
        teaching = _others(rows, fold.test) if fold.without_students else rows.where(dataset.in_courses(fold.train))
        teaching = teaching.where(F.col("enrolled") & dataset.teaching_weeks()).persist()
        later = rows.where(inside & F.col("week").isin(list(question.weeks)))
        model, _ = learner.learn(teaching, fold.train, question.label)
        by_all = learner.predict(model, later, keep=(*dataset.KEYS, "label")).select(
            *dataset.KEYS, "label", "probability"
        )
        found.setdefault("model", []).append(by_all.localCheckpoint())
        for name, baseline in baselines.fit(teaching, model.spec.features).items():
            found.setdefault(name, []).append(baseline(later).localCheckpoint())
        teaching.unpersist()
    return {name: functools.reduce(DataFrame.unionByName, parts) for name, parts in found.items()}


def _document(scored: dict[str, DataFrame], question: EvaluationSpec) -> dict[str, Any]:
    by_name = {name: metrics.per_week(df, question.weeks, question.capacity) for name, df in scored.items()}
    return {"model": by_name.pop("model"), "baselines": by_name}


def _protocol(cv_folds: Sequence[CvFold], question: EvaluationSpec, known_until: dt.datetime) -> dict[str, Any]:
    """What was done, for whoever reads the figures."""
    return {
        "label": question.label,
        "split": "by the courses' starts" if question.split else "leave one course out",
        "train": dataset.describe(cv_folds[0].train) if question.split else "each time the courses not tested",
        "test": dataset.describe([course for fold in cv_folds for course in fold.test]),
        "outcomes": dataset.describe_outcomes([course for fold in cv_folds for course in fold.test]),
        "trainings": len(cv_folds),
        "known_until": known_until.isoformat(),
        "capacity": question.capacity,
        "intervals": metrics.INTERVALS,
    }


def _named(course: labels.Course) -> dict[str, Any]:
    return {
        "courseid": course.courseid, "course": course.shortname, "start": f"{course.start_at:%Y-%m-%d}",
        "students": course.students,
    }  # fmt: skip


def _by_course(scored: DataFrame, tested: Iterable[labels.Course], question: EvaluationSpec) -> list[dict[str, Any]]:
    measured = metrics.per_course(scored, question.weeks, question.capacity)
    nobody = metrics.nobody(question.weeks)
    return [{**_named(course), "weeks": measured.get(course.courseid, nobody), "note": None} for course in tested]


def _by_group(spark: SparkSession, scored: DataFrame, question: EvaluationSpec, field: str) -> dict[str, Any]:
    counts = metrics.counted(subgroups.by(spark, field, scored), question.capacity, "week", "group")
    weeks = [{"week": week, "groups": metrics.gaps(counts[counts["week"] == week])} for week in question.weeks]
    return {"field": field, "weeks": weeks}


def data_end(spark: SparkSession, settling_days: int) -> dt.datetime:
    """Return the moment until which these data are known: courses that end later, or have not settled then, teach nothing.

    It is now, or earlier where the data end earlier, as those of a copy: a week for courses whose last days are quiet and
    the settling period after the last thing known.
    """
    moments = {
        table_names.FACT_EVENT: ("occurred_at",),
        table_names.FACT_ENROLMENT: ("enrolled_at", "unenrolled_at", "completed_at"),
        table_names.FACT_GRADE: ("graded_at",),
        table_names.FACT_SUBMISSION: ("submitted_at",),
    }
    last: list[int] = []
    for table, names in moments.items():
        df = tables.read(spark, table)
        if df is None:
            raise LakehouseError(f"{table} is missing", where="the lake", remedy="run curate first")
        row = df.agg(*[F.max(F.unix_timestamp(name)).alias(name) for name in names]).first()
        last.extend(value for value in (row or ()) if value is not None)
    if not last:
        raise dataset.TooLittleDataError(
            "There is nothing to evaluate: no event, enrolment, grade or submission",
            where="lakehouse.curated",
            remedy="run ingest and curate on a Moodle with courses that are over",
        )
    end = dt.datetime.fromtimestamp(max(last) + activity.WEEK + settling_days * activity.DAY, dt.UTC)
    return min(end, dt.datetime.now(dt.UTC))
