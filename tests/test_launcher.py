"""The launcher: its errors before anything is made, and the virtual environment it makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from runner import ROOT

NOWHERE = "http://127.0.0.1:9/simple"
HELLO = """---
# Say hello
- name: Say hello
  hosts: all
  gather_facts: false
  tasks:
    - name: Say hello
      ansible.builtin.debug:
        msg: "hello from {{ inventory_dir | basename }}, {{ greeting | default('nobody') }}"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy with just the launcher, one playbook and two inventories."""
    directory = tmp_path / "check out"
    (directory / "playbooks").mkdir(parents=True)
    for name in ("lakehouse", "ansible.cfg", "requirements.txt"):
        shutil.copy(ROOT / name, directory)
    for name in ("site", "hello"):
        (directory / "playbooks" / f"{name}.yml").write_text(HELLO)
    for name in ("local", "prod"):
        (directory / "inventories" / name).mkdir(parents=True)
        (directory / "inventories" / name / "hosts.yml").write_text(
            "all: {hosts: {localhost: {ansible_connection: local}}}"
        )
    return directory


def launch(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "lakehouse", *arguments],
        cwd="/",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def without_system_python(checkout: Path, **scripts: str) -> dict[str, str]:
    """Hide Debian's Python from the launcher and put other programs in front of it."""
    programs = checkout / "bin"
    programs.mkdir()
    for name in ("bash", "basename", "cat", "dirname", "flock", "readlink", "rm", "sed", "sha256sum", "mkdir", "id"):
        (programs / name).symlink_to(shutil.which(name) or "")
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    launcher = checkout / "lakehouse"
    launcher.write_text(launcher.read_text().replace("/usr/bin/python3", f"{programs}/python3"))
    return {"PATH": str(programs)}


def test_help_lists_verbs_and_inventories(checkout: Path) -> None:
    for arguments in ([], ["help"], ["--help"]):
        result = launch(checkout, *arguments)
        assert result.returncode == 0
        assert re.search(r"^  up +Say hello$", result.stdout, re.MULTILINE), "up is the playbook site"
        assert re.search(r"^  hello +Say hello$", result.stdout, re.MULTILINE)
        assert re.search(r"^  prod$", result.stdout, re.MULTILINE)
        assert "  site" not in result.stdout
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("verb", ["nope", "../tests/x", "group_vars", "-v", "UP"])
def test_unknown_verb(checkout: Path, verb: str) -> None:
    result = launch(checkout, verb)
    assert result.returncode == 2
    assert f"there is no verb '{verb}'" in result.stderr
    assert re.search(r"^  up +Say hello$", result.stderr, re.MULTILINE)
    assert not (checkout / ".venv").exists()


def test_unknown_inventory(checkout: Path) -> None:
    result = launch(checkout, "up", "nope")
    assert result.returncode == 2
    assert "there is no inventory" in result.stderr
    assert re.search(r"^  local$\n^  prod$", result.stderr, re.MULTILINE)
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("option", ["-i", "-iprod", "--inventory=prod"])
def test_a_second_inventory_is_refused(checkout: Path, option: str) -> None:
    result = launch(checkout, "hello", "--check", option, "inventories/prod")
    assert result.returncode == 2
    assert "name the inventory as the second argument" in result.stderr


def test_python_too_old(checkout: Path) -> None:
    old = 'case $2 in *version_info*) exit 1;; *print*) echo "/usr/bin/python3 is 3.9.2";; esac'
    result = launch(checkout, "up", **without_system_python(checkout, python3=old))
    assert result.returncode == 2
    assert "Python 3.11 or newer is needed, but: /usr/bin/python3 is 3.9.2" in result.stderr
    assert not (checkout / ".venv").exists()


def test_no_venv_module_and_no_apt(checkout: Path) -> None:
    bare = "[[ $2 != *ensurepip* ]]"
    result = launch(checkout, "up", **without_system_python(checkout, python3=bare))
    assert result.returncode == 2
    assert "there is no apt-get" in result.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_no_venv_module_and_no_root(checkout: Path) -> None:
    bare = "[[ $2 != *ensurepip* ]]"
    environment = without_system_python(checkout, python3=bare, **{"apt-get": "exit 0"})
    launcher = checkout / "lakehouse"
    launcher.write_text(launcher.read_text().replace("EUID != 0", "1"))
    result = launch(checkout, "up", **environment)
    assert result.returncode == 2
    assert "there is no sudo" in result.stderr
    assert "As root: apt-get install python3-venv" in result.stderr


def test_apt_fails(checkout: Path) -> None:
    bare = "[[ $2 != *ensurepip* ]]"
    environment = without_system_python(checkout, python3=bare, **{"apt-get": "exit 1", "env": 'shift; "$@"'})
    launcher = checkout / "lakehouse"
    launcher.write_text(launcher.read_text().replace("EUID != 0", "0"))
    result = launch(checkout, "up", **environment)
    assert result.returncode == 2
    assert "apt-get could not install python3-venv" in result.stderr


def test_unreachable_index(checkout: Path) -> None:
    result = launch(checkout, "hello", PIP_INDEX_URL=NOWHERE, PIP_RETRIES="0", PIP_FIND_LINKS="")
    assert result.returncode == 2
    assert "the Python packages could not be installed" in result.stderr
    assert "pip config list" in result.stderr
    assert not (checkout / ".venv" / ".made-from").exists()


def test_environment_is_made_once_and_made_again(checkout: Path) -> None:
    """One fresh checkout: used from elsewhere, interrupted, and with a new lock."""
    first = launch(checkout, "hello", "prod", "-e", "greeting=friend", PYTHONDONTWRITEBYTECODE="1")
    assert first.returncode == 0, first.stderr
    assert "making" in first.stderr
    assert "hello from prod, friend" in first.stdout
    compiled = list((checkout / ".venv").glob("lib/*/site-packages/ansible/plugins/action/__pycache__/debug.*.pyc"))
    assert compiled, "Ansible's plugins would be compiled anew in each task's process"

    began = time.monotonic()
    second = launch(checkout, "hello")
    assert "hello from local, nobody" in second.stdout
    assert "making" not in second.stderr
    assert time.monotonic() - began < 10

    (checkout / ".venv" / ".made-from").unlink()  # as an interrupted creation leaves it
    (checkout / ".venv" / "bin" / "ansible-playbook").unlink()
    third = launch(checkout, "hello", str(checkout / "inventories" / "prod"))
    assert "making" in third.stderr
    assert "hello from prod, nobody" in third.stdout

    with (checkout / "requirements.txt").open("a") as lock:
        lock.write("# changed\n")
    fourth = launch(checkout, "hello", PIP_INDEX_URL=NOWHERE, PIP_RETRIES="0", PIP_FIND_LINKS="")
    assert "making" in fourth.stderr


@pytest.mark.parametrize(
    ("option", "answer"),
    [("--scenario", "no scenario jobs; there are: "), ("--changed", "--changed jobs: git cannot compare ")],
)
def test_an_options_value_is_no_path(option: str, answer: str) -> None:
    """Pytest takes a word after an option that it learns of later for a path, where there is one."""
    assert (ROOT / "jobs").is_dir()
    result = launch(ROOT, "test", option, "jobs", "--collect-only", "--quiet")
    assert result.returncode != 0
    assert answer in result.stdout + result.stderr


def test_changed_before_another_option() -> None:
    result = launch(ROOT, "test", "--changed", "--collect-only", "-k", "test_an_options_value_is_no_path")
    assert result.returncode == 0, result.stdout
    assert "inputs changed since HEAD:" in result.stdout
