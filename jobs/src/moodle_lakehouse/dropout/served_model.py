"""Predict with a registered model; MLflow keeps this file with each model and imports it to serve the model.

It imports nothing of this package, so a model loads wherever mlflow and the model's requirements are installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

BOOSTER, SPEC = "booster.json", "spec.json"
MAX_DISTANCE = 5.0  # standard deviations from the mean, beyond which a value counts as that far


def calibrated(
    margin: np.ndarray, week: np.ndarray, slope: float, intercept: float, slope_by_week: float, last_week: int
) -> np.ndarray:
    """Return the probability of each margin (log odds) in its week, by the Platt curve of models of earlier releases."""
    by_week = slope + slope_by_week * np.minimum(week, last_week)
    return np.asarray(1 / (1 + np.exp(-(by_week * margin + intercept))))


def at_weeks(blend: Mapping[str, Any], name: str, week: np.ndarray) -> np.ndarray:
    """Return one of a blend's values by week for each row: a number, or a row of numbers; between weeks it is interpolated."""
    weeks, values = np.asarray(blend["weeks"], float), np.asarray(blend[name], float)
    if values.ndim == 1:
        return np.asarray(np.interp(week, weeks, values))
    return np.column_stack([np.interp(week, weeks, column) for column in values.T])


def offset(blend: Mapping[str, Any], columns: Mapping[str, np.ndarray], week: np.ndarray) -> np.ndarray:
    """Return what is expected of each row before its features are seen, in log odds."""
    earlier = columns[blend["runs"]] + columns[blend["past"]]
    return np.asarray(at_weeks(blend, "rate", week) + at_weeks(blend, "expected", week) * earlier)


def scaled(blend: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the linear model's inputs, rows by inputs, in standard deviations from their means; 0 for what is missing."""
    values = [columns[name] if place is None else columns[name] == place for name, place in blend["inputs"]]
    distance = (np.column_stack(values).astype(float) - np.asarray(blend["mean"])) / np.asarray(blend["scale"])
    return np.asarray(np.clip(np.nan_to_num(distance), -MAX_DISTANCE, MAX_DISTANCE))


def linear(blend: Mapping[str, Any], columns: Mapping[str, np.ndarray], week: np.ndarray) -> np.ndarray:
    """Return the linear model's margin less the offset."""
    terms = scaled(blend, columns) * at_weeks(blend, "coefficients", week)
    known = at_weeks(blend, "intercept", week) + at_weeks(blend, "expected", week) * columns[blend["runs"]]
    return np.asarray(known + terms.sum(axis=1) - offset(blend, columns, week))


def blended(
    blend: Mapping[str, Any], columns: Mapping[str, np.ndarray], week: np.ndarray, trees: np.ndarray
) -> np.ndarray:
    """Return the log odds of each row: the offset, and what linear model and trees say beyond it, each by its weight."""
    by_linear = at_weeks(blend, "linear_weight", week) * linear(blend, columns, week)
    by_trees = at_weeks(blend, "tree_weight", week) * (trees + at_weeks(blend, "tree_centre", week))
    return np.asarray(offset(blend, columns, week) + by_linear + by_trees)


def contributions(
    blend: Mapping[str, Any],
    columns: Mapping[str, np.ndarray],
    week: np.ndarray,
    trees: np.ndarray,
    names: Sequence[str],
) -> np.ndarray:
    """Return what each feature adds to the log odds, rows by names. trees: the same of the booster's margin (TreeSHAP).

    What is not due to a feature is left out: the week's rate, and the outcomes of earlier runs of the course.
    """
    by_linear = at_weeks(blend, "linear_weight", week)
    terms = by_linear[:, None] * at_weeks(blend, "coefficients", week) * scaled(blend, columns)
    found = at_weeks(blend, "tree_weight", week)[:, None] * trees
    for place, (name, _) in enumerate(blend["inputs"]):
        found[:, names.index(name)] += terms[:, place]
    if blend["past"] in names:
        found[:, names.index(blend["past"])] += (
            (1 - by_linear) * at_weeks(blend, "expected", week) * columns[blend["past"]]
        )
    return np.asarray(found)


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

        names, blend = self._spec["features"], self._spec.get("blend")
        own = names if blend is None else [*names, blend["runs"], blend["past"]]
        columns = {name: self._numbers(data[name], name) for name in own}
        matrix = xgboost.DMatrix(pd.DataFrame(columns)[names], feature_names=names)
        margin = self._booster.predict(matrix, output_margin=True).astype(float)
        week = data["week"].to_numpy(float)
        if blend is not None:
            margin = blended(blend, {name: values.to_numpy(float) for name, values in columns.items()}, week, margin)
        return calibrated(margin, week, **self._spec["calibration"])

    def _numbers(self, values: pd.Series, name: str) -> pd.Series:
        if name not in self._spec["categories"]:
            return values.astype(float)
        places = {value: float(place) for place, value in enumerate(self._spec["categories"][name])}
        return values.map(places).astype(float)


def _load_pyfunc(path: str) -> ServedModel:
    """Load a model from its folder; the function that mlflow.pyfunc.load_model calls by this name."""
    folder = Path(path)
    return ServedModel((folder / BOOSTER).read_bytes(), json.loads((folder / SPEC).read_text()))
