"""How far a raw table has come: the mark in the summary of the snapshot that brought it there.

The mark commits with the rows that it describes, in one snapshot, so neither is ever there without the other.
Maintenance commits snapshots without a mark: the nearest ancestor's then counts.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import SparkSession

from moodle_lakehouse.ingest.moodle_tables import TablePlan
from moodle_lakehouse.lake import snapshots, tables

PROPERTY = "lakehouse.ingest"


@dataclass(frozen=True)
class Mark:
    """What a commit says of its table.

    source: the full name there; strategy: the catalogue's; columns: name -> type and a hash of the SQL that reads it;
    watermark: the highest id or cursor (None: there is none); checksum: of the source's rows that the next run looks
    at first, whole: of all its rows, for strategy merge (None: they changed while they were read, or only a part was
    read); rows: of the table; full_at: seconds since 1970 when it was
    last compared whole; commit: this commit's own name.
    """

    source: str
    strategy: str
    columns: dict[str, str]
    run_id: str
    watermark: int | None
    checksum: str | None
    whole: str | None
    rows: int
    full_at: int
    commit: str = field(default_factory=lambda: secrets.token_hex(8))

    def summary(self) -> dict[str, str]:
        return {PROPERTY: json.dumps(dataclasses.asdict(self), separators=(",", ":"))}

    def is_of(self, plan: TablePlan) -> bool:
        """Whether the plan reads just what was read then."""
        then, now = (self.source, self.strategy, self.columns), (plan.source, plan.table.strategy, columns(plan))
        return then == now

    def policy_differs(self, plan: TablePlan) -> bool:
        """Whether a column that was read is now reduced otherwise, or dropped though the source has it."""
        now = columns(plan)
        gone = {name for name in self.columns if name not in now}
        return bool(gone & set(plan.dropped)) or any(
            _sql(now[name]) != _sql(text) for name, text in self.columns.items() if name in now
        )

    def same_sql(self, plan: TablePlan) -> set[str]:
        """The columns that are still read as they were."""
        now = columns(plan)
        return {name for name, text in self.columns.items() if name in now and _sql(now[name]) == _sql(text)}


_FIELDS = {f.name for f in dataclasses.fields(Mark)}


def columns(plan: TablePlan) -> dict[str, str]:
    """name -> type and a short hash of the SQL that reads the column: the privacy policy is in it, not who was erased."""
    return {
        c.name: f"{c.spark_type} {hashlib.sha256((c.policy or c.sql).encode()).hexdigest()[:8]}" for c in plan.columns
    }


def _sql(text: str) -> str:
    return text.rsplit(" ", 1)[1]


@dataclass(frozen=True)
class Marked:
    """A snapshot that carries a mark. back: how many snapshots it is behind the current one."""

    mark: Mark
    snapshot_id: int
    committed_at: dt.datetime
    back: int


def newest(loaded: Any) -> Marked | None:
    """The snapshot of a loaded table whose mark counts; None when it has none."""
    return next(_marked(loaded), None)


def read(loaded: Any) -> Mark | None:
    """The mark of a loaded table; None when it has none."""
    found = newest(loaded)
    return found.mark if found else None


def arrived(spark: SparkSession, table: str, mark: Mark) -> bool:
    """Whether the commit of this mark is part of the table: asked when a commit ended without an answer."""
    loaded = tables.load(spark, table)
    return loaded is not None and any(found.mark.commit == mark.commit for found in _marked(loaded))


def _marked(loaded: Any) -> Iterator[Marked]:
    for back, snapshot in enumerate(snapshots.ancestors(loaded)):
        text = snapshot.summary().get(PROPERTY)
        document = json.loads(text) if text is not None else {}
        if set(document) == _FIELDS:  # another version's mark tells nothing: the table is then read anew
            committed_at = dt.datetime.fromtimestamp(snapshot.timestampMillis() / 1000, dt.UTC)
            yield Marked(Mark(**document), int(snapshot.snapshotId()), committed_at, back)
