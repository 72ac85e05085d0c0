"""Skip a step whose inputs are unchanged, by the fingerprint of its inputs in the snapshots that it wrote.

A step that finds the current fingerprint on all of its tables leaves them alone, so that the lake's history holds changes only.
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

FINGERPRINT = "lakehouse.made-from"


def rows(spark: SparkSession, inputs: Iterable[str]) -> dict[str, int]:
    """Return the id of the snapshot that last changed the rows of each table, by the table's name, where there is one."""
    found = {table: snapshots.newest_rows(tables.load(spark, table)) for table in sorted(inputs)}
    return {table: int(snapshot.snapshotId()) for table, snapshot in found.items() if snapshot is not None}


def stamp(inputs: Mapping[str, int], *settings: object) -> str:
    """Return 16 hex digits that stand for the inputs (see rows), the settings (by their repr) and this package's code."""
    text = json.dumps([sorted(inputs.items()), [repr(one) for one in settings], _code()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def moment(as_of: dt.datetime | None) -> str | None:
    """Return a moment for a fingerprint, to the second: a course's week may end at any hour of a day."""
    return None if as_of is None else point_in_time.utc(as_of).isoformat(timespec="seconds")


def summary(fingerprint: str) -> dict[str, str]:
    """Return what a write puts into its snapshot's summary."""
    return {FINGERPRINT: fingerprint}


def is_current(spark: SparkSession, outputs: Iterable[str], fingerprint: str) -> bool:
    """Return whether the newest rows of all the tables carry the fingerprint."""
    return all(_fingerprint_of(tables.load(spark, table)) == fingerprint for table in outputs)


def _fingerprint_of(loaded: Any) -> str | None:
    snapshot = snapshots.newest_rows(loaded)
    found = None if snapshot is None else snapshot.summary().get(FINGERPRINT)
    return None if found is None else str(found)


@cache
def _code() -> str:
    digest = hashlib.sha256()
    for name, content in session.package_files():
        digest.update(name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()
