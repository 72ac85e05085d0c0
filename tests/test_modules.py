"""The project's own Ansible modules that only read or write files, run as Ansible would."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
from conftest import load_module
from runner import ROOT

OWN = {"uid": os.getuid()}


def call(path: str, **arguments: Any) -> dict[str, Any]:
    """Run a module in a process of its own; its result, with what ended it in rc."""
    given = json.dumps({"ANSIBLE_MODULE_ARGS": {"_ansible_remote_tmp": "/tmp", **arguments}})
    ended = subprocess.run([sys.executable, ROOT / path, given], capture_output=True, text=True, check=False)
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def host_files(**arguments: Any) -> dict[str, Any]:
    return call("plugins/modules/host_files.py", **arguments)


def test_files_are_kept_as_given(tmp_path: Path) -> None:
    files = {
        str(tmp_path / "new" / "a"): {"content": "ü\n", **OWN},
        str(tmp_path / "b"): {"content": "", "mode": "0755", **OWN},
    }
    first = host_files(files=files)
    assert first["changed"]
    assert first["written"] == list(files)
    assert (tmp_path / "new" / "a").read_text(encoding="utf-8") == "ü\n"
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "new/a", "b")]
    assert modes == [0o755, 0o644, 0o755]
    assert not host_files(files=files)["changed"]

    (tmp_path / "b").chmod(0o600)
    assert host_files(files=files)["written"] == [str(tmp_path / "b")]
    assert sorted(os.listdir(tmp_path)) == ["b", "new"]


def test_an_exact_directory_keeps_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    arguments = {"directory": str(folder), "directory_mode": "0700", "mode": "0600", "exact": True}
    host_files(files={"old": {"content": "1", **OWN}, "kept": {"content": "2", **OWN}}, **arguments)
    (folder / "new").mkdir()  # as Docker leaves it where a file that it should mount is missing
    wanted = {"kept": {"content": "2", **OWN}, "new": {"content": "3", **OWN}}

    looked = host_files(files=wanted, _ansible_check_mode=True, **arguments)
    assert (looked["written"], looked["removed"]) == (["new"], ["old"])
    assert sorted(os.listdir(folder)) == ["kept", "new", "old"]
    done = host_files(files=wanted, **arguments)
    assert (done["written"], done["removed"]) == (["new"], ["old"])
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"kept": "2", "new": "3"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_nothing_is_written_where_one_file_is_refused(tmp_path: Path) -> None:
    files = {
        str(tmp_path / "good"): {"content": "true\n", "validate": "bash -n %s", **OWN},
        str(tmp_path / "bad"): {"content": "if\n", "validate": "bash -n %s", **OWN},
    }
    result = host_files(files=files)
    assert result["failed"]
    assert f"{tmp_path / 'bad'}: its new content is refused, so nothing was written" in result["msg"]
    assert "syntax error" in result["msg"]
    assert not list(tmp_path.iterdir())


def test_check_mode_needs_nothing_that_validates(tmp_path: Path) -> None:
    files = {str(tmp_path / "compose.yml"): {"content": "", "validate": "/not/installed/yet %s", **OWN}}
    assert host_files(files=files, _ansible_check_mode=True)["written"] == list(files)
    assert host_files(files=files)["failed"]
    assert not list(tmp_path.iterdir())


def test_a_relative_name_needs_its_directory() -> None:
    assert "a: a relative name needs the option directory" in host_files(files={"a": {"content": ""}})["msg"]
    assert "directory" in host_files(files={}, exact=True)["msg"]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"content": "", "owner": 1}, "files: a: owner. Supported parameters include: content, mode, uid, validate."),
        ({"uid": 1}, "files: a: missing required arguments: content"),
        (
            {"content": "", "uid": "root"},
            "files: a: argument 'uid' is of type str and we were unable to convert to int",
        ),
        ({"content": "", "mode": 0o644}, 'the mode of a must be octal and quoted, such as "0644", not 420'),
        ("text", "files: a must be a mapping of content, uid, mode, validate"),
    ],
)
def test_files_are_typed(tmp_path: Path, item: Any, message: str) -> None:
    result = host_files(directory=str(tmp_path / "new"), files={"a": item})
    assert message in result["msg"]
    assert not list(tmp_path.iterdir())


def test_diff_shows_contents_deletions_and_modes(tmp_path: Path) -> None:
    arguments = {"directory": str(tmp_path), "directory_mode": "0700", "exact": True, "_ansible_diff": True}
    first = {"kept": {"content": "1\n", **OWN}, "old": {"content": "2\n", **OWN}}
    host_files(files=first, **arguments)
    wanted = {"kept": {"content": "1\n", "mode": "0600", **OWN}, "new": {"content": "3\n", **OWN}}
    diff = host_files(files=wanted, _ansible_check_mode=True, **arguments)["diff"]
    kept, new, old = (str(tmp_path / name) for name in ("kept", "new", "old"))
    attributes = {entry["before"]["path"]: entry for entry in diff if isinstance(entry["before"], dict)}
    modes = [attributes[kept][side]["mode"] for side in ("before", "after")]
    assert modes == ["0644", "0600"]
    assert [attributes[new][side]["state"] for side in ("before", "after")] == ["absent", "file"]
    assert [attributes[old][side]["state"] for side in ("before", "after")] == ["file", "absent"]
    contents = {entry["before_header"]: (entry["before"], entry["after"]) for entry in diff if "before_header" in entry}
    assert contents == {new: ("", "3\n"), old: ("2\n", "")}
    assert set(attributes) == {kept, new, old}
    assert host_files(files=wanted, **arguments)["diff"] == diff
    assert host_files(files=wanted, **arguments)["diff"] == []


POLICY = """Package files:
 100 /var/lib/dpkg/status
     release a=now
 500 http://mirror.test/debian bookworm-updates/main amd64 Packages
     release v=12-updates,o=Debian,a=oldstable-updates,n=bookworm-updates,l=Debian,c=main,b=amd64
     origin mirror.test
 500 http://security.test/debian-security bookworm-security/main amd64 Packages
     release v=12,o=Debian,a=oldstable-security,n=bookworm-security,l=Debian-Security,c=main,b=amd64
     origin security.test
 500 http://vendor.test/debian bookworm/main amd64 Packages
     release o=Vendor,n=bookworm,l=Vendor,c=main,b=amd64
 500 http://mirror.test/debian bookworm/contrib amd64 Packages
     release v=12.1,o=Debian,a=oldstable,n=bookworm,l=Debian,c=contrib,b=amd64
 -10 https://mirror.test/debian bookworm/main amd64 Packages
     release v=12.1,o=Debian,a=oldstable,n=bookworm,l=Debian,c=main,b=amd64
     origin mirror.test
