"""Who becomes champion: by figures alone."""

from __future__ import annotations

from typing import Any

import pytest
from moodle_lakehouse.config import ChampionRules
from moodle_lakehouse.dropout import promotion


def found(auc: float | None, brier: float) -> dict[str, Any]:
    return {"auc": auc, "brier": brier}


OVERALL = {
    "model": found(0.80, 0.18),
    "logistic_regression": found(0.79, 0.185),
    "training_base_rate": found(0.5, 0.25),
}


def failed(rules: ChampionRules, champion: Any = None, **changed: Any) -> list[tuple[str, str]]:
    checks = promotion.checks(rules, {**OVERALL, **changed}, champion)
    return [(check.against, check.measure) for check in checks if not check.passed]


def test_better_than_all_is_champion() -> None:
    assert failed(ChampionRules()) == []
    assert failed(ChampionRules(), (found(0.8, 0.18), found(0.78, 0.19))) == []


def test_each_baseline_has_to_be_beaten_in_both_measures() -> None:
    assert failed(ChampionRules(), logistic_regression=found(0.81, 0.185)) == [("logistic_regression", "auc")]
    assert failed(ChampionRules(), training_base_rate=found(0.5, 0.17)) == [("training_base_rate", "brier")]
    assert failed(ChampionRules(auc_over_baselines=0.02)) == [("logistic_regression", "auc")]
    assert failed(ChampionRules(brier_over_baselines=0.01)) == [("logistic_regression", "brier")]


def test_the_champion_remains_unless_it_is_beaten() -> None:
    worse = (found(0.80, 0.18), found(0.805, 0.18))
    assert failed(ChampionRules(), worse) == [("champion", "auc")]
    assert failed(ChampionRules(auc_over_champion=-0.01), worse) == []
    assert failed(ChampionRules(auc_over_champion=0.01), (found(0.80, 0.18), found(0.795, 0.19))) == [
        ("champion", "auc")
    ]


def test_as_good_is_good_enough_for_zero_and_the_last_digit_does_not_count() -> None:
    assert failed(ChampionRules(), (found(0.8, 0.18), found(0.8 + 1e-9, 0.18 - 1e-9))) == []


def test_a_single_outcome_orders_nobody() -> None:
    assert failed(ChampionRules(), model=found(None, 0.1)) == [("logistic_regression", "auc")]


def test_words_name_the_figures() -> None:
    (check,) = [
        c
        for c in promotion.checks(ChampionRules(), OVERALL, None)
        if (c.against, c.measure) == ("logistic_regression", "auc")
    ]
    assert (
        str(check) == "AUC 0.8000 against 0.7900 of logistic regression: better by +0.0100, at least +0.0000 is asked"
    )
    assert check.gain == pytest.approx(0.01)
