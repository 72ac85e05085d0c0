"""The steps of the road from Moodle's tables to named risks, alone or all in one Spark session."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyspark.sql import SparkSession

from moodle_lakehouse import asof, curate, history, ingest, ops, session
from moodle_lakehouse.config import Config

if TYPE_CHECKING:
    from moodle_lakehouse.evaluate import Question

log = logging.getLogger(__name__)

# step -> module and function of the steps that work as of a moment
AS_OF_STEPS = {
    "features": ("features", "run"),
    "cluster": ("cluster", "run"),
    "train": ("model", "train"),
    "score": ("model", "score"),
}


@dataclass
class PipelineResult:
    """What a whole run did; seconds by step in order."""

    run_id: str
    as_of: dt.datetime
    ingested: ingest.IngestResult
    curated: dict[str, int]
    report: str
    seconds: dict[str, float] = field(default_factory=dict)


def step(spark: SparkSession, config: Config, name: str, as_of: dt.datetime | None) -> None:
    """Run one of the steps that work as of a moment, and record it."""
    module, function = AS_OF_STEPS[name]
    work: Callable[[SparkSession, Config, dt.datetime | None], None] = getattr(_module(module), function)
    with ops.job(spark, name) as job:
        job.detail["as_of"] = as_of.isoformat() if as_of else None
        work(spark, config, as_of)


def report(spark: SparkSession, config: Config, as_of: dt.datetime | None, output: str = "text") -> str:
    """The report as text, or as JSON."""
    text: str = _module("report").render(spark, config, as_of, format=output)
    return text


def evaluate(spark: SparkSession, config: Config, question: Question) -> dict[str, Any]:
    """How well the model would have done: the JSON document of its measures."""
    with ops.job(spark, "evaluate") as job:
        job.detail["question"] = dataclasses.asdict(question)
        document: dict[str, Any] = _module("evaluate").run(spark, config, question)
    return document


def run(config: Config, as_of: str) -> PipelineResult:
    """Every step from ingest to the report."""
    clock = _Clock()
    with clock("source"):
        site = ingest.inspect(config)
    with clock("spark"):
        spark = session.create("pipeline", config)
    try:
        with ops.job(spark, "pipeline") as job:
            with clock("ingest"):
                ingested = ingest.run(spark, config, site)
            with clock("curate"):
                curated = curate.run(spark, config)
            with clock("history"):
                history.run(spark)
            moment = asof.resolve_as_of(spark, as_of)
            job.detail["as_of"] = moment.isoformat()
            for name in AS_OF_STEPS:
                with clock(name):
                    step(spark, config, name, moment)
            with clock("report"):
                text = report(spark, config, moment)
            job.detail["steps"] = {name: round(seconds, 1) for name, seconds in clock.seconds.items()}
        return PipelineResult(ops.run_id(), moment, ingested, curated, text, clock.seconds)
    finally:
        spark.stop()


def _module(name: str) -> Any:
    return importlib.import_module(f"moodle_lakehouse.{name}")


class _Clock:
    """Seconds by step, told while it goes on."""

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
