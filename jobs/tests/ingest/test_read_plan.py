"""Ranges of ids cover the rows, and conditions select what a strategy asks for."""

from __future__ import annotations

import dataclasses

import pytest
from moodle_lakehouse.ingest import moodle_tables, read_plan
from moodle_lakehouse.ingest.source_sql import TableExtent


@pytest.mark.parametrize(
    ("low", "high", "rows", "max_ranges", "expected"),
    [
        (1, 10, 1000, 4, [(1, 3), (4, 6), (7, 9), (10, 10)]),
        (5, 5, 1000, 4, [(5, 5)]),
        (1, 10, 1000, 1, [(1, 10)]),
        (1, 10, 100, 4, []),
    ],
)
def test_ranges_cover_every_id_once(
    monkeypatch: pytest.MonkeyPatch, low: int, high: int, rows: int, max_ranges: int, expected: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(read_plan, "RANGE_ROWS", 100)
    column = moodle_tables.SourceColumn("id", "bigint", "bigint(10)")
    plan = moodle_tables.plan(moodle_tables.load(), {"mdl_role": [column]}, prefix="mdl_", privacy="keep").tables[0]
    assert read_plan.id_ranges(plan, TableExtent(rows, low, high), max_ranges) == expected


@pytest.mark.parametrize(
    ("strategy", "cursor", "watermark", "expected"),
    [
        ("append", "id", 60_000, "`id` > 10000"),
        ("merge", "timemodified", 10_000, "`timemodified` > 2800"),
        ("merge", "timemodified", None, None),
        ("snapshot", "timemodified", 10_000, None),
        ("merge", "fullname", 10_000, None),
    ],
)
def test_recent_rows_overlap_the_watermark(
    strategy: str, cursor: str, watermark: int | None, expected: str | None
) -> None:
    columns = [
        moodle_tables.SourceColumn("id", "bigint", "bigint(10)", primary=True),
        moodle_tables.SourceColumn("timemodified", "bigint", "bigint(10)"),
    ]
    plan = moodle_tables.plan(moodle_tables.load(), {"mdl_role": columns}, prefix="mdl_", privacy="keep").tables[0]
    plan = dataclasses.replace(plan, table=dataclasses.replace(plan.table, strategy=strategy, cursor=cursor))
    assert read_plan.since(plan, watermark) == expected


def test_conditions_are_joined() -> None:
    assert read_plan.all_of(None, "a", None, "b") == "a AND b"
    assert read_plan.all_of(None, None) is None
