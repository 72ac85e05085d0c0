"""What the tests share: options, the engine and its images, the second lane."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from changes import JOBS, ChangesError, changed_files, read_inputs
from runner import ROOT, TIMES, Runner
from scenarios import ASIDE, RELEASE, SCENARIOS, Aside


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lakehouse")
    group.addoption("--fast", action="store_true", help="leave out everything that needs a Docker engine")
    group.addoption("--release", action="store_true", help="run what is run before a release, and nothing else")
    group.addoption("--scenario", action="append", default=[], metavar="NAME", help="run only this Molecule scenario")
    group.addoption(
        "--changed",
        nargs="?",
        const="HEAD",
        metavar="REV",
        help="of what needs an engine, run only what has changed inputs: since REV was left, by default what is not committed",
    )


def load_module(path: str) -> ModuleType:
    """Import a plugin or module of Ansible by its path from the repository's root."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


# Test -> the changed file that selects it, with --changed
SELECTED: pytest.StashKey[dict[str, str]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--changed") is not None:
        if config.getoption("--scenario"):
            raise pytest.UsageError("--changed and --scenario both say which scenarios to run: give one of them")
        try:
            config.stash[SELECTED] = read_inputs().select(changed_files(config.getoption("--changed")))
        except ChangesError as error:
            raise pytest.UsageError(str(error)) from error
    # As the launcher sets them, for whoever calls pytest directly.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    # A terminated run cleans up as an interrupted one does, and so does one that a shell started with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what --changed selects, and because of which file."""
    selected = config.stash.get(SELECTED, None)
    if selected is None:
        return []
    reasons = [f"  {test}: {path}" for test, path in selected.items()]
    return [
        f"inputs changed since {config.getoption('--changed')}:",
        *(reasons or ["  of nothing that needs an engine"]),
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--scenario")
    scenarios = {item: item.callspec.params.get("scenario") for item in items if hasattr(item, "callspec")}
    known = {name for name in scenarios.values() if name}
    unknown = set(wanted) - known
    if unknown:
        raise pytest.UsageError(f"no scenario {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")

    selected = config.stash.get(SELECTED, None)

    def is_selected(item: pytest.Item) -> bool:
        if wanted:
            return scenarios.get(item) in wanted
        if bool(item.get_closest_marker("release")) != config.getoption("--release"):
            return False
        if not item.get_closest_marker("engine"):
            return True
        return not config.getoption("--fast") and (selected is None or (scenarios.get(item) or JOBS) in selected)

    config.hook.pytest_deselected(items=[item for item in items if not is_selected(item)])
    items[:] = [item for item in items if is_selected(item)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what took the time, slowest first."""
    if TIMES:
        terminalreporter.section("time of images, suites and scenarios")
        for name, seconds in [*sorted(TIMES, key=lambda item: -item[1]), ("in all", sum(item[1] for item in TIMES))]:
            minutes, rest = divmod(round(seconds), 60)
            terminalreporter.write_line(f"{name:32} {minutes:3} min {rest:2} s")


def project_files(*suffixes: str) -> list[Path]:
    """Return the project's files, committed or about to be; without git, all that is no cache."""
    listing = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        files = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        ignored = {".git", ".venv", ".cache", ".ansible", "__pycache__"}
        files = [path for path in ROOT.rglob("*") if not ignored & set(path.relative_to(ROOT).parts)]
    return sorted(path for path in files if path.is_file() and (not suffixes or path.suffix in suffixes))


@pytest.fixture(scope="session")
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    made = Runner(request.config)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def engine(runner: Runner) -> str:
    """Docker's engine on this machine, by the project's own role."""
    command = ["ansible", "localhost", "-i", "inventories/local", "--become", "-m", "include_role", "-a", "name=docker"]
    return runner("engine", command, timeout=900, milestones="FAILED|UNREACHABLE")


@pytest.fixture(scope="session")
def images(runner: Runner) -> dict[str, str]:
    """All images of the project on this machine, and jobs-test, by the project's own playbook; their tags by name."""
    # The scenario external_store, which is seldom run, builds its store itself.
    wanted = json.dumps({"images_targets": [name for name in tags() if name != "versitygw"]})
    command = ["ansible-playbook", "playbooks/images.yml", "-i", "inventories/local", "-e", wanted]
    runner("build-images", command, timeout=3600, milestones="^(PLAY|TASK|fatal)")
    return tags()


@pytest.fixture(scope="session")
def aside(runner: Runner, request: pytest.FixtureRequest) -> Iterator[Aside]:
    """A second lane of scenarios: begun with the first long test where all are run, empty otherwise."""
    lane = Aside(runner)
    selected = {item.callspec.params.get("scenario") for item in request.session.items if hasattr(item, "callspec")}
    if {*SCENARIOS} - RELEASE <= selected:
        request.getfixturevalue("images")
        lane.begin(ASIDE)
    yield lane
    lane.end()


@functools.cache
def tags() -> dict[str, str]:
    """Ask the project's own lookup, as the playbooks do."""
    show = "{{ lakehouse_images | to_json }}"
    answer = subprocess.run(
        [
            "ansible",
            "all",
            "-i",
            "inventories/local",
            "--playbook-dir",
            "playbooks",
            "-m",
            "debug",
            "-a",
            f"msg='{show}'",
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(re.findall(r'"([\w-]+)\W+(lakehouse/[\w-]+:[0-9a-f]+)', answer.stdout))


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a short command in the repository and return what it said."""

    def execute(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        settings = {"cwd": ROOT, "capture_output": True, "text": True, "check": False, **options}
        return subprocess.run(command, **settings)  # type: ignore[call-overload, no-any-return]

    return execute
