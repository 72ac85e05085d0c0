"""The parts of the role preflight that are Python, on made-up hosts and inventories."""

from __future__ import annotations

import datetime
import functools
import os
import re
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
from conftest import load_module, project_files
from runner import ROOT

GROUP_RULES = {
    "object_store": {"min": 1, "refused": [2, 3]},
    "catalog": {"min": 1, "max": 1},
    "mlflow": {"max": 1, "beside": ["catalog"]},
    "notebook_workers": {"of_several": True},
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
        (
            {"lakehouse": ["a"], "object_store": ["a"], "catalog": ["a"], "notebook_workers": ["a"]},
            ["notebook_workers is for clusters, but lakehouse has 1 host"],
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


@pytest.mark.parametrize("addresses", [{"a": "10.0.0.1"}, {"a": "10.0.0.1", "b": "10.0.0.2"}, {"a": "2001:db8::1"}])
def test_what_others_reach_needs_encryption_and_a_firewall(addresses: dict[str, str]) -> None:
    """Whether it is one host or several."""
    (problem,) = [found for found in filters.address_problems(addresses, edge_tls=False) if "Encryption" in found]
    assert "in clear" in problem
    off: dict[str, Any] = dict.fromkeys(addresses, "false")
    found = [problem for problem in filters.address_problems(addresses, True, off) if problem.startswith("Firewall: ")]
    assert len(found) == len(addresses)
    assert f"lakehouse_firewall is false, but a publishes at {addresses['a']}" in found[0]
    assert [
        problem
        for problem in filters.address_problems(addresses, True, dict.fromkeys(off, True))
        if "Firewall" in problem
    ] == []


def test_a_host_on_loopback_needs_neither() -> None:
    assert filters.address_problems({"a": "127.0.0.1"}, False, {"a": False}) == []


def test_egress() -> None:
    services = ["jobs", "jupyterlab"]
    good = {"jobs": [], "jupyterlab": [{"to": "git.example.org", "port": 443}, {"to": "10.0.0.0/8", "port": "5432"}]}
    assert filters.egress_problems(good, services) == []
    assert filters.egress_problems({}, services) == []


@pytest.mark.parametrize(
    ("egress", "says"),
    [
        ([], "lakehouse_egress is '[]', which is no mapping"),
        (
            {"jupyter": []},
            "lakehouse_egress has 'jupyter', which is no service with a way out. Remedy: name one of jobs, jupyterlab.",
        ),
        ({"jobs": {"to": "a", "port": 1}}, "lakehouse_egress of jobs is no list"),
        (
            {"jobs": ["git.example.org:443"]},
            "lakehouse_egress of jobs has git.example.org:443, which has not just `to` and `port`",
        ),
        ({"jobs": [{"to": "git.example.org"}]}, "which has not just `to` and `port`"),
        ({"jobs": [{"to": "git.example.org", "port": "https"}]}, "whose port is no number"),
        ({"jobs": [{"to": "https://git.example.org", "port": 443}]}, "whose `to` is no address"),
        ({"jobs": [{"to": "10.0.0.1/8", "port": 443}]}, "whose `to` is no address"),
        ({"jobs": [{"to": "10.0.0.300", "port": 443}]}, "whose `to` is no address"),
    ],
)
def test_bad_egress(egress: Any, says: str) -> None:
    (problem,) = filters.egress_problems(egress, ["jobs", "jupyterlab"])
    assert says in problem
    assert "Remedy: " in problem


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
    inventory: Path,
    well_known: tuple[str, ...] = (),
    loader: DataLoader | None = None,
    rules: list[dict[str, Any]] | None = None,
    **variables: Any,
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
        "rules": rules or [],
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


RULES: list[dict[str, Any]] = yaml.safe_load(
    (ROOT / "playbooks" / "group_vars" / "all" / "secrets.yml").read_text(encoding="utf-8")
)["preflight_secret_rules"]
SECRET, KEY, TOKEN = "vault_minio_spark_secret", "vault_minio_spark_key", "vault_jupyter_token"
LONG = "abcdefghij" * 20
# Each kind of odd value: for whom it is one that works, and for whom it is not. What works is tried in the scenario stack.
ODD: list[tuple[str, Any, list[str], list[str]]] = [
    ("number", 123456789, [], ["vault_admin_password", SECRET, "vault_privacy_key", "vault_something_new"]),
    ("octal number", 83, [], ["vault_service_password"]),  # 0123, as YAML reads it
    ("digits as text", "0123456789", ["vault_admin_password", SECRET, KEY, TOKEN], []),
    ("number with an exponent", "1e5", ["vault_admin_password", KEY, TOKEN], [SECRET]),
    ("float", 1.5, [], ["vault_spark_secret"]),
    ("yes", True, [], ["vault_analyst_password", "vault_privacy_key"]),
    ("date", datetime.date(2026, 1, 2), [], ["vault_postgres_password"]),
    ("quotes", "it's \"quoted\"", ["vault_admin_password", "vault_service_password", SECRET, "vault_postgres_password"], [TOKEN, KEY]),
    ("dollar", "$HOME$$x${y}", ["vault_admin_password", "vault_spark_secret", SECRET], [TOKEN, KEY]),
    ("backslash", "a\\b\\\\nine", ["vault_service_password", "vault_spark_secret", SECRET], [TOKEN, KEY]),
    ("percent", "100%%s%41", ["vault_service_password", SECRET], [TOKEN]),
    ("hash sign", "#one #two", ["vault_admin_password", "vault_analyst_password", "vault_moodle_password"], [SECRET, TOKEN, KEY]),
    ("brackets", "[default]x", ["vault_admin_password", "vault_spark_secret"], [SECRET, KEY, TOKEN]),
    ("leading dash", "-rf --all", ["vault_admin_password", "vault_postgres_password", SECRET], [TOKEN, KEY]),
    ("leading dash of a token", "-rf", [TOKEN], [KEY]),
    ("separators of properties", "=:equals", ["vault_spark_secret", "vault_service_password", SECRET], [TOKEN]),
    ("space before", " eightchar", ["vault_privacy_key"], ["vault_admin_password", "vault_service_password", SECRET, "vault_spark_secret"]),
    ("space behind", "eightchar ", ["vault_privacy_key"], ["vault_admin_password", "vault_moodle_password", SECRET, TOKEN]),
    ("space inside", "eight chars", ["vault_admin_password", "vault_moodle_password", SECRET], [TOKEN, KEY]),
    ("no ASCII", "pässwört", ["vault_admin_password", "vault_privacy_key"], ["vault_service_password", "vault_moodle_password", SECRET, TOKEN]),
    ("line break inside", "one\ntwothree", ["vault_privacy_key"], ["vault_admin_password", SECRET, "vault_moodle_password", "vault_spark_secret"]),
    ("line break behind", "onetwothree\n", [], ["vault_admin_password", "vault_privacy_key", SECRET, "vault_postgres_password", TOKEN]),
    ("tab", "one\ttwothree", ["vault_privacy_key"], ["vault_admin_password", SECRET]),
    ("200 characters", LONG, [TOKEN, "vault_spark_secret", "vault_postgres_password", "vault_moodle_password", "vault_privacy_key"],
     ["vault_admin_password", "vault_analyst_password", SECRET, KEY]),
    ("72 bytes", "ä" * 36, ["vault_admin_password"], []),
    ("73 bytes", "ä" * 36 + "x", [], ["vault_admin_password"]),
    ("7 characters", "sevench", ["vault_service_password"], [SECRET, "vault_minio_root_password"]),
    ("21 characters", "a" * 21, [SECRET], [KEY, "vault_minio_root_user"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "fit", "unfit"), ODD, ids=[row[0] for row in ODD])
def test_odd_secrets(kind: str, value: Any, fit: list[str], unfit: list[str]) -> None:
    assert [name for name in fit if lookup.unfit(name, value, RULES)] == []
    assert [name for name in unfit if not lookup.unfit(name, value, RULES)] == []


def test_an_unfit_secret_is_told_by_name_with_what_it_may_be(inventory: Path) -> None:
    file = inventory / "group_vars" / "lakehouse" / "vault.yml"
    file.write_text("vault_minio_spark_secret: 'q#1'\nvault_a: 0123\nvault_b: yes\nvault_admin_password: 1e5\n")
    short, number = look(inventory, rules=RULES)
    assert short == (
        f"Inventory: vault_minio_spark_secret is not what it may be: 8 to 40 characters, ASCII without # ; [ and ], and no space "
        f"at either end ({file}). Remedy: write another value, in quotes."
    )
    assert "vault_a, vault_b are to YAML a number, a date or a yes/no, not a text" in number
    assert "q#1" not in short + number


def test_braces_are_templates(inventory: Path) -> None:
    """What Ansible would read as a template is tried: its result is the secret."""
    file = inventory / "group_vars" / "lakehouse" / "vault.yml"
    file.write_text("vault_a: '{{ other }}'\nvault_b: x{#y\nvault_c: !unsafe 'x{{y'\n")
    assert look(inventory, rules=RULES, vault_a="{{ other }}", other="x9") == []
    (unknown,) = look(inventory, rules=RULES, vault_a="{{ other }}")
    assert "vault_a is read as a template of Ansible" in unknown
    (number,) = look(inventory, rules=RULES, vault_a="{{ other }}", other=5)
    assert "vault_a is to YAML a number" in number
    (comment,) = look(inventory, rules=RULES, vault_b="x{#y")
    assert "vault_b is read as a template of Ansible" in comment


def test_equal_secrets(inventory: Path) -> None:
    """Beyond loopback no two secrets are equal; the names of the store's users differ everywhere."""
    file = inventory / "group_vars" / "lakehouse" / "vault.yml"
    file.write_text("vault_service_password: Thaik8oox\nvault_analyst_password: Thaik8oox\nvault_b: other\n")
    assert look(inventory, rules=RULES) == []
    (equal,) = look(inventory, ("password",), rules=RULES)
    assert equal.startswith("Inventory: vault_analyst_password and vault_service_password have the same value")
    assert "Thaik8oox" not in equal
    file.write_text("vault_minio_spark_key: spark\nvault_minio_analyst_key: spark\n")
    (equal,) = look(inventory, rules=RULES)
    assert "vault_minio_analyst_key and vault_minio_spark_key have the same value" in equal


def test_well_known_secrets_in_any_case(inventory: Path) -> None:
    (inventory / "group_vars" / "lakehouse" / "vault.yml").write_text(
        "vault_a: PassWord\nvault_minio_spark_key: spark\n"
    )
    (problem,) = look(inventory, ("password", "spark"), rules=RULES)
    assert "vault_a, vault_minio_spark_key are known to everyone" in problem


@pytest.mark.parametrize(
    "file", [path for path in project_files(".yml") if path.name == "vault.yml" and "bad" not in path.parts], ids=str
)
def test_the_projects_own_inventories_fit(file: Path) -> None:
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert {name: said for name, value in values.items() if value and (said := lookup.unfit(name, value, RULES))} == {}


def test_the_documentation_tells_who_holds_each_secret() -> None:
    """And the files of the attacks that it names are there. Whether it tells the truth: molecule/stack/tasks/secrets.yml."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| (`vault_[^|]*) \|[^|]*\| ([^|]*) \|$", text)
    told = [name for names, _ in rows for name in re.findall(r"`(vault_\w+)`", names)]
    listed = re.findall(r"(?m)^(vault_\w+):", (ROOT / "inventories/prod/group_vars/lakehouse/vault.yml").read_text())
    local = re.findall(r"(?m)^(vault_\w+):", (ROOT / "inventories/local/group_vars/lakehouse/vault.yml").read_text())
    external = re.findall(r"vault_external_\w+", (ROOT / "inventories/prod/group_vars/lakehouse/main.yml").read_text())
    assert sorted(told) == sorted({*listed, *local, *external})
    uids = yaml.safe_load((ROOT / "playbooks/group_vars/all/uids.yml").read_text())["lakehouse_uids"]
    assert {who for _, names in rows for who in names.split(", ")} <= {*uids, "people"}
    named = re.findall(r"`((?:molecule|tests|jobs|compose|playbooks)/[^`*]+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_secret_stands_in_the_template() -> None:
    """inventories/prod's vault.yml is the list of secrets: what the project reads stands there, and nothing else does."""
    text = (ROOT / "inventories/prod/group_vars/lakehouse/vault.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"(?m)^(vault_\w+):", text))
    read: dict[str, bool] = {}
    for path in project_files(".yml"):
        if path.relative_to(ROOT).parts[0] in ("playbooks", "roles") and path.name != "secrets.yml":
            for name, rest in re.findall(
                r"\b(vault_[a-z]\w+)\b(?!\.)( \| default\()?", path.read_text(encoding="utf-8")
            ):
                read[name] = read.get(name, True) and bool(rest)
    main = (ROOT / "inventories/prod/group_vars/lakehouse/main.yml").read_text(encoding="utf-8")
    demo = {"vault_moodle_db_password", "vault_moodle_db_root_password"}  # of the demo's own database alone
    assert {name for name, optional in read.items() if not optional} - listed == {"vault_moodle_db_password"}
    assert {name for name, optional in read.items() if optional} - listed - demo == set(
        re.findall(r"vault_external_\w+", main)
    )
    assert listed - set(read) == {"vault_moodle_password"}  # read by the inventory itself


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
    assert problem.startswith(
        "Inventory: vault_a, vault_c are needed, but defined nowhere. Remedy: ./lakehouse secrets mine adds"
    )
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
