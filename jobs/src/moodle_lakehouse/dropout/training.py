"""Students at risk: the model is trained on courses that are over and scores those of running ones."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import Config
from moodle_lakehouse.dropout import drift, explanations, features, labels, metrics, model_card, promotion, subgroups
from moodle_lakehouse.dropout import learner as learn
from moodle_lakehouse.dropout.registry import Entry, Registered, Registry
from moodle_lakehouse.errors import LakehouseError, bullet_list
from moodle_lakehouse.lake import input_fingerprint, job_runs, point_in_time, table_names, tables, writers

log = logging.getLogger(__name__)

# Bands of the calibrated probability: of ten students in "high", six or more will not make it, of ten in
# "low" three at most.
HIGH, MEDIUM = 0.6, 0.3
REFERENCE = "reference.json"

RISK_COLUMNS = (
    "run_id", "as_of", "scored_at", "userid", "user_key", "courseid", "week", "probability", "band", "change",
    "reason_1", "reason_2", "reason_3", "model_version", "data_snapshots",
)  # fmt: skip


def train(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> None:
    """Train on the courses over at as_of, measure on held-out ones; the model becomes champion if it is better.

    With too little data nothing is registered and the reason is told; the champion there is remains. Data that a
    model was made of before, under the same rules, teach nothing new: nothing is trained.
    """
    # MLflow is asked first: an hour of training is not lost to a wrong password.
    registry = Registry(config.mlflow)
    champion = registry.champion()
    snapshots = features.snapshots(spark)
    try:
        rows, courses = training_rows(spark, config, as_of, snapshots)
    except learn.TooLittleDataError as refusal:
        log.warning("No model was trained. %s", refusal)
        card = model_card.refused(config, as_of, snapshots, str(refusal))
        run = registry.log_refusal(f"{_run_name(as_of)}: refused")
        registry.show_card(run, model_card.html(card), model_card.markdown(card, registry.card_link(run)))
        model_card.write(spark, card)
        return
    rows = rows.persist()
    try:
        data = _made_of(rows, config)
        same = registry.made_of(data)
        if same is not None:
            log.info("Nothing was trained: %s version %s was made of just these data", config.mlflow.model, same)
            return
        model, held_out = learn.learn(rows, courses, config.analytics.label)
        measured = _measure(rows, held_out, courses, model.spec.features, config.analytics.capacity)
        checks = promotion.checks(
            config.analytics.champion,
            measured["overall"],
            _against_champion(registry, champion, rows, held_out, measured, config),
        )
        prepared = learn.encoded(rows, model.spec, keep=("week",))
        reference = drift.reference(prepared, model.spec.features)
        card = model_card.trained(config, as_of, snapshots, model, courses, measured, checks)
        card["groups"], card["refusals"] = group_gaps(spark, held_out, config.analytics.capacity)
    finally:
        rows.unpersist()
    documents = {"measures.json": measured, REFERENCE: reference}
    entry = Entry(_run_name(as_of), _params(model, courses, config, as_of), _series(measured), documents, data)
    registered = registry.register(model, entry)
    failed = [check for check in checks if not check.passed]
    if not failed:
        registry.promote(registered.version)
    card.update(version=registered.version, champion=not failed)
    registry.log_text(registered.run, json.dumps(card, default=str), model_card.DOCUMENT)
    summary = model_card.markdown(card, registry.card_link(registered.run))
    registry.show_card(registered.run, model_card.html(card), summary, registered.version)
    model_card.write(spark, card)
    overall = measured["overall"]
    log.info(
        "%s version %s: AUC %.3f, Brier %.3f on %s (logistic regression: %.3f, %.3f)",
        config.mlflow.model, registered.version, overall["model"]["auc"] or 0.5, overall["model"]["brier"],
        measured["held_out"], overall["logistic_regression"]["auc"] or 0.5, overall["logistic_regression"]["brier"],
    )  # fmt: skip
    if failed:
        remains = f"version {champion.version} remains" if champion else "there is none yet"
        log.warning("It does not become champion (%s):\n%s", remains, bullet_list(str(check) for check in failed))
    else:
        log.info("It is champion")


def _made_of(rows: DataFrame, config: Config) -> str:
    """What a model of these rows is made of and measured by: the same word, the same model and the same verdict."""
    wanted = config.analytics
    rules = (wanted.label, wanted.capacity, wanted.champion, sorted(learn.XGB_PARAMS.items()), learn.CALIBRATION)
    text = repr((rows.columns, learn.fingerprint(rows), rules))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _against_champion(
    registry: Registry,
    champion: Registered | None,
    rows: DataFrame,
    held_out: DataFrame,
    measured: dict[str, Any],
    config: Config,
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The measures of the new model and of the champion on held-out rows of courses the champion never saw.

    Where it saw them all: what each was measured at on the courses held out from it. None without a champion, or
    with one that predicts something else or from what the features no longer hold.
    """
    if champion is None or champion.model.spec.label != config.analytics.label:
        return None
    if not set(champion.model.spec.features) <= set(rows.columns):
        return None
    unseen = held_out.where(~F.col("courseid").isin(list(champion.model.spec.courses)))
    own = metrics.measures(metrics.counted(unseen, config.analytics.capacity))
    if own["auc"] is not None:
        same_rows = rows.join(unseen.select(*learn.KEYS), list(learn.KEYS), "left_semi")
        scored = learn.predict(champion.model, same_rows, keep=(*learn.KEYS, "label"))
        return own, metrics.measures(metrics.counted(scored, config.analytics.capacity))
    before = registry.document(champion.run, "measures.json")
    return None if before is None else (measured["overall"]["model"], before["overall"]["model"])


