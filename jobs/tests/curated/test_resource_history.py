"""What the mart says of resources equals what was done to Moodle's tables between ingests, on a real server and Iceberg."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any

import pytest
from history_site import CALM, MARCH, TEACHER, Site, create, second
from mariadb import Server
from model_lake import follows_contract
from moodle_lakehouse import config
from moodle_lakehouse.curated import course_history, resource_history
from moodle_lakehouse.curated.courses import MODULE_CREATED, MODULE_DELETED
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.lake import table_names, tables, writers
from pyspark.sql import SparkSession
from pyspark.sql import functions as F


@pytest.fixture
def site(database: Server) -> Site:
    return create(database)


def mart(lake: SparkSession) -> dict[tuple[int, str], Any]:
    rows = lake.table(table_names.RESOURCE_HISTORY).collect()
    found = {(row["cmid"], row["change"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def shown(row: Any) -> tuple[Any, ...]:
    return row["name"], row["old"], row["new"], row["is_exact"], row["by_role"]


def mart_snapshots(lake: SparkSession) -> int:
    return lake.table(table_names.RESOURCE_HISTORY + ".snapshots").count()


def third(site: Site) -> None:
    """The deletion arrives in the log, one comes back into sight, text is edited, one comes and goes unseen."""
    site.log(MODULE_DELETED, 13, by=TEACHER, origin="cli", modulename="page")
    for table in ("course_modules", "page"):
        site.database.query(f"DELETE FROM mdl_{table} WHERE id = 13")
    site.change("course_modules", 12, "visible = 1")
    site.change("page", 10, "content = 'more', revision = revision + 1, timemodified = 5")
    site.log(MODULE_CREATED, 15, name="Mistake", modulename="page")
    site.log(MODULE_DELETED, 15, modulename="page")


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
    assert {key: shown(row) for key, row in at_first.items()} == {
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
    assert {key: shown(now[key]) for key in now.keys() - at_first.keys()} == {
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
    assert {key: shown(last[key]) for key in last.keys() - now.keys()} == {
        (12, "shown"): ("Slides", "hidden", "shown", False, None),
        (10, "edited"): ("Intro", None, None, False, None),
        (15, "added"): ("Mistake", None, None, True, "editingteacher"),
        (15, "removed"): ("Mistake", None, None, True, "editingteacher"),
        (14, "hidden"): ("New", "shown", "not on the course page", False, None),
        (11, "due date"): ("Exam", None, "2025-01-01 00:00", False, None),
    }
    assert shown(last[13, "removed"]) == ("Old", "1 Week 1", None, True, "editingteacher")  # known better since
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
    follows_contract(lake, table_names.RESOURCE_HISTORY)


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
    state = resource_history.read_state(lake)
    assert state is not None
    assert state.gaps == []
    site.change("course_modules", 11, "visible = 0")
    ingest_job.run(lake, moodle)
    site.change("course_modules", 14 - 1, "visible = 0")
    ingest_job.run(lake, moodle)
    expire()
    resource_history.run(lake)
    state = resource_history.read_state(lake)
    assert state is not None
    assert [gap[0] for gap in state.gaps] == ["course_modules"]
    assert not {(11, "hidden"), (13, "hidden")} & mart(lake).keys()
    period = course_history.period("2024-01-01", None)
    notes = course_history.collect(lake, course_history.find_course(lake, "ALG-24"), period)["notes"]
    assert any("is lost, its snapshots had expired" in note for note in notes)


def record(lake: SparkSession, state: dict[str, Any]) -> None:
    """Leave a state with the mart as another release would have."""
    nothing = tables.local_rows(lake, [], lake.table(table_names.RESOURCE_HISTORY).schema)
    summary = {resource_history.HistoryState.PROPERTY: json.dumps(state)}
    writers.append(nothing, table_names.RESOURCE_HISTORY, run_id="other", summary=summary)


def test_states_of_other_releases(lake: SparkSession, site: Site, moodle: config.Config) -> None:
    ingest_job.run(lake, moodle)
    second(site)
    ingest_job.run(lake, moodle)
    resource_history.run(lake)
    made, state = mart(lake), resource_history.read_state(lake)
    assert state is not None
    keys = json.loads(state.model_dump_json())
    assert list(keys) == ["begins", "seen", "snapshots", "gaps", "made_from", "has_texts"]
    record(lake, {**keys, "later": {"a": 1}})
    assert resource_history.read_state(lake) == state
    record(lake, {key: keys[key] for key in ("begins", "seen", "snapshots")})
    assert resource_history.read_state(lake) == state.model_copy(
        update={"gaps": [], "made_from": "", "has_texts": True}
    )
    for broken in ({"seen": state.seen}, {**keys, "snapshots": "all"}):
        record(lake, broken)
        assert resource_history.read_state(lake) is None
        resource_history.run(lake, refresh=False)
        assert resource_history.read_state(lake) == state
        assert mart(lake) == made


def test_only_the_months_around_the_changes_are_read(lake: SparkSession) -> None:
    rows = [(dt.datetime(2024, month, 15), "viewed", "student", 1) for month in range(1, 13)]
    events = lake.createDataFrame(rows, "occurred_at timestamp, action string, role string, cmid bigint")
    writers.replace(events, table_names.FACT_EVENT, run_id="test", partition=F.months("occurred_at"))
    near = resource_history._between(
        lake.table(table_names.FACT_EVENT), dt.datetime(2024, 6, 1), dt.datetime(2024, 6, 3)
    )
    assert {row["occurred_at"].month for row in near.collect()} == {5, 6}
    plan = near._jdf.queryExecution().executedPlan().toString()  # type: ignore[operator]
    assert re.search(r"BatchScan [^\n]*filters=[^\]]*occurred_at >= [^\]]*occurred_at <= ", plan), plan
    assert resource_history._between(near, None, None).count() == 0
