"""Fit what a model says beside its trees: the outcome expected of a row, a linear model, and the weight of each.

Everything is by week, since what a figure means changes while a course goes on. Each of the parts is drawn towards
something that is known better: a week's coefficients towards 0, which is the week's rate; the coefficient of a student's
past towards what is expected of it; a week's weights towards those of all weeks. Rows are a pandas.DataFrame with
week, label (0 or 1), courseid and the inputs as floats, missing ones NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moodle_lakehouse.dropout import served_model

METHOD = "weights of trees and linear model by week, learnt from held-out rows"

# Log odds for which the outcomes of earlier courses stand at the start, where nothing else tells: they are no more than a
# part of what lasts. As weeks tell more by themselves it falls like their log loss.
EXPECTED = 0.7
# How many rows the expectation of a student's past counts for; beyond, it is learnt. Few have one, so that the ridge, which
# grows with all rows, would leave nothing of it.
PAST, PAST_ROWS = "past_", 10.0
# How fast a week's neighbours count less, in the logarithm of weeks: of linear coefficients, and of the blend's weights.
LINEAR_WIDTH, BLEND_WIDTH = 0.1, 0.2
MIN_COUNTED = 0.05  # a row that counts less than this is left out
# How much a blend is held back (per row of what it is learnt from): all weeks' weights from one half each, a week's
# from those.
HOLD_ALL, HOLD_WEEK = 0.01, 0.003
MAX_WEIGHT = 1.5
PLAIN_RIDGE = 0.03
MIN_SPREAD = 1e-6  # an input that differs less says nothing


@dataclass(frozen=True)
class Blend:
    """What turns a booster's margin into log odds (see served_model.blended). Lists by week have the places of weeks.

    rate: log odds of the outcome; expected: weight of the columns runs and past; inputs: column and, of a category, its
    place; mean and scale: of the inputs; coefficients and intercept: the linear model's; tree_centre: what makes the
    trees' mean the week's rate.
    """

    runs: str
    past: str
    weeks: tuple[float, ...]
    rate: tuple[float, ...]
    expected: tuple[float, ...]
    inputs: tuple[tuple[str, int | None], ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    intercept: tuple[float, ...]
    linear_weight: tuple[float, ...]
    tree_weight: tuple[float, ...]
    tree_centre: tuple[float, ...]

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Blend:
        """Read a blend from its document."""
        return Blend(**{name: _tuples(value) for name, value in document.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the blend as a document for JSON."""
        return dataclasses.asdict(self)


def linear_models(
    rows: pd.DataFrame,
    label: str,
    directions: Mapping[str, int],
    categories: Mapping[str, Sequence[str]],
    ridges: Iterable[float],
) -> dict[float, Blend]:
    """Fit a linear model by ridge: blends without trees, the same but for their coefficients and intercept.

    directions: of each feature the only sign that its coefficient may have, 0 for either; a profile field's categories
    become an input each.
    """
    blank = _without_coefficients(rows, label, [*directions], categories)
    week, outcome = rows["week"].to_numpy(float), rows["label"].to_numpy(float)
    weeks, rate = np.array(blank.weeks), np.array(blank.rate)
    columns = arrays(rows, [*directions, blank.runs, blank.past])
    x = served_model.scaled(blank.to_json(), columns)
    x = np.column_stack([x, np.ones(len(x))])
    start = np.interp(week, weeks, rate)
    runs = columns[blank.runs]
    *inputs, _ = blank.inputs  # the last is the past, whose coefficient has an expectation
    is_past = np.array([name.startswith(PAST) for name, _ in inputs], bool)
    signs = np.array([*(0 if place is not None else directions[name] for name, place in inputs), 1, 0])
    expected: list[float] = []
    fitted: dict[float, list[np.ndarray]] = {ridge: [] for ridge in ridges}
    for one, base in zip(weeks, rate, strict=True):
        counted = _nearness(week, one, LINEAR_WIDTH)
        near, own = counted > MIN_COUNTED, week == one
        y, count = outcome[near], counted[near]
        penalty = np.r_[np.full(len(inputs), PLAIN_RIDGE * count.sum()), np.inf, 1e-6]
        plain = ridge_regression(x[near], y, count, start[near], np.zeros(x.shape[1]), penalty)
        told = log_loss(outcome[own], base + x[own] @ plain) / log_loss(outcome[own], np.full(own.sum(), base))
        expected.append(EXPECTED * min(1.0, told))
        for ridge, coefficients in fitted.items():
            held_back = np.where(is_past, PAST_ROWS, ridge * count.sum())
            penalty = np.r_[held_back, PAST_ROWS, 1e-6]
            prior = np.r_[np.zeros(len(inputs)), expected[-1], 0.0]
            known = start[near] + expected[-1] * runs[near]
            found = one_way(x[near], y, count, known, prior, penalty, signs)
            # The week's own rows alone say where it begins.
            rest = base + expected[-1] * runs[own] + x[own, :-1] @ found[:-1]
            found[-1] = base + _shift(rest, base)
            coefficients.append(found)
    return {
        ridge: dataclasses.replace(
            blank,
            expected=tuple(expected),
            coefficients=tuple(tuple(float(v) for v in found[:-1]) for found in coefficients),
            intercept=tuple(float(found[-1]) for found in coefficients),
        )
        for ridge, coefficients in fitted.items()
    }


