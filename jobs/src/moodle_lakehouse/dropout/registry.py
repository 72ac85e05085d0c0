"""Keep models in MLflow: a run for each training and versions of a registered model, whose alias champion scores.

A model is stored as an MLflow model of plain files (booster.json, spec.json) with the code that predicts
(served_model.py), its signature and an input example; mlflow.pyfunc loads it anywhere. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
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
from moodle_lakehouse.dropout import served_model
from moodle_lakehouse.dropout.learner import Model, Spec
from moodle_lakehouse.dropout.served_model import BOOSTER, SPEC
from moodle_lakehouse.errors import LakehouseError

log = logging.getLogger(__name__)

CHAMPION = "champion"
CARD = "model_card.html"
# Tags that a training writes last, DATA the very last: a version without it is what an interrupted training left.
DATA = "data"  # what it was made of
VERDICT = "verdict"  # whether it may become champion
AGAINST = "compared_with"  # the version that was champion then; empty: none
BETTER, NOT_BETTER = "better", "not better"
KNOWN_UNTIL = "known_until"  # when the last of its courses had settled: it may say something of any later moment
NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as a description
MAX_DESCRIPTION = 5000  # characters of a description that MLflow takes
REQUIREMENTS = ("xgboost-cpu", "pandas", "numpy")  # what served_model.py imports


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


@dataclass(frozen=True)
class Verdict:
    """What a complete training says of its version: whether it is better, and than which champion (None: there was none)."""

    version: str
    is_better: bool
    against: str | None


class Registry:
    """MLflow as configured; each of its failures becomes one LakehouseError."""

    def __init__(self, config: MlflowConfig) -> None:
        self.config = config
        # A server that is away is reported in seconds, not after MLflow's own minutes of retries.
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
        with self._reported("register the model"), tempfile.TemporaryDirectory() as folder:
            data = _write(model, Path(folder) / "model")
            self._set_experiment()
            with self._mlflow.start_run(run_name=entry.name) as run:
                self._mlflow.log_params(entry.params)
                self._client.log_batch(run.info.run_id, metrics=self._entities(entry.metrics))
                for name, document in entry.documents.items():
                    self._mlflow.log_dict(document, name)
                version = self._log_model(model.spec, data)
            self._describe_model()
            return Registered(model, version, run.info.run_id)

    def complete(self, version: str, data: str, known_until: dt.datetime, verdict: Verdict | None = None) -> None:
        """Mark a version as complete, with what it was made of, as one word, and until when that was known.

        verdict: None for a model of a past moment, which never becomes champion.
        """
        tags = {KNOWN_UNTIL: known_until.isoformat()}
        if verdict is not None:
            tags |= {VERDICT: BETTER if verdict.is_better else NOT_BETTER, AGAINST: verdict.against or ""}
        with self._reported("keep the verdict"):
            for tag, value in {**tags, DATA: data}.items():
                self._client.set_model_version_tag(self.config.model, version, tag, value)

    def promote(self, version: str) -> None:
        """Make a version the champion."""
        with self._reported(f"make version {version} champion"):
            self._client.set_registered_model_alias(self.config.model, CHAMPION, version)

    def made_of(self, data: str) -> str | None:
        """Return the latest version that was made of just these data, or None."""
        same = [int(version.version) for version in self._versions() if version.tags.get(DATA) == data]
        return str(max(same)) if same else None

    def newest_until(self, moment: dt.datetime) -> str | None:
        """Return the version that may score a moment: the one whose data are the newest that were known by then.

        The champion, where it is one of these; else a model that was better than the champion of its time, or that was
        made for a past moment. None for none.
        """
        champion, found = self.champion_version(), []
        for version in self._versions():
            known_until, tags = _known_until(version), version.tags
            if str(version.version) == champion and known_until <= moment:
                return champion
            if DATA in tags and tags.get(VERDICT) in (None, BETTER) and KNOWN_UNTIL in tags and known_until <= moment:
                found.append((known_until, int(version.version)))
        return str(max(found)[1]) if found else None

    def latest_verdict(self) -> Verdict | None:
        """Return what the latest complete training says of its version; None where there is none of this release."""
        complete = {int(v.version): v.tags for v in self._versions() if v.tags.keys() >= {DATA, VERDICT, AGAINST}}
        if not complete:
            return None
        latest = max(complete)
        return Verdict(str(latest), complete[latest][VERDICT] == BETTER, complete[latest][AGAINST] or None)

    def _versions(self) -> list[Any]:
        with self._reported("list the models"):
            return list(self._client.search_model_versions(f"name = '{self.config.model}'", max_results=1000))

    def log_refusal(self, name: str) -> str:
        """Log a run without a model, whose card says why; returns the run's id."""
        with self._reported("log the refusal"):
            self._set_experiment()
            with self._mlflow.start_run(run_name=name, tags={"refused": "true"}) as run:
                return str(run.info.run_id)

    def show_card(self, run: str, html: str, summary: str, version: str | None = None) -> None:
        """Keep a card with its run; its summary stands on the first page of the run and of its version."""
        with self._reported("keep the card"):
            self._client.log_text(run, html, CARD)
            self._client.set_tag(run, NOTE, summary[:MAX_DESCRIPTION])
            if version is not None:
                self._client.update_model_version(self.config.model, version, summary[:MAX_DESCRIPTION])

    def card_link(self, run: str) -> str:
        """Return the link to a run's card, relative to any of MLflow's pages: only a browser knows their address."""
        with self._reported("find the run"):
            experiment = self._client.get_run(run).info.experiment_id
        return f"#/experiments/{experiment}/runs/{run}/artifactPath/{CARD}"

    def log_text(self, run: str, text: str, name: str) -> None:
        """Keep a text as a file of a run."""
        with self._reported(f"keep {name}"):
            self._client.log_text(run, text, name)

    def document(self, run: str, name: str) -> dict[str, Any] | None:
        """Return a document of a run; None where it has none of this name, as runs of older releases."""
        with self._reported(f"read {name}"), tempfile.TemporaryDirectory() as folder:
            if name not in {file.path for file in self._client.list_artifacts(run)}:
                return None
            path = self._client.download_artifacts(run, name, folder)
            document: dict[str, Any] = json.loads(Path(path).read_text())
            return document

    def champion(self) -> Registered | None:
        """Return the model that scores, or None when there is none yet."""
        version = self.champion_version()
        return None if version is None else self.version(version)

    def champion_version(self) -> str | None:
        """Return the version of the model that scores, or None when there is none yet."""
        from mlflow.exceptions import MlflowException

        with self._reported("read the champion"):
            try:
                version = self._client.get_model_version_by_alias(self.config.model, CHAMPION)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        return str(version.version)

    def version(self, number: str) -> Registered:
        """Read a registered model by its version number, of this release or an earlier one."""
        with self._reported(f"read version {number} of {self.config.model}"), tempfile.TemporaryDirectory() as folder:
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

    def _log_model(self, spec: Spec, data: Path) -> str:
        """Register the model in the folder data with the present run; returns its version."""
        from mlflow import pyfunc

        logged = pyfunc.log_model(
            name="model",
            loader_module=Path(served_model.__file__).stem,
            code_paths=[served_model.__file__],
            data_path=str(data),
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
            signature=_signature(spec),
            input_example=input_example(spec),
            registered_model_name=self.config.model,
        )
        return str(logged.registered_model_version)

    def _entities(self, metrics: dict[str, list[tuple[int, float]]]) -> list[Any]:
        from mlflow.entities import Metric

        now = int(pd.Timestamp.now("UTC").timestamp() * 1000)
        return [Metric(name, value, now, step) for name, points in metrics.items() for step, value in points]

    @contextlib.contextmanager
    def _reported(self, what: str) -> Iterator[None]:
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


