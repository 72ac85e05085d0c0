"""Where models are kept: a run and a registered model in MLflow, whose alias champion is what scores.

A model is stored as an MLflow model of plain files (booster.json, spec.json), loadable by mlflow.pyfunc as
well; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moodle_lakehouse.config import MlflowConfig
from moodle_lakehouse.dropout.learner import Model, Spec, dump
from moodle_lakehouse.errors import LakehouseError

log = logging.getLogger(__name__)

CHAMPION = "champion"
BOOSTER, SPEC = "booster.json", "spec.json"
CARD = "model_card.html"
DATA = "data"  # the tag of a version that says what it was made of
NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as a description
LONGEST = 5000  # characters of a description that MLflow takes


@dataclass(frozen=True)
class Registered:
    """A model with its version in the registry and the run that made it."""

    model: Model
    version: str
    run: str


@dataclass(frozen=True)
class Entry:
    """What a training leaves in the registry: measures by name as (step, value), documents and texts by file name."""

    name: str  # of the run
    params: dict[str, Any]
    metrics: dict[str, list[tuple[int, float]]]
    documents: dict[str, Any]
    data: str  # what the model was made of, as one word


class Registry:
    """MLflow as configured; every failure of it becomes one message."""

    def __init__(self, config: MlflowConfig) -> None:
        self.config = config
        # A server that is away is told in seconds, not after MLflow's own minutes of retries.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        if config.tracking_uri.startswith("http"):
            os.environ["MLFLOW_TRACKING_USERNAME"] = config.username
            os.environ["MLFLOW_TRACKING_PASSWORD"] = config.password()
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._mlflow = mlflow
        mlflow.set_tracking_uri(config.tracking_uri)
        mlflow.set_registry_uri(config.tracking_uri)
        self._client = mlflow.MlflowClient()

    def register(self, model: Model, entry: Entry) -> Registered:
        """Log a run and register its model; it is no champion yet."""
        with self._told("register the model"), tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "model"
            data.mkdir()
            (data / BOOSTER).write_bytes(model.booster)
            (data / SPEC).write_text(dump(model.spec))
            self._set_experiment()
            with self._mlflow.start_run(run_name=entry.name) as run:
                self._mlflow.log_params(entry.params)
                self._client.log_batch(run.info.run_id, metrics=self._entities(entry.metrics))
                for name, document in entry.documents.items():
                    self._mlflow.log_dict(document, name)
                from mlflow import pyfunc

                version = pyfunc.log_model(
                    name="model",
                    loader_module=__name__,
                    data_path=str(data),
                    pip_requirements=["xgboost-cpu", "pandas", "numpy"],
                    registered_model_name=self.config.model,
                ).registered_model_version
            self._client.set_model_version_tag(self.config.model, str(version), DATA, entry.data)
            self._describe_model()
            return Registered(model, str(version), run.info.run_id)

    def promote(self, version: str) -> None:
        """Make a version the champion."""
        with self._told("name the champion"):
            self._client.set_registered_model_alias(self.config.model, CHAMPION, version)

    def made_of(self, data: str) -> str | None:
        """The latest version that was made of just these data, or None."""
        with self._told("list the models"):
            found = self._client.search_model_versions(f"name = '{self.config.model}'", max_results=1000)
        same = [int(version.version) for version in found if version.tags.get(DATA) == data]
        return str(max(same)) if same else None

    def log_refusal(self, name: str) -> str:
        """A run without a model; its card says why."""
        with self._told("log the refusal"):
            self._set_experiment()
            with self._mlflow.start_run(run_name=name, tags={"refused": "true"}) as run:
                return str(run.info.run_id)

    def show_card(self, run: str, html: str, summary: str, version: str | None = None) -> None:
        """Keep a card with its run; its summary stands on the first page of the run and of its version."""
        with self._told("keep the card"):
            self._client.log_text(run, html, CARD)
            self._client.set_tag(run, NOTE, summary[:LONGEST])
            if version is not None:
                self._client.update_model_version(self.config.model, version, summary[:LONGEST])

    def card_link(self, run: str) -> str:
        """Where MLflow's pages show a run's card, from any of them: only a browser knows the address that it came by."""
        with self._told("find the run"):
            experiment = self._client.get_run(run).info.experiment_id
        return f"#/experiments/{experiment}/runs/{run}/artifactPath/{CARD}"

    def log_text(self, run: str, text: str, name: str) -> None:
        """Keep a text as a file of a run."""
        with self._told(f"keep {name}"):
            self._client.log_text(run, text, name)

    def document(self, run: str, name: str) -> dict[str, Any] | None:
        """A document of a run; None where it has none of this name, as runs of older releases."""
        with self._told(f"read {name}"), tempfile.TemporaryDirectory() as folder:
            if name not in {file.path for file in self._client.list_artifacts(run)}:
                return None
            path = self._client.download_artifacts(run, name, folder)
            document: dict[str, Any] = json.loads(Path(path).read_text())
            return document

    def champion(self) -> Registered | None:
        """The model that scores, or None when there is none yet."""
        from mlflow.exceptions import MlflowException

        with self._told("read the champion"):
            try:
                version = self._client.get_model_version_by_alias(self.config.model, CHAMPION)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        return self.version(str(version.version))

    def version(self, number: str) -> Registered:
        """A registered model."""
        with self._told(f"read version {number} of {self.config.model}"), tempfile.TemporaryDirectory() as folder:
            version = self._client.get_model_version(self.config.model, number)
            uri = f"models:/{self.config.model}/{version.version}"
            path = Path(self._mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
            return Registered(_read(next(path.rglob(SPEC)).parent), str(version.version), str(version.run_id))

    def _set_experiment(self) -> None:
        """Make the experiment the present one, described unless somebody has done so."""
        experiment = self._mlflow.set_experiment(self.config.experiment)
        if not experiment.tags.get(NOTE):
            text = (
                f"Each run is a training and shows its model card in short. [The model](#/models/{self.config.model})"
            )
            self._client.set_experiment_tag(experiment.experiment_id, NOTE, text)

    def _describe_model(self) -> None:
        if not self._client.get_registered_model(self.config.model).description:
            text = (
                f"The risk of each student of a running course. The version with the alias {CHAMPION} is what scores."
            )
            self._client.update_registered_model(self.config.model, text)

    def _entities(self, metrics: dict[str, list[tuple[int, float]]]) -> list[Any]:
        from mlflow.entities import Metric

        now = int(pd.Timestamp.now("UTC").timestamp() * 1000)
        return [Metric(name, value, now, step) for name, points in metrics.items() for step, value in points]

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        import requests
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, requests.RequestException) as error:
            raise LakehouseError(
                f"MLflow did not {what}: {str(error).strip().splitlines()[0][:300]}",
                where=self.config.tracking_uri,
                remedy="see that mlflow and edge are healthy (docker compose ps) and that the service password is the deployed one",
            ) from error


def _read(folder: Path) -> Model:
    return Model((folder / BOOSTER).read_bytes(), Spec.from_json(json.loads((folder / SPEC).read_text())))


class _Probability:
    """The model for mlflow.pyfunc: feature columns and the week in, probability out."""

    def __init__(self, model: Model) -> None:
        import xgboost

        self._spec = model.spec
        self._booster = xgboost.Booster()
        self._booster.load_model(bytearray(model.booster))

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:
        import xgboost

        names = list(self._spec.features)
        columns = {name: self._numbers(data[name], name) for name in names}
        matrix = xgboost.DMatrix(pd.DataFrame(columns)[names], feature_names=names)
        margin = self._booster.predict(matrix, output_margin=True)
        return self._spec.calibration.probability(margin, data["week"].to_numpy(float))

    def _numbers(self, values: pd.Series, name: str) -> pd.Series:
        if name not in self._spec.categories:
            return values.astype(float)
        places = {value: float(place) for place, value in enumerate(self._spec.categories[name])}
        return values.map(places).astype(float)


def _load_pyfunc(path: str) -> _Probability:
    """What mlflow.pyfunc.load_model calls."""
    return _Probability(_read(Path(path)))
