"""Small curated tables made by hand, for the tests of features, model, evaluation, clusters and report."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from moodle_lakehouse import config as configuration
from moodle_lakehouse.curated import activity
from moodle_lakehouse.dropout import features, learner
from moodle_lakehouse.lake import contracts, table_names, tables, writers
from pyspark.sql import DataFrame, SparkSession
from site_files import config_document

SCHEMAS = {table: contracts.ddl(table) for table in table_names.CURATED if table != table_names.DIM_USER}


def follows_contract(spark: SparkSession, table: str) -> None:
    """Compare a table's columns with its contract: names, types and order; a site's own columns stand at the end."""
    found = [(f.name, f.dataType.simpleString()) for f in spark.table(table).schema.fields]
    contract = contracts.CONTRACTS[table]
    own = tuple(column.name for column in contract.prefixes)
    assert [pair for pair in found if not (own and pair[0].startswith(own))] == [
        (c.name, c.type) for c in contract.columns
    ]


def day(start: dt.datetime, days: float) -> dt.datetime:
    return start + dt.timedelta(days=days)


def key(userid: int) -> str:
    """A key from which the tests can tell the number (see number): what is made of it must not care how it looks."""
    return f"{userid:016x}"


def number(user_key: str) -> int:
    return int(user_key, 16)


class Lake:
    """Rows of curated tables, in memory until write() or sources()."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in SCHEMAS}
        self.starts: dict[int, dt.datetime] = {}
        self.due: dict[int, dt.datetime | None] = {}
        self.modname: dict[int, str] = {}
        self.course_of: dict[int, int] = {}

    def course(
        self,
        courseid: int,
        start: dt.datetime,
        days: float | None = 28,
        shortname: str | None = None,
        category: int = 1,
    ) -> None:
        self.starts[courseid] = start
        end = None if days is None else day(start, days)
        self.rows[table_names.DIM_COURSE].append(
            (courseid, shortname or f"C{courseid}", f"Course {courseid}", category, start, end, True)
        )

    def resource(
        self,
        cmid: int,
        courseid: int,
        modname: str,
        due: float | None = None,
        deleted: float | None = None,
        added: float = -20,
    ) -> None:
        start = self.starts[courseid]
        deleted_at = None if deleted is None else day(start, deleted)
        self.due[cmid] = None if due is None else day(start, due)
        self.modname[cmid], self.course_of[cmid] = modname, courseid
        self.rows[table_names.DIM_RESOURCE].append(
            (
                cmid, courseid, modname, cmid, f"{modname} {cmid}", 1, day(start, added), self.due[cmid], True,
                deleted is not None, deleted_at,
            )
        )  # fmt: skip

    def enrol(
        self,
        userid: int,
        courseid: int,
        at: float = -5,
        left: float | None = None,
        completed: float | None = None,
        suspended: float | None = None,
        is_exact: bool = True,
    ) -> None:
        start = self.starts[courseid]
        self.rows[table_names.FACT_ENROLMENT].append(
            (
                key(userid),
                courseid,
                day(start, at),
                None if left is None else day(start, left),
                suspended is not None,
                None if suspended is None else day(start, suspended),
                None if suspended is None else is_exact,
                None if completed is None else day(start, completed),
            )
        )

    def act(self, userid: int, cmid: int, days: float, crud: str = "r", **changed: Any) -> None:
        """One log row in a module."""
        courseid, modname = self.course_of[cmid], self.modname[cmid]
        row = {
            "event_id": len(self.rows[table_names.FACT_EVENT]),
            "occurred_at": day(self.starts[courseid], days),
            "user_key": key(userid),
            "courseid": courseid,
            "cmid": cmid,
            "modname": modname,
            "component": f"mod_{modname}",
            "eventname": f"\\mod_{modname}\\event\\course_module_viewed",
            "action": "viewed" if crud == "r" else "submitted",
            "target": "course_module",
            "crud": crud,
            "edulevel": 2,
            "role": "student",
            **changed,
        }
        self.rows[table_names.FACT_EVENT].append(tuple(row.values()))

    def change(self, cmid: int, days: float, due: float | None, visible: bool = True) -> None:
        """A teacher sets a resource's date and visibility anew, so many days after its course's start."""
        start, resources = self.starts[self.course_of[cmid]], self.rows[table_names.DIM_RESOURCE]
        place = next(place for place, row in enumerate(resources) if row[0] == cmid)
        *rest, due_at, was_visible, is_deleted, deleted_at = resources[place]
        former = [row for row in self.rows[table_names.DIM_RESOURCE_VERSION] if row[0] == cmid]
        since = former[-1][-1] if former else None
        version = (cmid, len(former) + 1, due_at, was_visible, since, day(start, days))
        self.rows[table_names.DIM_RESOURCE_VERSION].append(version)
        self.due[cmid] = None if due is None else day(start, due)
        resources[place] = (*rest, self.due[cmid], visible, is_deleted, deleted_at)

    def submit(
        self, userid: int, cmid: int, days: float, status: str = "submitted", known: float | None = None
    ) -> None:
        courseid = self.course_of[cmid]
        at, since = (day(self.starts[courseid], when) for when in (days, days if known is None else known))
        self.rows[table_names.FACT_SUBMISSION].append(
            (courseid, cmid, self.modname[cmid], key(userid), 1, at, since, self.due[cmid], status)
        )

    def grade(
        self, userid: int, cmid: int, days: float, fraction: float | None, weight: float = 1.0, extra: bool = False
    ) -> None:
        courseid = self.course_of[cmid]
        at = day(self.starts[courseid], days)
        item = (cmid, courseid, cmid, self.modname[cmid], key(userid))
        value = None if fraction is None else float(fraction)
        self.rows[table_names.FACT_GRADE].append((*item, value, float(weight), extra, None, at))
        self.rows[table_names.FACT_GRADE_CHANGE].append((*item, at, value, float(weight), extra))

    def total(self, userid: int, courseid: int, days: float, fraction: float, to_pass: float | None = None) -> None:
        """A course's total, last set so many days after its start."""
        row = (courseid, key(userid), float(fraction), to_pass, day(self.starts[courseid], days))
        self.rows[table_names.FACT_COURSE_GRADE].append(row)

    def extend(self, userid: int, cmid: int, days: float | None, known: float | None = None) -> None:
        """A due date of one student's own; None: none. known: when it was given; None: nobody knows."""
        start = self.starts[self.course_of[cmid]]
        own, since = (None if when is None else day(start, when) for when in (days, known))
        self.rows[table_names.DUE_DATE_EXCEPTION].append((self.course_of[cmid], cmid, key(userid), own, since))

    def attribute(self, userid: int, courseid: int, name: str, value: float) -> None:
        self.rows[table_names.ENROLMENT_ATTRIBUTE].append((key(userid), courseid, name, value))

    def profile(self, userid: int, field: str, value: str) -> None:
        row = (key(userid), field, value)
        if row not in self.rows[table_names.USER_ATTRIBUTE]:
            self.rows[table_names.USER_ATTRIBUTE].append(row)

    def frame(self, spark: SparkSession, table: str) -> DataFrame:
        rows = self.rows[table]
        if table == table_names.DIM_RESOURCE_VERSION:
            rows = [*rows, *self._newest()]
        return tables.local_rows(spark, rows, SCHEMAS[table])

    def _newest(self) -> list[tuple[Any, ...]]:
        """The resources as they are, as versions."""
        former = self.rows[table_names.DIM_RESOURCE_VERSION]
        found = []
        for row in self.rows[table_names.DIM_RESOURCE]:
            before = [version for version in former if version[0] == row[0]]
            found.append((row[0], len(before) + 1, row[7], row[8], before[-1][-1] if before else None, None))
        return found

    def sources(self, spark: SparkSession, cut: Any = None, attributes: Sequence[str] = ()) -> features.Sources:
        """The tables as features.build takes them; cut: a function (frame, table) -> frame."""

        def known(table: str) -> DataFrame:
            frame = self.frame(spark, table)
            return cut(frame, table) if cut else frame

        return features.Sources(
            courses=known(table_names.DIM_COURSE),
            enrolments=activity.of_this_run(known(table_names.FACT_ENROLMENT), known(table_names.DIM_COURSE)),
            events=known(table_names.FACT_EVENT),
            resources=known(table_names.DIM_RESOURCE),
            versions=known(table_names.DIM_RESOURCE_VERSION),
            submissions=known(table_names.FACT_SUBMISSION),
            grades=known(table_names.FACT_GRADE_CHANGE),
            totals=known(table_names.FACT_COURSE_GRADE),
            exceptions=known(table_names.DUE_DATE_EXCEPTION),
            attributes=known(table_names.ENROLMENT_ATTRIBUTE) if attributes else None,
            attribute_names=tuple(attributes),
        )

    def write(self, spark: SparkSession) -> None:
        """The tables into the lake."""
        tables.ensure_namespaces(spark)
        for table in SCHEMAS:
            writers.replace(self.frame(spark, table), table, run_id="test")


