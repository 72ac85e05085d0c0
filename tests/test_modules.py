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


def test_a_name_of_this_host_is_told_from_others() -> None:
    firewall_host = load_module("roles/firewall/library/firewall_host.py")
    assert firewall_host.is_own("localhost")
    assert not firewall_host.is_own("192.0.2.1")
    assert not firewall_host.is_own("no.such.name.invalid")


exposure = load_module("plugins/modules/host_exposure.py")


def test_addresses_of_the_kernels_tables(tmp_path: Path) -> None:
    """As in /proc/net: what listens, whoever it is; an IPv4 address in IPv6's clothes is one of IPv4."""
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    rest = "00000000:00000000 00:00000000 00000000     0        0"
    (tmp_path / "tcp").write_text(
        f"{head}   0: 0100007F:1F90 00000000:0000 0A {rest} 11 1\n   1: 0A0200C0:0016 00000000:0000 0A {rest} 12 1\n"
        f"   2: 0A0200C0:0016 0B0200C0:D431 01 {rest} 13 1\n"
    )
    (tmp_path / "tcp6").write_text(
        f"{head}   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A {rest} 14 1\n"
        f"   1: 0000000000000000FFFF0000050200C0:0051 00000000000000000000000000000000:0000 0A {rest} 15 1\n"
        f"   2: B80D0120000000000000000001000000:0052 00000000000000000000000000000000:0000 0A {rest} 16 1\n"
    )
    (tmp_path / "udp").write_text(f"{head}   0: 00000000:0035 00000000:0000 07 {rest} 17 2\n")
    assert exposure.listening(tmp_path) == {
        ("tcp", "127.0.0.1", 8080): "11",
        ("tcp", "192.0.2.10", 22): "12",
        ("tcp", "::", 80): "14",
        ("tcp", "192.0.2.5", 81): "15",
        ("tcp", "2001:db8::1", 82): "16",
        ("udp", "0.0.0.0", 53): "17",
    }


def test_what_listens_beyond_loopback_has_an_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports of containers belong to their service, whether the engine or a process of theirs holds them."""
    listed = "c0ffee\tedge\t127.0.0.1:8080->8080/tcp, 192.0.2.10:443->8443/tcp\nbeef\tspark-master\t\n"
    monkeypatch.setattr(exposure, "run", lambda *command: subprocess.CompletedProcess(command, 0, listed, ""))
    sockets = {
        ("tcp", "127.0.0.1", 8080): "1",
        ("tcp", "192.0.2.10", 7077): "2",
        ("tcp", "0.0.0.0", 22): "3",
        ("udp", "0.0.0.0", 53): "4",
    }
    monkeypatch.setattr(exposure, "listening", lambda: sockets)
    held = {"2": ("java", "0::/system.slice/docker-beef.scope"), "3": ("sshd", "0::/system.slice/ssh.service")}
    monkeypatch.setattr(exposure, "holders", lambda inodes: held)
    assert [tuple(row.values()) for row in exposure.exposed("lakehouse")] == [
        ("tcp", "0.0.0.0", 22, "sshd", ""),
        ("tcp", "192.0.2.10", 443, "the engine", "edge"),
        ("tcp", "192.0.2.10", 7077, "java", "spark-master"),
        ("udp", "0.0.0.0", 53, "unknown", ""),
    ]


def test_the_firewalls_state(tmp_path: Path) -> None:
    program = tmp_path / "check"
    assert exposure.firewall(str(program)) == "absent"
    program.write_text("#!/bin/sh\necho 'INPUT does not lead there'; exit 1\n")
    program.chmod(0o755)
    assert exposure.firewall(str(program)) == "INPUT does not lead there"
    program.write_text("#!/bin/sh\n")
    assert exposure.firewall(str(program)) == "loaded"


def test_an_images_age_is_that_of_its_oldest_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ['"2026-03-02T10:00:00Z"', '"2026-03-01T10:00:00+02:00"', '"2026-01-30T10:00:00Z"']
    answers = {"there": (0, "\n".join(made)), "gone": (1, "")}
    monkeypatch.setattr(
        exposure, "run", lambda *command: subprocess.CompletedProcess(command, *answers[command[-1]], stderr="")
    )
    now = exposure.datetime.fromisoformat("2026-03-02T09:00:00Z").timestamp()
    assert exposure.ages(["there", "gone"], now) == {"there": 30}
