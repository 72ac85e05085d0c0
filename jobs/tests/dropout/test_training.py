"""Training, the registry, scores and reasons, on a small site of three terms."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from model_lake import AS_OF, SMALL_XGB_PARAMS, TERMS, Lake, empty, follows_contract, number, settings_in, small_site
from moodle_lakehouse import config as configuration
from moodle_lakehouse.dropout import dataset, features, learner, promotion, scoring, training
from moodle_lakehouse.dropout.registry import CARD, NOTE, Registry
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import job_runs, point_in_time, snapshots, table_names, tables
from moodle_lakehouse.reporting import report
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

# Of a small site a straight line may predict as well as trees.
TOLERANT = {"auc_over_baselines": -0.05, "brier_over_baselines": -0.02}


def three_terms() -> Lake:
    """The small site; students are of two campuses."""
    lake = small_site()
    for userid in sorted({number(row[0]) for row in lake.rows[table_names.FACT_ENROLMENT]}):
        lake.profile(userid, "campus", "east" if userid % 2 else "west")
    return lake


@dataclasses.dataclass(frozen=True)
class Site:
    """A site after features, train and score."""

    spark: SparkSession
    config: configuration.Config
    risk: pd.DataFrame


@pytest.fixture(scope="module", autouse=True)
def small_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "XGB_PARAMS", SMALL_XGB_PARAMS)
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        yield


@pytest.fixture(scope="module")
def site(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Site:
    empty(spark)
    settings = settings_in(tmp_path_factory.mktemp("site"), champion=TOLERANT)
    three_terms().write(spark)
    features.run(spark, settings, AS_OF)
    training.train(spark, settings, AS_OF)
    scoring.score(spark, settings, AS_OF)
    risk = spark.table(table_names.STUDENT_RISK).toPandas().set_index(["user_key", "courseid"]).sort_index()
    return Site(spark, settings, risk)


def test_who_is_scored(site: Site) -> None:
    """Students of the running courses whose enrolment is open at the moment; nobody else."""
    moment = F.lit(AS_OF)
    open_at = (F.col("unenrolled_at").isNull() | (F.col("unenrolled_at") >= moment)) & (F.col("enrolled_at") < moment)
    rows = site.spark.table(table_names.FACT_ENROLMENT).where("courseid >= 30").where(open_at).collect()
    assert set(site.risk.index) == {(row["user_key"], row["courseid"]) for row in rows}
    assert len(rows) > 100
    assert set(site.risk["week"]) == {3}
    assert site.risk["run_id"].nunique() == 1
    for table in (table_names.ENROLMENT_WEEK, table_names.STUDENT_RISK, table_names.MODEL_CARD):
        follows_contract(site.spark, table)


def test_probabilities_tell_who_will_fail(site: Site) -> None:
    from sklearn.metrics import roc_auc_score

    later = (
        site.spark.table(table_names.FACT_ENROLMENT)
        .where("courseid >= 30")
        .toPandas()
        .set_index(["user_key", "courseid"])
    )
    failed = later.loc[site.risk.index, "completed_at"].isna()
    assert roc_auc_score(failed, site.risk["probability"]) > 0.75
    assert abs(failed.mean() - site.risk["probability"].mean()) < 0.15
    assert site.risk["probability"].between(0, 1).all()


def test_bands_and_changes(site: Site) -> None:
    risk = site.risk
    expected = np.where(risk["probability"] >= 0.6, "high", np.where(risk["probability"] >= 0.3, "medium", "low"))
    assert risk["band"].tolist() == expected.tolist()
    champion = Registry(site.config.mlflow).champion()
    assert champion is not None
    assert set(risk["model_version"]) == {champion.version}
    before = site.spark.table(table_names.ENROLMENT_WEEK).where("courseid >= 30 and week = 2 and enrolled")
    earlier = learner.predict(champion.model, before, ("user_key", "courseid")).toPandas()
    earlier = earlier.set_index(["user_key", "courseid"])["probability"].reindex(risk.index)
    pd.testing.assert_series_equal(risk["change"], risk["probability"] - earlier, check_names=False, atol=1e-9)


def test_reasons_say_what_is_worse_than_the_course(site: Site) -> None:
    worst = site.risk.sort_values("probability", ascending=False).head(10)
    assert worst["reason_1"].notna().all()
    assert worst["reason_3"].notna().any()
    assert worst["reason_1"].str.contains("course:").all()
    reasons = site.risk[["reason_1", "reason_2", "reason_3"]]
    assert not (reasons["reason_1"].isna() & reasons["reason_2"].notna()).any(), "reasons are filled from the first"
    best = site.risk.sort_values("probability").head(10)
    assert best["reason_1"].isna().sum() >= worst["reason_1"].isna().sum()


def test_contributions_are_exact(site: Site) -> None:
    """TreeSHAP: a row's contributions and the booster's bias sum up to its margin."""
    champion = Registry(site.config.mlflow).champion()
    assert champion is not None
    rows = site.spark.table(table_names.ENROLMENT_WEEK).where("courseid = 30 and week = 3")
    found = learner.predict(champion.model, rows, ("user_key",), contributions=True).toPandas()
    rest = found["margin"] - found["contributions"].map(sum)
    assert rest.max() - rest.min() < 1e-4


def test_risk_moves_only_the_sensible_way(site: Site) -> None:
    """More handed in never raises a risk, a longer absence never lowers it, whatever the rest of the row."""
    champion = Registry(site.config.mlflow).champion()
    assert champion is not None
    rows = site.spark.table(table_names.ENROLMENT_WEEK).where("courseid = 30 and week = 3").persist()
    for name, direction in (("handed_in_share", -1), ("handed_in_vs", -1), ("days_since_access_vs", 1)):
        low = learner.predict(champion.model, rows.withColumn(name, F.lit(0.1)), ("user_key",)).toPandas()
        high = learner.predict(champion.model, rows.withColumn(name, F.lit(0.9)), ("user_key",)).toPandas()
        assert ((high["margin"] - low["margin"]) * direction >= -1e-6).all(), name
    rows.unpersist()


def test_the_same_data_give_the_same_model(site: Site) -> None:
    rows, found = dataset.training_rows(site.spark, site.config, AS_OF)
    rows = rows.persist()
    one, two = (learner.learn(given, found.courses, "non_completion")[0] for given in (rows, rows.repartition(3)))
    assert one == two
    rows.unpersist()


def run_params(site: Site) -> dict[str, str]:
    """What MLflow lists of the latest training."""
    import mlflow

    run = mlflow.search_runs(experiment_names=[site.config.mlflow.experiment], output_format="list")[0]
    return dict(run.data.params)


def test_the_registry_keeps_what_scores_need(site: Site) -> None:
    import mlflow

    champion = Registry(site.config.mlflow).champion()
    assert champion is not None
    spec = champion.model.spec
    assert spec.label == "non_completion"
    assert spec.features[: len(features.FEATURES)] == tuple(f.name for f in features.FEATURES)
    assert spec.blend is not None
    assert max(spec.blend.tree_weight) > 0.05, "the trees have a say"
    assert run_params(site)["ridge"] == str(spec.choice.ridge)
    run = mlflow.search_runs(experiment_names=[site.config.mlflow.experiment], output_format="list")[0]
    assert run.data.metrics["auc"] > 0.75
    assert {"logistic_regression.auc", "days_since_last_access.brier", "week_auc"} <= set(run.data.metrics)
    assert run.data.params["label"] == "non_completion"
    loaded = mlflow.pyfunc.load_model(f"models:/{site.config.mlflow.model}@champion")
    rows = site.spark.table(table_names.ENROLMENT_WEEK).where("courseid = 30 and week = 3").orderBy("user_key")
    ours = learner.predict(champion.model, rows, ("user_key",)).toPandas().set_index("user_key")["probability"]
    theirs = loaded.predict(rows.toPandas())
    assert np.allclose(ours.sort_index(), theirs, atol=1e-6)


def test_training_sees_finished_courses_only(site: Site) -> None:
    rows, found = dataset.training_rows(site.spark, site.config, AS_OF)
    courses = found.courses
    assert [course.courseid for course in courses] == [10, 11, 20, 21]
    seen = rows.agg(F.collect_set("courseid").alias("courses"), F.collect_set("week").alias("weeks")).first()
    assert seen is not None
    assert sorted(seen["courses"]) == [10, 11, 20, 21]
    assert sorted(seen["weeks"]) == [0, 1, 2, 3, 4, 6]


def test_what_is_held_out_is_predicted_by_models_of_other_courses(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen and blended comes from courses that the booster behind it never saw; the latest term measures."""
    taught: list[list[int]] = []
    fit, fit_here = learner.fit, learner._fit_here

    def spy(rows: Any, *rest: Any) -> bytes:
        taught.append(sorted(row["courseid"] for row in rows.select("courseid").distinct().collect()))
        return fit(rows, *rest)

    def spy_here(rows: pd.DataFrame, *rest: Any) -> bytes:
        taught.append(sorted(rows["courseid"].unique().tolist()))
        return fit_here(rows, *rest)

    monkeypatch.setattr(learner, "fit", spy)
    monkeypatch.setattr(learner, "_fit_here", spy_here)
    monkeypatch.setattr(learner, "DEPTHS", (3,))
    rows, found = dataset.training_rows(site.spark, site.config, AS_OF)
    rows, courses = rows.persist(), found.courses
    _, held_out = learner.learn(rows, courses, "non_completion")
    assert taught == [[20, 21], [10, 11], [10, 11, 20, 21]]
    assert sorted(row["courseid"] for row in held_out.select("courseid").distinct().collect()) == [20, 21]
    taught.clear()
    _, held_out = learner.learn(rows.where("courseid < 20"), courses[:2], "non_completion")
    assert sorted(taught) == [[10], [10, 11], [11]], "one term: its courses are held out in turn"
    assert sorted(row["courseid"] for row in held_out.select("courseid").distinct().collect()) == [10, 11]
    rows.unpersist()