def group_gaps(spark: SparkSession, scored: DataFrame, capacity: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The gaps between groups of every field the lake knows, in a few weeks, and what cannot be compared."""
    weeks = sorted(row["week"] for row in scored.select("week").distinct().collect())
    shown = model_card.some_weeks(weeks)
    found, refused = [], []
    for field in subgroups.fields(spark):
        grouped = subgroups.by(spark, field, scored.where(F.col("week").isin(shown)))
        try:
            subgroups.check_enough(grouped, field)
        except learn.TooLittleDataError as refusal:
            refused.append(refusal.what)
            continue
        counts = metrics.counted(grouped, capacity, "week", "group")
        found.append(
            {"field": field, "weeks": [{"week": w, "groups": metrics.gaps(counts[counts["week"] == w])} for w in shown]}
        )
    if not found and not refused:
        refused.append("No groups are compared: the lake knows no attribute of students or enrolments")
    return found, refused


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
    spark: SparkSession, config: Config, as_of: dt.datetime | None, snapshots: Mapping[str, int] | None = None
) -> tuple[DataFrame, Sequence[learn.Course]]:
    """Labelled rows of the courses over at as_of, in the weeks taught from; raises TooLittleDataError."""
    label = config.analytics.label
    src = features.sources(spark, config.analytics, as_of, snapshots)
    found = labels.finished(src.enrolments, src.courses, as_of, label)
    courses = learn.finished_courses(found)
    learn.check_enough(courses, found.without_label, label, _when(as_of))
    outcomes = labels.build(src.enrolments, found.courses, label)
    known = features.read(spark, config, as_of, snapshots).where(
        learn.in_courses(courses) & F.col("enrolled") & learn.teaching_weeks()
    )
    rows = learn.labelled(known, outcomes)
    wanted = [*learn.KEYS, "enrolled", "label", "days_since_access", *learn.feature_names(rows.columns)]
    return rows.select(*dict.fromkeys(wanted)), courses


def score(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> None:
    """Append the risk of every student of the courses running at as_of to marts.student_risk.

    Without a champion, or without running courses, nothing is appended and the reason is told.
    """
    moment = point_in_time.utc(as_of) if as_of else dt.datetime.now(dt.UTC).replace(microsecond=0)
    registry = Registry(config.mlflow)
    champion = registry.champion()
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
    snapshots = features.snapshots(spark)
    inputs = input_fingerprint.stamp({}, features.stamp(config.analytics, moment, snapshots), champion.version)
    if input_fingerprint.is_current(spark, [table_names.STUDENT_RISK], inputs):
        log.info("score: nothing new")
        return
    src = features.sources(spark, config.analytics, moment, snapshots)
    rows = current_rows(src, moment, features.read(spark, config, moment, snapshots)).persist()
    scored = risk(rows, champion, moment, snapshots).persist()
    try:
        count = scored.count()
        if count:
            writers.append(
                scored, table_names.STUDENT_RISK, run_id=job_runs.run_id(), summary=input_fingerprint.summary(inputs)
            )
            _tell_drift(spark, config, registry, champion, rows, moment, snapshots)
    finally:
        scored.unpersist()
        rows.unpersist()
    if count:
        log.info("%s students scored by %s version %s", f"{count:,}", config.mlflow.model, champion.version)
    else:
        log.warning("No student was scored: no course with enrolled students is running on %s", f"{moment:%Y-%m-%d}")


def _tell_drift(
    spark: SparkSession,
    config: Config,
    registry: Registry,
    champion: Registered,
    rows: DataFrame,
    moment: dt.datetime,
    snapshots: Mapping[str, int],
) -> None:
    """The champion's card again, with how far those scored are from those it learnt from."""
    known = registry.document(champion.run, REFERENCE)
    now = rows.where("is_current and enrolled")
    students = now.count()
    moved, refused = [], []
    if known is None:
        refused.append(
            f"No drift: version {champion.version} was trained by a release that kept nothing to compare with"
        )
    elif students < drift.LEAST_STUDENTS:
        refused.append(
            f"No drift: {students} students are scored, at least {drift.LEAST_STUDENTS} are needed to compare"
        )
    else:
        moved = drift.compare(known, learn.encoded(now, champion.model.spec, keep=("week",)))
    before = registry.document(champion.run, model_card.DOCUMENT)
    card = model_card.scored(config, moment, snapshots, champion.version, students, moved, refused)
    registry.log_text(champion.run, model_card.html({**(before or {}), **card}), f"scored/{job_runs.run_id()}.html")
    model_card.write(spark, card)
    much = [row["feature"] for row in moved if drift.moved(row)]
    if much:
        log.warning("Far from what the model was trained on: %s (see the card's drift)", ", ".join(much))


def reproduce(spark: SparkSession, config: Config, run_id: str) -> tuple[int, int]:
    """Score an earlier run's students again, by its model from its snapshots: students, and how many differ.

    A probability differs when it does by more than 1e-6; band and reasons must be the same words.
    """
    risks = tables.read(spark, table_names.STUDENT_RISK)
    stored = None if risks is None else risks.where(F.col("run_id") == run_id)
    first = None if stored is None else stored.first()
    if stored is None or first is None:
        raise LakehouseError(
            f"No run {run_id} has scored", where=table_names.STUDENT_RISK, remedy="take a run_id of that table"
        )
    snapshots = dict(first["data_snapshots"] or {}) if "data_snapshots" in stored.columns else {}
    if not snapshots:
        raise LakehouseError(
            f"Run {run_id} kept no snapshot ids", where=table_names.STUDENT_RISK, remedy="score again with this release"
        )
    moment = point_in_time.utc(first["as_of"])
    model = Registry(config.mlflow).version(first["model_version"])
    src = features.sources(spark, config.analytics, moment, snapshots)
    again = risk(current_rows(src, moment, features.build(src, moment)), model, moment, snapshots)
    shown = ["probability", "band", "reason_1", "reason_2", "reason_3"]
    one = stored.select("userid", "courseid", *shown)
    two = again.select("userid", "courseid", *[F.col(name).alias(f"{name}_again") for name in shown])
    both = one.withColumn("old", F.lit(1)).join(two.withColumn("new", F.lit(1)), ["userid", "courseid"], "full_outer")
    same = F.col("old").isNotNull() & F.col("new").isNotNull()
    same &= F.abs(F.col("probability") - F.col("probability_again")) <= 1e-6
    for name in shown[1:]:
        same &= F.col(name).eqNullSafe(F.col(f"{name}_again"))
    row = both.agg(F.count("*").alias("students"), F.sum((~F.coalesce(same, F.lit(False))).cast("int")).alias("differ"))
    found = row.first()
    assert found is not None
    return int(found["students"]), int(found["differ"])


def current_rows(src: features.Sources, moment: dt.datetime, known: DataFrame) -> DataFrame:
    """Feature rows of the last complete week at the moment and of the week before, for running courses.

    Grain (userid, courseid, week); is_current tells the two apart, at_risk says whether the enrolment is still
    open: neither ended nor completed. The rest of the cohort stays, for it is what a student is compared with.
    """
    now = point_in_time.literal(moment)
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


def risk(rows: DataFrame, champion: Registered, moment: dt.datetime, snapshots: Mapping[str, int]) -> DataFrame:
    """marts.student_risk for the rows of current_rows. Grain: (userid, courseid) of the current week.

    data_snapshots: the snapshot of each table that the scores were made of; with model_version they can be made again.
    probability calibrated; change against the same model's probability of the week before, null when there is
    no such week; reasons in words, the strongest first.
    """
    model = champion.model
    open_rows = explanations.with_cohort(rows).where("at_risk and enrolled")
    shown = [name for name in open_rows.columns if name.startswith("cohort_")]
    # Figures and features overlap: what both need comes through under a name of its own.
    figures = explanations.figures(rows.columns)
    renamed = open_rows.select("*", *[F.col(name).alias(f"figure_{name}") for name in figures])
    keep = ["userid", "user_key", "courseid", "week", *shown, *[f"figure_{name}" for name in figures]]
    scored = learn.predict(model, renamed.where("is_current"), keep, contributions=True)
    scored = scored.withColumnsRenamed({f"figure_{name}": name for name in figures})
    told = explanations.explain(
        scored, model.spec.features, model.spec.constraints, ("userid", "user_key", "courseid", "week", "probability")
    )
    before = learn.predict(model, open_rows.where("not is_current"), ("userid", "courseid")).select(
        "userid", "courseid", F.col("probability").alias("before")
    )
    return (
        told.join(before, ["userid", "courseid"], "left")
        .withColumn("run_id", F.lit(job_runs.run_id()))
        .withColumn("as_of", point_in_time.literal(moment))
        .withColumn("scored_at", point_in_time.literal(dt.datetime.now(dt.UTC)))
        .withColumn("band", band(F.col("probability")))
        .withColumn("change", F.col("probability") - F.col("before"))
        .withColumn("model_version", F.lit(champion.version))
        .withColumn(
            "data_snapshots", F.create_map(*[F.lit(part) for pair in sorted(snapshots.items()) for part in pair])
        )
        .select(*RISK_COLUMNS)
    )


def _run_name(as_of: dt.datetime | None) -> str:
    """What MLflow lists a training by: the day it looks from."""
    return f"train {point_in_time.utc(as_of) if as_of else dt.datetime.now(dt.UTC):%Y-%m-%d}"


def _when(as_of: dt.datetime | None) -> str:
    return f"over on {point_in_time.utc(as_of):%Y-%m-%d}" if as_of else "over by now"


def _measure(
    rows: DataFrame, held_out: DataFrame, courses: Sequence[learn.Course], names: Sequence[str], capacity: int
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
    for split in splits:
        inside = learn.in_courses(split)
        for name, baseline in learn.baselines(rows.where(~inside), names).items():
            scored = baseline(rows.where(inside))
            baselines[name] = baselines[name].unionByName(scored) if name in baselines else scored
    all_scored = {"model": held_out, **baselines}
    counts = {name: metrics.counted(scored, capacity, "week") for name, scored in all_scored.items()}
    weeks = sorted({int(week) for week in counts["model"]["week"]})
    return {
        "held_out": what,
        "calibration": metrics.calibration(counts["model"]),
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
        "as_of": point_in_time.utc(as_of).isoformat() if as_of else "now",
        "run_id": job_runs.run_id(),
        "courses": len(courses),
        "enrolments": sum(course.students for course in courses),
        "base_rate": round(sum(c.positives for c in courses) / sum(c.students for c in courses), 4),
        "terms": len(learn.terms(courses)),
        "demographics": config.analytics.demographics,
        "features": len(model.spec.features),
        **{name: round(value, 4) for name, value in dataclasses.asdict(model.spec.calibration).items()},
        **learn.XGB_PARAMS,
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
