"""Predict with a registered model; MLflow keeps this file with each model and imports it to serve the model.

It imports nothing of this package, so a model loads wherever mlflow and the model's requirements are installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

BOOSTER, SPEC = "booster.json", "spec.json"


def calibrated(
    margin: np.ndarray, week: np.ndarray, slope: float, intercept: float, slope_by_week: float, last_week: int
) -> np.ndarray:
    """Return the probability of each margin (log odds) in its week; see calibration.PlattCalibration."""
    by_week = slope + slope_by_week * np.minimum(week, last_week)
    return np.asarray(1 / (1 + np.exp(-(by_week * margin + intercept))))


class ServedModel:
    """A booster and its spec as plain JSON, with the predict that mlflow.pyfunc asks for."""

    def __init__(self, booster: bytes, spec: dict[str, Any]) -> None:
        import xgboost

        self._spec = spec
        self._booster = xgboost.Booster()
        self._booster.load_model(bytearray(booster))

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:
        """Return the probability of each row; data holds the columns of the model's features and week."""
        import xgboost

        names = self._spec["features"]
        columns = {name: self._numbers(data[name], name) for name in names}
        matrix = xgboost.DMatrix(pd.DataFrame(columns)[names], feature_names=names)
        margin = self._booster.predict(matrix, output_margin=True).astype(float)
        return calibrated(margin, data["week"].to_numpy(float), **self._spec["calibration"])

    def _numbers(self, values: pd.Series, name: str) -> pd.Series:
        if name not in self._spec["categories"]:
            return values.astype(float)
        places = {value: float(place) for place, value in enumerate(self._spec["categories"][name])}
        return values.map(places).astype(float)


def _load_pyfunc(path: str) -> ServedModel:
    """Load a model from its folder; the function that mlflow.pyfunc.load_model calls by this name."""
    folder = Path(path)
    return ServedModel((folder / BOOSTER).read_bytes(), json.loads((folder / SPEC).read_text()))
