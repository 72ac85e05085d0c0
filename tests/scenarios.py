"""Molecule's scenarios: run whole, in two lanes where all are run, and nothing left behind by any."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from runner import ROOT, Runner

# The second lane's order; the first makes what VMs are started from. The tests take the others and then these from the end,
# so that both lanes end together.
ASIDE = [
    "object_store",
    "firewall",
    "object_store_distributed",
    "images",
    "stack",
    "moodle_demo",
    "docker",
    "preflight",
]
# Run before a release alone: `./lakehouse test --release`
RELEASE = {"external_store"}
OTHERS = {path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")} - {*ASIDE}
SCENARIOS = [ASIDE[0], *sorted(OTHERS), *reversed(ASIDE[1:])]
STATE = ROOT / ".cache" / "molecule"
TIMEOUT = 45 * 60
# As molecule/shared/inventory/group_vars/all.yml computes it.
PREFIX = f"vm-{hashlib.sha1(str(ROOT).encode(), usedforsecurity=False).hexdigest()[:6]}"
DIAGNOSIS = """
systemctl --failed --no-legend
journalctl --no-pager --priority warning --lines 40
command -v docker >/dev/null || exit 0
docker ps --all --format '{{.Names}} {{.Image}} {{.Status}}'
for name in $(docker ps --all --format '{{.Names}}'); do echo "--- docker logs $name"; docker logs --tail 25 "$name" 2>&1; done
"""


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False).stdout


def objects(scenario: str) -> dict[str, list[str]]:
    """Return what of a scenario there is on the engine."""
    label = f"label=lakehouse.test={PREFIX}-{scenario}"
    return {
        "container": docker("ps", "--all", "--filter", label, "--format", "{{.Names}}").split(),
        "volume": docker("volume", "ls", "--filter", label, "--format", "{{.Name}}").split(),
        "network": docker("network", "ls", "--filter", label, "--format", "{{.Name}}").split(),
    }


def sweep(scenario: str) -> None:
    """Remove all of a scenario, whatever state it is in."""
    found = objects(scenario)
    if found["container"]:
        docker("rm", "--force", "--volumes", *found["container"])
    for kind in ("volume", "network"):
        if found[kind]:
            docker(kind, "rm", *found[kind])
    # What VMs are started from stays, for the next scenario, unless this one did not finish it: its image is made last.
    for volume in docker(
        "volume", "ls", "--filter", f"label=lakehouse.made-by={PREFIX}-{scenario}", "--format", "{{.Name}}"
    ).split():
        if not docker("image", "ls", "--quiet", volume.replace("-vm-seed-", "/vm-seed:")).strip():
            docker("volume", "rm", volume)
    shutil.rmtree(STATE / scenario, ignore_errors=True)


def loads_images(scenario: str) -> bool:
    inventory = (ROOT / "molecule" / scenario / "inventory").rglob("*.yml")
    return any("vm_loads_images: true" in path.read_text(encoding="utf-8") for path in inventory)


def verify(scenario: str, runner: Runner) -> None:
    """Run a scenario whole and leave nothing behind: after success, failure and interruption alike."""
    sweep(scenario)
    environment = {
        "MOLECULE_EPHEMERAL_DIRECTORY": str(STATE / scenario),
        "MOLECULE_PROJECT_DIRECTORY": str(ROOT),
        "MOLECULE_COMMAND_BORDERS": "false",
    }
    command = ["molecule", "test", "--scenario-name", scenario, "--destroy", "never"]
    milestones = r"Executing$|^PLAY \[|^fatal|FAILED!|^Phase"
    try:
        try:
            output = runner(scenario, command, TIMEOUT, milestones, environment)
        except pytest.fail.Exception as failure:
            pytest.fail(f"{failure.msg}\n{diagnose(scenario)}", pytrace=False)
        changed = changes_in_check_mode(output)
        assert not changed, f"check mode would change a host that was just deployed: {changed}"
        leftovers = destroy(scenario, runner, environment)
        assert not any(leftovers.values()), f"molecule destroy left {leftovers}"
    finally:
        sweep(scenario)


def destroy(scenario: str, runner: Runner, environment: dict[str, str]) -> dict[str, list[str]]:
    """Run the scenario's own destroy and return what it forgot."""
    runner(f"{scenario}-destroy", ["molecule", "destroy", "--scenario-name", scenario], 300, "^fatal", environment)
    return objects(scenario)


def changes_in_check_mode(output: str) -> list[str]:
    """Return the recap lines of the check action that tell a change."""
    sections = re.split(r"^INFO +\[\S+ > (\w+)\] Executing$", output, flags=re.MULTILINE)
    check = dict(zip(sections[1::2], sections[2::2], strict=True)).get("check", "")
    recaps = re.findall(r"^\S+ +: ok=\d+ +changed=\d+ .*$", check, re.MULTILINE)
    assert recaps, "no recap of the check action: has Molecule's output changed?"
    return [recap for recap in recaps if " changed=0 " not in recap]


def diagnose(scenario: str) -> str:
    """Return what the VMs' journals and containers say."""
    reports = []
    for name in objects(scenario)["container"]:
        reports += [f"===== {name}", docker("exec", name, "sh", "-c", DIAGNOSIS)[-20000:]]
    return "\n".join(reports)


class Aside:
    """A second lane of scenarios beside the tests' own work. Whoever comes to a scenario first runs it, the other waits for it."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.claiming = threading.Lock()
        self.runs: dict[str, Future[None]] = {}
        self.lane = ThreadPoolExecutor(max_workers=1, thread_name_prefix="aside")

    def begin(self, scenarios: list[str]) -> None:
        """Run these in the second lane, in this order, but for those that are run by then."""
        for name in scenarios:
            self.lane.submit(self.run, name)

    def run(self, scenario: str) -> None:
        """Run it here, or wait until it was run; fail as it failed."""
        with self.claiming:
            is_first = scenario not in self.runs
            run = self.runs.setdefault(scenario, Future())
        if is_first:
            try:
                verify(scenario, self.runner)
            except BaseException as error:
                run.set_exception(error)
            else:
                run.set_result(None)
        run.result()

    def end(self) -> None:
        """Return when nothing runs any more: when tests were interrupted, after stopping it."""
        self.lane.shutdown(wait=False, cancel_futures=True)
        if any(not run.done() for run in self.runs.values()):
            self.runner.stop()
        self.lane.shutdown(wait=True)
