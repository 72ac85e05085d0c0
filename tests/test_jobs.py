"""The jobs' own tests, inside the image that the jobs run in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import ROOT, Runner

# Real records for tests that want them; those tests say that they were skipped when the folder is missing.
DATA = Path(os.environ.get("LAKEHOUSE_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()


@pytest.mark.engine
@pytest.mark.usefixtures("engine")
def test_jobs(images: dict[str, str], runner: Runner) -> None:
    mounts = [f"--volume={ROOT / 'jobs' / 'tests'}:/tests:ro"]
    if DATA.is_dir():
        mounts += [f"--volume={DATA}:/data:ro", "--env=LAKEHOUSE_TEST_DATA=/data"]
    command = ["docker", "run", "--rm", "--network", "none", *mounts, images["jobs-test"]]
    output = runner("jobs", command, timeout=1800, milestones=r"\[ *\d+%\]|^(FAILED|ERROR)|^=+ .* in ")
    summary = output.splitlines()[-1]
    runner.say(f"jobs: {summary}")
    assert "passed" in summary
    assert "failed" not in summary
