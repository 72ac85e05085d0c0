"""Score the students of running courses with the champion: who is at risk, how likely and why."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import Config
from moodle_lakehouse.dropout import dataset, drift, explanations, features, learner, model_card, model_card_html
from moodle_lakehouse.dropout.registry import Registered, Registry
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import contracts, input_fingerprint, job_runs, point_in_time, table_names, tables, writers

log = logging.getLogger(__name__)

# Bands of the calibrated probability: of ten students in "high", six or more will not make it, of ten in
# "low" three at most.
HIGH, MEDIUM = 0.6, 0.3


def score(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> None:
    """Append the risk of every student of the courses running at as_of to marts.student_risk.

    Without a champion, or without running courses, nothing is appended and the reason is logged.
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
            "The champion predicts %s, the configuration wants %s: train it again",
            champion.model.spec.label,
            config.analytics.label,
        )
    snapshots = features.snapshots(spark)
    inputs = input_fingerprint.stamp({}, features.stamp(config.analytics, moment, snapshots), champion.version)
    if input_fingerprint.is_current(spark, [table_names.STUDENT_RISK], inputs):
        log.info("score: nothing new")
        return
    src = features.sources(spark, config.analytics, moment, snapshots)
    rows = dataset.current_rows(src, moment, features.read(spark, config, moment, snapshots)).persist()
    scored = risk(rows, champion, moment, snapshots).persist()
    try:
        count = scored.count()
        if count:
            writers.append(
                scored, table_names.STUDENT_RISK, run_id=job_runs.run_id(), summary=input_fingerprint.summary(inputs)
            )
            _report_drift(spark, config, registry, champion, rows, moment, snapshots)
    finally:
        scored.unpersist()
        rows.unpersist()
    if count:
        log.info("%s students scored by %s version %s", f"{count:,}", config.mlflow.model, champion.version)
    else:
        log.warning("No student was scored: no course with enrolled students is running on %s", f"{moment:%Y-%m-%d}")


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
    return (
        explained.join(before, ["user_key", "courseid"], "left")
        .withColumn("run_id", F.lit(job_runs.run_id()))
        .withColumn("as_of", point_in_time.literal(moment))
        .withColumn("scored_at", point_in_time.literal(dt.datetime.now(dt.UTC)))
        .withColumn("band", band(F.col("probability")))
        .withColumn("change", F.col("probability") - F.col("before"))
        .withColumn("model_version", F.lit(champion.version))
        .withColumn(
            "data_snapshots", F.create_map(*[F.lit(part) for pair in sorted(snapshots.items()) for part in pair])
        )
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
    model = Registry(config.mlflow).version(first["model_version"])
    src = features.sources(spark, config.analytics, moment, snapshots)
    again = risk(dataset.current_rows(src, moment, features.build(src, moment)), model, moment, snapshots)
    shown = ["probability", "band", "reason_1", "reason_2", "reason_3"]
    one = stored.select("user_key", "courseid", *shown)
    two = again.select("user_key", "courseid", *[F.col(name).alias(f"{name}_again") for name in shown])
    both = one.withColumn("old", F.lit(1)).join(two.withColumn("new", F.lit(1)), ["user_key", "courseid"], "full_outer")
    same = F.col("old").isNotNull() & F.col("new").isNotNull()
    same &= F.abs(F.col("probability") - F.col("probability_again")) <= 1e-6
    for name in shown[1:]:
        same &= F.col(name).eqNullSafe(F.col(f"{name}_again"))
    row = both.agg(F.count("*").alias("students"), F.sum((~F.coalesce(same, F.lit(False))).cast("int")).alias("differ"))
    found = row.first()
    assert found is not None
    return int(found["students"]), int(found["differ"])
