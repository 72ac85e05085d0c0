"""What the mart says of resources equals what was done to Moodle's tables between ingests, on a real server and Iceberg."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mariadb import Server
from moodle_demo import schema
from moodle_lakehouse import config
from moodle_lakehouse.cli import main
from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.curated import resource_history
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.lake import session, table_names, writers
from pyspark.sql import SparkSession
from site_files import config_document
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


@pytest.fixture
def site(lake: SparkSession, database: Server) -> Site:
    """As it was before the first ingest; the log tells of earlier."""
    made = Site(database)
    made.add(10, "page", "Intro")
    made.add(11, "quiz", "Test")
    made.add(12, "resource", "Slides", section=22)
    made.add(13, "page", "Old")
    made.add(20, "page", "Calm", course=CALM)
    made.log(curated_job.MODULE_CREATED, 10, at=JANUARY, name="Introduction", modulename="page")
    made.log(curated_job.MODULE_UPDATED, 10, at=FEBRUARY, by=STRANGER, name="Intro", modulename="page")
    made.log(curated_job.MODULE_CREATED, 9, at=JANUARY, name="Gone", modulename="quiz")
    made.log(curated_job.MODULE_UPDATED, 9, at=FEBRUARY, name="Gone", modulename="quiz")
    made.log(curated_job.MODULE_DELETED, 9, at=MARCH, by=-1, origin="cli", modulename="quiz")
    made.log(curated_job.MODULE_CREATED, 12, at=JANUARY, origin=None, name="Of another course", modulename="resource")
    return made


def mart(lake: SparkSession) -> dict[tuple[int, str], Any]:
    rows = lake.table(table_names.RESOURCE_HISTORY).collect()
    found = {(row["cmid"], row["change"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def told(row: Any) -> tuple[Any, ...]:
    return row["name"], row["old"], row["new"], row["is_exact"], row["by_role"]


def mart_snapshots(lake: SparkSession) -> int:
    return lake.table(table_names.RESOURCE_HISTORY + ".snapshots").count()


def second(site: Site) -> None:
    """Renamed by the form, hidden and moved without a word, added, a due date set, one on its way out."""
    site.change("quiz", 11, "name = 'Exam', timemodified = 2")
    site.log(curated_job.MODULE_UPDATED, 11, name="Exam", modulename="quiz")
    site.change("course_modules", 12, "visible = 0")
    site.change("course_modules", 10, "section = 22")
    site.add(14, "page", "New")
    site.log(curated_job.MODULE_CREATED, 14, by=MANAGER, name="New", modulename="page")
    site.change("course_modules", 13, "deletioninprogress = 1")


def third(site: Site) -> None:
    """The deletion arrives in the log, one comes back into sight, text is edited, one comes and goes unseen."""
    site.log(curated_job.MODULE_DELETED, 13, by=TEACHER, origin="cli", modulename="page")
    for table in ("course_modules", "page"):
        site.database.query(f"DELETE FROM mdl_{table} WHERE id = 13")
    site.change("course_modules", 12, "visible = 1")
    site.change("page", 10, "content = 'more', revision = revision + 1, timemodified = 5")
    site.log(curated_job.MODULE_CREATED, 15, name="Mistake", modulename="page")
    site.log(curated_job.MODULE_DELETED, 15, modulename="page")


def fourth(site: Site) -> None:
    site.change("course_modules", 14, "visibleoncoursepage = 0")
    site.change("quiz", 11, "timeclose = 1735689600, timemodified = 9")


def views(lake: SparkSession, *rows: tuple[int, dt.datetime, str, str]) -> None:
    df = lake.createDataFrame(list(rows), "cmid bigint, occurred_at timestamp, action string, role string")
    writers.replace(df, table_names.FACT_EVENT, run_id="views")


def test_history_is_what_was_done_to_moodles_tables(
    lake: SparkSession, site: Site, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_all = dt.datetime.now(dt.UTC)
    ingest_job.run(lake, moodle)
    assert resource_history.run(lake) == 5
    at_first = mart(lake)
    assert {key: told(row) for key, row in at_first.items()} == {
        (10, "added"): ("Introduction", None, None, True, "editingteacher"),
        (10, "renamed"): ("Intro", "Introduction", "Intro", True, "other"),
        (9, "added"): ("Gone", None, None, True, "editingteacher"),
        (9, "edited"): ("Gone", None, None, True, "editingteacher"),
        (9, "removed"): ("Gone", None, None, True, "system"),
    }
    assert {row["source"] for row in at_first.values()} == {"log"}
    assert at_first[9, "removed"]["changed_at"].replace(tzinfo=dt.UTC).timestamp() == MARCH

    second(site)
    ingest_job.run(lake, moodle)
    resource_history.run(lake)
    now = mart(lake)
    assert {key: told(now[key]) for key in now.keys() - at_first.keys()} == {
        (11, "renamed"): ("Exam", "Test", "Exam", True, "editingteacher"),
        (12, "hidden"): ("Slides", "shown", "hidden", False, None),
        (10, "moved"): ("Intro", "1 Week 1", "2", False, None),
        (14, "added"): ("New", None, "1 Week 1", True, "manager"),
        (13, "removed"): ("Old", "1 Week 1", None, False, None),
    }
    assert all(now[key] == row for key, row in at_first.items())
    hidden = now[12, "hidden"]
    assert before_all.replace(tzinfo=None) <= hidden["seen_after"] < hidden["seen_by"] == hidden["changed_at"]

    third(site)
    ingest_job.run(lake, moodle)
    fourth(site)
    ingest_job.run(lake, moodle)
    day = dt.timedelta(days=1)
    seen = hidden["changed_at"]
    views(
        lake,
        (12, seen - 27 * day, "viewed", "student"), (12, seen - day, "viewed", "student"), (12, seen - 29 * day, "viewed", "student"),
        (12, seen - day, "viewed", "staff"), (12, seen - day, "submitted", "student"), (12, seen + day, "viewed", "student"),
        (20, seen - day, "viewed", "student"),
    )  # fmt: skip
    resource_history.run(lake)
    last = mart(lake)
    assert {key: told(last[key]) for key in last.keys() - now.keys()} == {
        (12, "shown"): ("Slides", "hidden", "shown", False, None),
        (10, "edited"): ("Intro", None, None, False, None),
        (15, "added"): ("Mistake", None, None, True, "editingteacher"),
        (15, "removed"): ("Mistake", None, None, True, "editingteacher"),
        (14, "hidden"): ("New", "shown", "not on the course page", False, None),
        (11, "due date"): ("Exam", None, "2025-01-01 00:00", False, None),
    }
    assert told(last[13, "removed"]) == ("Old", "1 Week 1", None, True, "editingteacher")  # known better since
    counted = {key: (row["views_before"], row["views_after"]) for key, row in last.items()}
    assert counted.pop((12, "hidden")) == (2, 1)
    assert counted.pop((12, "shown")) == (2, 1)
    assert set(counted.values()) == {(0, 0)}
    assert CALM not in {row["courseid"] for row in last.values()}

    made = mart_snapshots(lake)
    ingest_job.run(lake, moodle)
    with monkeypatch.context() as patch:
        patch.setattr(resource_history, "_update", None)
        assert resource_history.run(lake) == resource_history.run(lake, refresh=False) == len(last)
    assert mart_snapshots(lake) == made  # nothing new, nothing done
    views(lake, (12, seen - day, "viewed", "student"))
    resource_history.run(lake, refresh=False)
    assert mart(lake) == last
    resource_history.run(lake)
    last = mart(lake)
    assert (last[12, "hidden"]["views_before"], last[12, "hidden"]["views_after"]) == (1, 0)
    lake.sql(f"DROP TABLE {table_names.RESOURCE_HISTORY} PURGE")
    resource_history.run(lake)
    assert mart(lake) == last  # all in one go is the same as bit by bit


def test_mart_outlives_the_snapshots_and_says_what_they_took_along(
    lake: SparkSession, site: Site, moodle: config.Config
) -> None:
    def expire() -> None:
        lake.sql(
            "CALL lakehouse.system.expire_snapshots(table => 'raw.course_modules', retain_last => 1,"
            f" older_than => TIMESTAMP '{dt.datetime.now(dt.UTC) + dt.timedelta(days=1):%Y-%m-%d %H:%M:%S}')"
        )

    ingest_job.run(lake, moodle)
    site.change("course_modules", 12, "visible = 0")
    ingest_job.run(lake, moodle)
    resource_history.run(lake)
    expire()
    site.change("course_modules", 10, "visible = 0")
    ingest_job.run(lake, moodle)
    resource_history.run(lake)
    assert {(12, "hidden"), (10, "hidden")} <= mart(lake).keys()
    mark = resource_history.read_mark(lake)
    assert mark is not None
    assert mark.gaps == []
    site.change("course_modules", 11, "visible = 0")
    ingest_job.run(lake, moodle)
    site.change("course_modules", 14 - 1, "visible = 0")
    ingest_job.run(lake, moodle)
    expire()
    resource_history.run(lake)
    mark = resource_history.read_mark(lake)
    assert mark is not None
    assert [gap[0] for gap in mark.gaps] == ["course_modules"]
    assert not {(11, "hidden"), (13, "hidden")} & mart(lake).keys()
    period = resource_history.period("2024-01-01", None)
    notes = resource_history.collect(lake, resource_history.find_course(lake, "ALG-24"), period)["notes"]
    assert any("is lost, its snapshots had expired" in note for note in notes)


@pytest.fixture
def commands(lake: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line with the tests' session."""
    (tmp_path / "jobs.yml").write_text(yaml.safe_dump(config_document(tmp_path)))
    monkeypatch.setenv("LAKEHOUSE_CONFIG", str(tmp_path / "jobs.yml"))

    @contextlib.contextmanager
    def of_the_tests(*_: Any, **__: Any) -> Iterator[SparkSession]:
        yield lake

    monkeypatch.setattr(main, "_session", of_the_tests)


