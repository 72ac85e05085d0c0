"""What the tests share: options, long-running commands with visible progress, the engine and its images."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".cache" / "logs"
# Name and seconds of each long command of this run
TIMES: list[tuple[str, float]] = []
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lakehouse")
    group.addoption("--fast", action="store_true", help="leave out everything that needs a Docker engine")
    group.addoption("--scenario", action="append", default=[], metavar="NAME", help="run only this Molecule scenario")


def load_module(path: str) -> ModuleType:
    """Import a plugin or module of Ansible by its path from the repository's root."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def pytest_configure(config: pytest.Config) -> None:
    # As the launcher sets them, for whoever calls pytest directly.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    # A terminated run cleans up as an interrupted one does, and so does one that a shell started with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--scenario")
    scenarios = {item: item.callspec.params.get("scenario") for item in items if hasattr(item, "callspec")}
    known = {name for name in scenarios.values() if name}
    unknown = set(wanted) - known
    if unknown:
        raise pytest.UsageError(f"no scenario {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")

    def is_selected(item: pytest.Item) -> bool:
        if wanted:
            return scenarios.get(item) in wanted
        return not (config.getoption("--fast") and item.get_closest_marker("engine"))

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


class Runner:
    """Runs long commands into a log file and shows their progress, so that a CI's log is never silent."""

    def __init__(self, config: pytest.Config) -> None:
        self.capture = config.pluginmanager.getplugin("capturemanager")
        self.voice = threading.Lock()  # of two lanes
        self.running: set[subprocess.Popen[str]] = set()
        self.stopped = False

    def say(self, text: str) -> None:
        with self.voice, self.capture.global_and_fixture_disabled():
            print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)

    def __call__(
        self, name: str, command: list[str], timeout: int, milestones: str, env: dict[str, str] | None = None
    ) -> str:
        """Run a command and return its output; fail with the output's end when it fails or takes too long.

        Lines that match `milestones` are shown at once, and every 30 seconds the latest line.
        """
        LOGS.mkdir(parents=True, exist_ok=True)
        log = LOGS / f"{name}.log"
        shown = re.compile(milestones)
        began = shown_at = time.monotonic()
        lines: list[str] = []
        self.say(f"{name}: {' '.join(command)} > {log.relative_to(ROOT)}")
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "NO_COLOR": "1", "PY_COLORS": "0", "ANSIBLE_NOCOLOR": "1", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert process.stdout
        self.running.add(process)
        if self.stopped:
            kill_group(process)
        watchdog = threading.Timer(timeout, kill_group, [process])
        watchdog.start()
        try:
            with log.open("w", encoding="utf-8") as file:
                for raw in process.stdout:
                    line = ESCAPES.sub("", raw).rstrip()
                    lines.append(line)
                    file.write(line + "\n")
                    file.flush()
                    now = time.monotonic()
                    if shown.search(line) or (now - shown_at > 30 and line):
                        self.say(f"{name} {now - began:4.0f} s: {line[:150]}")
                        shown_at = now
            code = process.wait()
        finally:  # also when interrupted
            watchdog.cancel()
            kill_group(process)
            self.running.discard(process)
            TIMES.append((name, time.monotonic() - began))
        if code:
            late = time.monotonic() - began >= timeout
            reason = f"took longer than {timeout} s" if late else f"ended with exit code {code}"
            pytest.fail("\n".join([f"{name} {reason}. The end of {log}:", *lines[-80:]]), pytrace=False)
        return "\n".join(lines)

    def stop(self) -> None:
        """End what runs in other threads, and what they would begin."""
        self.stopped = True
        for process in list(self.running):
            kill_group(process)


def kill_group(process: subprocess.Popen[str]) -> None:
    """End a command and what it started: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


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
    wanted = json.dumps({"images_targets": list(tags())})
    command = ["ansible-playbook", "playbooks/images.yml", "-i", "inventories/local", "-e", wanted]
    runner("build-images", command, timeout=3600, milestones="^(PLAY|TASK|fatal)")
    return tags()


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
