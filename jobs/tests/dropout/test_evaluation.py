"""Evaluation: an honest split, the document of the command line, refusals."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_lake import SMALL_XGB_PARAMS, TERMS, empty, number, settings_in, small_site
from moodle_lakehouse.config import Config
from moodle_lakehouse.dropout import baselines, dataset, evaluation, labels, learner, metrics, subgroups
from moodle_lakehouse.errors import ConfigError
from moodle_lakehouse.lake import table_names
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

RETURNING = 100
SPLIT = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module", autouse=True)
def small_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "XGB_PARAMS", SMALL_XGB_PARAMS)
        yield


@pytest.fixture(scope="module")
def settings(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Config:
    empty(spark)
    site = small_site(terms=(0, 1))
    # One student of the first term comes back: he takes course 21, too.
    site.enrol(RETURNING, 21, -3, None, 40)
    people = sorted({(number(row[0]), row[1]) for row in site.rows[table_names.FACT_ENROLMENT]})
    for place, (userid, courseid) in enumerate(people):
        site.attribute(userid, courseid, "credits", float(place % 40))
        place = (userid - 100) % 100
        if place < 65:
            site.profile(userid, "campus", "east" if place < 35 else "west")
        site.profile(userid, "rare", "yes" if userid in (1100, 1101, 1102) else "no")
    site.write(spark)
    return settings_in(tmp_path_factory.mktemp("evaluate"))


def asked(split: tuple[dt.datetime, dt.datetime] | None = (SPLIT, SPLIT), **changed: Any) -> evaluation.EvaluationSpec:
    return evaluation.EvaluationSpec(
        **{"label": "non_completion", "weeks": [0, 4, 9], "capacity": 10, "split": split, **changed}
    )


def students_of(rows: Any) -> set[tuple[int, int]]:
    return {(number(key), courseid) for key, courseid in rows.select("user_key", "courseid").distinct().collect()}


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> list[set[tuple[int, int]]]:
    """The enrolments (student, courseid) that each model's rows were of."""
    seen: list[set[tuple[int, int]]] = []
    learn = learner.learn

    def spy(rows: Any, *rest: Any) -> Any:
        seen.append(students_of(rows))
        return learn(rows, *rest)

    monkeypatch.setattr(learner, "learn", spy)
    return seen


def test_later_courses_are_predicted_from_earlier_ones(
    spark: SparkSession, settings: Config, taught: list[set[tuple[int, int]]]
) -> None:
    found = evaluation.run(spark, settings, asked(group_by="campus"))
    assert {courseid for seen in taught for _, courseid in seen} == {10, 11}, "the courses of the test teach nothing"
    assert list(found) == ["model", "baselines", "protocol", "groups"]
    assert list(found["baselines"]) == ["logistic_regression", "days_since_last_access", "training_base_rate"]
    for rows in (found["model"], *found["baselines"].values()):
        assert [row["week"] for row in rows] == [0, 4, 9]
        assert all(list(row) == ["week", "students", *metrics.MEASURES] for row in rows)
        assert rows[0]["students"] == 141
        assert rows[2]["students"] == 0, "a week after the courses' end has no rows"
    assert json.loads(json.dumps(found)) == found
    start, late = found["model"][0], found["model"][1]
    assert late["students"] < start["students"], "who has left is no longer at risk"
    assert late["auc"] > 0.75
    assert late["auc_ci"][0] < late["auc"] < late["auc_ci"][1]
    assert late["brier"] < late["base_rate"] * (1 - late["base_rate"])
    assert late["precision"] > late["base_rate"], "ten of each course"
    assert late["recall"] == pytest.approx(20 * late["precision"] / (late["students"] * late["base_rate"]))
    constant = found["baselines"]["training_base_rate"][1]
    assert constant["auc"] == 0.5
    assert late["brier"] < constant["brier"]
    groups = found["groups"]
    assert (groups["field"], [week["week"] for week in groups["weeks"]]) == ("campus", [0, 4, 9])
    assert [(row["group"], row["students"]) for row in groups["weeks"][0]["groups"]] == [
        ("east", 71), ("west", 60), ("not known", 10)
    ]  # fmt: skip
    assert groups["weeks"][0]["groups"][1]["auc_gap_ci"] is not None
    assert "too small" in groups["weeks"][0]["groups"][2]["note"]


