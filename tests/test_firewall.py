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
egress = load_module("plugins/filter/egress_table.py")
GOOD = {
    "firewall_close_host": True,
    "firewall_members": ["192.0.2.1", "2001:db8::1"],
    "firewall_admin_networks": ["198.51.100.0/24"],
    "firewall_public_ports": [443],
    "firewall_published_ports": [9000, "9001"],
    "firewall_ssh_ports": [],
    "firewall_bridges": ["lh-access", "lh-spark"],
    "firewall_egress": {"lh-spark": [{"to": "192.0.2.9", "port": 3306}, {"to": "db.example.org", "port": 3306}]},
    "firewall_users": {10005: [{"to": "192.0.2.0/24"}]},
    "firewall_guarded_ports": [{"port": "8081-8097", "from": ["192.0.2.1"], "users": [10005]}],
}


def problems(found: list[str], **values: Any) -> list[str]:
    result: list[str] = firewall.firewall_problems(GOOD | values, found)
    return result


def test_good_input() -> None:
    assert problems(["22"]) == []
    assert problems([], firewall_ssh_ports=[2222]) == []
    # A host that stays open needs neither members nor ssh.
    assert problems([], firewall_close_host=False, firewall_members=[]) == []


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
        ({"firewall_bridges": "lh-spark", "firewall_egress": {}}, "firewall_bridges is 'lh-spark', which is no list"),
        # iptables would take every interface whose name begins so.
        (
            {"firewall_bridges": ["br-+"], "firewall_egress": {}},
            "firewall_bridges has 'br-+', which is no name of an interface",
        ),
        ({"firewall_egress": []}, "firewall_egress is '[]', which is no mapping"),
        (
            {"firewall_egress": {"lh-other": []}},
            "firewall_egress has 'lh-other', which is no bridge of firewall_bridges",
        ),
        ({"firewall_egress": {"lh-spark": {}}}, "firewall_egress of lh-spark is no list"),
        (
            {"firewall_egress": {"lh-spark": ["db:3306"]}},
            "firewall_egress has db:3306 for lh-spark, which is no destination",
        ),
        ({"firewall_egress": {"lh-spark": [{"to": "a", "port": 0}]}}, "whose port is none"),
        ({"firewall_egress": {"lh-spark": [{"to": "192.0.2.300", "port": 1}]}}, "neither a name nor a network"),
        ({"firewall_egress": {"lh-spark": [{"to": "192.0.2.1/24", "port": 1}]}}, "neither a name nor a network"),
        ({"firewall_egress": {"lh-spark": [{"to": "-j ACCEPT", "port": 1}]}}, "neither a name nor a network"),
        ({"firewall_egress": {"lh-spark": [{"to": "db.example.org"}]}}, "admits every port of whatever has that name"),
        ({"firewall_users": {"spark": []}}, "firewall_users has 'spark', which is no user id"),
        ({"firewall_guarded_ports": [8080]}, "firewall_guarded_ports has 8080, which guards no port"),
        ({"firewall_guarded_ports": [{"port": "8097-8081"}]}, "whose port is none"),
        ({"firewall_guarded_ports": [{"port": 8080, "from": ["edge"]}]}, "whose source is no network"),
        ({"firewall_guarded_ports": [{"port": 8080, "users": ["spark"]}]}, "whose user is no id"),
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


def test_an_address_is_admitted_exactly_and_a_name_as_its_port() -> None:
    entries = [
        {"to": "192.0.2.9", "port": 3306},
        {"to": "192.0.2.0/24"},
        {"to": "2001:db8::9", "port": 443},
        {"to": "db.example.org", "port": 3306},
    ]
    assert firewall.firewall_ways(entries, 4) == [
        "-d 192.0.2.9/32 -p tcp -m tcp --dport 3306",
        "-d 192.0.2.0/24",
        # A machine's credentials, which clouds hand out there, are no database.
        "! -d 169.254.0.0/16 -p tcp -m tcp --dport 3306",
    ]
    assert firewall.firewall_ways(entries, 6) == [
        "-d 2001:db8::9/128 -p tcp -m tcp --dport 443",
        "! -d fe80::/10 -p tcp -m tcp --dport 3306",
    ]
    assert firewall.firewall_names([{"lh-spark": entries}, {10005: entries}]) == ["db.example.org"]


