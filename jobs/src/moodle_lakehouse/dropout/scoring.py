"""Score the students of running courses with the champion: who is at risk, how likely and why."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import AnalyticsConfig, Config
from moodle_lakehouse.curated import activity
from moodle_lakehouse.dropout import (
    dataset,
    drift,
    explanations,
    features,
    learner,
    model_card,
    model_card_html,
    rules,
    training,
)  # fmt: skip
from moodle_lakehouse.dropout.registry import Registered, Registry
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import contracts, input_fingerprint, job_runs, point_in_time, table_names, tables, writers

log = logging.getLogger(__name__)

# Bands of the calibrated probability: of ten students in "high", six or more will not make it, of ten in
# "low" three at most.
HIGH, MEDIUM = 0.6, 0.3


def score(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> None:
    """Append the risk of every student of the courses running at as_of to marts.student_risk.

    The champion scores. A past moment that its data reach beyond is scored by the newest model that could have been made
    by then; where there is none, one is trained for it. Without a model the list is by rules (rules.py). Without running
    courses nothing is appended and the reason is logged.
    """
    moment = point_in_time.utc(as_of) if as_of else dt.datetime.now(dt.UTC).replace(microsecond=0)
    registry = Registry(config.mlflow)
    model = _model(spark, config, registry, moment)
    analytics = config.analytics
    snapshots = features.snapshots(spark)
    made_of = features.stamp(analytics, moment, snapshots)
    by = model.version if model else (rules.BASIS, analytics.rules, analytics.pass_share)
    inputs = input_fingerprint.stamp({}, made_of, by, analytics.score_hidden_courses)
    if input_fingerprint.is_current(spark, [table_names.STUDENT_RISK], inputs):
        log.info("score: nothing new")
        return
    src = features.sources(spark, analytics, moment, snapshots)
    known = features.read(spark, config, moment, snapshots)
    rows = dataset.current_rows(src, moment, known, hidden_courses=analytics.score_hidden_courses).persist()
    scored = (risk(rows, model, moment, snapshots) if model else by_rules(rows, analytics, moment, snapshots)).persist()
    try:
        count = scored.count()
        if count:
            if model:
                _report_drift(spark, config, registry, model, rows, moment, snapshots)
            # With the scores goes the stamp that keeps the next run from doing this again: nothing may come after them.
            writers.append(
                scored, table_names.STUDENT_RISK, run_id=job_runs.run_id(), summary=input_fingerprint.summary(inputs)
            )
    finally:
        scored.unpersist()
        rows.unpersist()
    if count:
        by_what = f"{config.mlflow.model} version {model.version}" if model else "rules"
        log.info("%s students scored by %s", f"{count:,}", by_what)
    else:
        log.warning("No student was scored: no course with enrolled students is running on %s", f"{moment:%Y-%m-%d}")
    too_long = dataset.too_long(src, moment)
    if too_long:
        log.warning("Not scored, since they run for more than %s weeks: %s", activity.MAX_WEEKS, ", ".join(too_long))


def _model(spark: SparkSession, config: Config, registry: Registry, moment: dt.datetime) -> Registered | None:
    """Return the model that may score a moment; None for none."""
    champion = registry.champion_version()
    version = registry.newest_until(moment)
    if champion is None and version is None:
        log.warning(
            "There is no champion of %s yet (train makes one, or says what is missing): rules list the students",
            config.mlflow.model,
        )
        return None
    if version is None:
        log.info("Every model knows what came after %s: one is trained for it", f"{moment:%Y-%m-%d %H:%M} UTC")
        version = training.train_for_past(spark, config, registry, moment)
        if version is None:
            log.warning("No model could be made of what was known then: rules list the students")
            return None
    if version != champion:
        log.info("Version %s scores: the champion knows what came after %s", version, f"{moment:%Y-%m-%d %H:%M} UTC")
    model = registry.version(version)
    if model.model.spec.label != config.analytics.label:
        log.warning(
            "The model predicts %s, the configuration wants %s: train it again",
            model.model.spec.label,
            config.analytics.label,
        )
    return model


def _report_drift(
    spark: SparkSession,
    config: Config,
    registry: Registry,
    champion: Registered,
    rows: DataFrame,
    moment: dt.datetime,
    snapshots: Mapping[str, int],
) -> None:
    """Write the champion's card again, with how far those scored are from those it learnt from."""
    known = registry.document(champion.run, drift.REFERENCE)
    now = rows.where("is_current and enrolled")
    students = now.count()
    moved, refused = [], []
    if known is None:
        refused.append(
            f"No drift: version {champion.version} was trained by a release that kept nothing to compare with"
        )
    elif students < drift.MIN_STUDENTS:
        refused.append(f"No drift: {students} students are scored, at least {drift.MIN_STUDENTS} are needed to compare")
    else:
        moved = drift.compare(known, learner.encoded(now, champion.model.spec, keep=("week",)))
    before = registry.document(champion.run, model_card.DOCUMENT)
    card = model_card.scored(config, moment, snapshots, champion.version, students, moved, refused)
    registry.log_text(
        champion.run, model_card_html.render({**(before or {}), **card}), f"scored/{job_runs.run_id()}.html"
    )
    model_card.write(spark, card)
    much = [row["feature"] for row in moved if drift.moved(row)]
    if much:
        log.warning("Far from what the model was trained on: %s (see the card's drift)", ", ".join(much))


