"""A small Moodle whose resources change between ingests, for tests of their history."""

from __future__ import annotations

import datetime as dt
import json
import time
from typing import Any

from mariadb import Server
from moodle_demo import schema
from moodle_lakehouse.curated.courses import MODULE_CREATED, MODULE_DELETED, MODULE_UPDATED
from small_moodle import put

MADE = (
    "course", "user", "logstore_standard_log", "course_modules", "course_sections", "modules", "page", "quiz", "resource",
    "context", "role", "role_assignments",
)  # fmt: skip
MODULES = {1: "page", 2: "quiz", 3: "resource"}
ALGEBRA, CALM = 2, 3
TEACHER, MANAGER, STRANGER = 5, 6, 7
JANUARY, FEBRUARY, MARCH = (int(dt.datetime(2024, m, 10, tzinfo=dt.UTC).timestamp()) for m in (1, 2, 3))


class Site:
    """A small Moodle whose resources a test changes as Moodle does."""

    def __init__(self, database: Server) -> None:
        self.database = database
        for name in MADE:
            database.query(schema.tables()[name].create("mdl_", keys=False))
        self.put("modules", *({"id": i, "name": name} for i, name in MODULES.items()))
        self.put(
            "course",
            {"id": 1},
            {"id": ALGEBRA, "shortname": "ALG-24", "fullname": "Algebra"},
            {"id": CALM, "shortname": "CALM"},
        )
        self.put(
            "course_sections",
            {"id": 21, "course": ALGEBRA, "section": 1, "name": "Week 1"},
            {"id": 22, "course": ALGEBRA, "section": 2},
        )
        self.put(
            "context",
            {"id": 3, "contextlevel": 40, "path": "/1/3"},
            {"id": 9, "contextlevel": 50, "instanceid": ALGEBRA, "path": "/1/3/9"},
        )
        self.put(
            "role",
            {"id": 1, "archetype": "manager"},
            {"id": 3, "archetype": "editingteacher"},
            {"id": 5, "archetype": "student"},
        )
        self.put(
            "role_assignments",
            {"id": 1, "roleid": 3, "contextid": 9, "userid": TEACHER},
            {"id": 2, "roleid": 5, "contextid": 9, "userid": TEACHER},
            {"id": 3, "roleid": 1, "contextid": 3, "userid": MANAGER},
        )

    def put(self, table: str, *rows: dict[str, Any]) -> None:
        put(self.database, table, *rows)

    def add(self, cmid: int, kind: str, name: str, *, course: int = ALGEBRA, section: int = 21, **columns: Any) -> None:
        module = next(i for i, n in MODULES.items() if n == kind)
        self.put(kind, {"id": cmid, "course": course, "name": name, "timemodified": 1})
        self.put(
            "course_modules",
            {"id": cmid, "course": course, "module": module, "instance": cmid, "section": section, **columns},
        )

    def log(
        self,
        event: str,
        cmid: int,
        *,
        at: int | None = None,
        by: int = TEACHER,
        origin: str | None = "web",
        **other: Any,
    ) -> None:
        self.put("logstore_standard_log", {
            "eventname": event, "contextlevel": 70, "contextinstanceid": cmid, "courseid": ALGEBRA, "userid": by, "origin": origin,
            "other": json.dumps(other), "timecreated": int(time.time()) if at is None else at,
        })  # fmt: skip

    def change(self, table: str, cmid: int, assignment: str) -> None:
        self.database.query(f"UPDATE mdl_{table} SET {assignment} WHERE id = {cmid}")


def create(database: Server) -> Site:
    """Return the site as it was before the first ingest; its log tells of earlier."""
    made = Site(database)
    made.add(10, "page", "Intro")
    made.add(11, "quiz", "Test")
    made.add(12, "resource", "Slides", section=22)
    made.add(13, "page", "Old")
    made.add(20, "page", "Calm", course=CALM)
    made.log(MODULE_CREATED, 10, at=JANUARY, name="Introduction", modulename="page")
    made.log(MODULE_UPDATED, 10, at=FEBRUARY, by=STRANGER, name="Intro", modulename="page")
    made.log(MODULE_CREATED, 9, at=JANUARY, name="Gone", modulename="quiz")
    made.log(MODULE_UPDATED, 9, at=FEBRUARY, name="Gone", modulename="quiz")
    made.log(MODULE_DELETED, 9, at=MARCH, by=-1, origin="cli", modulename="quiz")
    made.log(MODULE_CREATED, 12, at=JANUARY, origin=None, name="Of another course", modulename="resource")
    return made


def second(site: Site) -> None:
    """Renamed by the form, hidden and moved without a word, added, a due date set, one on its way out."""
    site.change("quiz", 11, "name = 'Exam', timemodified = 2")
    site.log(MODULE_UPDATED, 11, name="Exam", modulename="quiz")
    site.change("course_modules", 12, "visible = 0")
    site.change("course_modules", 10, "section = 22")
    site.add(14, "page", "New")
    site.log(MODULE_CREATED, 14, by=MANAGER, name="New", modulename="page")
    site.change("course_modules", 13, "deletioninprogress = 1")
