"""Whoever is erased is in no row, file or later ingest, on a real server and real Iceberg tables."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mariadb import Server
from moodle_demo import schema
from moodle_lakehouse import config
from moodle_lakehouse.cli import main, render
from moodle_lakehouse.curated import user_keys
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest import moodle_tables, read_plan, suppression_list, verify
from moodle_lakehouse.lake import contracts, session, table_names, tables, writers
from moodle_lakehouse.privacy import erasure, file_scan
from pyarrow import compute, parquet, types
from pyspark.sql import SparkSession
from site_files import config_document
from small_moodle import lake_rows, plans, put, snapshots, source_rows

VICTIM, OTHER = 54_321, 54_322  # numbers that nothing else in these tables has
MADE = (
    "user",
    "course",
    "logstore_standard_log",
    "grade_grades_history",
    "course_modules_completion",
    "forum_posts",
    "context",
)
NOTES = "CREATE TABLE mdl_local_notes (id bigint(10) PRIMARY KEY, userid bigint(10), authorid bigint(10), usermodified bigint(10))"


@pytest.fixture
def site(lake: SparkSession, database: Server, moodle: config.Config) -> config.Config:
    """A Moodle in which the victim did, suffered and changed things; a plugin's table with the user's id hashed."""
    for name in MADE:
        database.query(schema.tables()[name].create("mdl_", keys=False))
    database.query(NOTES)
    put(database, "user", {"id": 2}, {"id": VICTIM, "deleted": 1}, {"id": OTHER})
    put(database, "course", {"id": 1}, {"id": 2})
    put(
        database,
        "logstore_standard_log",
        {"userid": OTHER, "relateduserid": None},
        {"userid": VICTIM},
        {"userid": OTHER, "relateduserid": VICTIM},
        {"userid": OTHER, "realuserid": VICTIM},
        {"userid": OTHER, "contextlevel": 30, "contextinstanceid": VICTIM},
        {"userid": OTHER, "contextlevel": 70, "contextinstanceid": 5},
        {"userid": 0, "objecttable": "user", "objectid": VICTIM},
        {"userid": 0, "objecttable": "course", "objectid": 5},
        {"userid": VICTIM, "id": 2 * read_plan.OVERLAP_IDS},  # then nobody else is where the next run looks
    )
    put(
        database,
        "grade_grades_history",
        {"userid": VICTIM},
        {"userid": OTHER, "usermodified": VICTIM, "loggeduser": VICTIM},
        {"userid": OTHER, "usermodified": OTHER},
    )
    put(
        database,
        "course_modules_completion",
        {"userid": VICTIM, "coursemoduleid": 1},
        {"userid": OTHER, "coursemoduleid": 1},
    )
    put(database, "forum_posts", {"userid": VICTIM}, {"userid": OTHER, "privatereplyto": VICTIM})
    put(database, "context", {"contextlevel": 30, "instanceid": VICTIM}, {"contextlevel": 70, "instanceid": 5})
    put(
        database,
        "local_notes",
        {"id": 1, "userid": VICTIM, "authorid": OTHER},
        {"id": 2, "userid": OTHER, "authorid": VICTIM, "usermodified": VICTIM},
    )
    columns = {"local_notes": {"userid": "hash"}}
    return moodle.model_copy(
        update={"moodle": moodle.moodle.model_copy(update={"extra_tables": ["local_notes"], "columns": columns})}
    )


def derived(lake: SparkSession, site: config.Config) -> None:
    """Tables as the later jobs leave them."""
    key = site.privacy.key()
    known = user_keys.update(lake, key, lake.createDataFrame([(VICTIM,), (OTHER,)], "userid bigint"))
    writers.replace(known.drop("userid"), table_names.DIM_USER, run_id="a")
    writers.replace(known.drop("userid"), table_names.STUDENT_RISK, run_id="a")
    mine = user_keys.pseudonym_of(key, VICTIM)
    examples = [f"userid {VICTIM}, courseid 1", f"userid {VICTIM}0, courseid {VICTIM}", None]
    examples.append(f"itemid 1, user_key {mine}")
    found = [("a", dt.datetime.now(dt.UTC), "curated.x", "y", False, 2, 1, example) for example in examples]
    writers.append(
        lake.createDataFrame(found, contracts.schema(table_names.DATA_QUALITY)).coalesce(1),
        table_names.DATA_QUALITY,
        run_id="a",
    )


def files(spark: SparkSession) -> Iterator[Path]:
    warehouse = spark.conf.get(f"spark.sql.catalog.{table_names.CATALOG}.warehouse")
    yield from Path(str(warehouse)).rglob("*.parquet")


def naming(spark: SparkSession, words: list[str]) -> set[tuple[str, str]]:
    """Table and column of each value that is the victim's id or one of the words: of all columns of all files there are."""
    found = set()
    for file in files(spark):
        data = parquet.read_table(file)
        for name in data.column_names:
            kind = data.schema.field(name).type
            if types.is_integer(kind):
                hits = compute.sum(compute.equal(data[name], VICTIM)).as_py()
            elif types.is_string(kind):
                hits = compute.sum(compute.match_substring_regex(data[name], "|".join(words))).as_py()
            else:
                continue
            if hits:
                found.add((file.parts[-3], name))
    return found


