"""maintain makes tables smaller and takes nothing that anybody needs: on real Iceberg tables, beside real ingests."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.cli import main
from moodle_lakehouse.errors import ConfigError, LakehouseError
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest import sync_state, sync_steps
from moodle_lakehouse.lake import maintenance, session, table_names, tables, writers
from pyspark.sql import SparkSession
from small_moodle import fill, insert, plans, raw, snapshots

LOG = "logstore_standard_log"
COURSE = "ALTER TABLE `{p}course` ADD `fullname` varchar(255), ADD `visible` tinyint(1)"


def policies(**numbers: Any) -> maintenance.Policies:
    """One rule for all tables: nothing is kept that need not be, and everything is joined."""
    rule = {"history_days": 0, "keep_snapshots": 1, "small_files": 2, "manifests": 2, "orphan_days": 3, **numbers}
    namespaces = {name: dict(rule) for name in table_names.NAMESPACES}
    return maintenance.parse({"namespaces": namespaces, "tables": {}, "sandbox": dict(rule)})


def log_rows(database: Server, ids: Sequence[int]) -> None:
    insert(database, f"INSERT INTO mdl_{LOG} (id, eventname) VALUES (%s, 'e')", [(i,) for i in ids])


def run(lake: SparkSession, *names: str, dry_run: bool = False, **numbers: Any) -> dict[str, maintenance.TableResult]:
    return {one.table: one for one in maintenance.run(lake, names, dry_run=dry_run, policies=policies(**numbers))}


def folder(lake: SparkSession, name: str) -> Path:
    return Path(tables.load(lake, table_names.raw(name)).location().removeprefix("file:"))


def files(place: Path) -> set[Path]:
    return {path for path in place.rglob("*") if path.is_file()}


def age(paths: set[Path]) -> None:
    """Make files ten days old."""
    for path in paths:
        os.utime(path, (time.time() - 864_000,) * 2)


def test_maintenance_of_what_is_old_keeps_rows_mark_tags_and_branches(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, moodle)
    for number in range(1, 5):
        log_rows(database, [number])
        ingest_job.run(lake, moodle)
    log = table_names.raw(LOG)
    made = snapshots(lake, LOG)
    assert len(made) == 4
    lake.sql(f"ALTER TABLE {log} CREATE BRANCH audit AS OF VERSION {made[0]}")
    lake.sql(f"ALTER TABLE {log} CREATE TAG term AS OF VERSION {made[1]}")
    mark = sync_state.read(tables.load(lake, log))
    # a table whose name begins with this one's, and the leftovers of a job that died long ago and of one that runs
    lake.sql(f"CREATE TABLE {log}_more AS SELECT * FROM {log}")
    home, neighbour = folder(lake, LOG), folder(lake, f"{LOG}_more")
    data = sorted(files(home / "data"))
    orphan, young = home / "data" / "dead-00000.parquet", home / "data" / "running-00000.parquet"
    uncommitted = home / "metadata" / "dead-m0.avro"
    for copy in (orphan, uncommitted):
        shutil.copy(data[-1], copy)
    age(files(home) | files(neighbour))
    shutil.copy(data[-1], young)
    before = files(home) | files(neighbour)

    told = run(lake, f"raw.{LOG}", dry_run=True)[f"raw.{LOG}"]
    assert told.before == told.after
    assert (told.before.files, told.before.snapshots, told.before.manifests) == (4, 4, 4)
    # without what is joined first, only the newest snapshot is needed; branch and tag hold two more
    assert (told.rewritten, told.written, told.expired, told.manifests_rewritten, told.orphans) == (4, 1, 1, 4, 2)
    assert [Path(path.removeprefix("file:")).name for path in told.orphan_paths] == [orphan.name, uncommitted.name]
    assert files(home) | files(neighbour) == before
    assert snapshots(lake, LOG) == made

    done = run(lake, f"raw.{LOG}", f"raw.{LOG}_more")
    assert not done[f"raw.{LOG}_more"].changed
    told = done[f"raw.{LOG}"]
    assert (told.rewritten, told.written, told.orphans, told.after.files, told.after.manifests) == (4, 1, 2, 1, 1)
    assert told.after.bytes < told.before.bytes
    assert told.note == ""
    assert not orphan.exists()
    assert not uncommitted.exists()
    assert young.exists()
    # those of branch and tag, the one with the mark, those of the joined files and manifests
    left = snapshots(lake, LOG)
    assert left[:3] == [made[0], made[1], made[3]]
    assert {row["operation"] for row in lake.table(f"{log}.snapshots").collect() if row["snapshot_id"] not in made} == {
        "replace"
    }
    assert told.after.snapshots == len(left)
    assert lake.sql(f"SELECT id FROM {log} VERSION AS OF 'term' ORDER BY id").collect() == [(1,), (2,)]
    assert lake.sql(f"SELECT id FROM {log} VERSION AS OF 'audit'").collect() == [(1,)]
    assert [row["id"] for row in raw(lake, LOG)] == [1, 2, 3, 4]
    assert lake.table(f"{log}_more").count() == 4
    assert sync_state.read(tables.load(lake, log)) == mark
    # the next ingest finds its mark and reads nothing; the next maintain has nothing to do
    with monkeypatch.context() as patch:
        patch.delattr(sync_steps.TableSync, "_read")
        assert not any(one.changed or one.rows_read for one in ingest_job.run(lake, moodle).tables)
    assert snapshots(lake, LOG) == left
    assert not run(lake, f"raw.{LOG}")[f"raw.{LOG}"].changed
    log_rows(database, [5])
    ingest_job.run(lake, moodle)
    assert [row["id"] for row in raw(lake, LOG)] == [1, 2, 3, 4, 5]


def test_partitions_may_evolve_under_rows_that_are_there(
    lake: SparkSession, database: Server, moodle: config.Config
) -> None:
    fill(database, moodle)
    for ids in ([1, 2], [3, 4]):
        log_rows(database, ids)
        ingest_job.run(lake, moodle)
    lake.sql(f"ALTER TABLE {table_names.raw(LOG)} ADD PARTITION FIELD truncate(id, 2)")
    log_rows(database, [5, 6])
    ingest_job.run(lake, moodle)

    def partitions() -> set[tuple[int, int | None]]:
        rows = lake.sql(f"SELECT spec_id, partition.id_trunc_2 AS least FROM {table_names.raw(LOG)}.files").collect()
        return {(row["spec_id"], row["least"]) for row in rows}

    assert partitions() == {(0, None), (1, 4), (1, 6)}
    assert run(lake, f"raw.{LOG}")[f"raw.{LOG}"].rewritten == 2
    assert partitions() == {(1, 0), (1, 2), (1, 4), (1, 6)}
    assert [row["id"] for row in raw(lake, LOG)] == list(range(1, 7))
    assert not any(one.changed or one.rows_read for one in ingest_job.run(lake, moodle).tables)


@pytest.mark.parametrize("table", [LOG, "course"])  # rows that the source has purged are kept, or not
def test_a_table_that_is_read_anew_is_partitioned_as_before(
    lake: SparkSession, database: Server, moodle: config.Config, table: str
) -> None:
    fill(
        database,
        moodle,
        "ALTER TABLE `{p}course` ADD `idnumber` varchar(100)",
        "INSERT INTO `{p}course` (id) VALUES (1), (2)",
    )
    log_rows(database, [1, 2])
    ingest_job.run(lake, moodle.model_copy(update={"privacy": moodle.privacy.model_copy(update={"mode": "keep"})}))
    lake.sql(f"ALTER TABLE {table_names.raw(table)} ADD PARTITION FIELD truncate(id, 2)")
    read_anew = {one.table: one.note for one in ingest_job.run(lake, moodle).tables}
    assert read_anew[table] == "the privacy policy changed: all rows were read again"
    database.query(f"INSERT INTO mdl_{table} SET id = 5{', eventname = 1' if table == LOG else ''}")
    ingest_job.run(lake, moodle)
    files = lake.sql(
        f"SELECT record_count, partition.id_trunc_2 AS least FROM {table_names.raw(table)}.files"
    ).collect()
    assert (1, 4) in {(row["record_count"], row["least"]) for row in files}
    assert [row["id"] for row in raw(lake, table)] == [1, 2, 5]


def two_files(lake: SparkSession, database: Server, moodle: config.Config) -> None:
    """A course table of two files, so that joining them has something to do."""
    fill(database, moodle, COURSE, "INSERT INTO `{p}course` VALUES (1, 'a', 1)")
    ingest_job.run(lake, moodle)
    database.query("INSERT INTO mdl_course VALUES (2, 'b', 1)")
    ingest_job.run(lake, moodle)
    assert len(files(folder(lake, "course") / "data")) in (2, 4)  # with Hadoop's checksums


def test_ingest_accepts_files_that_were_joined_meanwhile(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_files(lake, database, moodle)
    database.query("UPDATE mdl_course SET fullname = 'c' WHERE id = 1")
    real, joined = sync_steps.TableSync._rows_after, []

    def meanwhile(self: Any, *arguments: Any) -> Any:
        if self.plan.table.name == "course" and not joined:
            joined.append(run(lake, "raw.course")["raw.course"])
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sync_steps.TableSync, "_rows_after", meanwhile)
        results = {one.table: one for one in ingest_job.run(lake, moodle).tables}
    assert (joined[0].rewritten, joined[0].written) == (2, 1)
    assert (len(joined), results["course"].updated) == (1, 1)
    assert [row["fullname"] for row in raw(lake, "course")] == ["c", "b"]


def test_ingest_looks_once_more_when_the_files_it_changes_are_joined_while_it_commits(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_files(lake, database, moodle)
    database.query("UPDATE mdl_course SET fullname = 'c' WHERE id = 1")
    merge, begun, calls = writers.merge, threading.Event(), []

    def slowly(changes: Any, table: str, **options: Any) -> None:
        calls.append(table)
        if len(calls) == 1:  # the merge has begun and still waits for its changes when the files are joined
            columns = changes.schema

            def wait(rows: Any) -> Any:
                time.sleep(8)
                return rows

            changes = changes.coalesce(1).rdd.mapPartitions(wait).toDF(columns)
            begun.set()
        merge(changes, table, **options)

    joined: list[maintenance.TableResult] = []

    def join() -> None:
        begun.wait(60)
        time.sleep(2)
        joined.append(run(lake, "raw.course")["raw.course"])

    thread = threading.Thread(target=join)
    thread.start()
    with monkeypatch.context() as patch:
        patch.setattr(writers, "merge", slowly)
        results = {one.table: one for one in ingest_job.run(lake, moodle).tables}
    thread.join()
    assert (joined[0].rewritten, joined[0].note) == (2, "")
    assert (len(calls), results["course"].updated) == (2, 1)
    assert [row["fullname"] for row in raw(lake, "course")] == ["c", "b"]


def test_joining_gives_way_to_a_job_that_wrote_meanwhile(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_files(lake, database, moodle)
    database.query("UPDATE mdl_course SET fullname = 'c' WHERE id = 1")
    real = maintenance._Maintenance._join_files

    def late(self: Any, loaded: Any) -> None:
        ingest_job.run(lake, moodle)
        real(self, loaded)

    monkeypatch.setattr(maintenance._Maintenance, "_join_files", late)
    told = run(lake, "raw.course")["raw.course"]
    assert told.note == "joining files is left to the next run: a job wrote the table meanwhile"
    assert (told.rewritten, told.after.files) == (0, 2)
    assert [row["fullname"] for row in raw(lake, "course")] == ["c", "b"]
    assert not plans(moodle)["course"].notes


def test_output_and_record(
    lake: SparkSession,
    settings: config.Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lake.sql(f"CREATE TABLE {table_names.raw('small')} (id BIGINT) USING iceberg")
    for number in range(5):
        lake.sql(f"INSERT INTO {table_names.raw('small')} VALUES ({number})")
    lake.sql(f"CREATE TABLE {table_names.raw('empty')} (id BIGINT) USING iceberg")
    monkeypatch.setattr(config, "load", lambda: settings)
    monkeypatch.setattr(session, "create", lambda *_, **__: lake)
    monkeypatch.setattr(type(lake), "stop", lambda _: None)
    assert main.run(["maintain", "--dry-run", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["dry_run"] is True
    (empty, small) = [one for one in document["tables"] if one["table"].startswith("raw.")]
    assert (small["before"]["files"], small["after"]["files"], small["rewritten"], small["written"]) == (5, 5, 5, 1)
    assert (empty["before"]["snapshots"], empty["rewritten"]) == (0, 0)
    assert main.run(["maintain", "--table", "raw.small"]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "raw.small" in one]
    assert line.split()[1:4] == ["5", ">", "1"]
    row = lake.table(table_names.JOB_RUN).where("job = 'maintain'").orderBy("started_at", ascending=False).first()
    assert row is not None
    assert (row["status"], json.loads(row["detail"])["tables"]["raw.small"]["rewritten"]) == ("done", 5)
    with pytest.raises(ConfigError, match=r"no table raw\.nothing(?s:.*)raw\.empty, raw\.small"):
        maintenance.run(lake, ["raw.nothing"])


def test_table_in_whose_folder_others_have_files_is_known() -> None:
    homes = {
        "raw.course": "s3://b/raw/course/",
        "raw.course_old": "s3://b/raw/course/",
        "raw.course_m": "s3://b/raw/course_m/",
    }
    assert maintenance._shared("raw.course", homes) == ["raw.course_old"]
    assert maintenance._shared("raw.course_m", homes) == []
    assert maintenance._shared("raw.a", {"raw.a": "s3://b/raw/a/", "raw.b": "s3://b/raw/a/inner/"}) == ["raw.b"]


def test_policies_are_checked() -> None:
    shipped = maintenance.load()
    assert shipped.of("raw.course").history_days > 400
    assert shipped.of(f"raw.{LOG}").history_days < 30
    assert shipped.of(f"raw.{LOG}").small_files == shipped.of("raw.course").small_files
    rule = {"history_days": 1, "keep_snapshots": 1, "small_files": 2, "manifests": 2, "orphan_days": 1}
    namespaces: dict[str, Any] = {name: dict(rule) for name in table_names.NAMESPACES if name != "ops"}
    namespaces["raw"]["orphan_days"] = 0
    del namespaces["marts"]["manifests"]
    with pytest.raises(LakehouseError) as caught:
        maintenance.parse({"namespaces": namespaces, "tables": {"rav.x": {}, "raw.course": {"keep": 1}}})
    for fault in ("raw.orphan_days: 0; at least 1", "marts.manifests: missing", "ops: missing",
                  "raw.course.keep: unknown key",
                  "rav.x: no namespace of the lake"):  # fmt: skip
        assert fault in str(caught.value)


def test_sandbox_is_maintained_and_cannot_stop_the_lake(lake: SparkSession, tmp_path: Path) -> None:
    catalog = f"spark.sql.catalog.{table_names.SANDBOX}"
    for key, value in {
        "": "org.apache.iceberg.spark.SparkCatalog",
        ".type": "hadoop",
        ".warehouse": str(tmp_path),
    }.items():
        lake.conf.set(catalog + key, value)
    lake.conf.set(f"{catalog}.cache-enabled", "false")
    odd, broken, small = "sandbox.`bob's`.`o'x`", "sandbox.`bob's`.broken", table_names.raw("small")
    for name in (odd, broken, small):
        for number in (1, 2, 3):
            writers.append(tables.local_rows(lake, [(number,)], "id bigint"), name, run_id="r")
    orphan = Path(str(tables.load(lake, odd).location()).removeprefix("file:")) / "data" / "of-a-dead-job.parquet"
    orphan.write_bytes(b"x")
    age({orphan})
    found = {one.table: one for one in maintenance.run(lake, [odd], policies=policies(), sandbox=True)}
    assert {name: (one.rewritten, one.written, one.orphans) for name, one in found.items()} == {odd: (3, 1, 1)}
    assert not orphan.exists()
    assert lake.table(odd).count() == 3
    assert set(run(lake)) == {"raw.small"} | {"ops.job_run"}  # where there is no sandbox, nobody looks

    for number in (4, 5):
        writers.append(tables.local_rows(lake, [(number,)], "id bigint"), small, run_id="r")
    metadata = Path(str(tables.load(lake, broken).location()).removeprefix("file:")) / "metadata"
    kept = {file: file.read_text() for file in metadata.glob("*.metadata.json")}
    for file in kept:
        file.write_text("{")
    with pytest.raises(LakehouseError, match=r"1 of \d+ tables could not be maintained") as caught:
        maintenance.run(lake, policies=policies(), sandbox=True)
    assert f"{broken}: " in str(caught.value)
    (*_, last) = lake.table(table_names.JOB_RUN).where("job = 'maintain'").orderBy("started_at").collect()
    assert "raw.small" in json.loads(last["detail"])["tables"], "the lake's own tables were maintained"
    for file, text in kept.items():
        file.write_text(text)
    for name in (odd, broken):
        lake.sql(f"DROP TABLE {table_names.quoted(name)} PURGE")
