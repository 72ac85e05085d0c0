"""The recorded state of a raw table is read across releases, and what cannot be read never counts."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest import sync_state
from moodle_lakehouse.ingest.sync_state import SyncState
from moodle_lakehouse.lake import table_names, tables, writers
from pyspark.sql import SparkSession
from small_moodle import fill, insert, raw

STATE = SyncState(
    source="mdl_x", strategy="append", columns={"id": "BIGINT 0a1b2c3d"}, run_id="r", watermark=7,
    rows=7, full_at=1_700_000_000, commit="c0ffee",
)  # fmt: skip
WRITTEN = (
    '{"source":"mdl_x","strategy":"append","columns":{"id":"BIGINT 0a1b2c3d"},"run_id":"r","watermark":7,'
    '"rows":7,"full_at":1700000000,"commit":"c0ffee"}'
)


def loaded(*notes: str | None) -> Any:
    """Return a loaded table whose snapshots, newest first, carry these notes."""
    made = [
        SimpleNamespace(
            snapshotId=lambda i=i: i,
            parentId=lambda i=i: i + 1 if i + 1 < len(notes) else None,
            timestampMillis=lambda: 0,
            summary=lambda note=note: {} if note is None else {sync_state.SyncState.PROPERTY: note},
        )
        for i, note in enumerate(notes)
    ]
    return SimpleNamespace(name=lambda: "raw.x", currentSnapshot=lambda: made[0], snapshot=lambda i: made[i])


def test_state_is_written_and_read_with_the_same_keys() -> None:
    assert STATE.summary() == {"lakehouse.ingest": WRITTEN}
    assert sync_state.read(loaded(None, WRITTEN)) == STATE


def test_unknown_keys_are_ignored() -> None:
    newer = json.dumps({**json.loads(WRITTEN), "checksum": "7:ab", "lag_seconds": 3, "details": {"a": [1]}})
    assert sync_state.read(loaded(newer)) == STATE


@pytest.mark.parametrize(
    ("key", "default"),
    [("run_id", ""), ("watermark", None), ("full_at", 0)],
)
def test_missing_keys_with_a_default_are_defaulted(key: str, default: Any) -> None:
    older = {k: v for k, v in json.loads(WRITTEN).items() if k != key}
    assert sync_state.read(loaded(json.dumps(older))) == STATE.model_copy(update={key: default})


@pytest.mark.parametrize(
    "note",
    [
        *(
            json.dumps({k: v for k, v in json.loads(WRITTEN).items() if k != key})
            for key in ("source", "columns", "rows")
        ),
        json.dumps({**json.loads(WRITTEN), "watermark": "high"}),
        "[]",
        "null",
        "no json",
        "",
    ],
)
def test_note_without_essentials_is_none_and_hides_older_ones(note: str) -> None:
    """Rows were committed after the older state, so its watermark no longer holds."""
    assert sync_state.read(loaded(note, WRITTEN)) is None


def test_table_whose_state_is_unreadable_is_read_again(
    lake: SparkSession, database: Server, moodle: config.Config
) -> None:
    fill(database, moodle)
    insert(database, "INSERT INTO mdl_logstore_standard_log (id, eventname) VALUES (%s, 'e')", [(1,), (2,), (3,)])
    ingest_job.run(lake, moodle)
    table = table_names.raw("logstore_standard_log")
    nothing = lake.table(table).limit(0)
    newest = sync_state.read(tables.load(lake, table))
    assert newest is not None

    def record(note: dict[str, Any]) -> None:
        writers.append(nothing, table, run_id="other", summary={sync_state.SyncState.PROPERTY: json.dumps(note)})

    record({**newest.model_dump(), "of another release": 1})
    log = {row.table: row for row in ingest_job.run(lake, moodle).tables}["logstore_standard_log"]
    assert (log.rows_read, log.changed) == (0, False)
    database.query("DELETE FROM mdl_logstore_standard_log WHERE id = 1")
    record({"watermark": 3})
    log = {row.table: row for row in ingest_job.run(lake, moodle).tables}["logstore_standard_log"]
    assert log.inserted == 2
    assert [row["id"] for row in raw(lake, "logstore_standard_log")] == [1, 2, 3]  # the purged one stays
    assert sync_state.read(tables.load(lake, table)) is not None
