"""Process several tables at a time; one that fails leaves the others alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from pyspark.sql import SparkSession

from moodle_lakehouse.errors import LakehouseError, reason

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 10

Result = TypeVar("Result")


def each(
    spark: SparkSession, work: Mapping[str, Callable[[], Result]], *, workers: int, name: str
) -> tuple[list[Result], list[str]]:
    """Do the work on each table; returns the results in order of the tables' names, and why the others failed.

    Work begins in the order of the mapping. An interruption ends all of it.
    """
    results: dict[str, Result] = {}
    failures = []

    def prepare() -> None:
        # Java code looks for the session, and the settings of catalogs, of its thread; a new one has none.
        jvm: Any = spark._jvm
        jvm.org.apache.spark.sql.SparkSession.setActiveSession(spark._jsparkSession)

    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix=name, initializer=prepare) as pool:
        tasks = {pool.submit(do): table for table, do in work.items()}
        try:
            for task in _as_completed(name, tasks):
                table = tasks[task]
                try:
                    results[table] = task.result()
                except LakehouseError as error:
                    failures.append(f"{table}: " + str(error).replace("\n", "\n  "))
                except Exception as error:
                    log.debug("%s of %s failed", name, table, exc_info=True)
                    failures.append(f"{table}: {reason(error)}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            spark.sparkContext.cancelAllJobs()
            raise
    return [results[table] for table in sorted(results)], sorted(failures)


def _as_completed(name: str, tasks: Mapping[Future[Result], str]) -> Iterator[Future[Result]]:
    """Yield the tasks in the order in which they end; logs the progress every few seconds."""
    waiting, logged = set(tasks), time.monotonic()
    while waiting:
        pause = max(0.0, logged + PROGRESS_SECONDS - time.monotonic())
        done, waiting = wait(waiting, timeout=pause, return_when=FIRST_COMPLETED)
        yield from done
        if waiting and time.monotonic() - logged >= PROGRESS_SECONDS:
            logged = time.monotonic()
            running = ", ".join(sorted(tasks[task] for task in waiting if task.running()))
            log.info("%s: %d of %d tables are done; running: %s", name, len(tasks) - len(waiting), len(tasks), running)
