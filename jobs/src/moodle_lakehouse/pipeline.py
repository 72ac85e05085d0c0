"""Run the steps from Moodle's tables to the at-risk list, alone or all in one Spark session."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyspark.sql import SparkSession

from moodle_lakehouse.config import Config
from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.curated import resource_history
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.lake import job_runs, point_in_time, session

if TYPE_CHECKING:
    from moodle_lakehouse.dropout.evaluation import EvaluationSpec

log = logging.getLogger(__name__)

AS_OF_STEPS = ("features", "cluster", "train", "score")


@dataclass
class PipelineResult:
    """What a whole run did; seconds by step in their order."""

    run_id: str
    as_of: dt.datetime
    ingested: ingest_job.IngestResult
    curated: dict[str, int]
    report: str
    seconds: dict[str, float] = field(default_factory=dict)


def step(spark: SparkSession, config: Config, name: str, as_of: dt.datetime | None) -> None:
    """Run one of AS_OF_STEPS and record it in ops.job_run."""
    work = _step(name)
    with job_runs.job(spark, name) as job:
        job.detail["as_of"] = as_of.isoformat() if as_of else None
        work(spark, config, as_of)


def _step(name: str) -> Callable[[SparkSession, Config, dt.datetime | None], None]:
    """Return the function of a step; its libraries are imported only when it runs, since they take seconds."""
    if name == "features":
        from moodle_lakehouse.dropout import features

        return features.run
    if name == "cluster":
        from moodle_lakehouse.clustering import job as clustering_job

        return clustering_job.run
    from moodle_lakehouse.dropout import scoring, training

    return {"train": training.train, "score": scoring.score}[name]


def report(spark: SparkSession, config: Config, as_of: dt.datetime | None, output: str = "text") -> str:
    """Render the report as text, or as JSON."""
    from moodle_lakehouse.reporting import report

    return report.render(spark, config, as_of, format=output)


def evaluate(spark: SparkSession, config: Config, question: EvaluationSpec) -> dict[str, Any]:
    """Measure the model on courses that it was not trained on, and return the JSON document of the measures."""
    from moodle_lakehouse.dropout import evaluation

    with job_runs.job(spark, "evaluate") as job:
        job.detail["question"] = dataclasses.asdict(question)
        return evaluation.run(spark, config, question)


def run(config: Config, as_of: str) -> PipelineResult:
    """Run every step from ingest to the report."""
    clock = _Clock()
    with clock("source"):
        site = ingest_job.inspect(config)
    with clock("spark"):
        spark = session.create("pipeline", config)
    try:
        with job_runs.job(spark, "pipeline") as job:
            with clock("ingest"):
                ingested = ingest_job.run(spark, config, site)
            with clock("curate"):
                curated = curated_job.run(spark, config)
            with clock("history"):
                resource_history.run(spark)
            moment = point_in_time.resolve_as_of(spark, as_of)
            job.detail["as_of"] = moment.isoformat()
            for name in AS_OF_STEPS:
                with clock(name):
                    step(spark, config, name, moment)
            with clock("report"):
                text = report(spark, config, moment)
            job.detail["steps"] = {name: round(seconds, 1) for name, seconds in clock.seconds.items()}
        return PipelineResult(job_runs.run_id(), moment, ingested, curated, text, clock.seconds)
    finally:
        spark.stop()


class _Clock:
    """Measure and log the seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> _Clock:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._started = time.monotonic()
        log.info("%s ...", self._name)

    def __exit__(self, *exc: object) -> None:
        self.seconds[self._name] = time.monotonic() - self._started
        log.info("%s %s after %.1f s", self._name, "done" if exc[0] is None else "failed", self.seconds[self._name])
