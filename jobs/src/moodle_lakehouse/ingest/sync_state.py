"""Record how far a raw table has come, in the summary of the snapshot that brought it there.

The state commits with the rows that it describes, in one snapshot, so neither exists without the other.
Maintenance commits snapshots without a state: the nearest ancestor's then counts.

What the lake's rows add up to is computed from them once they are there, and kept as a property of the table that names
the commit: checksums of what the source said would be of another moment than the rows that were read. A run that dies
between the two leaves a state without checksums, so that the next run compares.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from pyspark.sql import SparkSession

from moodle_lakehouse.ingest.moodle_tables import TablePlan
from moodle_lakehouse.lake import snapshots, tables

log = logging.getLogger(__name__)


class SyncState(snapshots.Record):
    """What a commit records of its table, as JSON.

    source: the full name there; strategy: the catalogue's; columns: name -> type and a hash of the SQL that reads it;
    rows: of the table; watermark: the highest id or cursor (None: there is none); full_at: seconds since 1970 when all
    rows were last compared; commit: this commit's own name.
    Defaults mean "not known".
    """

    PROPERTY = "lakehouse.ingest"

    source: str
    strategy: str
    columns: dict[str, str]
    run_id: str = ""
    watermark: int | None = None
    rows: int
    full_at: int = 0
    commit: str = Field(default_factory=lambda: secrets.token_hex(8))

    def is_of(self, plan: TablePlan) -> bool:
        """Return whether the plan reads just what was read then."""
        return (self.source, self.strategy, self.columns) == (plan.source, plan.table.strategy, columns(plan))

    def policy_differs(self, plan: TablePlan) -> bool:
        """Return whether a column that was read is now reduced otherwise, or dropped though the source has it."""
        now = columns(plan)
        gone = {name for name in self.columns if name not in now}
        return bool(gone & set(plan.dropped)) or any(
            _sql_hash(now[name]) != _sql_hash(text) for name, text in self.columns.items() if name in now
        )

    def same_sql(self, plan: TablePlan) -> set[str]:
        """Return the columns that are still read by the same SQL."""
        now = columns(plan)
        return {name for name, text in self.columns.items() if name in now and _sql_hash(now[name]) == _sql_hash(text)}


class LakeChecksums(snapshots.Record):
    """What the lake's rows add up to after a commit, as the source computes it of its own (row_checksum).

    recent: of the rows that the next run checks first; whole: of all, for strategy merge. None: not known.
    """

    PROPERTY = "lakehouse.ingest.checksums"

    commit: str
    recent: str | None = None
    whole: str | None = None

    @classmethod
    def of_state(cls, loaded: Any, state: SyncState) -> LakeChecksums:
        """Return the checksums of a state's commit; without any where its run ended before they were computed."""
        found = cls.parse(loaded.properties().get(cls.PROPERTY))
        return found if found is not None and found.commit == state.commit else cls(commit=state.commit)


def columns(plan: TablePlan) -> dict[str, str]:
    """Return each column's type and a short hash of the SQL that reads it: it covers the privacy policy, not erasures."""
    return {
        c.name: f"{c.spark_type} {hashlib.sha256((c.policy or c.sql).encode()).hexdigest()[:8]}" for c in plan.columns
    }


def _sql_hash(column: str) -> str:
    return column.rpartition(" ")[2]


@dataclass(frozen=True)
class RecordedState:
    """A state and the snapshot that carries it."""

    state: SyncState
    snapshot_id: int
    committed_at: dt.datetime


def newest(loaded: Any) -> RecordedState | None:
    """Return the newest state of a loaded table and its snapshot; None when it has none, or one that cannot be read.

    An older state behind an unreadable one does not count: rows were committed since then.
    """
    for snapshot, text in _recorded(loaded):
        state = SyncState.parse(text)
        if state is None:
            log.warning("%s: what the last ingest recorded cannot be read: all rows are read again", loaded.name())
            return None
        committed_at = dt.datetime.fromtimestamp(snapshot.timestampMillis() / 1000, dt.UTC)
        return RecordedState(state, int(snapshot.snapshotId()), committed_at)
    return None


def read(loaded: Any) -> SyncState | None:
    """Return the newest state of a loaded table, as newest() does."""
    found = newest(loaded)
    return found.state if found else None


def has_arrived(spark: SparkSession, table: str, state: SyncState) -> bool:
    """Return whether the commit of this state is part of the table, for a commit that ended without an answer."""
    recorded = (SyncState.parse(text) for _, text in _recorded(tables.load(spark, table)))
    return any(found is not None and found.commit == state.commit for found in recorded)


def _recorded(loaded: Any) -> Iterator[tuple[Any, str]]:
    """Yield the snapshots that carry a state, newest first, and its JSON."""
    for snapshot in snapshots.ancestors(loaded):
        text = snapshot.summary().get(SyncState.PROPERTY)
        if text is not None:
            yield snapshot, text