def test_a_name_opens_the_host_only_where_it_is_the_hosts_own() -> None:
    entries = [{"to": "192.0.2.9", "port": 3306}, {"to": "db.example.org", "port": 3306}]
    exact = "-d 192.0.2.9/32 -p tcp -m tcp --dport 3306"
    assert firewall.firewall_ways_to_host(entries, 4, []) == [exact]
    assert firewall.firewall_ways_to_host(entries, 4, ["db.example.org"]) == [exact, "-p tcp -m tcp --dport 3306"]


def test_a_table_of_what_is_outside() -> None:
    endpoints = {
        "jobs": ["db.example.org:3306", "http://minio:9000", "https://192.0.2.1", "", "192.0.2.7", "2001:db8::9:3306"],
        "rest": ["http://[2001:db8::1]:9000/path", "http://s3.example.org"],
        "postgres": ["http://192.0.2.1"],
    }
    ways = {"jobs": "spark", "spark-worker": "spark", "rest": "catalog"}
    more = {"spark-worker": [{"to": "192.0.2.5", "port": 80}, {"to": "192.0.2.1", "port": 443}], "rest": []}
    services = ["jobs", "postgres", "rest", "spark-worker"]
    table = egress.egress_table(endpoints, services, ways, ["minio"], more)
    assert json.dumps(table) == json.dumps(egress.egress_table(endpoints, services[::-1], ways, ["minio"], more))
    assert table == {
        "spark": [
            {"to": "192.0.2.1", "port": 443},
            {"to": "192.0.2.5", "port": 80},
            {"to": "192.0.2.7"},
            {"to": "2001:db8::9", "port": 3306},
            {"to": "db.example.org", "port": 3306},
        ],
        "catalog": [{"to": "2001:db8::1", "port": 9000}, {"to": "s3.example.org", "port": 80}],
    }
    assert egress.egress_table(endpoints, ["postgres"], ways, []) == {}


SHOWN = (
    "state",
    "close_host",
    "members",
    "published_ports",
    "bridges",
    "egress",
    "users",
    "guarded_ports",
)


def values_of(run: Run, host: str, inventory: Path) -> dict[str, Any]:
    """Return what the roles firewall and stack are given for a host."""
    shown = ", ".join(f"'{name}': firewall_{name}" for name in SHOWN)
    command = ["ansible", host, "-i", inventory, "--playbook-dir", "playbooks", "-m", "ansible.builtin.debug"]
    result = run(*command, "-a", f"msg={{{{ {{{shown}, 'networks': lakehouse_egress_networks}} | to_json }}}}")
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout[result.stdout.index("{") : result.stdout.rindex("}") + 1])
    return found


def write_inventory(folder: Path, hosts: dict[str, str], groups: dict[str, list[str]], **values: Any) -> Path:
    """Write an inventory of hosts with their addresses, of groups with their hosts and of variables."""
    children: dict[str, Any] = {name: {"hosts": {host: {} for host in members}} for name, members in groups.items()}
    names = {host: {"lakehouse_address": address} for host, address in hosts.items()}
    (folder / "group_vars").mkdir(parents=True)
    (folder / "group_vars" / "lakehouse.yml").write_text(json.dumps(values))
    (folder / "hosts.yml").write_text(
        json.dumps({"all": {"hosts": names, "children": {"lakehouse": {"children": children}}}})
    )
    return folder / "hosts.yml"


ONE = {name: ["one"] for name in ("object_store", "catalog", "mlflow", "notebooks", "spark_master")}
ADDRESSES = {"one": "192.0.2.1", "two": "192.0.2.2"}
MOODLE = {"lakehouse_moodle_host": "moodle.example.org"}


