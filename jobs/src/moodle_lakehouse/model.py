"""Students at risk: the model is trained on courses that are over and scores those of running ones."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse import asof, features, labels, made_from, metrics, model_reasons, ops, tables
from moodle_lakehouse import model_learn as learn
from moodle_lakehouse.config import Config
from moodle_lakehouse.model_registry import Registered, Registry

log = logging.getLogger(__name__)

# Bands of the calibrated probability: of ten students in "high", six or more will not make it, of ten in
# "low" three at most.
HIGH, MEDIUM = 0.6, 0.3

RISK_COLUMNS = (
    "run_id", "as_of", "scored_at", "userid", "user_key", "courseid", "week", "probability", "band", "change",
    "reason_1", "reason_2", "reason_3", "model_version",
)  # fmt: skip


def train(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> None:
    """Train on the courses over at as_of, measure on held-out ones, register the model as champion.

    With too little data nothing is registered and the reason is told; the champion there is remains.
    """
    try:
        rows, courses = training_rows(spark, config, as_of)
    except learn.TooLittleDataError as refusal:
        log.warning("No model was trained. %s", refusal)
        return
    # MLflow is asked first: an hour of training is not lost to a wrong password.
    registry = Registry(config.mlflow)
    rows = rows.persist()
    try:
        model, held_out = learn.learn(rows, courses, config.analytics.label)
        measured = _measure(rows, held_out, courses, model.spec.features)
    finally:
        rows.unpersist()
    version = registry.register(
        model, _params(model, courses, config, as_of), _series(measured), {"measures.json": measured}
    )
    overall = measured["overall"]
    log.info(
        "%s version %s is champion: AUC %.3f, Brier %.3f on %s (logistic regression: %.3f, %.3f)",
        config.mlflow.model, version, overall["model"]["auc"] or 0.5, overall["model"]["brier"], measured["held_out"],
        overall["logistic_regression"]["auc"] or 0.5, overall["logistic_regression"]["brier"],
    )  # fmt: skip


def refusal(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> learn.TooLittleDataError | None:
    """Why no model can be trained at as_of; None when one can."""
    src = features.sources(spark, config.analytics, as_of)
    found = labels.finished(src.enrolments, src.courses, as_of, config.analytics.label)
    try:
        learn.check_enough(learn.finished_courses(found), found.without_label, config.analytics.label, _when(as_of))
    except learn.TooLittleDataError as error:
        return error
    return None


def training_rows(
    spark: SparkSession, config: Config, as_of: dt.datetime | None
) -> tuple[DataFrame, Sequence[learn.Course]]:
    """Labelled rows of the courses over at as_of, in the weeks taught from; raises TooLittleDataError."""
    label = config.analytics.label
    src = features.sources(spark, config.analytics, as_of)
    found = labels.finished(src.enrolments, src.courses, as_of, label)
    courses = learn.finished_courses(found)
    learn.check_enough(courses, found.without_label, label, _when(as_of))
    outcomes = labels.build(src.enrolments, found.courses, label)
    known = features.read(spark, config, as_of).where(
        learn.in_courses(courses) & F.col("enrolled") & learn.teaching_weeks()
    )
    rows = learn.labelled(known, outcomes)
    wanted = [*learn.KEYS, "enrolled", "label", "days_since_access", *learn.feature_names(rows.columns)]
    return rows.select(*dict.fromkeys(wanted)), courses


def score(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> None:
    """Append the risk of every student of the courses running at as_of to marts.student_risk.

    Without a champion, or without running courses, nothing is appended and the reason is told.
    """
    moment = asof.utc(as_of) if as_of else dt.datetime.now(dt.UTC)
    champion = Registry(config.mlflow).champion()
    if champion is None:
        log.warning(
            "No student was scored: the registry holds no champion of %s yet (train makes one)", config.mlflow.model
        )
        return
    if champion.model.spec.label != config.analytics.label:
        log.warning(
            "The champion predicts %s, the configuration wants %s: train it anew",
            champion.model.spec.label,
            config.analytics.label,
        )
    inputs = made_from.stamp(
        spark, [], features.stamp(spark, config.analytics, as_of), champion.version, made_from.moment(moment)
    )
    if made_from.is_current(spark, [tables.STUDENT_RISK], inputs):
        log.info("score: nothing new")
        return
    rows = current_rows(spark, config, moment, features.read(spark, config, as_of))
    scored = risk(rows, champion, moment).persist()
    try:
        count = scored.count()
        if count:
            tables.append(scored, tables.STUDENT_RISK, run_id=ops.run_id(), summary=made_from.summary(inputs))
    finally:
        scored.unpersist()
    if count:
        log.info("%s students scored by %s version %s", f"{count:,}", config.mlflow.model, champion.version)
    else:
        log.warning("No student was scored: no course with enrolled students is running on %s", f"{moment:%Y-%m-%d}")


def current_rows(spark: SparkSession, config: Config, moment: dt.datetime, known: DataFrame) -> DataFrame:
    """Feature rows of the last complete week at the moment and of the week before, for running courses.

    Grain (userid, courseid, week); is_current tells the two apart, at_risk says whether the enrolment is still
    open: neither ended nor completed. The rest of the cohort stays, for it is what a student is compared with.
    """
    src = features.sources(spark, config.analytics, moment)
    now = asof.literal(moment)
    running = src.courses.where((F.col("start_at") <= now) & (F.col("end_at").isNull() | (F.col("end_at") > now)))
    current = running.select(
        "courseid",
        F.floor((F.unix_timestamp(now) - F.unix_timestamp("start_at")) / features.WEEK).cast("int").alias("current"),
    )
    enrolments = src.enrolments.select(
        "userid", "courseid", (F.col("unenrolled_at").isNull() & F.col("completed_at").isNull()).alias("at_risk")
    )
    return (
        known.join(F.broadcast(current), "courseid", "inner")
        .where("week in (current, current - 1)")
        .withColumn("is_current", F.col("week") == F.col("current"))
        .join(enrolments, ["userid", "courseid"], "inner")
        .drop("current")
    )


def band(probability: Column) -> Column:
    return F.when(probability >= HIGH, "high").when(probability >= MEDIUM, "medium").otherwise("low")


def risk(rows: DataFrame, champion: Registered, moment: dt.datetime) -> DataFrame:
    """marts.student_risk for the rows of current_rows. Grain: (userid, courseid) of the current week.

    probability calibrated; change against the same model's probability of the week before, null when there is
    no such week; reasons in words, the strongest first.
    """
    model = champion.model
    open_rows = model_reasons.with_cohort(rows).where("at_risk and enrolled")
    shown = [name for name in open_rows.columns if name.startswith("cohort_")]
    # Figures and features overlap: what both need comes through under a name of its own.
    figures = model_reasons.figures(rows.columns)
    renamed = open_rows.select("*", *[F.col(name).alias(f"figure_{name}") for name in figures])
    keep = ["userid", "user_key", "courseid", "week", *shown, *[f"figure_{name}" for name in figures]]
    scored = learn.predict(model, renamed.where("is_current"), keep, contributions=True)
    scored = scored.withColumnsRenamed({f"figure_{name}": name for name in figures})
    told = model_reasons.explain(
        scored, model.spec.features, model.spec.constraints, ("userid", "user_key", "courseid", "week", "probability")
    )
    before = learn.predict(model, open_rows.where("not is_current"), ("userid", "courseid")).select(
        "userid", "courseid", F.col("probability").alias("before")
    )
    return (
        told.join(before, ["userid", "courseid"], "left")
        .withColumn("run_id", F.lit(ops.run_id()))
        .withColumn("as_of", asof.literal(moment))
        .withColumn("scored_at", asof.literal(dt.datetime.now(dt.UTC)))
        .withColumn("band", band(F.col("probability")))
        .withColumn("change", F.col("probability") - F.col("before"))
        .withColumn("model_version", F.lit(champion.version))
        .select(*RISK_COLUMNS)
    )


def _when(as_of: dt.datetime | None) -> str:
    return f"over on {asof.utc(as_of):%Y-%m-%d}" if as_of else "over by now"


def _measure(
    rows: DataFrame, held_out: DataFrame, courses: Sequence[learn.Course], names: Sequence[str]
) -> dict[str, Any]:
    """Measures per week and over all of the held-out rows, beside the baselines on the same rows.

    The baselines learn from the earlier terms where a term is held out. With one term, where the model is
    measured out of fold, so are they.
    """
    if learn.can_hold_out_term(courses):
        latest = learn.terms(courses)[-1]
        splits, what = [latest], f"the held-out term of {learn.describe(latest)}"
    else:
        splits, what = learn.folds(courses), f"{learn.describe(courses)}, out of fold by course"
    baselines: dict[str, DataFrame] = {}
    for name, used in (("logistic_regression", list(names)), ("days_since_last_access", ["days_since_access"])):
        for split in splits:
            inside = learn.in_courses(split)
            scored = learn.logistic_regression(rows.where(~inside), used)(rows.where(inside))
            baselines[name] = baselines[name].unionByName(scored) if name in baselines else scored
    all_scored = {"model": held_out, **baselines}
    counts = {name: metrics.counted(scored, "week") for name, scored in all_scored.items()}
    weeks = sorted({int(week) for week in counts["model"]["week"]})
    return {
        "held_out": what,
        "overall": {name: metrics.measures(count) for name, count in counts.items()},
        "per_week": {
            name: [{"week": week, **metrics.measures(count[count["week"] == week])} for week in weeks]
            for name, count in counts.items()
        },
    }


def _params(
    model: learn.Model, courses: Sequence[learn.Course], config: Config, as_of: dt.datetime | None
) -> dict[str, Any]:
    return {
        "label": model.spec.label,
        "as_of": asof.utc(as_of).isoformat() if as_of else "now",
        "run_id": ops.run_id(),
        "courses": len(courses),
        "enrolments": sum(course.students for course in courses),
        "base_rate": round(sum(c.positives for c in courses) / sum(c.students for c in courses), 4),
        "terms": len(learn.terms(courses)),
        "demographics": config.analytics.demographics,
        "features": len(model.spec.features),
        "slope": round(model.spec.slope, 4),
        "intercept": round(model.spec.intercept, 4),
        **learn.TREES,
    }


def _series(measured: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Measures as MLflow wants them: name -> (step, value); the model's own names stand alone."""
    series: dict[str, list[tuple[int, float]]] = {}
    for name, weeks in measured["per_week"].items():
        prefix = "" if name == "model" else f"{name}."
        for measure in ("auc", "pr_auc", "brier", "ece"):
            points = [(week["week"], week[measure]) for week in weeks if week[measure] is not None]
            if points:
                series[f"{prefix}week_{measure}"] = points
            if measured["overall"][name][measure] is not None:
                series[f"{prefix}{measure}"] = [(0, measured["overall"][name][measure])]
    return series