def words(site: config.Config) -> list[str]:
    who = erasure.people(site, [VICTIM])
    return [*who.hashes, *who.pseudonyms]


def test_erased_are_in_no_file_and_do_not_come_back(lake: SparkSession, database: Server, site: config.Config) -> None:
    ingest_job.run(lake, site)
    derived(lake, site)
    database.query(f"DELETE FROM mdl_course_modules_completion WHERE userid = {VICTIM}")  # then only a snapshot knows
    ingest_job.run(lake, site)
    posts = table_names.raw("forum_posts")
    (file,) = [f for f in files(lake) if f.parts[-3] == "forum_posts"]
    leftover = file.with_name("00000-of-a-failed-commit.parquet")
    shutil.copy(file, leftover)
    lake.sql(f"ALTER TABLE {table_names.DIM_USER} CREATE TAG kept")

    # looked at: nothing changes
    made = {name: snapshots(lake, name) for name in plans(site)}
    seen = erasure.look(lake, site, [VICTIM]).before.by_table()
    assert {name.removeprefix("lakehouse."): (row["current"], row["older"], row["leftover"]) for name, row in seen.items()} == {
        "raw.user": (1, 0, 0), "raw.logstore_standard_log": (6, 0, 0), "raw.grade_grades_history": (3, 0, 0),
        "raw.course_modules_completion": (0, 1, 0), "raw.forum_posts": (2, 0, 2), "raw.context": (1, 0, 0),
        "raw.local_notes": (3, 0, 0), "identity.user_key": (2, 0, 0), "curated.dim_user": (1, 0, 0),
        "marts.student_risk": (1, 0, 0), "ops.data_quality": (2, 0, 0),
    }  # fmt: skip
    assert {name: snapshots(lake, name) for name in plans(site)} == made
    assert not tables.exists(lake, table_names.ERASED_USER)
    assert ("local_notes", "userid") in naming(lake, words(site))

    # a tag and a file that may be of a running job are left, and found
    result = erasure.run(lake, site, [VICTIM])
    with pytest.raises(LakehouseError, match="2 files still name the erased") as caught:
        erasure.check(result)
    assert "dim_user" in str(caught.value)
    assert leftover.name in str(caught.value)
    assert {row.table: (row.deleted, row.cleared) for row in result.tables if row.table.startswith("lakehouse.raw.")} == {
        table_names.raw("user"): (1, 0), table_names.raw("logstore_standard_log"): (6, 0),
        table_names.raw("grade_grades_history"): (1, 1), table_names.raw("course_modules_completion"): (0, 0), posts: (1, 1),
        table_names.raw("context"): (1, 0), table_names.raw("local_notes"): (1, 1),
    }  # fmt: skip
    lake.sql(f"ALTER TABLE {table_names.DIM_USER} DROP TAG kept")
    long_ago = time.time() - 25 * 3600
    os.utime(leftover, (long_ago, long_ago))
    again = erasure.run(lake, site, [VICTIM])
    erasure.check(again)
    assert again.after is not None
    assert again.after.traces == ()
    of_its_own = 2  # the hashes of the erased, and what the run noted after it had looked
    assert again.after.files == len(list(files(lake))) - of_its_own
    assert naming(lake, words(site)) == set()

    examples = {row["example"] for row in lake.table(table_names.DATA_QUALITY).collect()}
    assert examples == {
        "userid erased, courseid 1", f"userid {VICTIM}0, courseid {VICTIM}", None, "itemid 1, user_key erased"
    }  # fmt: skip
    assert not any(str(VICTIM) in str(row) for row in lake.table(table_names.JOB_RUN).collect())

    # and nobody comes back, though Moodle's tables still have the person
    made = {name: lake.table(table_names.raw(name)).count() for name in plans(site)}
    assert not any(row.changed for row in ingest_job.run(lake, site).tables)
    assert {name: lake.table(table_names.raw(name)).count() for name in plans(site)} == made
    put(database, "logstore_standard_log", {"userid": VICTIM}, {"userid": OTHER})
    results = {row.table: row for row in ingest_job.run(lake, site).tables}
    assert (results["logstore_standard_log"].inserted, results["logstore_standard_log"].updated) == (1, 0)
    assert sum(row.inserted + row.updated + row.deleted for row in results.values()) == 1
    assert naming(lake, words(site)) == set()
    inspected = ingest_job.inspect(site)
    assert not verify.run(lake, site, inspected).differing
    for plan in suppression_list.leave_out(lake, site, inspected.plan.tables):
        assert lake_rows(lake.table(table_names.raw(plan.table.name)), plan) == source_rows(database, plan), (
            plan.table.name
        )
    assert lake.table(table_names.raw("logstore_standard_log")).count() == 4
    made = {name: snapshots(lake, name) for name in plans(site)}
    ingest_job.run(lake, site)
    assert {name: snapshots(lake, name) for name in plans(site)} == made

    # a difference of the table of users is told, but not by their ids
    database.query(f"UPDATE mdl_user SET deleted = 1 WHERE id = {OTHER}")
    with pytest.raises(verify.DifferentError) as different:
        verify.run(lake, site, inspected)
    assert [(d.low, d.changed) for c in different.value.result.differing for d in c.differences] == [(None, 1)]
    assert not any(str(OTHER) in str(row) for row in lake.table(table_names.JOB_RUN).collect())


