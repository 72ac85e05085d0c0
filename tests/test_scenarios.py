"""One test per Molecule scenario."""

from __future__ import annotations

import pytest
from scenarios import RELEASE, SCENARIOS, Aside, changes_in_check_mode, loads_images


@pytest.mark.engine
@pytest.mark.parametrize(
    "scenario", [pytest.param(name, marks=[pytest.mark.release] if name in RELEASE else []) for name in SCENARIOS]
)
@pytest.mark.usefixtures("engine")
def test_scenario(scenario: str, aside: Aside, request: pytest.FixtureRequest) -> None:
    if loads_images(scenario):
        request.getfixturevalue("images")
    aside.run(scenario)


def test_check_mode_reader() -> None:
    action = "INFO     [docker > {}] Executing\nPLAY RECAP ***\nvm      : ok=3    changed={}    unreachable=0\n"
    text = action.format("converge", 5)
    with pytest.raises(AssertionError, match="no recap"):
        changes_in_check_mode(text)
    text += action.format("check", "{}")
    assert changes_in_check_mode(text.format(0)) == []
    assert changes_in_check_mode(text.format(2)) == ["vm      : ok=3    changed=2    unreachable=0"]
