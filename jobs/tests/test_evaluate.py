"""Evaluation: an honest split, the document of the command line, refusals."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_lake import TERMS, small_site
from moodle_lakehouse import evaluate, model_learn
from moodle_lakehouse.config import Config
from pyspark.sql import SparkSession
from test_model import SMALL_TREES, empty, settings_in

SPLIT = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module", autouse=True)
def small_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_learn, "TREES", SMALL_TREES)
        yield


@pytest.fixture(scope="module")
def settings(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Config:
    empty(spark)
    small_site(terms=(0, 1)).write(spark)
    return settings_in(tmp_path_factory.mktemp("evaluate"))


def test_later_courses_are_predicted_from_earlier_ones(
    spark: SparkSession, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: set[int] = set()
    fit = model_learn.fit

    def spy(rows: Any, label: str) -> model_learn.Model:
        taught.update(row["courseid"] for row in rows.select("courseid").distinct().collect())
        return fit(rows, label)

    monkeypatch.setattr(model_learn, "fit", spy)
    found = evaluate.run(spark, settings, SPLIT, SPLIT, "non_completion", [0, 4, 9])
    assert taught == {10, 11}, "the courses of the test teach nothing"
    assert list(found) == ["model", "baselines"]
    assert list(found["baselines"]) == ["logistic_regression", "days_since_last_access"]
    for rows in (found["model"], *found["baselines"].values()):
        assert [row["week"] for row in rows] == [0, 4, 9]
        assert all(list(row) == ["week", "students", "base_rate", "auc", "pr_auc", "brier", "ece"] for row in rows)
        assert rows[0]["students"] == 140
        assert rows[2]["students"] == 0, "a week after the courses' end has no rows"
    assert json.loads(json.dumps(found)) == found
    start, late = found["model"][0], found["model"][1]
    assert late["students"] < start["students"], "who has left is no longer at risk"
    assert late["auc"] > 0.75
    assert late["brier"] < late["base_rate"] * (1 - late["base_rate"])


def test_a_split_without_training_or_test_courses_is_refused(spark: SparkSession, settings: Config) -> None:
    early, late = TERMS[0] - dt.timedelta(days=1), TERMS[2]
    with pytest.raises(model_learn.TooLittleDataError, match="0 finished courses with an outcome"):
        evaluate.run(spark, settings, early, early, "non_completion", [0])
    with pytest.raises(model_learn.TooLittleDataError, match="No finished course with an outcome started on"):
        evaluate.run(spark, settings, SPLIT, late, "non_completion", [0])


def test_data_end_bounds_what_is_over(spark: SparkSession, settings: Config) -> None:
    end = evaluate.data_end(spark)
    assert TERMS[1] + dt.timedelta(days=47) < end < TERMS[1] + dt.timedelta(days=50)


def test_an_empty_lake_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    empty(spark)
    small_site(terms=()).write(spark)
    with pytest.raises(model_learn.TooLittleDataError, match="nothing to evaluate"):
        evaluate.run(spark, settings_in(tmp_path), SPLIT, SPLIT, "non_completion", [0])