def test_several_hosts_are_closed(run: Run, tmp_path: Path) -> None:
    """To all but each other; what Spark opens there answers to whom it must, and its processes reach no more than they must."""
    groups = ONE | {"spark_workers": ["two"]}
    more = {"jupyterlab": [{"to": "git.example.org", "port": 443}], "jobs": [{"to": "198.51.100.7", "port": 25}]}
    inventory = write_inventory(tmp_path, ADDRESSES, groups, **MOODLE, lakehouse_edge_port=443, lakehouse_egress=more)
    one = values_of(run, "one", inventory)
    assert (one["state"], one["close_host"]) == ("present", True)
    assert one["members"] == ["192.0.2.1", "192.0.2.2"]
    assert {443, 9000} <= set(one["published_ports"])
    store = {"to": "192.0.2.1", "port": 9000}
    edge = {"to": "192.0.2.1", "port": 443}
    assert one["egress"]["lh-catalog"] == one["egress"]["lh-mlflow"] == one["egress"]["lh-sandbox"] == [store]
    assert one["egress"]["lh-notebooks"] == [store, more["jupyterlab"][0]]
    assert {"to": "192.0.2.1", "port": 18080} in one["egress"]["lh-access"]
    assert "lh-spark" not in one["egress"], "the demo's database is alone in it"
    hosts = [{"to": "192.0.2.1"}, {"to": "192.0.2.2"}]
    moodle = {"to": "moodle.example.org", "port": 3306}
    assert list(one["users"]) == ["10005"]
    assert sorted(map(str, one["users"]["10005"])) == sorted(map(str, [edge, store, moodle, more["jobs"][0], *hosts]))
    guards = {str(guard["port"]): (guard["from"], guard["users"]) for guard in one["guarded_ports"]}
    assert guards["8080"] == guards["18080"] == (["192.0.2.1"], [10005])
    assert guards["7077"] == (["192.0.2.1", "192.0.2.2"], [10005])
    two = values_of(run, "two", inventory)
    assert two["egress"] == {}
    assert moodle in two["users"]["10005"]
    assert [(guard["port"], guard["from"]) for guard in two["guarded_ports"]] == [("8081-8097", ["192.0.2.1"])]


def test_a_cluster_of_the_notebooks_is_apart(run: Run, tmp_path: Path) -> None:
    groups = ONE | {"spark_workers": ["two"], "notebook_workers": ["three"]}
    inventory = write_inventory(tmp_path, ADDRESSES | {"three": "192.0.2.3"}, groups, **MOODLE)
    one = values_of(run, "one", inventory)
    assert "lh-notebooks" not in one["egress"]
    notebooks = one["users"]["10008"]
    assert {"to": "192.0.2.3"} in notebooks
    assert {"to": "192.0.2.2"} not in notebooks
    assert not [entry for entry in notebooks if entry["to"] == "moodle.example.org"]
    three = values_of(run, "three", inventory)
    assert list(three["users"]) == ["10008"]
    assert [(guard["port"], guard["users"]) for guard in three["guarded_ports"]] == [(7080, [10008])]


def test_one_host_that_others_reach_is_closed(run: Run, tmp_path: Path) -> None:
    groups = ONE | {"spark_workers": ["one"]}
    inventory = write_inventory(tmp_path, {"one": "192.0.2.1"}, groups, **MOODLE)
    one = values_of(run, "one", inventory)
    assert (one["state"], one["close_host"], one["members"]) == ("present", True, ["192.0.2.1"])
    assert one["egress"] == {"lh-spark": [{"to": "moodle.example.org", "port": 3306}]}
    assert one["networks"] == ["spark"]
    assert (one["users"], one["guarded_ports"]) == ({}, [])


def test_one_host_on_loopback_keeps_its_own_services(run: Run, tmp_path: Path) -> None:
    """Nobody reaches its containers and these reach nothing outside; false removes the rules that are loaded."""
    local = values_of(run, "localhost", ROOT / "inventories" / "local")
    assert (local["state"], local["close_host"]) == ("present", False)
    assert sorted(local["bridges"]) == [
        "lh-access",
        "lh-catalog",
        "lh-mlflow",
        "lh-notebooks",
        "lh-sandbox",
        "lh-spark",
    ]
    assert (local["egress"], local["users"], local["guarded_ports"], local["networks"]) == ({}, {}, [], [])
    off = write_inventory(tmp_path, {"one": "127.0.0.1"}, ONE | {"spark_workers": ["one"]}, lakehouse_firewall=False)
    assert values_of(run, "one", off)["state"] == "absent"
