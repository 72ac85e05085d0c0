"""Whatever the source commits between the steps of an ingest, nothing is lost or doubled: on a real server and real Iceberg.

A state machine writes like Moodle (transactions that are committed late or not at all, changes, deletions, restores with
old times) before each step of a sync: each question to the source, each reading, each commit. In the end, after one more
sync without disturbance, the lake is what verify calls equal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pymysql
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.ingest import read_plan, source_sql, sync_steps, table_sync, verify
from moodle_lakehouse.ingest.connection_limit import ConnectionLimiter
from moodle_lakehouse.lake import staging, table_names, writers
from moodle_lakehouse.lake.availability import Watch
from pyspark.sql import SparkSession
from small_moodle import fill, plans

EXAMPLES = int(os.environ.get("LAKEHOUSE_TEST_EXAMPLES", "8"))  # of some 2 seconds
OVERLAP = 4  # ids of the log, and seconds of grades: what comes later is lost by design
TABLES = ("logstore_standard_log", "quiz_grades", "course")
STEPS = {
    source_sql: ("extent", "count", "checksum", "longest_row"),
    writers: ("replace", "merge", "add", "append"),
}


class Writers:
    """Moodle's processes. An id of the log is assigned when its row is written, and seen when that is committed."""

    def __init__(self, database: Server) -> None:
        self.database = database
        self.rows = database.connect()
        self.open: list[tuple[int, pymysql.Connection[Any]]] = []
        self.next_id, self.now = 1, 1_000
        self.deleted: dict[int, str] = {}
        for table in TABLES:
            self.query(f"DELETE FROM mdl_{table}")

    def query(self, sql: str) -> list[Any]:
        with self.rows.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def write(self, what: str, number: int) -> None:
        self.now += 1
        getattr(self, what)(number)

    def close(self) -> None:
        while self.open:
            self.rollback(0)
        self.rows.close()

    # The log

    def late(self, number: int) -> None:
        """Begin a transaction, and commit another one that was given a higher id."""
        if len(self.open) < 2:
            connection = self.database.connect()
            connection.begin()
            self._log(connection, 1 + number % 2)
            self._log(self.rows, 1)

    def commit(self, number: int) -> None:
        if self.open:
            _, connection = self.open.pop(number % len(self.open))
            connection.commit()
            connection.close()

    def rollback(self, number: int) -> None:
        if self.open:
            _, connection = self.open.pop(number % len(self.open))
            connection.rollback()
            connection.close()

    def log(self, number: int) -> None:
        self._log(self.rows, 1 + number % 3)

    def _log(self, connection: pymysql.Connection[Any], count: int) -> None:
        while self.open and self.next_id + count - 1 - self.open[0][0] >= OVERLAP:
            self.commit(0)  # no transaction takes longer than the overlap
        ids = range(self.next_id, self.next_id + count)
        with connection.cursor() as cursor:  # the times run backwards, as in a log that is restored
            cursor.executemany(
                "INSERT INTO mdl_logstore_standard_log (id, eventname, timecreated) VALUES (%s, 'a', %s)",
                [(i, self.now - i) for i in ids],
            )
        self.next_id += count
        if connection is not self.rows:
            self.open.append((ids[0], connection))

    def _seen(self) -> list[tuple[int, str]]:
        return self.query("SELECT id, eventname FROM mdl_logstore_standard_log ORDER BY id DESC")

    def delete(self, number: int) -> None:
        if len(seen := self._seen()) > 1:
            gone, event = seen[1 + number % (len(seen) - 1)]
            self.deleted[gone] = event
            self.query(f"DELETE FROM mdl_logstore_standard_log WHERE id = {gone}")

    def restore(self, number: int) -> None:
        recent = [i for i in self.deleted if i > self.next_id - OVERLAP]
        if recent:
            back = recent[number % len(recent)]
            self.query(
                f"INSERT INTO mdl_logstore_standard_log (id, eventname) VALUES ({back}, '{self.deleted.pop(back)}')"
            )

    def change(self, number: int) -> None:
        """There and back: a reader who asks before and after sees no difference."""
        recent = [(i, event) for i, event in self._seen() if i > self.next_id - OVERLAP]
        if recent:
            one, event = recent[number % len(recent)]
            new = "b" if event == "a" else "a"
            self.query(f"UPDATE mdl_logstore_standard_log SET eventname = '{new}' WHERE id = {one}")

    # Tables that are merged and compared

    def grade(self, number: int) -> None:
        self.query(f"REPLACE INTO mdl_quiz_grades VALUES ({number % 5}, {self.now % 2}, {self.now})")

    def old_grade(self, number: int) -> None:
        self.query(f"REPLACE INTO mdl_quiz_grades VALUES ({number % 5}, {self.now % 2}, {self.now - 3 * number})")

    def ungrade(self, number: int) -> None:
        self.query(f"DELETE FROM mdl_quiz_grades WHERE id = {number % 5}")

    def course(self, number: int) -> None:
        self.query(f"REPLACE INTO mdl_course VALUES ({number % 4}, '{'ab'[self.now % 2]}')")

    def uncourse(self, number: int) -> None:
        self.query(f"DELETE FROM mdl_course WHERE id = {number % 4}")


