"""Whether a step has anything to do: the stamp of what its tables were made of, in the snapshots that it wrote.

A step that finds its own stamp on all of its tables leaves them alone, so that the lake's history holds changes only.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pyspark.sql import SparkSession

from moodle_lakehouse.lake import point_in_time, session, snapshots, tables

STAMP = "lakehouse.made-from"


def rows(spark: SparkSession, inputs: Iterable[str]) -> dict[str, int]:
    """The snapshot that last changed the rows of each table, by the table's name, where there is one."""
    found = {table: snapshots.newest_rows(tables.load(spark, table)) for table in sorted(inputs)}
    return {table: int(snapshot.snapshotId()) for table, snapshot in found.items() if snapshot is not None}


def stamp(inputs: Mapping[str, int], *settings: object) -> str:
    """16 hex digits that stand for the inputs (see rows), the settings (by their repr) and this package's code."""
    text = json.dumps([sorted(inputs.items()), [repr(one) for one in settings], _code()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def moment(as_of: dt.datetime | None) -> str | None:
    """As of when, for a stamp: of today the day, for what is known changes by the week and not by the second."""
    if as_of is None:
        return None
    when = point_in_time.utc(as_of)
    is_today = abs(dt.datetime.now(dt.UTC) - when) < dt.timedelta(days=1)
    return when.date().isoformat() if is_today else when.isoformat()


def summary(made_from: str) -> dict[str, str]:
    """What a write puts into its snapshot."""
    return {STAMP: made_from}


def is_current(spark: SparkSession, outputs: Iterable[str], made_from: str) -> bool:
    """Whether the newest rows of all the tables were made of just that."""
    return all(_stamp_of(tables.load(spark, table)) == made_from for table in outputs)


def _stamp_of(loaded: Any) -> str | None:
    snapshot = snapshots.newest_rows(loaded)
    found = None if snapshot is None else snapshot.summary().get(STAMP)
    return None if found is None else str(found)


@cache
def _code() -> str:
    digest = hashlib.sha256()
    for name, content in session.package_files():
        digest.update(name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()
