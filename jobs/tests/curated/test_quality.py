"""Data-quality checks of the curated tables, on rows that break one rule each."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

import pytest
from model_lake import small_site
from moodle_lakehouse.curated import quality
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import table_names, writers
from pyspark.sql import SparkSession


@pytest.fixture
def site(lake: SparkSession) -> SparkSession:
    """A small site's curated tables that break no rule."""
    small_site(students=4).write(lake)
    people = lake.table(table_names.FACT_ENROLMENT).selectExpr("user_key", "false AS is_deleted").distinct()
    writers.replace(people, table_names.DIM_USER, run_id="test")
    return lake


def results(spark: SparkSession) -> dict[str, tuple[Any, ...]]:
    """violations, example and stops of the latest run's checks, by table and name."""
    rows = spark.table(table_names.DATA_QUALITY).orderBy("checked_at").collect()
    return {f"{row['table']}: {row['check']}": (row["violations"], row["example"], row["stops"]) for row in rows}


def test_sound_tables_pass_and_are_not_checked_twice(site: SparkSession) -> None:
    quality.check(site, fresh=False)
    found = results(site)
    assert {row[0] for row in found.values()} == {0}
    assert len(found) == len(quality.GRAINS) + sum(
        len(rules) for rules in (*quality.REFERENCES.values(), *quality.RANGES.values())
    )
    before = site.table(table_names.DATA_QUALITY).count()
    quality.check(site, fresh=False)
    assert site.table(table_names.DATA_QUALITY).count() == before


def test_old_log_is_told_where_it_should_be_fresh(site: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="moodle_lakehouse"):
        quality.check(site, fresh=True)
    assert "curated.fact_event: 1 of" in caplog.text
    assert "goes up to 3 days ago (ends " in caplog.text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("INSERT INTO curated.fact_event SELECT * FROM curated.fact_event LIMIT 1", "one row for each event_id"),
        ("DELETE FROM curated.dim_user WHERE user_key = (SELECT min(user_key) FROM curated.fact_enrolment)", "is in dim_user (event_id"),
        ("UPDATE curated.fact_event SET occurred_at = NULL WHERE event_id = (SELECT min(event_id) FROM curated.fact_event)",
         "has a moment (event_id "),
    ],
    ids=["doubled", "unknown person", "no moment"],
)  # fmt: skip
def test_what_makes_results_wrong_stops(site: SparkSession, change: str, told: str) -> None:
    site.sql(change)
    for _ in range(2):  # the second time from what was found the first time
        with pytest.raises(LakehouseError, match="not fit for use") as caught:
            quality.check(site, fresh=False)
        assert told in str(caught.value)
    assert {row["stops"] for row in site.table(table_names.DATA_QUALITY).where("violations > 0").collect()} == {True}


def test_oddities_are_told_and_go_on(site: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    site.sql("UPDATE curated.fact_grade SET fraction = -1 WHERE fraction > 0.5")
    future = dt.datetime.now(dt.UTC) + dt.timedelta(days=9)
    site.sql(
        f"UPDATE curated.fact_event SET occurred_at = TIMESTAMP '{future:%Y-%m-%d %H:%M:%S}', cmid = 987654"
        " WHERE event_id = (SELECT max(event_id) FROM curated.fact_event)"
    )
    with caplog.at_level(logging.WARNING, logger="moodle_lakehouse"):
        quality.check(site, fresh=False)
    found = results(site)
    assert found["curated.fact_event: is not of the future"][0] == 1
    assert found["curated.fact_event: cmid is in dim_resource"][0] == 1
    assert found["curated.fact_grade: is no negative grade"][0] > 0
    assert "is no negative grade (itemid " in caplog.text
