"""What Moodle overwrites stays known from the first run on."""

from __future__ import annotations

import datetime as dt

import pytest
from moodle_lakehouse.curated import versions
from moodle_lakehouse.lake import contracts, table_names, tables
from pyspark.sql import DataFrame, SparkSession
from raw_rows import at, rows, written

TABLE = table_names.DIM_RESOURCE_VERSION


def moment(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def resources(spark: SparkSession, *states: tuple[int, int | None, bool]) -> DataFrame:
    found = [(cmid, None if due is None else moment(due), visible) for cmid, due, visible in states]
    return tables.local_rows(spark, found, "cmid bigint, due_at timestamp, visible boolean")


def logged(spark: SparkSession, *changes: tuple[int, int]) -> DataFrame:
    return tables.local_rows(spark, list(changes), "cmid bigint, changed bigint")


def no_rows(spark: SparkSession) -> DataFrame:
    return tables.local_rows(spark, [], contracts.ddl(TABLE))


@pytest.fixture
def first(spark: SparkSession) -> DataFrame:
    """What the first run, at 100, wrote of three resources."""
    present = resources(spark, (1, 500, True), (2, None, True), (3, 700, True))
    return written(versions.versions(present, logged(spark, (1, 50)), TABLE, no_rows(spark), None, moment(100)))


def test_the_first_states_hold_since_ever(first: DataFrame) -> None:
    assert rows(first, "cmid", "version", "due_at", "visible", "valid_from", "valid_to") == [
        (1, 1, at(500), True, None, None), (2, 1, None, True, None, None), (3, 1, at(700), True, None, None)
    ]  # fmt: skip


def test_a_change_is_dated_by_the_log_or_by_who_saw_it_first(spark: SparkSession, first: DataFrame) -> None:
    """An event from before the last look was of another change. What is gone keeps its state, what is new has begun since ever."""
    present = resources(spark, (1, 900, True), (2, None, False), (4, 300, True))
    changes = logged(spark, (1, 150), (2, 60))
    second = written(versions.versions(present, changes, TABLE, first, moment(100), moment(200)))
    columns = ("cmid", "version", "due_at", "visible", "valid_from", "valid_to")
    expected = [
        (1, 1, at(500), True, None, at(150)), (1, 2, at(900), True, at(150), None),
        (2, 1, None, True, None, at(200)), (2, 2, None, False, at(200), None),
        (3, 1, at(700), True, None, None), (4, 1, at(300), True, None, None),
    ]  # fmt: skip
    assert rows(second, *columns) == expected
    again = written(versions.versions(present, logged(spark, (1, 150)), TABLE, second, moment(200), moment(300)))
    assert rows(again, *columns) == expected, "nothing has changed"
    back = resources(spark, (1, 500, True))
    third = versions.versions(back, logged(spark), TABLE, again, moment(300), moment(400))
    assert rows(third.where("cmid = 1"), *columns) == [
        (1, 1, at(500), True, None, at(150)), (1, 2, at(900), True, at(150), at(400)), (1, 3, at(500), True, at(400), None)
    ]  # fmt: skip
