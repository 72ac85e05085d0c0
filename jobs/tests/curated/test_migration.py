"""A lake of release 0.1.0, which wrote users' ids where analysts read, becomes one of this release."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from moodle_lakehouse.config import Config
from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.curated import migration, user_keys
from moodle_lakehouse.lake import contracts, snapshots, table_names, tables, writers
from pyarrow import parquet
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from raw_rows import event, kept, raw

ANNA, BEN, GONE = 2, 3, 4  # Moodle has no row of the last
READABLE = ("curated", "features", "marts")
RISK = (
    "run_id string, as_of timestamp, scored_at timestamp, userid bigint, user_key string, courseid bigint, week int,"
    " probability double, band string, change double, reason_1 string, reason_2 string, reason_3 string,"
    " model_version string, data_snapshots map<string,bigint>"
)  # as of 0.1.0
FINGERPRINT = {"lakehouse.made-from": "0123"}


def old_key(userid: int) -> str:
    return f"{userid:016d}"


def scores(lake: SparkSession, run: str, *people: int) -> None:
    rows = [
        (run, None, None, person, old_key(person), 9, 3, 0.5, "medium", None, "x", None, None, "1", {"a": 1})
        for person in people
    ]
    writers.append(tables.local_rows(lake, rows, RISK), table_names.STUDENT_RISK, run_id=run, summary=FINGERPRINT)


@pytest.fixture
def old(lake: SparkSession) -> SparkSession:
    """What 0.1.0 left: two runs of each job, a tag, and a file of a commit that failed."""
    for table in contracts.RAW_COLUMNS:
        rows: list[dict[str, Any]] = [{"id": n, "timecreated": 5} for n in (ANNA, BEN)] if table == "user" else []
        if table == "logstore_standard_log":
            rows = [event(1, r"\core\event\course_viewed", 1_700_000_000, userid=ANNA, courseid=9)]
        writers.replace(raw(lake, table, *rows), table_names.raw(table), run_id="a")
    users = tables.local_rows(
        lake, [(n, old_key(n), False) for n in (ANNA, BEN, GONE)], "userid bigint, user_key string, is_deleted boolean"
    )
    log = users.withColumns({"event_id": F.col("userid"), "occurred_at": F.timestamp_seconds(F.col("userid"))})
    for _ in range(2):
        writers.replace(users, table_names.DIM_USER, run_id="a")
        writers.replace(log, table_names.FACT_EVENT, run_id="a", partition=F.months("occurred_at"))
        writers.replace(users.withColumn("week", F.lit(1)), table_names.ENROLMENT_WEEK, run_id="a")
        writers.replace(lake.range(1).toDF("courseid"), table_names.COURSE_CLUSTER, run_id="a")
    scores(lake, "one", ANNA, GONE)
    scores(lake, "two", ANNA, BEN)
    lake.sql(f"ALTER TABLE {table_names.STUDENT_RISK} CREATE TAG kept")
    lake.sql(f"ALTER TABLE {table_names.STUDENT_RISK} CREATE BRANCH tried")
    lake.sql(f"ALTER TABLE {table_names.DIM_USER} CREATE TAG kept")
    for file in [*files(lake, "marts"), *files(lake, "curated")]:
        file.with_name(f"failed-{file.name}").write_bytes(file.read_bytes())
    return lake


def files(lake: SparkSession, *folders: str) -> dict[Path, str]:
    """The data files below some folders of the warehouse, whatever names them, with their tables' names."""
    warehouse = Path(str(lake.conf.get(f"spark.sql.catalog.{table_names.CATALOG}.warehouse")))
    found = [file for name in folders for file in (warehouse / name).rglob("*.parquet")]
    return {file: file.relative_to(warehouse).parts[1] for file in found}


def with_ids(lake: SparkSession) -> set[str]:
    """The tables where analysts read that have a file with users' ids."""
    return {table for file, table in files(lake, *READABLE).items() if "userid" in parquet.read_schema(file).names}