def risk(rows: DataFrame, champion: Registered, moment: dt.datetime, snapshots: Mapping[str, int]) -> DataFrame:
    """Return marts.student_risk for the rows of current_rows. Grain: (user_key, courseid) of the current week.

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
    keep = ["user_key", "courseid", "week", *shown, *[f"figure_{name}" for name in figures]]
    scored = learner.predict(model, renamed.where("is_current"), keep, contributions=True)
    scored = scored.withColumnsRenamed({f"figure_{name}": name for name in figures})
    explained = explanations.explain(
        scored, model.spec.features, model.spec.constraints, ("user_key", "courseid", "week", "probability")
    )
    before = learner.predict(model, open_rows.where("not is_current"), ("user_key", "courseid")).select(
        "user_key", "courseid", F.col("probability").alias("before")
    )
    found = (
        explained.join(before, ["user_key", "courseid"], "left")
        .withColumn("band", band(F.col("probability")))
        .withColumn("change", F.col("probability") - F.col("before"))
    )
    return _as_of(found, champion.version, moment, snapshots)


def by_rules(
    rows: DataFrame, analytics: AnalyticsConfig, moment: dt.datetime, snapshots: Mapping[str, int]
) -> DataFrame:
    """Return marts.student_risk for the rows of current_rows by rules: without probability and change. Grain as of risk()."""
    nothing = F.lit(None).cast("double")
    open_rows = explanations.with_cohort(rows).where("at_risk and enrolled and is_current")
    found = rules.apply(open_rows, analytics).withColumn("probability", nothing).withColumn("change", nothing)
    return _as_of(found, rules.BASIS, moment, snapshots)


def _as_of(found: DataFrame, version: str, moment: dt.datetime, snapshots: Mapping[str, int]) -> DataFrame:
    """Return the rows as marts.student_risk, with what they were made of."""
    made_of = F.create_map(*[F.lit(part) for pair in sorted(snapshots.items()) for part in pair])
    return (
        found.withColumn("run_id", F.lit(job_runs.run_id()))
        .withColumn("as_of", point_in_time.literal(moment))
        .withColumn("scored_at", point_in_time.literal(dt.datetime.now(dt.UTC)))
        .withColumn("model_version", F.lit(version))
        .withColumn("data_snapshots", made_of)
        .select(*contracts.names(table_names.STUDENT_RISK))
    )


def band(probability: Column) -> Column:
    """Return the band of a calibrated probability."""
    return F.when(probability >= HIGH, "high").when(probability >= MEDIUM, "medium").otherwise("low")


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
    src = features.sources(spark, config.analytics, moment, snapshots)
    known = features.build(src, moment)
    rows = dataset.current_rows(src, moment, known, hidden_courses=config.analytics.score_hidden_courses)
    if first["model_version"] == rules.BASIS:
        again = by_rules(rows, config.analytics, moment, snapshots)
    else:
        again = risk(rows, Registry(config.mlflow).version(first["model_version"]), moment, snapshots)
    shown = ["probability", "band", "reason_1", "reason_2", "reason_3"]
    one = stored.select("user_key", "courseid", *shown)
    two = again.select("user_key", "courseid", *[F.col(name).alias(f"{name}_again") for name in shown])
    both = one.withColumn("old", F.lit(1)).join(two.withColumn("new", F.lit(1)), ["user_key", "courseid"], "full_outer")
    same = F.col("old").isNotNull() & F.col("new").isNotNull()
    distance = F.abs(F.col("probability") - F.col("probability_again"))
    same &= F.coalesce(distance <= 1e-6, F.col("probability").eqNullSafe(F.col("probability_again")))
    for name in shown[1:]:
        same &= F.col(name).eqNullSafe(F.col(f"{name}_again"))
    row = both.agg(F.count("*").alias("students"), F.sum((~F.coalesce(same, F.lit(False))).cast("int")).alias("differ"))
    found = row.first()
    assert found is not None
    return int(found["students"]), int(found["differ"])