def test_each_course_is_predicted_by_a_model_that_never_saw_it_nor_its_students(
    spark: SparkSession, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two folds of two courses, for speed, and without the slow baselines, which are tested elsewhere."""
    models: list[learner.Model] = []
    saw: list[set[tuple[int, int]]] = []
    predicted: dict[int, set[int]] = {}
    predict = learner.predict

    learn = learner.learn

    def learn_spy(rows: Any, courses: Any, label: str) -> Any:
        saw.append(students_of(rows))
        assert sum(course.students for course in courses) == len(saw[-1])
        models.append(learn(rows, courses, label)[0])
        return models[-1], None

    def predict_spy(model: learner.Model, rows: Any, keep: Any, contributions: bool = False) -> Any:
        predicted[models.index(model)] = {row["courseid"] for row in rows.select("courseid").distinct().collect()}
        return predict(model, rows, keep, contributions)

    monkeypatch.setattr(evaluation, "MAX_FOLDS", 2)
    monkeypatch.setattr(learner, "learn", learn_spy)
    monkeypatch.setattr(learner, "predict", predict_spy)
    monkeypatch.setattr(baselines, "fit", lambda rows, names: {"rate": baselines.training_base_rate(rows)})
    found = evaluation.run(spark, settings, asked(split=None, weeks=[0, 4]))
    assert [course["courseid"] for course in found["courses"]] == [10, 20, 11, 21]
    assert predicted == {0: {10, 20}, 1: {11, 21}}
    for left_out, seen in zip(({10, 20}, {11, 21}), saw, strict=True):
        assert {course for _, course in seen} == {10, 11, 20, 21} - left_out
        assert RETURNING not in {student for student, _ in seen}, "one of his courses is predicted"
    assert {student for student, _ in saw[0]} == {*range(200, 270), *range(1200, 1270)}
    for week, row in enumerate(found["model"]):
        assert row["students"] == sum(course["weeks"][week]["students"] for course in found["courses"])
    assert found["model"][1]["auc"] > 0.7
    assert found["protocol"]["trainings"] == 2


def test_courses_are_left_out_one_at_a_time(spark: SparkSession, settings: Config) -> None:
    starts = {i: TERMS[i // 10 - 1] for i in (10, 11, 20, 21)}
    ends = {i: start + dt.timedelta(days=42) for i, start in starts.items()}
    courses = [labels.Course(i, f"C{i}", starts[i], ends[i], 70, 35, "completion") for i in starts]
    outcomes = spark.table(table_names.FACT_ENROLMENT).select(
        "user_key", "courseid", (F.conv("user_key", 16, 10).cast("long") % 2).alias("label")
    )
    folds, refused = evaluation._cv_folds(labels.Finished(courses, outcomes), asked(split=None))
    assert [[course.courseid for course in fold.test] for fold in folds] == [[10], [11], [20], [21]]
    assert refused == []
    train = {course.courseid: course.students for course in folds[0].train}
    assert train == {11: 70, 20: 70, 21: 70}, "21 without the student who is in 10, too"
    with pytest.raises(dataset.TooLittleDataError, match="1 finished courses with an outcome"):
        evaluation._cv_folds(labels.Finished(courses[:2], outcomes), asked(split=None))


def test_a_split_without_training_or_test_courses_is_refused(spark: SparkSession, settings: Config) -> None:
    early, late = TERMS[0] - dt.timedelta(days=1), TERMS[2]
    with pytest.raises(dataset.TooLittleDataError, match="0 finished courses with an outcome"):
        evaluation.run(spark, settings, asked((early, early)))
    with pytest.raises(dataset.TooLittleDataError, match="No finished course with an outcome started on"):
        evaluation.run(spark, settings, asked((SPLIT, late)))


def test_what_cannot_be_compared_is_refused_before_training(
    spark: SparkSession, settings: Config, taught: list[set[tuple[int, int]]]
) -> None:
    with pytest.raises(ConfigError, match=r"no attribute 'shoe size'[\s\S]*use one of campus, credits, rare"):
        evaluation.run(spark, settings, asked(group_by="shoe size"))
    with pytest.raises(dataset.TooLittleDataError, match="1 of 2 is large enough, two are needed") as refusal:
        evaluation.run(spark, settings, asked(group_by="rare"))
    assert "yes: 3 enrolments" in str(refusal.value)
    assert taught == []


def test_numbers_make_groups_of_like_size(spark: SparkSession, settings: Config) -> None:
    enrolments = spark.table(table_names.FACT_ENROLMENT).where("courseid in (10, 11)").select("user_key", "courseid")
    sizes = {
        row["group"]: row["count"]
        for row in subgroups.by(spark, "credits", enrolments).groupBy("group").count().collect()
    }
    assert len(sizes) == 4
    assert all(30 <= size <= 40 for size in sizes.values())


def test_data_end_bounds_what_is_over(spark: SparkSession, settings: Config) -> None:
    end = evaluation.data_end(spark, 28)
    assert TERMS[1] + dt.timedelta(days=47 + 28) < end < TERMS[1] + dt.timedelta(days=50 + 28)


def test_an_empty_lake_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    empty(spark)
    small_site(terms=()).write(spark)
    with pytest.raises(dataset.TooLittleDataError, match="nothing to evaluate"):
        evaluation.run(spark, settings_in(tmp_path), asked())
