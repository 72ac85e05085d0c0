"""Decide whether a newly trained model takes the champion's place.

It must be better than each baseline and than the present champion on courses that neither learnt from, by what
analytics.champion says. Where the champion learnt from all of the held-out courses, what it was measured at when it was
held out itself is what counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moodle_lakehouse.config import ChampionRules

CHAMPION = "champion"
_DIGITS = 6  # sums of floating-point numbers differ beyond


@dataclass(frozen=True)
class Check:
    """One comparison: by how much the new model is better, and by how much it must be."""

    against: str
    measure: str
    value: float
    other: float
    gain: float
    minimum: float

    @property
    def passed(self) -> bool:
        """Tell whether the gain is large enough."""
        return round(self.gain, _DIGITS) >= self.minimum

    def __str__(self) -> str:
        name = {"auc": "AUC", "brier": "Brier score"}[self.measure]
        return (
            f"{name} {self.value:.4f} against {self.other:.4f} of {self.against.replace('_', ' ')}:"
            f" better by {self.gain:+.4f}, at least {self.minimum:+.4f} is asked"
        )


def checks(
    rules: ChampionRules,
    overall: Mapping[str, Mapping[str, Any]],
    champion: tuple[Mapping[str, Any], Mapping[str, Any]] | None,
) -> list[Check]:
    """Return every comparison that has to be passed.

    overall: the measures of the model and of each baseline on the held-out rows; champion: those of the new model
    and of the champion on the rows they are compared on, None without a champion that can be compared.
    """
    own = overall["model"]
    found = []
    for name, other in overall.items():
        if name != "model":
            found += _pair(name, own, other, rules.auc_over_baselines, rules.brier_over_baselines)
    if champion is not None:
        found += _pair(CHAMPION, *champion, rules.auc_over_champion, rules.brier_over_champion)
    return found


def _pair(
    against: str, own: Mapping[str, Any], other: Mapping[str, Any], min_auc: float, min_brier: float
) -> list[Check]:
    auc, other_auc = _auc(own), _auc(other)
    return [
        Check(against, "auc", auc, other_auc, auc - other_auc, min_auc),
        Check(against, "brier", own["brier"], other["brier"], other["brier"] - own["brier"], min_brier),
    ]


def _auc(measures: Mapping[str, Any]) -> float:
    return 0.5 if measures["auc"] is None else float(measures["auc"])
