"""What a model says beside its trees: the expectation, the linear model, and their weights by week."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from model_lake import TERMS, key
from moodle_lakehouse.dropout import blend, learner, served_model
from moodle_lakehouse.dropout.blend import Blend
from moodle_lakehouse.dropout.labels import Course

LABEL = "non_completion"
WEEKS = (0, 1, 2, 4)


def logistic(margin: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-margin)))


def made(seed: int = 1, students: int = 300, courses: int = 6, slope: float = 1.0) -> pd.DataFrame:
    """Courses whose feature tells more each week; nobody has a past."""
    rng = np.random.default_rng(seed)
    number = np.arange(students * courses)
    score = rng.normal(size=len(number))
    label = (rng.uniform(size=len(number)) < logistic(slope * score - 0.5)).astype(float)
    parts = [
        pd.DataFrame(
            {
                "user_key": [key(int(one)) for one in number],
                "courseid": 1 + number // students,
                "week": week,
                "label": label,
                "score": score * (week > 0) + rng.normal(size=len(number)) * 0.3,
                "noise": rng.normal(size=len(number)),
                "past_non_completion": 0.0,
                "runs_non_completion": 0.0,
            }
        )
        for week in WEEKS
    ]
    return pd.concat(parts, ignore_index=True)


def linear(rows: pd.DataFrame, directions: dict[str, int] | None = None, ridge: float = 0.01) -> Blend:
    named = directions or {"score": 0, "noise": 0, "past_non_completion": 1}
    return blend.linear_models(rows, LABEL, named, {}, [ridge])[ridge]


def said(model: Blend, rows: pd.DataFrame) -> np.ndarray:
    """The probability by offset and linear model."""
    columns = blend.arrays(rows, ["score", "noise", model.runs, model.past])
    week = rows["week"].to_numpy(float)
    document = model.to_json()
    return logistic(served_model.offset(document, columns, week) + served_model.linear(document, columns, week))


def test_a_week_that_tells_nothing_is_predicted_by_its_rate() -> None:
    """Each week has a linear model of its own: where the feature is noise nothing but the rate is said."""
    rows, later = made(), made(2)
    probability = said(linear(rows), later)
    start, end = (later["week"] == 0).to_numpy(), (later["week"] == 4).to_numpy()
    assert probability[start].std() < 0.03
    assert abs(probability[start].mean() - rows["label"].mean()) < 0.01
    assert np.corrcoef(probability[end], later["label"][end])[0, 1] > 0.3


def test_a_past_tells_before_anybody_had_one() -> None:
    """No row taught from has a past or an earlier run; both move the probability, and less the more the weeks tell."""
    rows, later = made(slope=2.0), made(2, slope=2.0)
    model = linear(rows)
    assert blend.EXPECTED >= model.expected[0] > max(model.expected[1:]) + 0.1
    assert min(model.expected) > 0.1
    plain = said(model, later)
    for name in ("past_non_completion", "runs_non_completion"):
        moved = said(model, later.assign(**{name: 1.0}))
        assert (moved > plain).all(), name
    at_start = (later["week"] == 0).to_numpy()
    odds = np.log(moved / (1 - moved)) - np.log(plain / (1 - plain))
    assert odds[at_start] == pytest.approx(model.expected[0])


def test_what_a_past_tells_is_learnt_where_there_is_one() -> None:
    rows = made(courses=10, slope=0.0)
    rng = np.random.default_rng(3)
    past = rng.choice([-1.0, 0.0, 1.0], len(rows) // len(WEEKS))
    rows["past_non_completion"] = np.tile(past, len(WEEKS))
    rows["label"] = np.tile((rng.uniform(size=len(past)) < logistic(1.5 * past)).astype(float), len(WEEKS))
    model = linear(rows)
    coefficient = [row[-1] for row in model.coefficients]
    assert min(coefficient) > 1.2, "more than was expected of it"


def test_a_coefficient_never_has_the_other_sign() -> None:
    rows = made(slope=2.0)
    free, held = linear(rows), linear(rows, {"score": -1, "noise": 0, "past_non_completion": 1})
    assert max(row[0] for row in free.coefficients) > 0.5
    assert max(row[0] for row in held.coefficients) == 0.0


def test_a_week_of_one_course_is_drawn_to_all_weeks_rate() -> None:
    rows = made(students=100, courses=2, slope=0.0)
    rows.loc[rows["week"] == 4, "label"] = 1.0
    rows = rows[(rows["week"] < 4) | (rows["courseid"] == 1)]
    rate = logistic(np.array(linear(rows).rate))
    assert rate[-1] == pytest.approx((1 + rows["label"].mean()) / 2, abs=1e-3)


def held_out(weights: dict[int, tuple[float, float]], seed: int = 1, rows: int = 4000) -> pd.DataFrame:
    """Held-out rows whose outcomes follow these weights of linear model and trees by week."""
    rng = np.random.default_rng(seed)
    parts = []
    for week, (of_linear, of_trees) in weights.items():
        part = pd.DataFrame({"linear": rng.normal(size=rows), "trees": rng.normal(size=rows), "offset": -0.3})
        odds = part["offset"] + of_linear * part["linear"] + of_trees * part["trees"]
        parts.append(part.assign(week=week, label=(rng.uniform(size=rows) < logistic(odds)).astype(float)))
    return pd.concat(parts, ignore_index=True)


def test_weights_follow_the_weeks() -> None:
    """Trees that are noise at first and right later weigh so; none is below 0."""
    model = dataclasses.replace(linear(made()), weeks=(0.0, 4.0, 12.0))
    found = blend.weighted(model, held_out({0: (1.0, -0.5), 4: (0.5, 0.5), 12: (0.0, 1.0)}))
    assert found.tree_weight[0] == pytest.approx(0, abs=0.1)
    assert min(found.tree_weight) >= 0
    assert found.tree_weight[2] == pytest.approx(1, abs=0.15)
    assert found.linear_weight[0] == pytest.approx(1, abs=0.15)
    assert found.linear_weight[2] == pytest.approx(0, abs=0.15)


def test_where_held_out_rows_show_nothing_the_rate_is_said() -> None:
    model = dataclasses.replace(linear(made()), weeks=(0.0,))
    found = blend.weighted(model, held_out({0: (0.0, 0.0)}, rows=20_000))
    assert max(found.linear_weight[0], found.tree_weight[0]) < 0.06


@pytest.mark.parametrize("courses", [1, 3])
def test_no_row_is_measured_by_weights_that_it_is_part_of(courses: int) -> None:
    """Had a student ended otherwise, their own measured probabilities were the same, and others' not."""
    rng = np.random.default_rng(7)
    student = np.repeat(np.arange(60 * courses), 3)
    rows = pd.DataFrame({"courseid": 1 + student // 60, "week": np.tile(np.arange(3), 60 * courses)})
    rows = rows.assign(user_key=[key(int(one)) for one in student], offset=0.0)
    rows = rows.assign(linear=rng.normal(size=len(rows)), trees=rng.normal(size=len(rows)))
    label = (rng.uniform(size=60 * courses) < 0.5).astype(float)[student]
    ids = range(1, courses + 1)
    known = [Course(number, f"C{number}", TERMS[0], TERMS[1], 60, 30, "completion") for number in ids]
    model = dataclasses.replace(linear(made()), weeks=(0.0, 1.0, 2.0))
    spec = learner.Spec(LABEL, (), (), {}, blend=model)

    def measured(labels: np.ndarray) -> pd.Series:
        held = rows.assign(label=labels)
        found = learner.cross_blended(spec, held, held, known)
        return found.set_index(["user_key", "week"])["probability"].sort_index()

    before, after = measured(label), measured(np.where(student == 0, 1 - label, label))
    own = before.index.get_level_values("user_key") == key(0)
    assert before.notna().all()
    assert np.allclose(before[own], after[own], rtol=0, atol=1e-12)
    assert not np.allclose(before[~own], after[~own], rtol=0, atol=1e-6)


def test_contributions_sum_up_to_what_the_blend_says() -> None:
    """What is left is the same for all rows of a week: the rate, the bias, and earlier runs."""
    rows = made()
    rows["past_non_completion"] = np.random.default_rng(5).normal(size=len(rows))
    names = ["score", "noise", "past_non_completion"]
    weeks = len(WEEKS)
    model = dataclasses.replace(
        linear(rows), linear_weight=(0.6,) * weeks, tree_weight=(0.3,) * weeks, tree_centre=(0.1,) * weeks
    )
    columns = blend.arrays(rows, [*names, model.runs])
    week, trees = rows["week"].to_numpy(float), np.random.default_rng(6).normal(size=(len(rows), 3))
    margin = served_model.blended(model.to_json(), columns, week, trees.sum(axis=1))
    found = served_model.contributions(model.to_json(), columns, week, trees, names)
    rest = pd.Series(margin - found.sum(axis=1)).groupby(week)
    assert (rest.max() - rest.min()).max() < 1e-9


def test_a_blend_survives_json() -> None:
    model = linear(made())
    assert Blend.from_json(json.loads(json.dumps(model.to_json()))) == model
