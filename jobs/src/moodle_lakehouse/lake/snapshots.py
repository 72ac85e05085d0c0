"""Read a table's snapshots: their ids, their order, what jobs recorded in their summaries, and their expiry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pyspark.sql import SparkSession

from moodle_lakehouse.lake import table_names

RUN_ID = "lakehouse.run-id"  # in the summary of every snapshot


class Record(BaseModel):
    """What a job records in a snapshot's summary, as JSON under PROPERTY.

    Releases may differ in their keys: an unknown one is ignored, a missing one has its default.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    PROPERTY: ClassVar[str]

    def summary(self) -> dict[str, str]:
        """Return the properties of the snapshot that carries this record."""
        return {self.PROPERTY: self.model_dump_json()}

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Return the record of a property's text; None where there is none, or none that this release can use."""
        try:
            return None if text is None else cls.model_validate_json(text)
        except ValidationError:
            return None

    @classmethod
    def of(cls, loaded: Any) -> Self | None:
        """Return the record among the newest records of a loaded table, as parse() does."""
        return cls.parse(records(loaded).get(cls.PROPERTY))


def snapshot_id(loaded: Any) -> int | None:
    """Return the current snapshot's id of a loaded table; None before the first."""
    snapshot = loaded.currentSnapshot()
    return None if snapshot is None else int(snapshot.snapshotId())


def ancestors(loaded: Any) -> Iterator[Any]:
    """Yield the snapshots of a loaded table from the current one back to the oldest that has not expired; none of None."""
    snapshot = None if loaded is None else loaded.currentSnapshot()
    while snapshot is not None:
        yield snapshot
        parent = snapshot.parentId()
        snapshot = None if parent is None else loaded.snapshot(parent)


def newest_rows(loaded: Any) -> Any:
    """Return the snapshot that last changed a loaded table's rows; maintenance's own only move them to other files."""
    found = None
    for snapshot in ancestors(loaded):
        found = snapshot
        if snapshot.operation() != "replace":
            break
    return found


def records(loaded: Any) -> dict[str, str]:
    """Return what jobs recorded in the newest snapshot with such a record: sync state, history, fingerprint.

    Any other commit has to carry it on, before the snapshots behind it expire.
    """
    return next((found for snapshot in ancestors(loaded) if (found := records_of(snapshot))), {})


def records_of(snapshot: Any) -> dict[str, str]:
    """Return what jobs recorded in a snapshot's summary, besides the run's id."""
    return {
        k: v for k, v in dict(snapshot.summary()).items() if k.startswith(f"{table_names.CATALOG}.") and k != RUN_ID
    }


def expire(spark: SparkSession, loaded: Any, *, older_than: int, keep: int) -> Any:
    """Expire snapshots from before a moment (milliseconds since 1970), and delete the files that they alone hold.

    Kept are the newest ones, so many, and what tags and branches keep. Returns Iceberg's numbers of deleted files.
    """
    jvm: Any = spark._jvm
    actions = jvm.org.apache.iceberg.spark.actions.SparkActions.get(spark._jsparkSession)
    return actions.expireSnapshots(loaded).expireOlderThan(older_than).retainLast(keep).execute()
