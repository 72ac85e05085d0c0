"""Curated tables of a real Moodle site after unenrolments, deletions, a restored and a deleted course, a deleted user.

Every expected value is asked of the source itself, in SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.curated import quality
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.lake import session, snapshots, table_names, tables
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from site_files import config_document, load_dump

EVENT = "'\\\\core\\\\event\\\\{}'"


@pytest.fixture(scope="module")
def site(server: Server, test_data: Path) -> Iterator[Server]:
    """The site's database as it was at the end."""
    with server.temporary() as made:
        load_dump(made, test_data / "moodle-4.3" / "after.sql.gz")
        yield made


@pytest.fixture(scope="module")
def curated(
    emptied: Callable[[], SparkSession], site: Server, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, DataFrame]:
    """Every curated table by its name, cached, so that later tests may empty the lake."""
    spark = emptied()
    folder = tmp_path_factory.mktemp("settings")
    settings = config.parse(config_document(folder), "test")
    (folder / "password").write_text(site.password)
    moodle = settings.moodle.model_copy(
        update={"host": site.host, "port": site.port, "user": site.user, "database": site.database}
    )
    settings = settings.model_copy(update={"moodle": moodle})
    session.use_utc()
    ingest_job.run(spark, settings)
    counts = curated_job.run(spark, settings)
    people = spark.table(table_names.USER_KEY).cache()
    found = {name: spark.table(f"lakehouse.curated.{name}").cache() for name in counts}
    assert {name: df.count() for name, df in found.items()} == counts
    for name, df in found.items():
        assert "userid" not in df.columns, name
        if "user_key" in df.columns:  # what is expected is told by Moodle's ids
            known = df.join(people, how="left", on="user_key").cache()
            assert known.count() == counts[name], name
            found[name] = known
    assert_made_once(spark, settings)
    return found


def assert_made_once(spark: SparkSession, settings: config.Config) -> None:
    """Another run writes nothing while the raw tables are the same, also when maintenance has moved their rows."""

    def written() -> list[int | None]:
        return [snapshots.snapshot_id(tables.load(spark, name)) for name in table_names.CURATED]

    before = written()
    assert curated_job.run(spark, settings)["fact_event"] > 0
    spark.sql("CALL lakehouse.system.rewrite_data_files(table => 'raw.course', options => map('rewrite-all', 'true'))")
    curated_job.run(spark, settings)
    assert written() == before
    other = settings.analytics.model_copy(update={"profile_fields": ["another"]})
    curated_job.run(spark, settings.model_copy(update={"analytics": other}))
    assert not set(written()) & set(before), "other settings"


def pairs(df: DataFrame) -> set[tuple[Any, ...]]:
    return {tuple(row) for row in df.collect()}


def test_grains_are_unique(curated: dict[str, DataFrame]) -> None:
    for table, key in quality.GRAINS.items():
        name = table.rsplit(".", 1)[-1]
        doubled = curated[name].groupBy(*key).count().where("count > 1").collect()
        assert doubled == [], name


def test_enrolments_are_the_present_ones_and_the_deleted_ones(curated: dict[str, DataFrame], site: Server) -> None:
    staff = "SELECT ra.userid, c.instanceid FROM mdl_role_assignments ra JOIN mdl_context c ON c.id = ra.contextid WHERE ra.roleid = 3"
    present = site.query(
        "SELECT ue.userid, e.courseid FROM mdl_user_enrolments ue JOIN mdl_enrol e ON e.id = ue.enrolid"
        f" WHERE (ue.userid, e.courseid) NOT IN ({staff})"
    )
    left = site.query(
        f"SELECT DISTINCT l.relateduserid, l.courseid FROM mdl_logstore_standard_log l JOIN mdl_course c ON c.id = l.courseid"
        f" WHERE l.eventname = {EVENT.format('user_enrolment_deleted')}"
    )
    gone = {pair for pair in left if pair not in set(present)}
    assert gone == {(9, 4), (11, 4)}
    enrolments = curated["fact_enrolment"]
    assert pairs(enrolments.where("unenrolled_at is null").select("userid", "courseid")) == set(present)
    assert pairs(enrolments.where("unenrolled_at is not null").select("userid", "courseid")) == gone
    # user 8 was unenrolled and enrolled again
    assert (8, 4) in set(present)
    assert (8, 4) in set(left)
    assert enrolments.where("enrolled_at is null or enrolled_at >= unenrolled_at").count() == 0


def test_unenrolment_is_dated_by_the_log(curated: dict[str, DataFrame], site: Server) -> None:
    (expected,) = site.query(
        "SELECT MAX(timecreated) FROM mdl_logstore_standard_log WHERE relateduserid = 9 AND courseid = 4"
        f" AND eventname = {EVENT.format('user_enrolment_deleted')}"
    )
    found = curated["fact_enrolment"].where("userid = 9 and courseid = 4").select(F.unix_timestamp("unenrolled_at"))
    assert pairs(found) == {expected}


