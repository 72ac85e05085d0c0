"""Train the model on courses that are over, measure it on held-out ones and decide whether it becomes champion."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import Config
from moodle_lakehouse.dropout import (
    baselines,
    dataset,
    drift,
    features,
    labels,
    learner,
    metrics,
    model_card,
    model_card_html,
    promotion,
    subgroups,
)  # fmt: skip
from moodle_lakehouse.dropout.registry import Entry, Registered, Registry, Verdict
from moodle_lakehouse.errors import bullet_list
from moodle_lakehouse.lake import job_runs, point_in_time

log = logging.getLogger(__name__)


PAST = "past-"  # before what a model of a past moment is made of


def train(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> None:
    """Train on the courses over at as_of, measure on held-out ones; the model becomes champion if it is better.

    With too little data nothing is registered and the reason is logged; the existing champion remains. Data that a
    model was made of before, under the same rules, teach nothing new: nothing is trained, and a promotion that was
    interrupted then is made up for. What marks a training as complete is written last.
    """
    # MLflow is asked first: an hour of training is not lost to a wrong password.
    registry = Registry(config.mlflow)
    _train(spark, config, registry, as_of, registry.champion(), may_be_champion=True)
    promotion.promote(registry)


def train_for_past(spark: SparkSession, config: Config, registry: Registry, moment: dt.datetime) -> str | None:
    """Train a model for scores as of a moment before what every other model knows; return its version.

    It never becomes champion. None where the courses that were over then teach too little; the reason is logged.
    """
    return _train(spark, config, registry, moment, None, may_be_champion=False)


def _train(
    spark: SparkSession,
    config: Config,
    registry: Registry,
    as_of: dt.datetime | None,
    champion: Registered | None,
    *,
    may_be_champion: bool,
) -> str | None:
    """Train and register a version, or find the one that was made of the same; None for too little data."""
    snapshots = features.snapshots(spark)
    try:
        rows, found = dataset.training_rows(spark, config, as_of, snapshots)
    except dataset.TooLittleDataError as refusal:
        _refuse(spark, config, registry, as_of, snapshots, str(refusal))
        return None
    courses = found.courses
    log.info("Labels: %s", dataset.describe_outcomes(courses))
    if found.left_out:
        log.info("Courses that teach nothing:\n%s", bullet_list(dataset.describe_left_out(found.left_out)))
    rows = rows.persist()
    try:
        data = _made_of(rows, config)
        same = registry.made_of(data) or (None if may_be_champion else registry.made_of(PAST + data))
        if same is not None:
            log.info("Nothing was trained: %s version %s was made of just these data", config.mlflow.model, same)
            return same
        model, held_out = learner.learn(rows, courses, config.analytics.label)
        measured = _measure(rows, held_out, courses, model.spec.features, config.analytics.capacity)
        checks = promotion.checks(
            config.analytics.champion,
            measured["overall"],
            _against_champion(registry, champion, rows, held_out, measured, config),
        )
        prepared = learner.encoded(rows, model.spec, keep=("week",))
        reference = drift.reference(prepared, model.spec.features)
        card = model_card.trained(config, as_of, snapshots, model, found, measured, checks)
        card["groups"], card["refusals"] = group_gaps(spark, held_out, config.analytics.capacity)
    finally:
        rows.unpersist()
    documents = {"measures.json": measured, drift.REFERENCE: reference}
    entry = Entry(_run_name(as_of), _params(model, courses, config, as_of), _series(measured), documents)
    registered = registry.register(model, entry)
    failed = [check for check in checks if not check.passed]
    card.update(version=registered.version, champion=not failed and may_be_champion)
    registry.log_text(registered.run, json.dumps(card, default=str), model_card.DOCUMENT)
    _show(spark, registry, registered.run, card)
    _log_verdict(config, registered, measured, failed if may_be_champion else [])
    settled = max(course.end_at for course in courses) + dt.timedelta(days=config.analytics.settling_days)
    verdict = Verdict(registered.version, not failed, champion.version if champion else None)
    if may_be_champion:
        registry.complete(registered.version, data, settled, verdict)
    else:
        registry.complete(registered.version, PAST + data, settled)
    return registered.version


def _refuse(
    spark: SparkSession,
    config: Config,
    registry: Registry,
    as_of: dt.datetime | None,
    snapshots: Mapping[str, int],
    reason: str,
) -> None:
    """Log a run without a model, whose card gives the reason."""
    log.warning("No model was trained. %s", reason)
    run = registry.log_refusal(f"{_run_name(as_of)}: refused")
    _show(spark, registry, run, model_card.refused(config, as_of, snapshots, reason))


def _show(spark: SparkSession, registry: Registry, run: str, card: dict[str, Any]) -> None:
    """Keep the card with its run in MLflow and as rows of marts.model_card."""
    summary = model_card.markdown(card, registry.card_link(run))
    registry.show_card(run, model_card_html.render(card), summary, card["version"])
    model_card.write(spark, card)


def _log_verdict(
    config: Config,
    registered: Registered,
    measured: dict[str, Any],
    failed: Sequence[promotion.Check],
) -> None:
    overall = measured["overall"]
    log.info(
        "%s version %s: AUC %.3f, Brier %.3f on %s (logistic regression: %.3f, %.3f)",
        config.mlflow.model, registered.version, overall["model"]["auc"] or 0.5, overall["model"]["brier"],
        measured["held_out"], overall["logistic_regression"]["auc"] or 0.5, overall["logistic_regression"]["brier"],
    )  # fmt: skip
    if failed:
        log.warning("It does not become champion:\n%s", bullet_list(str(check) for check in failed))


def _made_of(rows: DataFrame, config: Config) -> str:
    """What a model of these rows is made of and measured by: the same word, the same model and the same verdict."""
    wanted = config.analytics
    rules = (wanted.label, wanted.capacity, wanted.champion, learner.rules())
    text = repr((rows.columns, dataset.fingerprint(rows), rules))
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
    if not set(champion.model.spec.columns) <= set(rows.columns):
        return None
    unseen = held_out.where(~F.col("courseid").isin(list(champion.model.spec.courses)))
    own = metrics.measures(metrics.counted(unseen, config.analytics.capacity))
    if own["auc"] is not None:
        same_rows = rows.join(unseen.select(*dataset.KEYS), list(dataset.KEYS), "left_semi")
        scored = learner.predict(champion.model, same_rows, keep=(*dataset.KEYS, "label"))
        return own, metrics.measures(metrics.counted(scored, config.analytics.capacity))
    before = registry.document(champion.run, "measures.json")
    return None if before is None else (measured["overall"]["model"], before["overall"]["model"])


def group_gaps(spark: SparkSession, scored: DataFrame, capacity: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the gaps between groups of every field the lake knows, in a few weeks, and what cannot be compared."""
    weeks = sorted(row["week"] for row in scored.select("week").distinct().collect())
    shown = model_card.some_weeks(weeks)
    found, refused = [], []
    for field in subgroups.fields(spark):
        grouped = subgroups.by(spark, field, scored.where(F.col("week").isin(shown)))
        try:
            subgroups.check_enough(grouped, field)
        except dataset.TooLittleDataError as refusal:
            refused.append(refusal.what)
            continue
        counts = metrics.counted(grouped, capacity, "week", "group")
        found.append(
            {"field": field, "weeks": [{"week": w, "groups": metrics.gaps(counts[counts["week"] == w])} for w in shown]}
        )
    if not found and not refused:
        refused.append("No groups are compared: the lake knows no attribute of students or enrolments")
    return found, refused