def test_of_very_many_rows_whole_students_are_tried(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trees learn from all of them; what measures the model and what it is compared with are the same rows."""
    rows, found = dataset.training_rows(site.spark, site.config, AS_OF)
    rows = rows.persist()
    count = rows.count()
    monkeypatch.setattr(learner, "MAX_SAMPLE", count // 2)
    model, held_out = learner.learn(rows, found.courses, "non_completion")
    measured = training._measure(rows, held_out, found.courses, model.spec.features, 10)
    students = {name: found["students"] for name, found in measured["overall"].items()}
    assert len(set(students.values())) == 1
    assert 0 < students["model"] < 0.8 * rows.where("courseid >= 20").count()
    kept = (
        held_out.groupBy("user_key", "courseid")
        .count()
        .join(rows.groupBy("user_key", "courseid").agg(F.count("*").alias("all")), ["user_key", "courseid"], "inner")
    )
    assert kept.where(F.col("count") != F.col("all")).count() == 0
    rows.unpersist()


def test_scoring_the_same_again_writes_nothing(site: Site) -> None:
    before = snapshots.snapshot_id(tables.load(site.spark, table_names.STUDENT_RISK))
    scoring.score(site.spark, site.config, AS_OF)
    assert snapshots.snapshot_id(tables.load(site.spark, table_names.STUDENT_RISK)) == before


def test_too_little_data_is_refused_with_the_reason(
    spark: SparkSession,
    site: Site,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While no course is over nothing is trained, rules list the students, and the report says why."""
    monkeypatch.setattr(job_runs, "_run_id", "20240225T000000Z-early")
    early = TERMS[0] + dt.timedelta(days=20)
    settings = settings_in(tmp_path)
    with caplog.at_level(logging.WARNING, logger="moodle_lakehouse"):
        training.train(spark, settings, early)
        scoring.score(spark, settings, early)
    assert "0 finished courses with an outcome (over on 2024-02-25); at least 2 are needed" in caplog.text
    assert "There is no champion of student_dropout yet" in caplog.text
    text = report.render(spark, settings, early)
    assert "Too little data to learn from" in text
    import mlflow

    (run,) = mlflow.search_runs(experiment_names=[settings.mlflow.experiment], output_format="list")
    assert run.data.tags["refused"] == "true"
    assert run.info.run_name == "train 2024-02-25: refused"
    assert run.data.tags[NOTE].startswith(f"No model was trained. {card_link(run)}\n")
    assert "0 finished courses with an outcome" in run.data.tags[NOTE]
    assert "0 finished courses with an outcome" in mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{CARD}")
    refusals = (
        spark.table(table_names.MODEL_CARD).where("section = 'refusal' and as_of = timestamp'2024-02-25'").collect()
    )
    assert [row["model_version"] for row in refusals] == [None]
    assert "at least 2 are needed" in refusals[0]["text"]
    rules = spark.table(table_names.STUDENT_RISK).where("run_id = '20240225T000000Z-early'")
    assert {row["model_version"] for row in rules.collect()} == {"rules"}


def test_the_card_of_a_training_and_its_scores(site: Site) -> None:
    """As rows and as a page; both say what MLflow says."""
    import mlflow

    champion = Registry(site.config.mlflow).champion()
    assert champion is not None
    rows = site.spark.table(table_names.MODEL_CARD).where(F.col("model_version") == champion.version).toPandas()
    sections = rows.groupby("job")["section"].unique().map(set)
    both = {"snapshot"}
    assert sections["train"] == {*both, "protocol", "window", "course", "measure", "calibration", "group", "champion"}
    assert sections["score"] == {*both, "drift"}
    auc = rows.query("section == 'measure' and subject == 'model' and name == 'auc'").set_index("week")
    logged = mlflow.MlflowClient().get_metric_history(champion.run, "week_auc")
    assert auc["value"].to_dict() == pytest.approx({point.step: point.value for point in logged})
    assert ((auc["low"] < auc["value"]) & (auc["value"] < auc["high"])).all()
    read = rows.query("section == 'snapshot' and job == 'train'").set_index("subject")["text"]
    assert {name: int(number) for name, number in read.items()} == features.snapshots(site.spark)
    drift = rows.query("section == 'drift' and name == 'shift'").set_index("subject")["value"]
    assert set(drift.index) == set(champion.model.spec.features)
    assert drift.median() < 0.3, "the third term is like the others"
    courses = rows.query("section == 'course'").set_index("subject")
    assert set(courses.index) == {"K0-0", "K1-0", "K0-1", "K1-1"}
    assert set(courses["name"]) == {"completion"}
    assert courses["value"].between(0.2, 0.8).all()
    assert set(rows.query("section == 'group'")["subject"]) == {"campus=east", "campus=west"}
    assert rows.query("name == 'became_champion'")["value"].tolist() == [1.0]

    root = mlflow.get_run(champion.run).info.artifact_uri
    pages = [mlflow.artifacts.load_text(f"{root}/{name}") for name in (CARD, f"scored/{job_runs.run_id()}.html")]
    for page in pages:
        assert page.startswith("<!doctype html>")
        ElementTree.fromstring(page.removeprefix("<!doctype html>").replace('<meta charset="utf-8">', ""))
        assert page.count("<svg ") == 2
        assert not re.search(r"src=|href=|url\(", page), "nothing is loaded from anywhere"
        assert f"{auc['value'].iloc[-1]:.3f} ({auc['low'].iloc[-1]:.3f} to" in page
        assert "Groups by campus" in page
    assert "Drift" not in pages[0]
    assert "Drift against the training data" in pages[1]


def card_link(run: Any) -> str:
    """How the description of a run leads to its card, on whatever address the pages are."""
    return f"[The whole model card](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifactPath/{CARD})"


def test_the_card_in_short_is_what_mlflow_shows_first(site: Site) -> None:
    """On the run's page and on the version's, measures beside the baselines week by week."""
    import mlflow

    client = mlflow.MlflowClient()
    champion = Registry(site.config.mlflow).champion()
    assert champion is not None
    run = client.get_run(champion.run)
    assert run.info.run_name == f"train {AS_OF:%Y-%m-%d}"
    text = run.data.tags[NOTE]
    assert client.get_model_version(site.config.mlflow.model, champion.version).description == text
    measured = f"{run.data.metrics['auc']:.3f} / {run.data.metrics['brier']:.3f}"
    assert text.startswith(f"It became champion: AUC / Brier score {measured}. {card_link(run)}\n")
    assert "**It predicts** non_completion: not completing the course" in text
    assert "**It learnt from** 4 courses with " in text
    assert "- It knows courses like these: 2 courses that started " in text
    assert "- What Moodle overwrites " in text
    assert "- Demographic attributes are not used." in text
    head, rule, *rows = [
        [cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    assert head[:4] == ["after week", "students", "model", "logistic regression"]
    assert set(rule) == {"---"}
    assert [row[0] for row in rows] == ["0", "4", "all"]
    assert rows[0][2].startswith(f"{client.get_metric_history(champion.run, 'week_auc')[0].value:.3f} / 0.")
    assert rows[-1][2] == measured
    assert client.get_registered_model(site.config.mlflow.model).description
    experiment = client.get_experiment_by_name(site.config.mlflow.experiment)
    assert experiment is not None
    assert f"(#/models/{site.config.mlflow.model})" in experiment.tags[NOTE]


def test_what_a_person_wrote_of_the_experiment_and_the_model_stays(tmp_path: Path) -> None:
    import mlflow

    settings = settings_in(tmp_path)
    registry = Registry(settings.mlflow)
    client = mlflow.MlflowClient()
    experiment = client.create_experiment(settings.mlflow.experiment, tags={NOTE: "ours"})
    client.create_registered_model(settings.mlflow.model, description="ours")
    registry.log_refusal("train 2025-01-01: refused")
    registry._describe_model()
    assert client.get_experiment(experiment).tags[NOTE] == "ours"
    assert client.get_registered_model(settings.mlflow.model).description == "ours"


def test_the_same_data_teach_nothing_new(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    before = site.spark.table(table_names.MODEL_CARD).count()
    with caplog.at_level(logging.INFO, logger="moodle_lakehouse"):
        training.train(site.spark, site.config, AS_OF)
    assert "Nothing was trained: student_dropout version 1 was made of just these data" in caplog.text
    assert site.spark.table(table_names.MODEL_CARD).count() == before


def test_nothing_persisted_is_left(site: Site) -> None:
    """Neither a training nor a scoring leaves rows in memory for the next step to pay for."""
    kept = site.spark.sparkContext._jsc.getPersistentRDDs()  # type: ignore[attr-defined]
    assert dict(kept) == {}


def test_a_model_that_is_not_better_does_not_become_champion(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stumps and a line that hardly rises are registered, measured and reported, but version 1 goes on scoring."""
    monkeypatch.setattr(learner, "XGB_PARAMS", {**SMALL_XGB_PARAMS, "n_estimators": 2})
    monkeypatch.setattr(learner, "DEPTHS", (1,))
    monkeypatch.setattr(learner, "RIDGES", (1e6,))
    with caplog.at_level(logging.WARNING, logger="moodle_lakehouse"):
        training.train(site.spark, site.config, AS_OF)
    champion = Registry(site.config.mlflow).champion()
    assert champion is not None
    assert champion.version == "1"
    assert Registry(site.config.mlflow).version("2").model.spec.courses == (10, 11, 20, 21)
    assert "It does not become champion:" in caplog.text
    assert "Version 2 was not better: version 1 remains champion" in caplog.text
    assert "of champion: better by -0." in caplog.text
    import mlflow

    text = mlflow.MlflowClient().get_model_version(site.config.mlflow.model, "2").description
    assert text.startswith("It did not become champion: AUC / Brier score 0.")
    assert re.search(r"^- AUC .* of champion: better by -0\.", text, re.MULTILINE)
    verdict = (
        site.spark.table(table_names.MODEL_CARD).where("model_version = '2' and name = 'became_champion'").collect()
    )
    assert [row["value"] for row in verdict] == [0.0]


def test_a_champion_is_compared_on_courses_it_never_saw(site: Site) -> None:
    """Where it saw them all, what it was measured at when they were held out from it."""
    rows, _ = dataset.training_rows(site.spark, site.config, AS_OF)
    rows = rows.persist()
    held_out = rows.where("courseid >= 20").select(*dataset.KEYS, "label", F.lit(0.5).alias("probability"))
    registry = Registry(site.config.mlflow)
    champion = registry.champion()
    assert champion is not None
    measured = {"overall": {"model": {"auc": 0.123, "brier": 0.3}}}
    own, other = training._against_champion(registry, champion, rows, held_out, measured, site.config) or ({}, {})
    logged = registry.document(champion.run, "measures.json")
    assert logged is not None
    assert (own, other) == (measured["overall"]["model"], logged["overall"]["model"])
    spec = dataclasses.replace(champion.model.spec, courses=(10, 11, 20))
    partly = dataclasses.replace(champion, model=dataclasses.replace(champion.model, spec=spec))
    own, other = training._against_champion(registry, partly, rows, held_out, measured, site.config) or ({}, {})
    assert own["auc"] == 0.5
    assert own["students"] == other["students"] == rows.where("courseid = 21").count()
    assert other["auc"] > 0.7
    rows.unpersist()


def test_a_score_can_be_made_again_from_its_snapshots(site: Site) -> None:
    """What Moodle says since then changes today's scores, not what can be said of that day's."""
    run = str(site.risk["run_id"].iloc[0])
    snapshots = site.risk["data_snapshots"].iloc[0]
    changed = three_terms()
    for userid in (2100, 2101, 2102):
        changed.submit(userid, 302, 15.0)
        changed.act(userid, 300, 20.0)
    changed.write(site.spark)
    try:
        assert dict(snapshots) != features.snapshots(site.spark)
        assert scoring.reproduce(site.spark, site.config, run) == (len(site.risk), 0)
        moment = point_in_time.utc(AS_OF)
        src = features.sources(site.spark, site.config.analytics, moment)
        rows = dataset.current_rows(src, moment, features.build(src, moment))
        today = scoring.risk(rows, Registry(site.config.mlflow).version("1"), moment, features.snapshots(site.spark))
        differ = today.toPandas().set_index(["user_key", "courseid"])["probability"] - site.risk["probability"]
        assert differ.abs().max() > 0.01, "without the snapshots they come out otherwise"
        with pytest.raises(LakehouseError, match="No run 19991231 has scored"):
            scoring.reproduce(site.spark, site.config, "19991231")
        with pytest.raises(LakehouseError, match=r"Snapshot 1 of lakehouse.curated.dim_course is gone"):
            features.sources(site.spark, site.config.analytics, moment, {table_names.DIM_COURSE: 1})
    finally:
        three_terms().write(site.spark)


def test_an_interrupted_training_is_made_up_for(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before its card is written it counts as not done; before the promotion the next training promotes it."""
    config = site.config.model_copy(update={"mlflow": settings_in(tmp_path).mlflow})
    registry = Registry(config.mlflow)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_show", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.train(site.spark, config, AS_OF)
    assert registry.champion_version() is None
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "promote", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.train(site.spark, config, AS_OF)
    assert registry.champion_version() is None
    training.train(site.spark, config, AS_OF)
    assert registry.champion_version() == "2", "nothing was trained a third time"
    promotion.promote(registry, "1")
    with caplog.at_level(logging.WARNING, logger="moodle_lakehouse"):
        promotion.promote(registry)
    assert registry.champion_version() == "1", "what a person chose stays"
    assert "Version 2 was compared with no champion: version 1 remains champion; to choose one, name it" in caplog.text
    with pytest.raises(LakehouseError, match="MLflow did not make version 9 champion"):
        promotion.promote(registry, "9")


def test_an_interrupted_scoring_is_done_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are appended when their card is written: the next run does both, and none does either twice."""
    later = AS_OF + dt.timedelta(hours=1)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def scores() -> int:
        return site.spark.table(table_names.STUDENT_RISK).where(F.col("as_of") == F.lit(later)).count()

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "_report_drift", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scoring.score(site.spark, site.config, later)
    assert scores() == 0
    scoring.score(site.spark, site.config, later)
    assert scores() == len(site.risk)


def test_a_past_moment_is_scored_by_what_was_known_then(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The champion knows how the second term ended: in its middle a model of the first term scores, made once."""
    registry = Registry(site.config.mlflow)
    champion = registry.champion_version()
    for hours in (0, 1):
        moment = TERMS[1] + dt.timedelta(days=22, hours=hours)
        with caplog.at_level(logging.INFO, logger="moodle_lakehouse"):
            scoring.score(site.spark, site.config, moment)
        rows = site.spark.table(table_names.STUDENT_RISK).where(F.col("as_of") == F.lit(moment)).toPandas()
        assert set(rows["courseid"]) == {20, 21}
        (version,) = set(rows["model_version"])
        assert version != champion
        assert registry.version(version).model.spec.courses == (10, 11)
    assert caplog.text.count("one is trained for it") == 1
    assert f"Version {version} scores: the champion knows what came after" in caplog.text
    promotion.promote(registry)
    assert registry.champion_version() == champion, "a model of the past never becomes champion"
    moment = TERMS[0] + dt.timedelta(days=22)
    scoring.score(site.spark, site.config, moment)
    rows = site.spark.table(table_names.STUDENT_RISK).where(F.col("as_of") == F.lit(moment)).toPandas()
    assert set(rows["model_version"]) == {"rules"}, "nothing was over by then"


def test_unreachable_mlflow_is_one_message(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = site.config.mlflow.model_copy(update={"tracking_uri": "http://127.0.0.1:9/mlflow"})
    with pytest.raises(LakehouseError, match="MLflow did not read the champion"):
        Registry(away).champion()