def _without_coefficients(
    rows: pd.DataFrame, label: str, names: Sequence[str], categories: Mapping[str, Sequence[str]]
) -> Blend:
    """A blend with the weeks' rates and the inputs of a linear model: what differs among the rows, and the past."""
    past = f"past_{label}"
    inputs: list[tuple[str, int | None]] = [(name, None) for name in names if name not in categories and name != past]
    inputs += [(name, place) for name in names if name in categories for place in range(len(categories[name]))]
    values = [rows[name] if place is None else (rows[name] == place).astype(float) for name, place in inputs]
    varied = [(one, float(value.mean()), float(value.std())) for one, value in zip(inputs, values, strict=True)]
    varied = [one for one in varied if one[2] > MIN_SPREAD]  # not so where there is no value
    weeks = sorted(rows["week"].unique())
    nothing = (0.0,) * len(weeks)
    return Blend(
        runs=f"runs_{label}",
        past=past,
        weeks=tuple(float(one) for one in weeks),
        rate=tuple(_rate(rows[rows["week"] == one], rows["label"].mean()) for one in weeks),
        expected=nothing,
        inputs=(*[one[0] for one in varied], (past, None)),
        mean=(*[one[1] for one in varied], 0.0),
        scale=(*[one[2] for one in varied], 1.0),
        coefficients=((0.0,) * (len(varied) + 1),) * len(weeks),
        intercept=nothing,
        linear_weight=(1.0,) * len(weeks),
        tree_weight=nothing,
        tree_centre=nothing,
    )


def centred(model: Blend, rows: pd.DataFrame, trees: np.ndarray) -> Blend:
    """Return the blend with what makes the mean of its trees the rate of each week of the rows. trees: their margins."""
    week = rows["week"].to_numpy(float)
    margin = served_model.offset(model.to_json(), arrays(rows, [model.runs, model.past]), week) + trees
    return dataclasses.replace(
        model,
        tree_centre=tuple(_shift(margin[week == one], rate) for one, rate in zip(model.weeks, model.rate, strict=True)),
    )


def weighted(model: Blend, held_out: pd.DataFrame) -> Blend:
    """Return the blend with the weights that are likeliest for held-out rows.

    held_out: week, label, and offset, linear and trees, each by models that never saw the row. No intercept is learnt:
    how far a term is from the one before says nothing of the next.
    """
    week, outcome = held_out["week"].to_numpy(float), held_out["label"].to_numpy(float)
    x, base = held_out[["linear", "trees"]].to_numpy(float), held_out["offset"].to_numpy(float)
    all_weeks = _weights(x, outcome, np.ones(len(x)), base, np.array([0.5, 0.5]), HOLD_ALL)
    weeks = np.unique(week)
    found = []
    for one in weeks:
        counted = _nearness(week, one, BLEND_WIDTH)
        near = counted > MIN_COUNTED
        found.append(_weights(x[near], outcome[near], counted[near], base[near], all_weeks, HOLD_WEEK))
    linear, trees = (tuple(float(v) for v in np.interp(model.weeks, weeks, column)) for column in np.array(found).T)
    return dataclasses.replace(model, linear_weight=linear, tree_weight=trees)


