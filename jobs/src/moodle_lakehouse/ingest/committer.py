"""Commit to a raw table so that each commit arrives once, and none on top of another run's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from pyspark.sql import SparkSession

from moodle_lakehouse.errors import LakehouseError, reason
from moodle_lakehouse.ingest import sync_state
from moodle_lakehouse.ingest.sync_state import LakeChecksums, SyncState
from moodle_lakehouse.lake import snapshots, tables, writers

log = logging.getLogger(__name__)

_UNKNOWN_OUTCOME = "CommitStateUnknownException"


class SyncAgainError(Exception):
    """What was read or committed is not certain: sync the table once more, comparing all rows if compare_all."""

    def __init__(self, message: str, *, compare_all: bool) -> None:
        super().__init__(message)
        self.compare_all = compare_all


class OvertakenError(LakehouseError):
    """Another run committed to the table since it was read."""

    def __init__(self, table: str) -> None:
        super().__init__(
            "Another run wrote this table meanwhile; nothing of this one was written to it",
            where=table,
            remedy="let one ingest end before the next begins, then run it again",
        )


class Committer:
    """Commit to one table; `loaded` is what it was when the sync began, None before its first load."""

    def __init__(self, spark: SparkSession, table: str, loaded: Any) -> None:
        self.spark, self.table, self.loaded = spark, table, loaded

    def commit(self, state: SyncState, write: Callable[[], None]) -> None:
        """Run a write that commits this state; when it ends in an error, find out whether the commit arrived."""
        try:
            write()
        except Exception as error:
            if self._has_arrived(state):
                log.warning("%s: the commit is in the table, though it ended in: %s", self.table, reason(error))
            elif writers.was_overtaken(error):
                raise OvertakenError(self.table) from error
            elif _UNKNOWN_OUTCOME in str(error):
                raise SyncAgainError(f"the commit did not arrive: {reason(error)}", compare_all=False) from error
            else:
                raise

    def commit_validated(self, state: SyncState, write: Callable[[], None]) -> None:
        """Commit what is validated against other commits: those of maintenance are a reason to sync again, not to fail."""
        try:
            self.commit(state, write)
        except OvertakenError as error:
            if self.holds_loaded_rows():
                raise SyncAgainError("maintenance rewrote the files to be changed", compare_all=False) from error
            raise

    def commit_state(self, state: SyncState) -> None:
        """Commit a state and no rows."""
        nothing = tables.local_rows(self.spark, [], self.spark.table(self.table).schema)
        self.commit(state, lambda: writers.append(nothing, self.table, run_id=state.run_id, summary=state.summary()))

    def as_committed(self, state: SyncState) -> Any:
        """Return the table as it is after the commit of a state, loaded; None when another run has committed since then."""
        loaded = tables.load(self.spark, self.table)
        found = sync_state.newest(loaded)
        return loaded if found is not None and found.state.commit == state.commit else None

    def record_checksums(self, loaded: Any, checksums: LakeChecksums) -> None:
        """Keep the checksums of the loaded table's rows with it; no snapshot is made."""
        change = loaded.updateProperties()
        for name, text in checksums.summary().items():
            change.set(name, text)
        change.commit()

    def holds_loaded_rows(self) -> bool:
        """Return whether the table still holds the rows of `loaded`: maintenance may have moved them to other files."""
        now, then = snapshots.newest_rows(tables.load(self.spark, self.table)), snapshots.newest_rows(self.loaded)
        return then is not None and now is not None and now.snapshotId() == then.snapshotId()

    def _has_arrived(self, state: SyncState) -> bool:
        try:
            return sync_state.has_arrived(self.spark, self.table, state)
        except Exception as error:  # then the next run finds out
            log.warning("%s: whether the commit arrived cannot be determined: %s", self.table, reason(error))
            return False
