"""Turn the margins of models of earlier releases into probabilities; those of this release are blended (blend.py)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from moodle_lakehouse.dropout import served_model


@dataclass(frozen=True)
class PlattCalibration:
    """Platt's calibration: the logistic curve from a booster's margin (log odds) to the probability.

    Its slope changes evenly with the weeks up to last_week. As it stands here it changes nothing.
    """

    slope: float = 1.0
    intercept: float = 0.0
    slope_by_week: float = 0.0
    last_week: int = 0

    def probability(self, margin: np.ndarray, week: np.ndarray) -> np.ndarray:
        """Return the probability of each margin in its week."""
        return served_model.calibrated(margin, week, **dataclasses.asdict(self))