def _known_until(version: Any) -> dt.datetime:
    """Return when the last of a version's courses had settled; of an earlier release's version, when it was made."""
    tag = version.tags.get(KNOWN_UNTIL)
    return (
        dt.datetime.fromisoformat(tag) if tag else dt.datetime.fromtimestamp(version.creation_timestamp / 1000, dt.UTC)
    )


def input_example(spec: Spec) -> pd.DataFrame:
    """Return two rows as the model takes them, in its columns and week; invented, so of no student."""
    rows: dict[str, Any] = {"week": [0, 1]}
    for name in spec.columns:
        values = spec.categories.get(name)
        rows[name] = [0.0, 1.0] if values is None else [None, *values][-2:]
    return pd.DataFrame(rows)


def _signature(spec: Spec) -> Any:
    """Return MLflow's signature of a model: week and its columns in, a probability a row out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    columns = [ColSpec("string" if name in spec.categories else "double", name) for name in spec.columns]
    probability = TensorSpec(np.dtype("float64"), (-1,))
    return ModelSignature(inputs=Schema([ColSpec("long", "week"), *columns]), outputs=Schema([probability]))


def _write(model: Model, folder: Path) -> Path:
    folder.mkdir()
    (folder / BOOSTER).write_bytes(model.booster)
    (folder / SPEC).write_text(json.dumps(model.spec.to_json(), indent=1, sort_keys=True))
    return folder


def _read(folder: Path) -> Model:
    return Model((folder / BOOSTER).read_bytes(), Spec.from_json(json.loads((folder / SPEC).read_text())))
