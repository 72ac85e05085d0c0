"""Nothing from T or later survives the cut, and everything earlier does."""

from __future__ import annotations

import datetime as dt

import pytest
from moodle_lakehouse.errors import ConfigError, LakehouseError
from moodle_lakehouse.lake import point_in_time, table_names, writers
from pyspark.sql import SparkSession


def day(number: int) -> dt.datetime:
    return dt.datetime(2024, 1, number, tzinfo=dt.UTC)


def naive(number: int) -> dt.datetime:
    return dt.datetime(2024, 1, number)


@pytest.mark.parametrize(
    ("table", "column", "keeps_unknown"),
    [
        ("lakehouse.curated.fact_event", "occurred_at", False),
        ("fact_grade", "graded_at", False),
        ("fact_grade_change", "changed_at", False),
        ("fact_submission", "known_at", False),
        ("due_date_exception", "known_at", True),
        ("dim_course_version", "valid_from", True),
        ("dim_resource", "added_at", True),
        ("dim_user", "created_at", True),
    ],
)
def test_rows_from_the_moment_on_are_removed(spark: SparkSession, table: str, column: str, keeps_unknown: bool) -> None:
    columns, rest = f"id int, {column} timestamp", ()
    if table == "dim_resource":
        columns, rest = f"{columns}, is_deleted boolean, deleted_at timestamp", (False, None)
    elif table.endswith("_version"):
        columns, rest = f"{columns}, valid_to timestamp", (None,)
    rows = [(1, day(9), *rest), (2, day(10), *rest), (3, day(11), *rest), (4, None, *rest)]
    kept = point_in_time.cut(spark.createDataFrame(rows, columns), table, day(10))
    assert {row["id"] for row in kept.collect()} == ({1, 4} if keeps_unknown else {1})
    assert kept.schema == spark.createDataFrame(rows, columns).schema


def test_later_values_of_an_enrolment_are_blanked(spark: SparkSession) -> None:
    moments = ("enrolled_at", "unenrolled_at", "completed_at", "suspended_at")
    columns = "userid int, " + ", ".join(f"{name} timestamp" for name in moments)
    rows = [
        (1, day(1), day(5), None, None),
        (2, day(1), day(10), day(10), day(10)),
        (3, day(1), None, day(9), day(9)),
        (4, day(10), None, None, None),
    ]
    kept = (
        point_in_time.cut(spark.createDataFrame(rows, columns), "fact_enrolment", day(10)).orderBy("userid").collect()
    )
    assert [tuple(row) for row in kept] == [
        (1, naive(1), naive(5), None, None),
        (2, naive(1), None, None, None),
        (3, naive(1), None, naive(9), naive(9)),
    ]


def test_overwritten_values_are_those_of_the_moment(spark: SparkSession) -> None:
    """Of what has no states the present values stay; a state that begins at the moment is none yet."""
    held = {
        table_names.DIM_COURSE: spark.createDataFrame(
            [(1, "one", day(20), True), (2, "two", day(2), True), (3, "three", day(3), False)],
            "courseid int, shortname string, start_at timestamp, visible boolean",
        ),
        table_names.DIM_COURSE_VERSION: spark.createDataFrame(
            [
                (1, 1, day(1), False, None, day(5)),
                (1, 2, None, True, day(5), day(10)),
                (1, 3, day(20), True, day(10), None),
                (2, 1, day(2), True, None, None),
            ],
            "courseid int, version int, start_at timestamp, visible boolean, valid_from timestamp, valid_to timestamp",
        ),
    }

    def known(moment: dt.datetime | None) -> list[tuple[object, ...]]:
        rows = point_in_time.read(held.get, table_names.DIM_COURSE, moment)
        assert rows.columns == held[table_names.DIM_COURSE].columns
        return [tuple(row) for row in rows.orderBy("courseid").collect()]

    rest = [(2, "two", naive(2), True), (3, "three", naive(3), False)]
    assert known(day(5)) == [(1, "one", naive(1), False), *rest]
    assert known(day(10)) == [(1, "one", None, True), *rest]
    assert known(day(11)) == known(None) == [(1, "one", naive(20), True), *rest]
    with pytest.raises(LakehouseError, match="dim_resource is missing"):
        point_in_time.read(held.get, table_names.DIM_RESOURCE, None)


