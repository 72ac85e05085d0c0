"""Name the part of the lakehouse that is away (store, catalog, cluster, source), wait for it a bounded time, and go on.

Iceberg, the store's client and Spark try again by themselves, silently and for minutes, and what they raise in the end
names a host at best. So one thread asks each part every few seconds whether it answers, says so on the console when one
does not, and knows it when a step fails.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import requests
from pyspark.sql import SparkSession

from moodle_lakehouse.errors import LakehouseError, reason
from moodle_lakehouse.lake import table_names

log = logging.getLogger(__name__)

CHECK_SECONDS = 10  # between two questions to a part
ANSWER_SECONDS = 5  # that an answer may take
MISSES = 2  # questions without an answer after which a part is away: named within half a minute
WAIT_SECONDS = 600  # that a part may be away before the run gives up
MAX_RETURNS = 5  # of parts, after which a step is not tried once more

Result = TypeVar("Result")


@dataclass(frozen=True)
class Part:
    """Something that a job needs. name: as messages begin; ask: returns why it does not answer, None when it does."""

    name: str
    where: str
    remedy: str
    ask: Callable[[], str | None]


class AwayError(LakehouseError):
    """A part did not answer. Exit code 1."""

    def __init__(self, part: Part, why: str) -> None:
        super().__init__(f"{part.name} does not answer: {why}", where=part.where, remedy=part.remedy)


def of_lake(spark: SparkSession) -> list[Part]:
    """Return the catalog and the store of a session's lake, and its cluster, as far as they are services."""
    found = parts_of(lambda name: spark.conf.get(f"spark.sql.catalog.{table_names.CATALOG}.{name}", None))
    master = spark.sparkContext.master
    if master.startswith("spark://"):
        remedy = (
            "see that the master and the workers run (docker compose ps) and that no other application has all of their"
            " cores (the master's page, /spark/)"
        )
        found.append(Part("Spark's cluster", master, remedy, partial(no_executor, spark)))
    return found


def no_executor(spark: SparkSession) -> str | None:
    """Return that something runs in Spark for which there is no executor; None where there is one, or nothing runs."""
    context = spark.sparkContext
    if not context.statusTracker().getActiveJobsIds():
        return None  # those that have nothing to do end, and come back with the next job
    executors = context._jsc.sc().getExecutorMemoryStatus().size() - 1  # the driver is one
    return "it gives this run no executor" if executors < 1 else None


def parts_of(setting: Callable[[str], str | None]) -> list[Part]:
    """Return catalog and store by the settings of a Spark catalog (names without its prefix)."""
    remedy = "see that {} runs (docker compose ps, docker compose logs {}) and that its host is reachable from here"
    found, uri, endpoint = [], setting("uri"), setting("s3.endpoint")
    if setting("type") == "rest" and uri:
        user, password = setting("rest.auth.basic.username"), setting("rest.auth.basic.password")
        ask = partial(_http, f"{uri.rstrip('/')}/v1/config", (user, password or "") if user else None)
        found.append(Part("The catalog", uri, remedy.format("it", "rest edge"), ask))
    if endpoint:
        found.append(Part("The object store", endpoint, remedy.format("it", "minio"), partial(_http, endpoint, None)))
    return found


def _http(url: str, auth: tuple[str, str] | None) -> str | None:
    """Ask a web service; a refusal is an answer, and so is a certificate that this process does not know."""
    try:
        answer = requests.get(url, auth=auth, timeout=ANSWER_SECONDS, allow_redirects=False, stream=True)
        answer.close()
    except requests.exceptions.SSLError:
        return None
    except requests.exceptions.Timeout:
        return f"no answer within {ANSWER_SECONDS} s"
    except requests.exceptions.RequestException as error:
        return "the connection is refused" if "refused" in str(error) else type(error).__name__
    return f"it answers with status {answer.status_code}" if answer.status_code >= 500 else None


class Watch:
    """Ask parts in a thread of its own, from entering its context to leaving it. give_up: ends what the job does in Spark."""

    def __init__(self, parts: Iterable[Part], give_up: Callable[[], None] = lambda: None) -> None:
        self._parts, self._give_up = tuple(parts), give_up
        self._misses: dict[Part, int] = {}
        self._away: dict[Part, tuple[float, str]] = {}  # since when, and why
        self._was_away_at = float("-inf")
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self.gave_up: AwayError | None = None

    def __enter__(self) -> Self:
        if self._parts:
            threading.Thread(target=self._run, name="availability", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Name the part that is away in place of an error that does not."""
        self._ended.set()
        if isinstance(error, Exception) and not isinstance(error, LakehouseError):
            self._look(MISSES)
            for part, (_since, why) in self._away.items():
                raise AwayError(part, why) from error

    def wait(self, began: float) -> bool:
        """Return whether a part was away since a moment (time.monotonic), once all are back.

        Raises AwayError when one stays away for WAIT_SECONDS.
        """
        self._look(MISSES)
        with self._changed:
            if not self._away and self._was_away_at < began:
                return False
            while self._away:
                self._refuse()
                self._changed.wait(timeout=1)
            self._refuse()
            return True

    def keep_trying(self, do: Callable[[], Result]) -> Result:
        """Return what a step returns that may be done again; again whenever a part is back that was away meanwhile."""
        for _ in range(MAX_RETURNS):
            began = time.monotonic()
            try:
                return do()
            except LakehouseError:
                raise
            except Exception as error:
                if not self.wait(began):
                    raise
                log.info("%s; once more", reason(error))
        return do()

    def _run(self) -> None:
        while not self._ended.wait(CHECK_SECONDS):
            self._look(1)

    def _look(self, weight: int) -> None:
        """Ask every part; weight: of a missing answer, which counts at once where a step has failed."""
        for part in self._parts:
            why = part.ask()
            with self._changed:
                if why is None:
                    self._misses[part] = 0
                    if part in self._away:
                        since, _why = self._away.pop(part)
                        log.warning("%s answers again, after %.0f s", part.name, time.monotonic() - since)
                        self._changed.notify_all()
                    continue
                self._misses[part] = self._misses.get(part, 0) + weight
                self._was_away_at = time.monotonic()
                if self._misses[part] < MISSES:
                    continue
                if part not in self._away:
                    self._away[part] = (time.monotonic(), why)
                    log.warning("%s\n  it is waited for, for up to %.0f s", AwayError(part, why), WAIT_SECONDS)
                elif self.gave_up is None and time.monotonic() - self._away[part][0] > WAIT_SECONDS:
                    self.gave_up = AwayError(part, f"{why} (for {WAIT_SECONDS:.0f} s)")
                    log.warning("%s has been away for %.0f s: the run ends", part.name, WAIT_SECONDS)
                    self._give_up()

    def _refuse(self) -> None:
        if self.gave_up is not None:
            raise self.gave_up