# Of a small site the leaves must be smaller, else no tree grows.
SMALL_XGB_PARAMS = {**learner.XGB_PARAMS, "n_estimators": 30, "min_child_weight": 20.0}

# Three terms of six weeks; AS_OF stands in the middle of the third.
TERMS = (
    dt.datetime(2024, 2, 5, tzinfo=dt.UTC),
    dt.datetime(2024, 9, 2, tzinfo=dt.UTC),
    dt.datetime(2025, 2, 3, tzinfo=dt.UTC),
)
AS_OF = TERMS[2] + dt.timedelta(days=22)
WEEKS = 6


def small_site(students: int = 70, terms: Iterable[int] = (0, 1, 2), courses: int = 2, seed: int = 1) -> Lake:
    """Terms of courses in which engagement shows in everything a student does, and decides who completes."""
    rng = np.random.default_rng(seed)
    lake = Lake()
    for term in terms:
        for number in range(courses):
            courseid = 10 * (term + 1) + number
            first = term * 1000 + number * 100 + 100
            busy_course(lake, rng, courseid, TERMS[term], f"K{number}-{term}", range(first, first + students))
    return lake


def busy_course(
    lake: Lake, rng: np.random.Generator, courseid: int, start: dt.datetime, name: str, students: Iterable[int]
) -> None:
    """A course of six weeks with students in it."""
    lake.course(courseid, start, 7 * WEEKS, name)
    cmids = [courseid * 10 + i for i in range(6)]
    for cmid, (modname, due) in zip(
        cmids,
        [("page", None), ("quiz", 10.0), ("assign", 17.0), ("forum", None), ("resource", None), ("quiz", 31.0)],
        strict=True,
    ):
        lake.resource(cmid, courseid, modname, due)
    for student in students:
        _student(lake, rng, courseid, cmids, student)


