"""Long commands with visible progress."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".cache" / "logs"
# Name and seconds of each long command of this run
TIMES: list[tuple[str, float]] = []
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


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
