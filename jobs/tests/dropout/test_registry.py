"""Models in the registry: what MLflow keeps of them, and where they load."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import xgboost
from model_lake import settings_in
from moodle_lakehouse.dropout import learner, registry, served_model
from moodle_lakehouse.dropout.blend import Blend
from moodle_lakehouse.dropout.calibration import PlattCalibration
from moodle_lakehouse.dropout.learner import Choice, Model, Spec
from moodle_lakehouse.dropout.registry import Entry, Registered, Registry
from pyspark.sql import SparkSession

ENTRY = Entry("train", {"label": "withdrawal"}, {"auc": [(0, 0.8)]}, {})
# Without this package and without Spark, as wherever somebody serves the model; prints the probabilities.
ELSEWHERE = """
import json, sys
sys.modules["moodle_lakehouse"] = sys.modules["pyspark"] = None
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
print(json.dumps(model.predict(model.input_example).tolist()))
"""


BLEND = Blend(
    runs="runs_withdrawal", past="past_withdrawal", weeks=(0.0, 4.0), rate=(-0.3, -0.6), expected=(0.7, 0.3),
    inputs=(("handed_in_share", None), ("profile_campus", 1), ("past_withdrawal", None)), mean=(0.5, 0.4, 0.0),
    scale=(0.3, 0.5, 1.0), coefficients=((-0.1, 0.2, 0.7), (-0.8, 0.1, 0.4)), intercept=(-0.3, -0.6),
    linear_weight=(0.7, 0.4), tree_weight=(0.2, 0.5), tree_centre=(0.1, -0.1),
)  # fmt: skip


@pytest.fixture
def of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return Registry(settings_in(tmp_path).mlflow)


def small_model(blended: bool = True) -> Model:
    """Trees of a number and of a profile field."""
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"handed_in_share": rng.uniform(size=400), "profile_campus": rng.integers(0, 2, 400)})
    label = (rows["handed_in_share"] + 0.3 * rows["profile_campus"] < 0.6).astype(int)
    trees = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(rows.astype(float), label), 5)
    spec = Spec(
        "withdrawal", tuple(rows.columns), (-1, 0), {"profile_campus": ["east", "west"]}, PlattCalibration(0.9, -0.2, 0.01, 9),
        blend=BLEND if blended else None,
    )  # fmt: skip
    return Model(bytes(trees.save_raw("json")), spec)


def folder_of(registered: Registered) -> Path:
    return Path(mlflow.artifacts.download_artifacts(f"models:/student_dropout/{registered.version}"))


@pytest.mark.parametrize("blended", [True, False])
def test_a_model_loads_without_this_package(of_folder: Registry, spark: SparkSession, blended: bool) -> None:
    """In a clean process its probabilities of the input example are the job's own."""
    model = small_model(blended)
    found = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, str(folder_of(of_folder.register(model, ENTRY)))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    rows = spark.createDataFrame(registry.input_example(model.spec))
    own = learner.predict(model, rows, ("week",)).toPandas().sort_values("week")["probability"]
    assert json.loads(found.stdout) == own.tolist()
    assert own.nunique() == 2


def test_what_mlflow_keeps_of_a_model(of_folder: Registry) -> None:
    model = small_model()
    folder = folder_of(of_folder.register(model, ENTRY))
    assert [path.name for path in (folder / "code").rglob("*.py")] == ["served_model.py"]
    installed = {f"{name}=={importlib.metadata.version(name)}" for name in ("xgboost-cpu", "pandas", "numpy")}
    assert installed <= set((folder / "requirements.txt").read_text().split())
    kept = mlflow.models.get_model_info(str(folder))
    assert kept.signature.inputs.input_names() == ["week", *model.spec.columns]
    assert mlflow.pyfunc.load_model(str(folder)).input_example.columns.tolist() == ["week", *model.spec.columns]
    assert of_folder.version("1").model == model


def test_a_model_of_an_earlier_release_scores(of_folder: Registry, tmp_path: Path) -> None:
    """Its artifact names a module that is gone and its spec has no weeks; the job reads the files themselves."""
    model, data = small_model(blended=False), tmp_path / "model"
    spec = {**model.spec.to_json(), "slope": 0.9, "intercept": -0.2}
    for name in ("calibration", "courses", "blend", "choice"):
        del spec[name]
    data.mkdir()
    (data / served_model.BOOSTER).write_bytes(model.booster)
    (data / served_model.SPEC).write_text(json.dumps(spec))
    of_folder._set_experiment()
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="model", loader_module="moodle_lakehouse.model_registry", data_path=str(data),
            pip_requirements=["xgboost-cpu", "pandas", "numpy"], registered_model_name=of_folder.config.model,
        )  # fmt: skip
    found = of_folder.version("1").model
    assert found.booster == model.booster
    assert found.spec.features == model.spec.features
    assert found.spec.calibration == PlattCalibration(0.9, -0.2)


def test_spec_survives_json() -> None:
    spec = Spec(
        "withdrawal",
        ("a", "b"),
        (1, 0),
        {"b": ["x", "y"]},
        PlattCalibration(1.5, -0.25, 0.1, 9),
        (1,),
        BLEND,
        Choice(3, 50, 0.1),
    )
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