def _measure(
    rows: DataFrame, held_out: DataFrame, courses: Sequence[labels.Course], names: Sequence[str], capacity: int
) -> dict[str, Any]:
    """Measures per week and over all of the held-out rows, beside the baselines on the same rows.

    The baselines learn from the earlier terms where a term is held out. With one term, where the model is
    measured out of fold, so are they.
    """
    held = dataset.holdout(courses)
    if held.latest_term:
        what = f"the held-out term of {dataset.describe(held.folds[-1])}"
    else:
        what = f"{dataset.describe(courses)}, out of fold by course"
    # Of very many rows a part measures the model (learner.MAX_SAMPLE): the same measures what it is compared with.
    same = rows.join(held_out.select(*dataset.KEYS), list(dataset.KEYS), "left_semi")
    by_baseline: dict[str, DataFrame] = {}
    for fold in held.measured:
        inside = dataset.in_courses(fold)
        for name, baseline in baselines.fit(rows.where(~inside), names).items():
            scored = baseline(same.where(inside))
            by_baseline[name] = by_baseline[name].unionByName(scored) if name in by_baseline else scored
    all_scored = {"model": held_out, **by_baseline}
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


def _run_name(as_of: dt.datetime | None) -> str:
    """What MLflow lists a training by: the day it looks from."""
    return f"train {point_in_time.utc(as_of) if as_of else dt.datetime.now(dt.UTC):%Y-%m-%d}"


def _params(
    model: learner.Model, courses: Sequence[labels.Course], config: Config, as_of: dt.datetime | None
) -> dict[str, Any]:
    return {
        "label": model.spec.label,
        "as_of": point_in_time.utc(as_of).isoformat() if as_of else "now",
        "run_id": job_runs.run_id(),
        "courses": len(courses),
        "enrolments": sum(course.students for course in courses),
        "base_rate": round(sum(c.positives for c in courses) / sum(c.students for c in courses), 4),
        "terms": len(dataset.terms(courses)),
        "demographics": config.analytics.demographics,
        "features": len(model.spec.features),
        **learner.chosen(model.spec),
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
