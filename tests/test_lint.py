"""The linters, each with the settings at the repository's root."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from conftest import project_files
from runner import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]


def is_shell(path: object) -> bool:
    with open(str(path), "rb") as file:
        first = file.readline()
    return first.startswith(b"#!") and first.rstrip().endswith((b"bash", b"/sh"))


PYTHON = sorted(
    {str(path.relative_to(ROOT)) for path in project_files(".py") if path.relative_to(ROOT).parts[0] != "jobs"}
)
SHELL = [str(path) for path in project_files() if not path.is_symlink() and is_shell(path)]

CHECKS = {
    "ansible-lint": ["ansible-lint"],
    "yamllint": ["yamllint", "--strict", "."],
    "shellcheck": ["shellcheck", *SHELL],
    "ruff-check": ["ruff", "check"],
    "ruff-format": ["ruff", "format", "--check", "--diff"],
    "import-linter": ["env", "PYTHONPATH=jobs/src", "lint-imports", "--no-cache", "jobs/pyproject.toml"],
    "mypy-jobs": ["mypy", "jobs/src"],
    "mypy": ["mypy", "--explicit-package-bases", *PYTHON],
}


@pytest.mark.parametrize("check", CHECKS)
def test_lint(check: str, run: Run) -> None:
    result = run(*CHECKS[check])
    if result.returncode:
        pytest.fail(f"{check} found something to repair:\n{result.stdout}{result.stderr}", pytrace=False)
