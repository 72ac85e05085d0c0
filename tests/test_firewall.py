"""The parts of the role firewall that are Python, and what site.yml hands to it. What the rules do: Molecule's scenario."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import load_module
from runner import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]

firewall = load_module("roles/firewall/filter_plugins/firewall.py")


def problems(found: list[str], **values: Any) -> list[str]:
    good = {
        "firewall_members": ["192.0.2.1", "2001:db8::1"],
        "firewall_admin_networks": ["198.51.100.0/24"],
        "firewall_public_ports": [443],
        "firewall_published_ports": [9000, "9001"],
        "firewall_ssh_ports": [],
    }
    result: list[str] = firewall.firewall_problems(good | values, found)
    return result


def test_good_input() -> None:
    assert problems(["22"]) == []
    assert problems([], firewall_ssh_ports=[2222]) == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"firewall_members": []}, "firewall_members is empty"),
        ({"firewall_members": "192.0.2.1"}, "firewall_members is '192.0.2.1', which is no list"),
        ({"firewall_members": ["data1"]}, "firewall_members has 'data1', which is no network"),
        ({"firewall_admin_networks": ["192.0.2.7/24"]}, "write 192.0.2.0/24 for the network or 192.0.2.7 for the host"),
        ({"firewall_public_ports": [True]}, "firewall_public_ports has 'True', which is no port"),
        ({"firewall_published_ports": [65536]}, "firewall_published_ports has '65536', which is no port"),
        ({"firewall_ssh_ports": [""]}, "firewall_ssh_ports has '', which is no port"),
    ],
)
def test_bad_input(values: dict[str, Any], says: str) -> None:
    (problem,) = problems(["22"], **values)
    assert says in problem
    assert "Remedy: " in problem


def test_a_host_that_nobody_could_log_in_to() -> None:
    (problem,) = problems([])
    assert "firewall_ssh_ports is empty, no sshd listens" in problem


def test_networks_by_family() -> None:
    mixed = ["192.0.2.0/24", "192.0.2.1", "192.0.2.1/32", "2001:db8::/64"]
    assert firewall.firewall_networks(mixed, 4) == ["192.0.2.0/24", "192.0.2.1/32"]
    assert firewall.firewall_networks(mixed, 6) == ["2001:db8::/64"]


def values_of(run: Run, inventory: Path) -> dict[str, Any]:
    shown = "{'on': lakehouse_firewall | bool, 'members': firewall_members, 'ports': firewall_published_ports}"
    command = ["ansible", "catalog", "-i", inventory, "--playbook-dir", "playbooks", "-m", "ansible.builtin.debug"]
    result = run(*command, "-a", f"msg={{{{ {shown} | to_json }}}}")
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout[result.stdout.index("{") : result.stdout.rindex("}") + 1])
    return found


def test_what_the_playbook_hands_over(run: Run, tmp_path: Path) -> None:
    """Several hosts are closed to all but each other, the host of this machine alone is left as it is."""
    groups: dict[str, Any] = {name: {"hosts": {"one": {}}} for name in ("object_store", "catalog", "spark_master")}
    groups["spark_workers"] = {"hosts": {"two": {}}}
    hosts = {"one": {"lakehouse_address": "192.0.2.1"}, "two": {"lakehouse_address": "192.0.2.2"}}
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "children": {"lakehouse": {"children": groups}}}}))
    several = values_of(run, inventory)
    assert several["on"]
    assert several["members"] == ["192.0.2.1", "192.0.2.2"]
    assert {8080, 9000} <= set(several["ports"])
    assert not values_of(run, ROOT / "inventories" / "local")["on"]
