"""The parts of the role preflight that are Python, on made-up hosts and inventories."""

from __future__ import annotations

import functools
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
from conftest import load_module

GROUP_RULES = {
    "object_store": {"min": 1, "refused": [2, 3]},
    "catalog": {"min": 1, "max": 1},
    "mlflow": {"max": 1, "beside": ["catalog"]},
}


host = load_module("roles/preflight/library/preflight_host.py")
filters = load_module("roles/preflight/filter_plugins/preflight.py")
lookup = load_module("roles/preflight/lookup_plugins/inventory_problems.py")


def test_system(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n')
    assert list(host.check_system(["12", "13"], str(release))) == []
    assert "Debian GNU/Linux 12" in next(host.check_system(["13"], str(release)))
    release.write_text('PRETTY_NAME="Ubuntu 24.04"\nID=ubuntu\nVERSION_ID="24.04"\n')
    assert "Ubuntu 24.04, but only Debian 12 and 13" in next(host.check_system(["12", "13"], str(release)))
    assert "unknown" in next(host.check_system(["12"], str(tmp_path / "missing")))


def test_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:        7864320 kB\nMemFree:         100 kB\n")
    assert list(host.check_memory(7680, str(meminfo))) == []
    assert "7.5 GiB, but 8.0 GiB are needed" in next(host.check_memory(8192, str(meminfo)))


def test_disks_on_one_file_system_add_up(tmp_path: Path) -> None:
    stat = os.statvfs(tmp_path)
    free = stat.f_bavail * stat.f_frsize // 2**20
    half = {"path": str(tmp_path / "not" / "yet"), "free_mb": free // 2 + 100}
    assert list(host.check_disks([{**half, "use": "images"}], 0)) == []
    (problem,) = host.check_disks([{**half, "use": "images"}, {**half, "use": "data"}], 0)
    assert f"free at {tmp_path}" in problem
    assert "images and data" in problem
    assert list(host.check_disks([{**half, "use": "images"}, {**half, "use": "data"}], 200)) == []


def test_port_in_use_names_the_process() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (problem,) = host.check_ports([{"address": "127.0.0.1", "port": port, "use": "edge"}], "lakehouse")
        assert f"127.0.0.1:{port} (for edge) is in use by python" in problem
        assert "process" in problem
    assert list(host.check_ports([{"address": "127.0.0.1", "port": port, "use": "edge"}], "lakehouse")) == []


def test_own_containers_may_hold_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(host, "own_containers", lambda _: ({"0123"}, {port}))
        assert list(host.check_ports([{"address": "127.0.0.1", "port": port, "use": "edge"}], "lakehouse")) == []


def test_foreign_address() -> None:
    (problem,) = host.check_ports([{"address": "192.0.2.1", "port": 9000, "use": "minio"}], "lakehouse")
    assert "192.0.2.1 (for minio) is none of this host's addresses" in problem


def test_clock() -> None:
    assert list(host.check_clock({"the controller": 200.0}, 300)) == []
    assert "400 seconds behind the controller" in next(host.check_clock({"the controller": 400.0}, 300))
    assert "400 seconds ahead of the controller" in next(host.check_clock({"the controller": -400.0}, 300))


def test_names_and_endpoints() -> None:
    assert list(host.check_names(["localhost"])) == []
    assert "no.such.name.invalid" in next(host.check_names(["no.such.name.invalid"]))
    began = time.monotonic()
    closed = {"host": "127.0.0.1", "port": 1, "use": "the Moodle database"}
    assert "127.0.0.1:1 (the Moodle database) cannot be reached" in next(host.check_endpoints([closed], 2))
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"lakehouse": ["a"], "object_store": ["a"], "catalog": ["a"]}, []),
        ({"lakehouse": ["a"], "object_store": ["a"]}, ["catalog has 0 hosts, but needs at least 1"]),
        ({"lakehouse": ["a", "b"], "object_store": ["a", "b"], "catalog": ["a"]}, ["object_store has 2 hosts"]),
        (
            {"lakehouse": ["a", "b", "c"], "object_store": ["a", "b", "c"], "catalog": ["a"]},
            ["object_store has 3 hosts"],
        ),
        (
            {"lakehouse": ["a", "b"], "object_store": ["a"], "catalog": ["a", "b"]},
            ["catalog has 2 hosts, but at most 1"],
        ),
        ({"lakehouse": ["a", "b"], "object_store": ["a"], "catalog": ["a"]}, ["b in lakehouse but in none"]),
        ({"lakehouse": ["a"], "object_store": ["a"], "catalog": ["x"]}, ["x in catalog but not in lakehouse"]),
        (
            {"lakehouse": ["a", "b"], "object_store": ["a"], "catalog": ["a"], "mlflow": ["b"]},
            ["mlflow must be on the host of catalog, not on b"],
        ),
    ],
)
def test_groups(groups: dict[str, list[str]], expected: list[str]) -> None:
    problems = filters.group_problems(groups, GROUP_RULES, "lakehouse")
    assert len(problems) == len(expected), problems
    assert all(text in problem for text, problem in zip(expected, problems, strict=True))