def test_verb_shows_a_course_between_two_dates(
    lake: SparkSession, site: Site, moodle: config.Config, commands: None, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest_job.run(lake, moodle)
    second(site)
    ingest_job.run(lake, moodle)
    assert main.run(["history", "--course", "alg-24", "--from", "2024-01-01", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["course"] == {"id": ALGEBRA, "shortname": "ALG-24", "fullname": "Algebra"}
    assert document["counts"] == {"added": 3, "edited": 1, "hidden": 1, "moved": 1, "removed": 2, "renamed": 2}
    assert document["notes"] == [note for note in document["notes"] if "history begins at" in note] != []
    assert [row["cmid"] for row in document["changes"] if row["change"] == "hidden"] == [12]
    arguments = ["history", "--course", str(ALGEBRA), "--from", "2024-01-15", "--to", "2024-03-01"]
    assert main.run(arguments) == 0
    out = capsys.readouterr().out
    assert "ALG-24 (2): Algebra" in out
    assert "Introduction → Intro" in out
    assert "1 edited, 1 renamed from 2024-01-15 00:00 to 2024-03-01 00:00" in out
    assert "history begins at" in out
    assert main.run(["history", "--course", "CALM", "--from", "2024-01-15"]) == 0
    assert "nothing changed" in capsys.readouterr().out
    assert main.run(["history", "--course", "ALG-25", "--from", "2024-01-15"]) == 1
    assert "did you mean ALG-24?" in capsys.readouterr().err
    with pytest.raises(LakehouseError, match="No course has the id or short name '99'"):
        resource_history.find_course(lake, "99")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "2024-02-01", "--to", "2024-01-01"], "--from 2024-02-01 00:00 is not before --to 2024-01-01 00:00"),
        (["--from", "2024-01-01", "--to", "2999-01-01"], "lies in the future"),
        (["--from", "2999-01-01"], "lies in the future"),
        (["--from", "yesterday"], "'yesterday' is no moment"),
        ([], "Missing option '--from'"),
    ],
)
def test_bad_dates_are_told_before_spark_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "jobs.yml").write_text(yaml.safe_dump(config_document(tmp_path)))
    monkeypatch.setenv("LAKEHOUSE_CONFIG", str(tmp_path / "jobs.yml"))
    monkeypatch.delattr(session, "create")
    assert main.run(["history", "--course", "x", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