Write = tuple[str, int]


def rounds_of(
    table: str, first: tuple[str, ...], between: tuple[str, ...], others: tuple[str, ...]
) -> st.SearchStrategy[tuple[str, list[Write], list[tuple[int, Write]]]]:
    """A table, what is written before it is synced (one of first and others), and what before which of the sync's steps."""

    def write(*names: str) -> st.SearchStrategy[Write]:
        return st.tuples(st.sampled_from(names), st.integers(0, 5))

    # The first steps decide what is read, so that most is written there.
    steps = st.tuples(st.sampled_from((0, 0, 1, 1, 2, 3, 4, 5)), write(*between, *others))
    before = st.tuples(write(*first), st.lists(write(*first, *others), max_size=1)).map(
        lambda found: [found[0], *found[1]]
    )
    return st.tuples(st.just(table), before, st.lists(steps, max_size=3))


rounds = st.one_of(
    *[
        rounds_of(
            "logstore_standard_log",
            ("late", "log"),
            ("commit",) * 6,
            ("late", "log", "commit", "rollback", "delete", "restore", "change"),
        )
    ]
    * 4,
    rounds_of("quiz_grades", ("grade",), ("grade",), ("old_grade", "ungrade")),
    rounds_of("course", ("course",), ("course",), ("uncourse",)),
)


@contextmanager
def before_each_step(monkeypatch: pytest.MonkeyPatch, do: Any) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for module, names in STEPS.items():
            for name in names:
                patch.setattr(module, name, partial(_step, do, getattr(module, name)))
        yield


def _step(do: Any, real: Any, *arguments: Any, **options: Any) -> Any:
    do()
    return real(*arguments, **options)


def machine(lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch) -> Any:
    known, limiter, clock = plans(moodle), ConnectionLimiter(4), sync_steps.time.time

    class Interleaving(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.writers = Writers(database)
            self.synced: set[str] = set()

        def sync(self, table: str) -> None:
            if table not in self.synced:
                self.synced.add(table)
                lake.sql(f"DROP TABLE IF EXISTS {table_names.quoted(table_names.raw(table))} PURGE")
            try:
                table_sync.sync(lake, moodle, known[table], limiter, Watch(()))
            except LakehouseError as error:  # it moved too much while it was read, twice: the run fails and says so
                if error.remedy != "run ingest again":
                    raise

        @rule(one=rounds)
        def ingest(self, one: tuple[str, list[Write], list[tuple[int, Write]]]) -> None:
            table, before, meanwhile = one
            for write in before:
                self.writers.write(*write)
            steps = iter(range(1_000))

            def disturb() -> None:
                now = next(steps)
                for step, write in meanwhile:
                    if step == now:
                        self.writers.write(*write)

            with before_each_step(monkeypatch, disturb):
                self.sync(table)

        def teardown(self) -> None:
            self.writers.close()
            with monkeypatch.context() as patch:
                # Deletions that are hidden by as many restores wait for the daily comparison of everything.
                patch.setattr(sync_steps.time, "time", lambda: clock() + 21 * 3600)
                for table in self.synced:
                    table_sync.sync(lake, moodle, known[table], limiter, Watch(()))
                    check = verify.check(lake, moodle, known[table], limiter)
                    assert check.equal, check

    return Interleaving


def test_nothing_is_lost_or_doubled_whatever_the_source_commits_between_the_steps(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_plan, "OVERLAP_IDS", OVERLAP)
    monkeypatch.setattr(read_plan, "OVERLAP_SECONDS", OVERLAP)
    fill(
        database,
        moodle,
        "CREATE TABLE `{p}quiz_grades` (`id` bigint(10) PRIMARY KEY, `grade` decimal(10,5), `timemodified` bigint(10))",
        "ALTER TABLE `{p}course` ADD `fullname` varchar(255)",
    )
    with staging.namespace(lake):
        run_state_machine_as_test(
            machine(lake, database, moodle, monkeypatch),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=4,
                deadline=None,
                database=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