@pytest.mark.parametrize(("hosts", "pool", "refused"), [(4, 4, 0), (8, 4, 0), (6, 0, 0), (6, 4, 1), (6, 3, 1)])
def test_a_store_grows_by_whole_pools(hosts: int, pool: int, refused: int) -> None:
    rules = {"object_store": {"min": 1, "refused": [2, 3], "pool": pool}}
    names = [f"h{number}" for number in range(hosts)]
    problems = filters.group_problems({"lakehouse": names, "object_store": names}, rules, "lakehouse")
    assert [f"has {hosts} hosts, but lakehouse_object_store_pool_hosts is {pool}" in text for text in problems] == [
        True
    ] * refused


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ({"a": "127.0.0.1"}, []),
        ({"a": "10.0.0.1", "b": "10.0.0.2"}, []),
        ({"a": "127.0.0.1", "b": "10.0.0.2"}, ["a has 127.0.0.1, which the other hosts cannot reach"]),
        ({"a": "10.0.0.1", "b": "10.0.0.1"}, ["a and b all have 10.0.0.1"]),
        ({"a": "10.0.0.1", "b": "worker"}, ["b has 'worker', which is no IP address"]),
        ({"a": "10.0.0.1", "b": "0.0.0.0"}, ["b has 0.0.0.0, which the other hosts cannot reach"]),
        ({"a": "10.0.0.1", "b": "fd00::1"}, ["b has fd00::1, but hosts speak to each other by IPv4"]),
    ],
)
def test_addresses(addresses: dict[str, str], expected: list[str]) -> None:
    problems = filters.address_problems(addresses)
    assert len(problems) == len(expected), problems
    assert all(text in problem for text, problem in zip(expected, problems, strict=True))


def test_several_hosts_need_encryption() -> None:
    assert filters.address_problems({"a": "10.0.0.1"}, edge_tls=False) == []
    (problem,) = filters.address_problems({"a": "10.0.0.1", "b": "10.0.0.2"}, edge_tls=False)
    assert "in clear" in problem


def test_loopback_only() -> None:
    assert filters.is_loopback_only({"a": "127.0.0.1", "b": "::1"})
    assert not filters.is_loopback_only({"a": "127.0.0.1", "b": "10.0.0.1"})
    assert not filters.is_loopback_only({})
    assert not filters.is_loopback_only({"a": "CHANGE_ME"})


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    directory = tmp_path / "mine"
    (directory / "group_vars" / "lakehouse").mkdir(parents=True)
    (directory / "hosts.yml").write_text("all:\n  hosts:\n    one: {ansible_host: 10.0.0.1}\n")
    return directory


@functools.cache
def load_plugins() -> None:
    init_plugin_loader([])


def look(
    inventory: Path, well_known: tuple[str, ...] = (), loader: DataLoader | None = None, **variables: Any
) -> list[str]:
    load_plugins()
    loader = loader or DataLoader()
    variables = {
        name: trust_as_template(value) if isinstance(value, str) else value for name, value in variables.items()
    }
    plugin = lookup.LookupModule(loader=loader, templar=Templar(loader=loader, variables=variables))
    options = {
        "placeholder": "CHANGE_ME",
        "secrets_prefix": "vault_",
        "well_known": list(well_known),
        "prefix": "lakehouse_",
        "defaults": [str(path) for path in inventory.parent.glob("defaults.yml")],
    }
    plugin.set_options = lambda **_: None
    plugin.get_option = options.__getitem__
    problems: list[str] = plugin.run([str(inventory)], variables)
    return problems


def test_filled_inventory(inventory: Path) -> None:
    (inventory / "group_vars/lakehouse/vault.yml").write_text("vault_a: x9\nvault_b: '{{ other }}'\n")
    assert look(inventory, ("password",), vault_a="x9") == []


def test_placeholders_name_file_and_variable(inventory: Path) -> None:
    file = inventory / "group_vars" / "lakehouse" / "main.yml"
    file.write_text("lakehouse_moodle_host: CHANGE_ME\nnested: {list: [fine, CHANGE_ME]}\nfine: 1\n")
    assert look(inventory) == [
        f"Inventory: lakehouse_moodle_host, nested.list[1] are still CHANGE_ME ({file}). Remedy: fill in your own value."
    ]