def log_odds(model: Blend, held_out: pd.DataFrame) -> np.ndarray:
    """Return the blended log odds of rows as weighted() takes them."""
    week, document = held_out["week"].to_numpy(float), model.to_json()
    total = held_out["offset"] + served_model.at_weeks(document, "linear_weight", week) * held_out["linear"]
    return np.asarray(total + served_model.at_weeks(document, "tree_weight", week) * held_out["trees"], float)


def log_loss(outcome: np.ndarray, margin: np.ndarray) -> float:
    """Return the mean log loss of log odds."""
    return float(np.logaddexp(0, (1 - 2 * outcome) * margin).mean())


def arrays(rows: pd.DataFrame, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the named columns as served_model takes them."""
    return {name: rows[name].to_numpy(float) for name in names}


def ridge_regression(
    x: np.ndarray, y: np.ndarray, count: np.ndarray, start: np.ndarray, prior: np.ndarray, penalty: np.ndarray
) -> np.ndarray:
    """Return the coefficients of the likeliest logistic regression by Newton's method, each drawn towards its prior.

    x: rows by coefficients; count: how often each row counts; start: its log odds with all coefficients 0; penalty: of the
    square of each coefficient's distance from its prior, halved; one that is infinite stays where it is.
    """
    free = np.isfinite(penalty)
    found = prior.astype(float).copy()
    for _ in range(25):
        odds = 1 / (1 + np.exp(-np.clip(x @ found + start, -30, 30)))
        slope = (x.T @ (count * (odds - y)) + np.where(free, penalty, 0) * (found - prior))[free]
        part = x[:, free]
        bend = (part * (count * odds * (1 - odds))[:, None]).T @ part + np.diag(penalty[free] + 1e-9)
        step = np.clip(np.linalg.solve(bend, slope), -3, 3)
        found[free] -= step
        if np.abs(step).max(initial=0) < 1e-6:
            break
    return found


def one_way(
    x: np.ndarray,
    y: np.ndarray,
    count: np.ndarray,
    start: np.ndarray,
    prior: np.ndarray,
    penalty: np.ndarray,
    signs: np.ndarray,
) -> np.ndarray:
    """Return what ridge_regression does, without the coefficients of another sign than signs (0: either) allow."""
    held = penalty.copy()
    while True:
        found = ridge_regression(x, y, count, start, prior, held)
        wrong = (found * signs < 0) & np.isfinite(held)
        if not wrong.any():
            return found
        prior, held = np.where(wrong, 0.0, prior), np.where(wrong, np.inf, held)


def _weights(
    x: np.ndarray, y: np.ndarray, count: np.ndarray, start: np.ndarray, prior: np.ndarray, hold: float
) -> np.ndarray:
    """The likeliest weights of linear model and trees, none below 0: what would turn an order around is left out."""
    penalty = np.full(2, hold * count.sum())
    return np.clip(one_way(x, y, count, start, prior, penalty, np.ones(2)), 0, MAX_WEIGHT)


def _shift(margin: np.ndarray, rate: float) -> float:
    """What is to be added to the log odds so that their mean probability is that of the rate (log odds)."""
    ones, share = np.ones(len(margin)), np.full(len(margin), 1 / (1 + np.exp(-rate)))
    return float(ridge_regression(ones[:, None], share, ones, margin, np.zeros(1), np.array([1e-6]))[0])


def _nearness(week: np.ndarray, one: float, width: float) -> np.ndarray:
    return np.asarray(np.exp(-0.5 * ((np.log1p(week) - np.log1p(one)) / width) ** 2))


def _rate(rows: pd.DataFrame, usual: float) -> float:
    """Log odds of the outcome in a week, as if there were one more course, with the usual share of all weeks.

    Who leaves early is what differs most from term to term, and of few courses a week's rate is theirs.
    """
    courses = rows["courseid"].nunique()
    share = (courses * rows["label"].mean() + usual) / (courses + 1)
    share = min(max(share, 1e-4), 1 - 1e-4)
    return float(np.log(share / (1 - share)))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list | tuple) else value
