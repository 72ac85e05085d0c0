"""How well the model would have done: trained on courses that started before a date, tested on later ones."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse import asof, features, labels, metrics, tables
from moodle_lakehouse import model_learn as learn
from moodle_lakehouse.config import Config
from moodle_lakehouse.errors import LakehouseError

log = logging.getLogger(__name__)


def run(
    spark: SparkSession,
    config: Config,
    train_until: dt.datetime,
    test_from: dt.datetime,
    label: str,
    weeks: Sequence[int],
) -> dict[str, Any]:
    """{"model": [...], "baselines": {"logistic_regression": [...], "days_since_last_access": [...]}}.

    Each list holds {week, students, base_rate, auc, pr_auc, brier, ece} of every given week. Training takes
    the courses that started before train_until, the test those that started at test_from or later; both sets
    are over. A student's earlier courses may be among the former. The calibration is learnt within training.
    """
    known_until = data_end(spark)
    src = features.sources(spark, config.analytics, known_until)
    found = labels.finished(src.enrolments, src.courses, known_until, label)
    courses = learn.finished_courses(found)
    before, after = asof.utc(train_until), asof.utc(test_from)
    train = [course for course in courses if asof.utc(course.start_at) < before]
    test = [course for course in courses if asof.utc(course.start_at) >= after]
    learn.check_enough(train, found.without_label, label, f"started before {before:%Y-%m-%d}")
    if not test:
        raise learn.TooLittleDataError(
            f"No finished course with an outcome started on {after:%Y-%m-%d} or later",
            where="--test-from",
            remedy="choose an earlier date; courses count once they are over and their outcomes are known",
        )
    log.info("train: %s", learn.describe(train))
    log.info("test:  %s", learn.describe(test))
    outcomes = labels.build(src.enrolments, found.courses, label)
    wanted = (learn.in_courses(train) & F.col("enrolled") & learn.teaching_weeks()) | (
        learn.in_courses(test) & F.col("week").isin(list(weeks))
    )
    rows = learn.labelled(features.build(src, known_until).where(wanted), outcomes)
    columns = [*learn.KEYS, "enrolled", "label", "days_since_access", *learn.feature_names(rows.columns)]
    rows = rows.select(*dict.fromkeys(columns)).persist()
    try:
        return _measure(rows, train, test, label, list(weeks))
    finally:
        rows.unpersist()


def _measure(
    rows: DataFrame, train: Sequence[learn.Course], test: Sequence[learn.Course], label: str, weeks: list[int]
) -> dict[str, Any]:
    teaching, later = rows.where(learn.in_courses(train)), rows.where(learn.in_courses(test))
    model, _ = learn.learn(teaching, train, label)
    logistic = learn.logistic_regression(teaching, model.spec.features)
    access = learn.days_since_last_access(teaching)
    scored = learn.predict(model, later, keep=(*learn.KEYS, "label"))
    return {
        "model": metrics.per_week(scored, weeks),
        "baselines": {
            "logistic_regression": metrics.per_week(logistic(later), weeks),
            "days_since_last_access": metrics.per_week(access(later), weeks),
        },
    }


def data_end(spark: SparkSession) -> dt.datetime:
    """A week after the last thing known, now at the latest: courses that end later are not over in these data.

    The week is for courses whose last days are quiet.
    """
    moments = {
        tables.FACT_EVENT: ("occurred_at",),
        tables.FACT_ENROLMENT: ("enrolled_at", "unenrolled_at", "completed_at"),
        tables.FACT_GRADE: ("graded_at",),
        tables.FACT_SUBMISSION: ("submitted_at",),
    }
    last: list[int] = []
    for table, names in moments.items():
        df = tables.read(spark, table)
        if df is None:
            raise LakehouseError(f"{table} is missing", where="the lake", remedy="run curate first")
        row = df.agg(*[F.max(F.unix_timestamp(name)).alias(name) for name in names]).first()
        last.extend(value for value in (row or ()) if value is not None)
    if not last:
        raise learn.TooLittleDataError(
            "There is nothing to evaluate: no event, enrolment, grade or submission",
            where="lakehouse.curated",
            remedy="run ingest and curate on a Moodle with courses that are over",
        )
    end = dt.datetime.fromtimestamp(max(last) + features.WEEK, dt.UTC)
    return min(end, dt.datetime.now(dt.UTC))
