"""Clusters of courses: kinds that are there are found, inactive ones set apart, little data is no failure."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import pytest
from model_lake import Lake, empty
from moodle_lakehouse.clustering import job as clustering_job
from moodle_lakehouse.clustering import naming
from moodle_lakehouse.config import Config
from moodle_lakehouse.lake import job_runs, table_names
from pyspark.sql import SparkSession

START = dt.datetime(2024, 3, 4, tzinfo=dt.UTC)
AS_OF = START + dt.timedelta(days=29)

# Kind of course: actions per student by type of resource.
KINDS = {
    "reader": {"resource": 12, "page": 10, "forum": 2, "quiz": 2},
    "tester": {"resource": 3, "page": 2, "forum": 1, "quiz": 20},
    "talker": {"resource": 2, "page": 2, "forum": 18, "quiz": 2},
}


def site(views: bool = True) -> Lake:
    """Five courses of each kind, one without students, one hardly used, one that begins later."""
    rng = np.random.default_rng(2)
    lake = Lake()
    number = 0
    for kind, mix in KINDS.items():
        for _ in range(5):
            number += 1
            lake.course(number, START, 28, f"{kind}{number}")
            for place, (modname, actions) in enumerate(mix.items()):
                for copy in range(max(1, actions // 4)):
                    lake.resource(number * 100 + place * 10 + copy, number, modname)
            for user in range(1, 7):
                lake.enrol(user, number)
                for place, (_, actions) in enumerate(mix.items()):
                    for _ in range(rng.poisson(actions)):
                        crud = "r" if views else "u"
                        lake.act(user, number * 100 + place * 10, float(rng.uniform(0, 28)), crud)
    lake.course(50, START, 28, "empty")
    lake.course(51, START, 28, "dead")
    lake.resource(5100, 51, "page")
    for user in range(1, 7):
        lake.enrol(user, 51)
    lake.act(1, 5100, 3)  # alone it does not make a log of views
    lake.course(52, START + dt.timedelta(days=60), 28, "later")
    return lake


def clustered(spark: SparkSession, settings: Config, lake: Lake, as_of: dt.datetime | None = AS_OF) -> pd.DataFrame:
    empty(spark)
    lake.write(spark)
    clustering_job.run(spark, settings, as_of)
    return spark.table(table_names.COURSE_CLUSTER).toPandas().set_index("shortname").sort_index()


def test_kinds_are_found_and_named(spark: SparkSession, settings: Config) -> None:
    found = clustered(spark, settings, site())
    assert "later" not in found.index
    for name in ("empty", "dead"):
        assert found.loc[name, ["cluster", "cluster_name", "is_active"]].tolist() == [-1, "inactive", False]
        assert pd.isna(found.loc[name, "distance"])
    active = found[found["is_active"]]
    kinds = active.groupby(active.index.str.rstrip("0123456789"))["cluster"].agg(["nunique", "first"])
    assert kinds["nunique"].tolist() == [1, 1, 1]
    assert kinds["first"].nunique() == 3
    names = active.groupby(active.index.str.rstrip("0123456789"))["cluster_name"].first()
    assert names["talker"] == "forum"
    assert names["tester"] == "quizzes"
    assert set(names["reader"].split(" + ")) == {"files", "pages"}
    assert (active["distance"] >= 0).all()
    rows: list[dict[str, Any]] = found.reset_index().to_dict("records")
    assert any("forum" in words for words in naming.distinguishing_shares(rows, int(kinds.loc["talker", "first"])))


def test_two_runs_agree(spark: SparkSession, settings: Config) -> None:
    empty(spark)
    site().write(spark)
    clustering_job.run(spark, settings, AS_OF)
    clustering_job.run(spark, settings, AS_OF)
    assert spark.table(table_names.COURSE_CLUSTER).count() == 17, "nothing new"
    site().write(spark)
    clustering_job.run(spark, settings, AS_OF)
    rows = spark.table(table_names.COURSE_CLUSTER).toPandas()
    assert len(rows) == 2 * 17
    assert (rows.groupby("courseid")["cluster"].nunique() == 1).all()


def test_kinds_keep_their_numbers_and_names(
    spark: SparkSession, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(spark)
    site().write(spark)
    clustering_job.run(spark, settings, AS_OF)
    before = spark.table(table_names.COURSE_CLUSTER).where("is_active").toPandas()
    kinds = before["cluster"].nunique()
    assert kinds >= 3
    # An earlier run that numbered and named otherwise, and had one kind less.
    spark.sql(
        f"UPDATE {table_names.COURSE_CLUSTER} SET cluster = {kinds} - 1 - cluster, cluster_name = concat('our ', cluster_name)"
        " WHERE is_active"
    )
    spark.sql(f"DELETE FROM {table_names.COURSE_CLUSTER} WHERE cluster = {kinds} - 1")
    site().write(spark)
    monkeypatch.setattr(job_runs, "_run_id", "99999999T000000Z-later")
    clustering_job.run(spark, settings, AS_OF)
    rows = spark.table(table_names.COURSE_CLUSTER).where("is_active AND run_id = '99999999T000000Z-later'").toPandas()
    numbers = dict(zip(before["courseid"], before["cluster"], strict=True))
    for row in rows.itertuples():
        was = numbers[row.courseid]
        if was == 0:  # the kind that the earlier run did not have
            assert row.cluster == kinds - 1
            assert not row.cluster_name.startswith("our ")
        else:
            assert row.cluster == kinds - 1 - was
            assert row.cluster_name.startswith("our ")


def test_without_page_views_contents_are_compared(spark: SparkSession, settings: Config) -> None:
    found = clustered(spark, settings, site(views=False))
    kinds = found[found["is_active"]].groupby(found[found["is_active"]].index.str[:4])["cluster"].nunique()
    assert kinds["talk"] == kinds["test"] == kinds["read"] == 1
    assert not found.loc["empty", "is_active"]
    assert found.loc["dead", "is_active"], "it has a page, and nothing else is known of any course"
    rows: list[dict[str, Any]] = found.reset_index().to_dict("records")
    words_of = [words for number in range(3) for words in naming.distinguishing_shares(rows, number)]
    assert words_of
    assert all(" of resources " in words for words in words_of)


def test_few_courses_are_one_cluster(spark: SparkSession, settings: Config) -> None:
    lake = Lake()
    lake.course(1, START, 28, "only")
    lake.resource(100, 1, "page")
    for user in range(1, 5):
        lake.enrol(user, 1)
        for days in range(28):
            lake.act(user, 100, days + 0.5)
    found = clustered(spark, settings, lake)
    assert found.loc["only", ["cluster", "cluster_name"]].tolist() == [0, "balanced"]


def test_no_course_is_no_failure(spark: SparkSession, settings: Config) -> None:
    assert clustered(spark, settings, Lake()).empty


def test_a_reused_shell_is_not_its_former_run(spark: SparkSession, settings: Config) -> None:
    """Case J: new dates and five new students without an action, whatever the former ones did there."""
    lake = Lake()
    lake.course(3, START, 100, "again")
    lake.resource(31, 3, "page")
    for user in range(1, 30):
        lake.enrol(user, 3, at=-250, left=-40)
        for days in range(-240, -50, 7):
            lake.act(user, 31, days)
    for user in range(101, 106):
        lake.enrol(user, 3)
    lake.course(4, START, 100, "used")  # with views, which the log of this site has
    lake.resource(41, 4, "page")
    for user in range(101, 106):
        lake.enrol(user, 4)
        for days in range(0, 28, 2):
            lake.act(user, 41, days)
    found = clustered(spark, settings, lake).set_index("courseid").loc[3]
    assert (found["students"], found["is_active"], found["rate_all"]) == (5, False, 0.0)