"""


def test_archives_are_those_of_the_release() -> None:
    init_plugin_loader([])
    loader = DataLoader()
    files = [str(ROOT / "roles/docker" / name / "main.yml") for name in ("defaults", "vars")]
    variables = {"__docker_policy": {"stdout": POLICY}}
    for file in files:
        variables |= loader.load_from_file(file, trusted_as_template=True)
    said = trust_as_template("{{ __docker_uri }} {{ __docker_security_uri }}")

    def archives(release: str) -> str:
        facts = {"ansible_facts": {"distribution_release": release}}
        found: str = Templar(loader=loader, variables=variables | facts).template(said)
        return found

    assert archives("bookworm") == "https://mirror.test/debian http://security.test/debian-security"
    assert archives("trixie") == " "


LISTENING = """LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=70,fd=3))
LISTEN 0 128 [::]:2222 [::]:* users:(("systemd",pid=1,fd=40),("sshd",pid=70,fd=4))
LISTEN 0 128 127.0.0.1:2223 0.0.0.0:* users:(("sshd",pid=70,fd=5))
LISTEN 0 128 [::1]:2224 [::]:* users:(("sshd",pid=70,fd=6))
LISTEN 0 128 0.0.0.0:8000 0.0.0.0:* users:(("sshd",pid=80,fd=9))
LISTEN 0 128 *:80 *:* users:(("caddy",pid=90,fd=3))
LISTEN 0 128 0.0.0.0:10022 0.0.0.0:* users:(("dropbear",pid=91,fd=3))
LISTEN 0 128 0.0.0.0:2049 0.0.0.0:*
"""


def test_sshd_is_told_from_the_ports_that_sessions_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    firewall_host = load_module("roles/firewall/library/firewall_host.py")
    monkeypatch.setattr(firewall_host, "parent_of", {70: 1, 80: 70, 91: 1}.__getitem__)
    monkeypatch.setattr(firewall_host, "command_of", {1: "systemd", 70: "sshd"}.__getitem__)
    assert sorted(firewall_host.listening_ports(LISTENING)) == [22, 2222, 10022]