def test_table_that_is_left_out_is_found(
    lake: SparkSession, site: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_job.run(lake, site)
    real, left_out = erasure._erase, table_names.raw("context")

    def forgets(spark: SparkSession, table: str, *rest: Any) -> erasure.TableErasure:
        return erasure.TableErasure(table, 0, 0, 0, 0) if table == left_out else real(spark, table, *rest)

    monkeypatch.setattr(erasure, "_erase", forgets)
    # a table of somebody's own, with the pseudonym where nobody would look
    someones = table_names.RESOURCE_HISTORY.replace("resource_history", "own")
    deep = lake.createDataFrame(
        [([(1, [f"as {words(site)[1]}"])],)], "peers array<struct<n: int, told: array<string>>>"
    )
    posts = tables.load(lake, table_names.raw("forum_posts")).location()  # as in the folder of a table that was renamed
    writers.replace(deep, someones, run_id="a", properties={"write.data.path": f"{posts}/data"})
    with pytest.raises(LakehouseError) as caught:
        erasure.check(erasure.run(lake, site, [VICTIM]))
    assert "2 files still name the erased" in str(caught.value)
    assert left_out in str(caught.value)
    assert someones in str(caught.value)


def test_analysts_own_tables_lose_the_person(lake: SparkSession, site: config.Config, tmp_path: Path) -> None:
    """In the sandbox, a catalog of its own: by id and by pseudonym, whatever the table is called and split into."""
    catalog = f"spark.sql.catalog.{table_names.SANDBOX}"
    for key, value in {
        "": "org.apache.iceberg.spark.SparkCatalog",
        ".type": "hadoop",
        ".warehouse": str(tmp_path),
        ".cache-enabled": "false",
    }.items():
        lake.conf.set(catalog + key, value)
    ingest_job.run(lake, site)
    key = site.privacy.key()
    mine, others = (user_keys.pseudonym_of(key, i) for i in (VICTIM, OTHER))
    lake.sql("CREATE NAMESPACE sandbox.`anna's`")
    rows = [(VICTIM, mine, "x"), (OTHER, others, "y")]
    copied = lake.createDataFrame(rows, "userid bigint, user_key string, note string")
    copied.writeTo("sandbox.`anna's`.`the copy`").using("iceberg").create()
    copied.drop("userid").writeTo("sandbox.`anna's`.split").using("iceberg").partitionedBy("note").create()
    copied.drop("userid").writeTo("sandbox.`anna's`.split").append()
    copied.select("note").writeTo("sandbox.`anna's`.notes").using("iceberg").create()
    orc = copied.writeTo("sandbox.`anna's`.old").using("iceberg").tableProperty("write.format.default", "orc")
    orc.create()
    # What names files of another bucket, or none, must not keep the rest from being erased.
    copied.writeTo("sandbox.`anna's`.forged").using("iceberg").create()
    (forged,) = tmp_path.glob("*/forged")
    for manifest in (forged / "metadata").glob("*.avro"):
        manifest.unlink()
    inside = site.model_copy(update={"sandbox": config.SandboxConfig(uri="http://edge:8080/sandbox")})

    with pytest.raises(LakehouseError, match="tables or files of the sandbox cannot be searched") as caught:
        erasure.check(erasure.run(lake, inside, [VICTIM]))
    assert "sandbox.`anna's`.old: " in str(caught.value)
    assert "sandbox.`anna's`.forged: " in str(caught.value)
    assert lake.table(table_names.raw("user")).where(f"id = {VICTIM}").count() == 0
    assert mine not in str(lake.table("sandbox.`anna's`.`the copy`").collect())
    shutil.rmtree(forged)
    lake.sql("DROP TABLE sandbox.`anna's`.old PURGE")
    erasure.check(erasure.run(lake, inside, [VICTIM]))
    for name, rest in {"the copy": 1, "split": 2, "notes": 2}.items():
        left = lake.table(f"sandbox.`anna's`.`{name}`")
        assert left.count() == rest
        assert mine not in str(left.collect())
        assert sum(1 for _ in tables.load(lake, f"sandbox.`anna's`.`{name}`").snapshots()) == 1
    for file in tmp_path.rglob("*.parquet"):
        assert mine not in str(parquet.read_table(file).to_pylist()), file


def test_key_of_the_erased_must_be_the_same(lake: SparkSession, site: config.Config) -> None:
    suppression_list.remember(lake, b"old", [VICTIM, 7, VICTIM])
    suppression_list.remember(lake, b"old", [7, 9])
    assert suppression_list.recall(lake, b"old") == [7, 9, VICTIM]
    noted = lake.table(table_names.ERASED_USER).drop("erased_at").collect()
    assert len(noted) == 3
    assert not any(str(i) in str(noted) for i in (VICTIM,))
    with pytest.raises(LakehouseError, match="they would come back"):
        ingest_job.run(lake, site)


@pytest.mark.parametrize("version", schema.VERSIONS)
def test_every_whole_number_of_moodle_is_declared(version: str) -> None:
    known = moodle_tables.load().tables
    for name, table in schema.tables(version).items():
        if name not in known:
            continue
        numbers = {c.name for c in table.columns if not c.is_text and not c.type.startswith(("decimal", "double"))}
        people = {rule.name for rule in known[name].person}
        assert numbers <= people | known[name].numbers, name
        assert not people & known[name].numbers, name
        conditions = {rule.when[0] for rule in known[name].person if rule.when}
        assert conditions <= {c.name for c in table.columns}, name


@pytest.mark.parametrize("column", ["tutorid", "mentorid", "participantid", "memberid", "postedby", "uploadedby"])
def test_people_of_plugins_are_declared_by_exact_names(column: str) -> None:
    assert (
        moodle_tables.load().table("local_x", {}).person.count(moodle_tables.PersonColumn(column, mentioned=True)) == 1
    )


def test_undeclared_numbers_are_reported_and_stay(
    lake: SparkSession, with_source: Callable[..., config.Config], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        (1, OTHER, VICTIM, VICTIM, VICTIM, 5.0, VICTIM),
        (2, OTHER, VICTIM, 7, VICTIM, 5.0, 7),
        (3, VICTIM, 7, 7, 7, 5.0, 7),
    ]
    names = "id bigint, userid bigint, tutorid bigint, maxperuser int, suspenduser int, x double, attemptsperuser decimal(20,0)"
    writers.replace(lake.createDataFrame(rows, "id int, userid int, tutorid int, maxperuser int, suspenduser int, x double, attemptsperuser int")
                    .selectExpr(*[f"cast({c.split()[0]} as {c.split()[1]})" for c in names.split(", ")]),
                    table_names.raw("local_x"), run_id="a")  # fmt: skip
    columns = {"local_x": {"suspenduser": "number"}}
    site = with_source(columns=columns, extra_tables=["local_x"])
    result = erasure.look(lake, site, [VICTIM])
    assert [(one.table, one.column, one.rows) for one in result.possible] == [
        (table_names.raw("local_x"), "maxperuser", 1), (table_names.raw("local_x"), "attemptsperuser", 1),
    ]  # fmt: skip
    render.erasure(result)
    assert "Possibly a person: raw.local_x.maxperuser equals an id in 1 rows" in " ".join(
        capsys.readouterr().out.split()
    )
    assert result.before.by_table()[table_names.raw("local_x")]["by"] == ["tutorid", "userid"]
    declared = with_source(columns={"local_x": {"suspenduser": "mentioned", "maxperuser": "subject"}})
    assert [one.column for one in erasure.look(lake, declared, [VICTIM]).possible] == ["attemptsperuser"]
    by = erasure.look(lake, declared, [VICTIM]).before.by_table()[table_names.raw("local_x")]["by"]
    assert by == ["maxperuser", "suspenduser", "tutorid", "userid"]


@pytest.mark.parametrize("ids", [["1"], ["0"], ["-5"], ["anna"], []])
def test_ids_that_are_nobodys_are_refused_before_spark_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ids: list[str]
) -> None:
    (tmp_path / "jobs.yml").write_text(yaml.safe_dump(config_document(tmp_path)))
    monkeypatch.setenv("LAKEHOUSE_CONFIG", str(tmp_path / "jobs.yml"))
    monkeypatch.delattr(session, "create")
    assert main.run(["erase-user", *[part for i in ids for part in ("--user-id", i)], "--yes"]) == 2
    assert "--user-id" in capsys.readouterr().err


def test_verb_searches_and_erases_only_when_told(
    lake: SparkSession, site: config.Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    user = lake.createDataFrame([(VICTIM, 0), (OTHER, 0)], "id bigint, deleted int")
    writers.replace(user, table_names.raw("user"), run_id="a")
    monkeypatch.setattr(config, "load", lambda: site)
    monkeypatch.setattr(session, "create", lambda *_, **__: lake)
    monkeypatch.setattr(SparkSession, "stop", lambda _: None)
    assert main.run(["erase-user", "--user-id", str(VICTIM)]) == 0
    out = capsys.readouterr().out
    assert "raw.user" in out
    assert "nothing was changed; --yes erases" in out
    assert "Moodle has 1 of them as active users" in out
    assert main.run(["erase-user", "--user-id", str(VICTIM), "--yes"]) == 0
    out = capsys.readouterr().out
    assert "0 name them" in out
    assert str(VICTIM) not in out
    assert [row["id"] for row in lake.table(table_names.raw("user")).collect()] == [OTHER]
    assert file_scan.scan(lake, erasure.people(site, [VICTIM]), erasure.rules(lake, site)).traces == ()