def test_resource_deleted_later_is_there(spark: SparkSession) -> None:
    columns = "cmid int, added_at timestamp, is_deleted boolean, deleted_at timestamp"
    rows = [(1, day(1), True, day(5)), (2, day(1), True, day(15)), (3, day(1), True, None), (4, day(1), False, None)]
    kept = point_in_time.cut(spark.createDataFrame(rows, columns), "dim_resource", day(10)).orderBy("cmid").collect()
    assert [(row["cmid"], row["is_deleted"], row["deleted_at"]) for row in kept] == [
        (1, True, naive(5)),
        (2, False, None),
        (3, True, None),
        (4, False, None),
    ]


def test_no_moment_means_no_cut_and_unknown_tables_are_refused(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1, day(1))], "id int, occurred_at timestamp")
    assert point_in_time.cut(df, "fact_event", None) is df
    with pytest.raises(ValueError, match="no rule for fact_else"):
        point_in_time.cut(df, "fact_else", None)


def test_table_of_an_earlier_release_is_named(spark: SparkSession) -> None:
    before = spark.createDataFrame([(1, 2)], "userid int, cmid int")
    with pytest.raises(LakehouseError, match=r"fact_submission .*known_at") as refused:
        point_in_time.cut(before, "lakehouse.curated.fact_submission", day(10))
    assert "run curate" in str(refused.value)


def test_mid_term_is_halfway_through_the_latest_term(lake: SparkSession) -> None:
    def course(number: int, start: dt.datetime | None, end: dt.datetime | None) -> tuple[object, ...]:
        return (number, start, end)

    def at(*date: int) -> dt.datetime:
        return dt.datetime(*date, tzinfo=dt.UTC)  # type: ignore[arg-type]

    courses = lake.createDataFrame(
        [
            course(1, at(2013, 10, 1), at(2014, 5, 1)),  # an earlier term
            course(2, at(2014, 9, 29), at(2015, 1, 19)),
            course(3, at(2014, 10, 6), at(2015, 1, 18)),
            course(4, at(2020, 1, 1), None),  # never ends: no term
            course(5, None, at(2030, 1, 1)),
        ],
        "courseid int, start_at timestamp, end_at timestamp",
    )
    writers.replace(courses, table_names.DIM_COURSE, run_id="test")
    assert point_in_time.resolve_as_of(lake, "mid-term") == at(2014, 11, 24)  # 112 days from 29 September


def test_moments_are_utc(lake: SparkSession) -> None:
    assert point_in_time.resolve_as_of(lake, "2014-02-01") == dt.datetime(2014, 2, 1, tzinfo=dt.UTC)
    assert point_in_time.parse("2014-02-01T10:00+02:00") == dt.datetime(2014, 2, 1, 8, tzinfo=dt.UTC)
    assert abs(point_in_time.resolve_as_of(lake, "now") - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=60)
    with pytest.raises(ConfigError, match="'soon' is no moment"):
        point_in_time.resolve_as_of(lake, "soon")


def test_mid_term_without_a_term_says_so(lake: SparkSession) -> None:
    with pytest.raises(LakehouseError, match="run ingest and curate first"):
        point_in_time.resolve_as_of(lake, "mid-term")
    endless = lake.createDataFrame([(1, day(1), None)], "courseid int, start_at timestamp, end_at timestamp")
    writers.replace(endless, table_names.DIM_COURSE, run_id="test")
    with pytest.raises(LakehouseError, match="No course has both a start and an end"):
        point_in_time.resolve_as_of(lake, "mid-term")
