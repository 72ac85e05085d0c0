"""Record what ran, when and how it ended in lakehouse.ops.job_run, under the id that every table of a run carries."""

from __future__ import annotations

import datetime as dt
import json
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import SparkSession

from moodle_lakehouse.errors import LakehouseError, reason
from moodle_lakehouse.lake import contracts, table_names, tables, writers

log = logging.getLogger(__name__)

_run_id: str | None = None
_running: dict[str, Job] = {}


def run_id() -> str:
    """Return the id of this run: one for the process, so that all steps of a pipeline share it. Sorts by time."""
    global _run_id
    if _run_id is None:
        _run_id = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    return _run_id


class Job:
    """A running job; what it puts into detail is kept with its row of job_run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.detail: dict[str, Any] = {}
        self.seconds = 0.0


@contextmanager
def job(spark: SparkSession, name: str) -> Iterator[Job]:
    """Run a job and append its row (grain: one job of one run) to ops.job_run, also when it fails.

    A job of the same name that is running already is yielded again and not recorded twice.
    """
    if name in _running:
        yield _running[name]
        return
    started = dt.datetime.now(dt.UTC)
    clock = time.monotonic()
    run_id()
    current = Job(name)
    status = "failed"
    _running[name] = current
    try:
        yield current
        status = "done"
    except KeyboardInterrupt:
        current.detail["error"] = "interrupted"
        raise
    except BaseException as error:
        current.detail["error"] = (str(error) if isinstance(error, LakehouseError) else reason(error))[:2000]
        raise
    finally:
        del _running[name]
        current.seconds = time.monotonic() - clock
        try:
            _append(spark, current, started, status)
        except Exception as error:
            if status == "done":
                raise
            log.warning("the failed run of %s could not be recorded: %s", name, reason(error))


def _append(spark: SparkSession, current: Job, started: dt.datetime, status: str) -> None:
    tables.ensure_namespaces(spark)
    row = (
        run_id(),
        current.name,
        started,
        dt.datetime.now(dt.UTC),
        status,
        json.dumps({"seconds": round(current.seconds, 1), **current.detail}, default=str),
    )
    writers.append_rows(spark, [row], contracts.schema(table_names.JOB_RUN), table_names.JOB_RUN, run_id=run_id())
