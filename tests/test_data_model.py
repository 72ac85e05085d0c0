"""docs/data-model.md shows the tables that the contracts declare."""

from __future__ import annotations

import sys

import pytest
from runner import ROOT


def test_tables_of_the_data_model_are_those_of_the_contracts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "jobs/src"))
    from moodle_lakehouse.lake import contracts

    text = (ROOT / "docs/data-model.md").read_text(encoding="utf-8")
    assert all(f"<!-- contracts: {name} -->" in text for name in ("identity", "curated", "features", "marts", "ops"))
    assert contracts.documented(text) == text, (
        "docs/data-model.md is not what jobs/src/moodle_lakehouse/lake/contracts.py declares; write it anew:"
        f" PYTHONPATH=jobs/src {sys.executable} -m moodle_lakehouse.lake.contracts docs/data-model.md"
    )
