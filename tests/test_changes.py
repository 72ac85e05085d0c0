"""What --changed selects, and that molecule/inputs.yml is true."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from changes import JOBS, ChangesError, Inputs, changed_files, matches, read_inputs
from conftest import project_files
from runner import ROOT
from scenarios import SCENARIOS

INPUTS = read_inputs()
FILES = [path.relative_to(ROOT).as_posix() for path in project_files()]


def test_every_scenario_has_inputs() -> None:
    assert sorted(INPUTS.tests) == sorted([*SCENARIOS, JOBS])


def test_every_pattern_matches_a_file() -> None:
    unused = [pattern for pattern in INPUTS.patterns() if not any(matches(path, [pattern]) for path in FILES)]
    assert unused == [], "molecule/inputs.yml names what is not there: remove these patterns"


def test_every_file_is_an_input_or_listed_as_none() -> None:
    unknown = [path for path in FILES if INPUTS.of(path) is None]
    assert unknown == [], "name these in molecule/inputs.yml: under what depends on them, or under none"


@pytest.mark.parametrize(
    ("path", "selected"),
    [
        ("docs/privacy.md", {"stack"}),
        ("docs/connect.md", {"stack", "cluster", "external_store"}),
        ("CHANGELOG.md", set()),
        ("roles/firewall/README.md", set()),
        ("roles/preflight/tasks/main.yml", {*SCENARIOS} - {"docker", "firewall", "images"}),
        ("roles/docker/tasks/main.yml", {*SCENARIOS, JOBS} - {"preflight"}),
        ("jobs/tests/conftest.py", {JOBS}),
        ("jobs/src/moodle_lakehouse/config.py", {JOBS, "stack", "cluster", "external_store", "moodle_demo"}),
        ("inventories/prod/hosts.yml", {"cluster", "preflight"}),
        ("molecule/docker/verify.yml", {"docker"}),
        ("molecule/object_store/verify.yml", {"object_store"}),
        ("plugins/lookup/image_tags.py", {*SCENARIOS, JOBS}),
    ],
)
def test_what_a_file_selects(path: str, selected: set[str]) -> None:
    assert set(INPUTS.select([path])) == selected


def test_selection_names_the_first_reason() -> None:
    inputs = Inputs(none=["*.md"], shared=["shared/*"], tests={"one": ["one/*"], "two": ["two/*"]})
    assert inputs.select([]) == {}
    assert inputs.select(["README.md", "one/README.md"]) == {}
    assert inputs.select(["one/a", "one/b", "shared/deep/er"]) == {"one": "one/a", "two": "shared/deep/er"}
    assert inputs.select(["new"]) == {"one": "new", "two": "new"}, "a file that no pattern knows selects all"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository whose branch `work` left `main` after the first of main's two commits."""
    for command in (
        "init --quiet --initial-branch=main",
        "add .",
        "commit --quiet --message=first",
        "branch work",
        "commit --quiet --allow-empty --message=second",
        "checkout --quiet work",
    ):
        if command == "add .":
            for name in (".gitignore", "deleted", "edited", "kept", "moved"):
                (tmp_path / name).write_text(f"{name}\n" if name != ".gitignore" else "ignored\n")
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", "-C", tmp_path, *identity, *command.split()], check=True)
    return tmp_path


def test_changed_files(checkout: Path) -> None:
    assert changed_files("HEAD", checkout) == []
    (checkout / "edited").write_text("another\n")
    (checkout / "deleted").unlink()
    for name in ("ignored", "new file"):
        (checkout / name).write_text("new\n")
    subprocess.run(["git", "-C", checkout, "mv", "moved", "renamed"], check=True)
    for revision in ("HEAD", "main", "main~1"):
        assert changed_files(revision, checkout) == ["deleted", "edited", "moved", "new file", "renamed"]


def test_main_went_on(checkout: Path) -> None:
    """What others did since is no change of this checkout."""
    commit = [
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.org",
        "commit",
        "--quiet",
        "--all",
        "--message=more",
    ]
    subprocess.run(["git", "-C", checkout, "checkout", "--quiet", "main"], check=True)
    (checkout / "kept").write_text("changed by others\n")
    subprocess.run(["git", "-C", checkout, *commit], check=True)
    subprocess.run(["git", "-C", checkout, "checkout", "--quiet", "work"], check=True)
    (checkout / "edited").write_text("changed here\n")
    subprocess.run(["git", "-C", checkout, *commit], check=True)
    assert changed_files("main", checkout) == ["edited"]


@pytest.mark.parametrize("revision", ["nope", "--all", ""])
def test_unknown_revision(checkout: Path, revision: str) -> None:
    with pytest.raises(ChangesError, match=r"--changed .* Name a commit, branch or tag"):
        changed_files(revision, checkout)


def test_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(ChangesError, match="not a git repository"):
        changed_files("HEAD", tmp_path)