def test_hosts_file(inventory: Path) -> None:
    (inventory / "hosts.yml").write_text("all:\n  hosts:\n    CHANGE_ME: {ansible_host: CHANGE_ME}\n")
    (problem,) = look(inventory)
    assert "hosts.CHANGE_ME, hosts.CHANGE_ME.ansible_host are still CHANGE_ME" in problem
    (inventory / "hosts.yml").unlink()
    (inventory / "hosts.ini").write_text("[catalog]\none ansible_host=CHANGE_ME # CHANGE_ME\n")
    assert "ansible_host is still CHANGE_ME" in look(inventory)[0]


def test_secrets(inventory: Path) -> None:
    file = inventory / "group_vars" / "lakehouse" / "vault.yml"
    file.write_text("vault_a: ''\nvault_b: password\nvault_c: x9\nother: password\n")
    empty, known = look(inventory, ("password",))
    assert f"vault_a is empty ({file}). Remedy: ./lakehouse secrets mine" in empty
    assert (
        f"vault_b is known to everyone, and this inventory listens on more than the loopback interface ({file})"
        in known
    )
    assert len(look(inventory)) == 1, "on the loopback interface, well-known passwords are fine"


def test_secret_from_the_command_line(inventory: Path) -> None:
    (problem,) = look(inventory, ("password",), vault_a="{{ secret }}", secret="password")
    assert "vault_a is known to everyone" in problem
    assert "not in a file of the inventory" in problem


def test_unknown_variables(inventory: Path) -> None:
    (inventory.parent / "defaults.yml").write_text("lakehouse_edge_port: 8080\nlakehouse_columns: {}\nstack_port: 1\n")
    file = inventory / "group_vars" / "lakehouse" / "main.yml"
    file.write_text("lakehouse_edge_prot: 1\nlakehouse_columns: {lakehouse_x: {a: drop}}\n")
    hosts = inventory / "hosts.yml"
    hosts.write_text("all:\n  hosts:\n    one: {lakehouse_columsn: {}}\n")
    found: dict[str, Any] = {
        "ansible_play_hosts_all": ["zero", "one"],
        "hostvars": {"zero": {}, "one": {"lakehouse_columsn": {}}},
        "lakehouse_edge_prot": 1,
        "lakehouse_columns": {"lakehouse_x": {"a": "drop"}},
        "lakehouse_zzzzzzzzzzzzzzzz": 1,
        "own": 1,
    }
    first, second, third = look(inventory, **found)
    assert (
        f"lakehouse_columsn is no variable of this project ({hosts}). Remedy: lakehouse_columns is the nearest" in first
    )
    assert f"lakehouse_edge_prot is no variable of this project ({file}). Remedy: lakehouse_edge_port is" in second
    assert "lakehouse_zzzzzzzzzzzzzzzz is no variable of this project (not in a file of the inventory)" in third
    assert "begin the names of your own otherwise than lakehouse_" in third


def test_secrets_that_are_defined_nowhere(inventory: Path) -> None:
    defaults = {
        "lakehouse_users": "{{ [vault_a, vault_b, vault_c] }}",
        "lakehouse_password": "{{ vault_d }}",
        "stack_secret": "{{ vault_e if several else '' }}",
        "stack_root": "{{ vault_f | default('') }}",
    }
    (inventory.parent / "defaults.yml").write_text(yaml.safe_dump(defaults))
    found: dict[str, Any] = {
        **defaults,
        "lakehouse_password": "{{ vault_mine }}",
        "vault_b": "x9",
        "vault_mine": "x9",
        "several": False,
    }
    (problem,) = look(inventory, **found)
    assert problem.startswith("Inventory: vault_a, vault_c are needed, but defined nowhere. Remedy: give each an empty")
    (problem,) = look(inventory, **(found | {"several": True, "vault_a": "x9", "vault_c": "x9"}))
    assert problem.startswith("Inventory: vault_e is needed")
    assert "./lakehouse secrets mine" in problem


def test_encrypted_file(inventory: Path) -> None:
    secret = [("default", VaultSecret(b"open sesame"))]
    file = inventory / "group_vars" / "lakehouse" / "vault.yml"
    file.write_bytes(VaultLib(secret).encrypt("vault_a: password\n", VaultSecret(b"open sesame")))
    (problem,) = look(inventory, ("password",))
    assert f"{file} cannot be read" in problem
    assert "--ask-vault-pass" in problem
    loader = DataLoader()
    loader.set_vault_secrets(secret)
    (problem,) = look(inventory, ("password",), loader)
    assert "vault_a is known to everyone" in problem
