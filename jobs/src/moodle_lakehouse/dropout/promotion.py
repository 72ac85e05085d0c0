"""Decide whether a newly trained model takes the champion's place.

It must be better than each baseline and than the present champion on courses that neither learnt from, by what
analytics.champion says. Where the champion learnt from all of the held-out courses, what it was measured at when it was
held out itself is what counts. Promotion is a step of its own, which can be done again: a training that is interrupted
before it leaves a verdict that the next one, or the verb, follows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moodle_lakehouse.config import ChampionRules
from moodle_lakehouse.dropout.registry import Registry

log = logging.getLogger(__name__)

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


def promote(registry: Registry, version: str | None = None) -> None:
    """Make a version champion: the given one, else that of the latest complete training where its verdict says so.

    A verdict holds for the champion that it was reached against: where that is another by now, the champion remains.
    """
    if version is not None:
        registry.promote(version)
        log.info("Version %s is champion", version)
        return
    champion, latest = registry.champion_version(), registry.latest_verdict()
    remains = f"version {champion} remains champion" if champion else "there is no champion yet"
    if latest is None:
        log.warning("No training has left a verdict (train does): %s", remains)
    elif latest.version == champion:
        log.info("Version %s is champion", champion)
    elif not latest.is_better:
        log.warning("Version %s was not better: %s", latest.version, remains)
    elif latest.against != champion:
        log.warning(
            "Version %s was compared with %s: %s; to choose one, name it",
            latest.version, f"version {latest.against}" if latest.against else "no champion", remains,
        )  # fmt: skip
    else:
        registry.promote(latest.version)
        log.info("Version %s is champion", latest.version)


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
