"""Platt's curve, its slope by week."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from moodle_lakehouse.dropout import calibration


def test_calibration_of_a_model_that_tells_nothing_is_the_base_rate() -> None:
    counts = pd.DataFrame({"margin": [0.0, 1.0, 0.0, 1.0], "label": [1.0, 0.0, 0.0, 1.0], "rows": [30, 30, 10, 10]})
    curve = calibration.fit(counts.assign(week=1))
    assert curve.slope == curve.slope_by_week == 0
    assert curve.probability(np.array([9.0]), np.array([1.0])) == pytest.approx(0.5)


def test_calibration_follows_the_weeks_and_stays_after_the_last() -> None:
    """Of margins that are half as sure at first and right at the end, what comes out is right in every week."""
    margin, week = np.meshgrid(np.linspace(-3, 3, 61), np.arange(11))
    true = 1 / (1 + np.exp(-(0.5 + 0.05 * week) * margin + 0.3))
    parts = [
        pd.DataFrame({"margin": margin.ravel(), "week": week.ravel(), "label": label, "rows": (rows * 1e4).ravel()})
        for label, rows in ((1, true), (0, 1 - true))
    ]
    curve = calibration.fit(pd.concat(parts))
    assert np.allclose(curve.probability(margin, week), true, atol=1e-3)
    assert np.allclose(curve.probability(margin, week + 10)[-1], true[-1], atol=1e-3)


def test_calibration_never_turns_the_order_around() -> None:
    """Of margins that mean the contrary in the last weeks the curve is one for all weeks."""
    counts = pd.DataFrame({"margin": [-1.0, 1.0] * 4, "week": [0] * 4 + [9] * 4, "label": [0, 1, 1, 0, 1, 0, 0, 1]})
    curve = calibration.fit(counts.assign(rows=[90, 90, 10, 10, 60, 60, 40, 40]))
    assert curve.slope > 0
    assert curve.slope_by_week == 0
