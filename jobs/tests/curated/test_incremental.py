"""fact_event after the log has grown: the same as if every month were rebuilt, and rebuilt where it has to be."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import pytest
from moodle_lakehouse.curated import events, incremental
from moodle_lakehouse.curated.roles import NO_END
from moodle_lakehouse.lake import snapshots, table_names, tables, writers
from pyspark.sql import SparkSession
from raw_rows import event, raw

COURSE = 10
JOINED = "users, roles or resources say something else of the time before 2024-03-01"
SPAN = "struct<since: bigint, until: bigint>"


def on(month: int, day: int = 10) -> int:
    return int(dt.datetime(2024, month, day, tzinfo=dt.UTC).timestamp())


def moment(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def view(number: int, time: int, userid: int = 2, cmid: int = 1) -> dict[str, Any]:
    place = {"contextlevel": 70, "contextinstanceid": cmid, "courseid": COURSE}
    return event(number, r"\mod_quiz\event\course_module_viewed", time, userid=userid, component="mod_quiz", **place)


class Site:
    """A raw log and what its rows are joined with, as curate has it."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark
        self.users = {2: on(1, 1), 3: on(1, 1)}  # when they were created
        self.staff: dict[int, tuple[int, int]] = {3: (on(1, 5), NO_END)}  # from when until when
        self.students: dict[int, tuple[int, int]] = {2: (on(1, 5), NO_END)}
        self.resources = {1: ("quiz", on(1, 1)), 2: ("quiz", on(1, 1))}  # kind, and when they were added
        self.rules = "these"
        for month in (1, 2, 3, 4):
            self.log(*[view(10 * month + n, on(month) + n, userid) for n, userid in enumerate((2, 3, 2))])
        self.update()

    def log(self, *rows: dict[str, Any]) -> None:
        writers.append(raw(self.spark, "logstore_standard_log", *rows), incremental.LOG, run_id="test")

    def joined(self) -> incremental.Joined:
        def made(schema: str, *rows: tuple[Any, ...]) -> Any:
            return tables.local_rows(self.spark, rows, schema)

        people = sorted(self.staff.keys() | self.students.keys())
        roles = [(userid, COURSE, self.staff.get(userid), self.students.get(userid)) for userid in people]
        return incremental.Joined(
            made(
                "userid bigint, user_key string, created_at timestamp",
                *[(userid, f"key{userid}", moment(created)) for userid, created in self.users.items()],
            ),
            self.spark.createDataFrame(roles, f"userid bigint, courseid bigint, staff {SPAN}, student {SPAN}"),
            made(
                "cmid bigint, modname string, added_at timestamp",
                *[(cmid, kind, moment(added)) for cmid, (kind, added) in self.resources.items()],
            ),
        )

    def files(self) -> dict[str, set[str]]:
        """The files of fact_event by month."""
        found: dict[str, set[str]] = {}
        if tables.exists(self.spark, table_names.FACT_EVENT):
            for path, least in self.spark.sql(
                f"SELECT file_path, readable_metrics.occurred_at.lower_bound FROM {table_names.FACT_EVENT}.files"
            ).collect():
                found.setdefault(f"{least:%b}", set()).add(path)
        return found

    def update(self) -> set[str]:
        """Bring fact_event up to date, and compare it with all that it should be; the months whose files stay."""
        before, joined = self.files(), self.joined()
        rows = self.spark.table(incremental.LOG)
        snapshot = snapshots.snapshot_id(tables.load(self.spark, incremental.LOG))
        assert snapshot is not None
        events.write(rows, snapshot, joined, rules=self.rules, summary={})
        expected = events.fact_event(rows, joined.user_keys, joined.resources, joined.roles)
        found = self.spark.table(table_names.FACT_EVENT)
        assert sorted(map(str, found.collect())) == sorted(map(str, expected.collect()))
        return {month for month, files in self.files().items() if before.get(month) == files}


@pytest.fixture
def site(lake: SparkSession) -> Site:
    return Site(lake)


def test_what_is_new_leaves_the_past_as_it_is(site: Site) -> None:
    assert set(site.files()) == {"Jan", "Feb", "Mar", "Apr"}
    site.log(view(50, on(3, 2)), view(51, on(5)), view(52, on(5), 4), view(53, on(5), 2, 3))
    site.users[4] = site.users[5] = on(5, 1)
    site.students[4], site.staff[2] = (on(5, 1), NO_END), (on(5, 2), NO_END)
    site.resources[3] = ("page", on(5, 1))
    assert site.update() == {"Jan", "Feb"}
    site.spark.sql(
        f"CALL lakehouse.system.rewrite_data_files(table => '{incremental.LOG}', options => map('rewrite-all', 'true'))"
    )
    site.students[2] = (on(1, 5), on(6, 1))
    site.log(view(60, on(6, 2)))
    assert site.update() == {"Jan", "Feb", "Mar"}


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        pytest.param(
            lambda site: site.log(view(50, on(2, 29))), "rows from before 2024-03-01 came to the log", id="a late row"
        ),
        pytest.param(
            lambda site: site.spark.sql(f"DELETE FROM {incremental.LOG} WHERE id < 20"),
            "rows of the log were changed or removed",
            id="a purge",
        ),
        pytest.param(lambda site: site.staff.update({2: (on(1, 5), on(2, 1))}), JOINED, id="a role at that time"),
        pytest.param(lambda site: site.users.update({9: on(1, 1)}), JOINED, id="a person of that time"),
        pytest.param(lambda site: site.users.pop(3), JOINED, id="an erased person"),
        pytest.param(
            lambda site: site.resources.update({1: ("page", on(1, 1))}), JOINED, id="another kind of resource"
        ),
        pytest.param(
            lambda site: setattr(site, "rules", "others"), "the code or the settings have changed", id="other rules"
        ),
    ],
)
def test_what_tells_of_the_past_rebuilds_it(
    site: Site, happens: Callable[[Site], object], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    happens(site)
    with caplog.at_level("INFO"):
        assert site.update() == set()
    assert f"every month is rebuilt, since {why}" in caplog.text


@pytest.mark.parametrize(
    ("change", "is_usable"),
    [
        pytest.param({"later": 1}, True, id="a newer release's key"),
        pytest.param({"rules": None}, False, id="an older release without an essential key"),
        pytest.param({"before": "March"}, False, id="another meaning"),
    ],
)
def test_records_of_other_releases(site: Site, change: dict[str, Any], is_usable: bool) -> None:
    found = incremental.recorded(site.spark, table_names.FACT_EVENT)
    assert found is not None
    assert list(json.loads(found.summary()[incremental.Past.PROPERTY])) == ["before", "log", "joined", "rules"]
    record = {k: v for k, v in {**json.loads(found.model_dump_json()), **change}.items() if v is not None}
    nothing = tables.local_rows(site.spark, [], site.spark.table(table_names.FACT_EVENT).schema)
    writers.append(
        nothing, table_names.FACT_EVENT, run_id="test", summary={incremental.Past.PROPERTY: json.dumps(record)}
    )
    assert incremental.recorded(site.spark, table_names.FACT_EVENT) == (found if is_usable else None)
    assert site.update() == ({"Jan", "Feb"} if is_usable else set())