def _student(lake: Lake, rng: np.random.Generator, courseid: int, cmids: Sequence[int], userid: int) -> None:
    effort = rng.normal()
    leaves = rng.uniform(8, 7 * WEEKS) if effort + rng.normal() < -1.4 else None
    completes = leaves is None and effort + 0.7 * rng.normal() > -0.2
    lake.enrol(userid, courseid, -rng.uniform(1, 40), leaves, 7 * WEEKS - 0.5 if completes else None)
    active_until = leaves or 7 * WEEKS
    for at in np.sort(rng.uniform(-3, active_until, max(1, int(12 + 6 * effort)))):
        lake.act(userid, int(rng.choice(cmids)), float(at), "r" if rng.random() < 0.8 else "u")
    for cmid in cmids:
        due = lake.due[cmid]
        if due is None:
            continue
        at = (due - lake.starts[courseid]).days - rng.uniform(0, 4)
        if at < active_until and rng.random() < 1 / (1 + np.exp(-1.2 - 1.8 * effort)):
            lake.submit(userid, cmid, at)
            lake.grade(userid, cmid, at + 2, float(np.clip(0.6 + 0.15 * effort + 0.1 * rng.normal(), 0.05, 1)))


def settings_in(folder: Path, **analytics: Any) -> configuration.Config:
    """A configuration whose MLflow is a folder."""
    document: dict[str, Any] = config_document(folder)
    document["mlflow"]["tracking_uri"] = (folder / "mlflow").as_uri()
    document["analytics"].update(analytics)
    return configuration.parse(document, "test")


def empty(spark: SparkSession) -> None:
    for table in (
        *SCHEMAS, table_names.ENROLMENT_WEEK, table_names.STUDENT_RISK, table_names.COURSE_CLUSTER, table_names.MODEL_CARD
    ):  # fmt: skip
        spark.sql(f"DROP TABLE IF EXISTS {table} PURGE")
