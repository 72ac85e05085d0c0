"""What `./lakehouse test --changed` runs: molecule/inputs.yml names each test's inputs, git what changed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml
from runner import ROOT

INPUTS = ROOT / "molecule" / "inputs.yml"
JOBS = "unit tests of jobs"


class ChangesError(Exception):
    """What changed cannot be found out."""


@dataclass(frozen=True)
class Inputs:
    """Patterns of paths: those of no test, those of every test, and those of each scenario and of the jobs' unit tests."""

    none: list[str]
    shared: list[str]
    tests: dict[str, list[str]]

    def patterns(self) -> list[str]:
        """Return every pattern."""
        return [*self.none, *self.shared, *(pattern for patterns in self.tests.values() for pattern in patterns)]

    def of(self, path: str) -> list[str] | None:
        """Return the tests that a file is an input of, None where no pattern knows it."""
        if matches(path, self.none):
            return []
        if matches(path, self.shared):
            return list(self.tests)
        return [test for test, patterns in self.tests.items() if matches(path, patterns)] or None

    def select(self, changed: Iterable[str]) -> dict[str, str]:
        """Return each test to run with the first changed file that is an input of it; a file nobody knows selects all."""
        selected: dict[str, str] = {}
        for path in changed:
            tests = self.of(path)
            for test in self.tests if tests is None else tests:
                selected.setdefault(test, path)
        return selected


def matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def flatten(patterns: list[str] | list[list[str]] | str) -> Iterator[str]:
    """Yield the patterns of lists in lists."""
    if isinstance(patterns, str):
        yield patterns
    else:
        for each in patterns:
            yield from flatten(each)


def read_inputs(path: Path = INPUTS) -> Inputs:
    """Read the map of inputs."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    tests = {name: [f"molecule/{name}/*", *flatten(own)] for name, own in content["scenarios"].items()}
    return Inputs(content["none"], content["shared"], {**tests, JOBS: list(flatten(content["jobs"]))})


def changed_files(revision: str, root: Path = ROOT) -> list[str]:
    """Return the paths that differ from where this checkout left `revision`: committed or not, new or deleted."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ChangesError(
                f"--changed {revision}: git cannot compare {root} with it ({done.stderr.strip() or 'no common history'}). "
                "Name a commit, branch or tag of this checkout: git log --oneline"
            )
        return done.stdout

    commit = git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").strip()
    base = git("merge-base", commit, "HEAD").strip()
    changed = git("diff", "--name-only", "--no-renames", "-z", base).split("\0")
    new = git("ls-files", "--others", "--exclude-standard", "-z").split("\0")
    return sorted({path for path in changed + new if path})
