"""Decide which rows of the source are read: ranges of ids, and conditions in SQL of source and lake alike."""

from __future__ import annotations

from moodle_lakehouse.ingest.moodle_tables import TablePlan, private_number
from moodle_lakehouse.ingest.source_sql import TableExtent
from moodle_lakehouse.lake.table_names import quoted_name

RANGE_ROWS = 250_000  # a table with more rows is read in ranges of about this size

# InnoDB assigns an id when a row is written and shows the row when its transaction commits, so lower ids can appear
# after higher ones. At the 69 log rows a second of the Open University's busiest hour this is 12 minutes.
OVERLAP_IDS = 50_000
# Events are buffered for a request, times are set before the commit, and a restored log runs backwards by 1,531 s.
OVERLAP_SECONDS = 7_200


def all_of(*conditions: str | None) -> str | None:
    """Return the conjunction of conditions; None, which is no condition, is left out."""
    return " AND ".join(c for c in conditions if c) or None


def since(plan: TablePlan, watermark: int | None) -> str | None:
    """Return the condition for what may be new or different since a watermark; None: everything."""
    cursor = plan.cursor
    if cursor is None or watermark is None:
        return None
    overlap = OVERLAP_IDS if cursor == plan.id_column else OVERLAP_SECONDS
    return f"{quoted_name(cursor)} > {watermark - overlap}"


def until(plan: TablePlan, extent: TableExtent) -> str | None:
    """Return the condition that leaves out rows added after the extent was queried; None where no id tells."""
    if plan.id_column is None or extent.high is None:
        return None
    return f"{quoted_name(plan.id_column)} <= {private_number(extent.high)}"


def id_ranges(plan: TablePlan, extent: TableExtent, max_ranges: int) -> list[tuple[int, int]]:
    """Return ranges of ids, both ends included, that together hold the rows; none when they are read at once."""
    if plan.id_column is None or extent.low is None or extent.high is None or extent.rows <= RANGE_ROWS:
        return []
    parts = min(max_ranges, -(-extent.rows // RANGE_ROWS))
    width = -(-(extent.high - extent.low + 1) // parts)
    starts = range(extent.low, extent.high + 1, width)
    return [(start, min(start + width - 1, extent.high)) for start in starts]