def check(lake: SparkSession, settings: Config) -> None:
    key = settings.privacy.key()
    risk = lake.table(table_names.STUDENT_RISK)
    assert risk.columns == [name for name in contracts.names(table_names.STUDENT_RISK) if name in risk.columns]
    assert {(row["run_id"], row["user_key"], row["probability"]) for row in risk.collect()} == {
        (run, user_keys.pseudonym_of(key, person), 0.5)
        for run, people in {"one": (ANNA, GONE), "two": (ANNA, BEN)}.items()
        for person in people
    }
    assert set(kept(lake)) == {ANNA, BEN, GONE}, "earlier scores can be told and erased"
    loaded = tables.load(lake, table_names.STUDENT_RISK)
    assert snapshots.records(loaded) == FINGERPRINT, "what jobs recorded goes on"
    assert sum(1 for _ in loaded.snapshots()) == 1
    assert list(dict(loaded.refs())) == ["main"]
    assert with_ids(lake) == set()
    assert len(files(lake, "marts/student_risk")) == int(loaded.currentSnapshot().summary()["total-data-files"])


def test_no_file_with_ids_is_left_where_analysts_read(
    old: SparkSession, settings: Config, caplog: pytest.LogCaptureFixture
) -> None:
    assert with_ids(old) == {"dim_user", "fact_event", "enrolment_week", "student_risk"}
    others = snapshots.snapshot_id(tables.load(old, table_names.COURSE_CLUSTER))
    own = table_names.STUDENT_RISK.replace("student_risk", "own")
    writers.replace(tables.local_rows(old, [(1,)], "userid bigint"), own, run_id="a")
    with caplog.at_level(logging.WARNING, logger="moodle_lakehouse"):
        curated_job.run(old, settings)
    assert f"{own} holds users' ids" in caplog.text
    old.sql(f"DROP TABLE {own} PURGE")
    check(old, settings)
    assert old.table(table_names.DIM_USER).count() == 2
    assert not tables.exists(old, table_names.ENROLMENT_WEEK), "features makes it anew"
    assert snapshots.snapshot_id(tables.load(old, table_names.COURSE_CLUSTER)) == others

    caplog.clear()
    before = [
        snapshots.snapshot_id(tables.load(old, name)) for name in (*table_names.CURATED, table_names.STUDENT_RISK)
    ]
    assert migration.run(old, settings) == {}
    curated_job.run(old, settings)
    after = [snapshots.snapshot_id(tables.load(old, name)) for name in (*table_names.CURATED, table_names.STUDENT_RISK)]
    assert after == before
    assert "earlier release" not in caplog.text


@pytest.mark.parametrize("step", ["_rewrite", "_purge_history", "_drop"])
def test_interrupted_run_goes_on(
    old: SparkSession, settings: Config, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(migration, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            migration.run(old, settings)
    assert with_ids(old)
    assert migration.run(old, settings)["migrated"]
    check(old, settings)
    assert migration.run(old, settings) == {}


def test_folder_of_a_renamed_table_is_not_emptied() -> None:
    """Whoever renamed a table keeps it, and it keeps its folder, which is that of the table of its old name."""
    places = {"curated.dim_user": "s3://w/curated/dim_user/", "curated.mine": "s3://w/curated/mine/"}
    assert not migration._shares_folder(table_names.DIM_USER, "s3://w/curated/dim_user", places)
    places["curated.mine"] = "s3://w/curated/dim_user/"
    assert migration._shares_folder(table_names.DIM_USER, "s3://w/curated/dim_user", places)


def test_lake_that_holds_no_ids_costs_a_look(lake: SparkSession, settings: Config) -> None:
    writers.replace(lake.range(3).toDF("courseid"), table_names.DIM_COURSE, run_id="a")
    jobs = lake.sparkContext.statusTracker().getJobIdsForGroup(None)
    assert migration.run(lake, settings) == {}
    assert lake.sparkContext.statusTracker().getJobIdsForGroup(None) == jobs
    assert not tables.exists(lake, table_names.USER_KEY)