def test_suspended_and_completed(curated: dict[str, DataFrame], site: Server) -> None:
    suspended = site.query(
        "SELECT ue.userid, e.courseid FROM mdl_user_enrolments ue JOIN mdl_enrol e ON e.id = ue.enrolid WHERE ue.status = 1"
    )
    assert pairs(curated["fact_enrolment"].where("is_suspended").select("userid", "courseid")) == set(suspended)
    completed = site.query("SELECT userid, course, timecompleted FROM mdl_course_completions")
    found = curated["fact_enrolment"].where("completed_at is not null")
    assert pairs(found.select("userid", "courseid", F.unix_timestamp("completed_at"))) == set(completed)


def test_resources_are_the_present_ones_and_the_deleted_ones(curated: dict[str, DataFrame], site: Server) -> None:
    resources = curated["dim_resource"]
    present = site.query(
        "SELECT cm.id, m.name, cm.instance, cm.visible FROM mdl_course_modules cm JOIN mdl_modules m ON m.id = cm.module"
    )
    found = resources.where("not is_deleted").select("cmid", "modname", "instance", F.col("visible").cast("int"))
    assert pairs(found) == set(present)
    deleted = site.query(
        "SELECT contextinstanceid, timecreated FROM mdl_logstore_standard_log"
        f" WHERE eventname = {EVENT.format('course_module_deleted')}"
        " AND contextinstanceid NOT IN (SELECT id FROM mdl_course_modules)"
    )
    assert len(deleted) == 3
    gone = resources.where("is_deleted")
    assert pairs(gone.select("cmid", F.unix_timestamp("deleted_at"))) == set(deleted)
    assert gone.where("name is null or modname is null or added_at is null").count() == 0
    quizzes = site.query("SELECT id, name FROM mdl_quiz")
    assert pairs(resources.where("modname = 'quiz' and not is_deleted").select("instance", "name")) == set(quizzes)


def test_events_are_what_people_did(curated: dict[str, DataFrame], site: Server) -> None:
    expected = site.query(
        "SELECT id FROM mdl_logstore_standard_log WHERE anonymous = 0 AND realuserid IS NULL AND userid > 1"
        " AND origin IN ('web', 'ws')"
    )
    events = curated["fact_event"]
    assert pairs(events.select("event_id")) == set(expected)
    assert events.where("cmid is not null and modname is null").count() == 0
    assert events.where("user_key is null or length(user_key) != 16").count() == 0
    teachers = pairs(events.where("role = 'staff'").select("userid").distinct())
    assert teachers
    assert teachers <= set(site.query("SELECT DISTINCT userid FROM mdl_role_assignments WHERE roleid <> 5"))
    holders = (
        "SELECT DISTINCT l.id FROM mdl_logstore_standard_log l"
        " JOIN mdl_context c ON c.contextlevel = 50 AND c.instanceid = l.courseid"
        " JOIN mdl_role_assignments a ON a.contextid = c.id AND a.userid = l.userid AND a.timemodified <= l.timecreated"
        " WHERE l.anonymous = 0 AND l.realuserid IS NULL AND l.userid > 1 AND l.origin IN ('web', 'ws') AND a.roleid "
    )
    for role, held in {"student": "= 5", "staff": "BETWEEN 1 AND 4"}.items():
        known = set(site.query(holders + held))
        assert known
        assert known <= pairs(events.where(f"role = '{role}'").select("event_id"))
    early = pairs(events.where("role = 'other' and courseid = 4").select("event_id"))
    assert not early & set(site.query(holders + "BETWEEN 1 AND 5"))


def test_grades_are_those_of_students(curated: dict[str, DataFrame], site: Server) -> None:
    expected = site.query(
        "SELECT g.itemid, g.userid FROM mdl_grade_grades g JOIN mdl_grade_items i ON i.id = g.itemid"
        " WHERE g.finalgrade IS NOT NULL AND i.itemtype IN ('mod', 'manual') AND i.grademax > 0"
    )
    deleted = site.query(
        "SELECT DISTINCT h.itemid, h.userid FROM mdl_grade_grades_history h JOIN mdl_grade_items i ON i.id = h.itemid"
        " WHERE h.source = 'userdelete' AND h.finalgrade IS NOT NULL AND i.itemtype IN ('mod', 'manual')"
        " AND (h.itemid, h.userid) NOT IN (SELECT itemid, userid FROM mdl_grade_grades)"
    )
    found = pairs(curated["fact_grade"].select("itemid", "userid"))
    assert found == {*expected, *deleted}
    assert curated["fact_grade"].where("fraction < 0 or fraction > 1 or graded_at is null").count() == 0


def test_events_are_partitioned_by_month(curated: dict[str, DataFrame], spark: SparkSession) -> None:
    assert curated["fact_event"].count() > 0
    if tables.exists(spark, table_names.FACT_EVENT):
        (transform,) = [
            row["data_type"]
            for row in spark.sql(f"DESCRIBE TABLE {table_names.FACT_EVENT}").collect()
            if row["col_name"] == "Part 0"
        ]
        assert transform == "months(occurred_at)"
