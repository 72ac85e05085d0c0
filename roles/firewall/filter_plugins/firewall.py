"""Ansible filters of the role firewall: what is wrong with its input, and what of it becomes which part of a rule."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

NETWORKS = ("firewall_members", "firewall_admin_networks")
PORTS = ("firewall_public_ports", "firewall_published_ports", "firewall_ssh_ports")
NAME = re.compile(
    r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE
)
# What a name must not lead to: there clouds hand out the credentials of a machine.
LINK_LOCAL = {4: "169.254.0.0/16", 6: "fe80::/10"}
Entry = Mapping[str, Any]


def firewall_networks(networks: list[str], version: int) -> list[str]:
    """Return the networks of an IP version, each once, as iptables wants them."""
    parsed = {ipaddress.ip_network(str(network)) for network in networks}
    return [str(network) for network in sorted(n for n in parsed if n.version == version)]


def firewall_names(entries: Any) -> list[str]:
    """Return the destinations that are names, each once, of entries and of whatever holds some."""
    if isinstance(entries, dict) and "to" in entries:
        return [] if _is_network(str(entries["to"])) else [str(entries["to"])]
    parts = list(entries.values()) if isinstance(entries, dict) else entries if isinstance(entries, list) else []
    return sorted({name for part in parts for name in firewall_names(part)})


def firewall_ways(entries: list[Entry], version: int) -> list[str]:
    """Return the matches of packets that entries admit to other machines: a name stands for every address but link-local ones."""
    named = f"! -d {LINK_LOCAL[version]}"
    ways = [(_destination(entry, version, named), _ports(entry)) for entry in entries]
    return list(dict.fromkeys(f"{to} {ports}".strip() for to, ports in ways if to))


def firewall_ways_to_host(entries: list[Entry], version: int, host_names: Collection[str]) -> list[str]:
    """Return the matches of packets that entries admit to the host itself: a name only where it is the host's own."""
    mine = [entry for entry in entries if _is_network(str(entry["to"])) or entry["to"] in host_names]
    ways = [(_destination(entry, version, "any"), _ports(entry)) for entry in mine]
    return list(dict.fromkeys(f"{to.removeprefix('any')} {ports}".strip() for to, ports in ways if to))


def firewall_port(port: Any) -> str:
    """Return a port, or the range FIRST-LAST, as iptables wants it."""
    return str(port).replace("-", ":")


def _destination(entry: Entry, version: int, named: str) -> str:
    """Return the match of an entry's destination; empty where that is of the other IP version."""
    to = str(entry["to"])
    if not _is_network(to):
        return named
    network = ipaddress.ip_network(to)
    return f"-d {network}" if network.version == version else ""


def _ports(entry: Entry) -> str:
    return f"-p tcp -m tcp --dport {firewall_port(entry['port'])}" if "port" in entry else ""


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def firewall_problems(values: dict[str, Any], found_ports: list[str]) -> list[str]:
    """Return what is wrong with the role's input; found_ports are those that ssh was found on."""
    return list(_problems(values, found_ports))


def _problems(values: dict[str, Any], found_ports: list[str]) -> Iterator[str]:
    lists = {name: values[name] for name in (*NETWORKS, *PORTS, "firewall_bridges", "firewall_guarded_ports")}
    for name, value in lists.items():
        if not isinstance(value, list):
            yield f"{name} is '{value}', which is no list. Remedy: write [{value}]."
    for name in NETWORKS:
        for network in lists[name] if isinstance(lists[name], list) else []:
            problem = _network_problem(str(network))
            if problem:
                yield f"{name} has '{network}', which {problem}"
    for name in PORTS:
        for port in lists[name] if isinstance(lists[name], list) else []:
            if not _is_port(port):
                yield f"{name} has '{port}', which is no port. Remedy: write a number from 1 to 65535."
    if values["firewall_close_host"]:
        if lists["firewall_members"] == []:
            yield (
                "firewall_members is empty: the hosts of the cluster would shut each other out. "
                "Remedy: set it to their addresses; site.yml takes lakehouse_address of each host of the group lakehouse."
            )
        if not found_ports and lists["firewall_ssh_ports"] == []:
            yield (
                "firewall_ssh_ports is empty, no sshd listens on this host, and Ansible did not come by ssh: nobody could log in. "
                "Remedy: set firewall_ssh_ports, for example to [22]."
            )
    yield from _container_problems(values)


def _container_problems(values: dict[str, Any]) -> Iterator[str]:
    bridges = values["firewall_bridges"] if isinstance(values["firewall_bridges"], list) else []
    for bridge in bridges:
        # A + at the end would mean every interface whose name begins so.
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", str(bridge)):
            yield (
                f"firewall_bridges has '{bridge}', which is no name of an interface. "
                "Remedy: write the whole name, at most 15 letters, digits, dots, dashes and underscores."
            )
    tables: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "firewall_egress": ("bridge of firewall_bridges", lambda key: key in bridges),
        "firewall_users": ("user id", lambda key: str(key).isascii() and str(key).isdigit()),
    }
    for name, (what, is_known) in tables.items():
        table = values[name]
        if not isinstance(table, dict):
            yield f"{name} is '{table}', which is no mapping. Remedy: write a list of {{to, port}} for each {what}."
            continue
        for key, entries in table.items():
            if not is_known(key):
                yield f"{name} has '{key}', which is no {what}. Remedy: correct or remove it."
            if not isinstance(entries, list):
                yield f"{name} of {key} is no list. Remedy: write a list of {{to, port}}."
                continue
            for entry in entries:
                problem = _entry_problem(entry)
                if problem:
                    yield f"{name} has {entry} for {key}, {problem}"
    for entry in values["firewall_guarded_ports"] if isinstance(values["firewall_guarded_ports"], list) else []:
        problem = _guard_problem(entry)
        if problem:
            yield f"firewall_guarded_ports has {entry}, {problem}"


def _entry_problem(entry: Any) -> str:
    remedy = "Remedy: write {to: an address, a network or a name, port: a number from 1 to 65535}."
    if not isinstance(entry, dict) or "to" not in entry or set(entry) - {"to", "port"}:
        return f"which is no destination. {remedy}"
    if "port" in entry and not _is_ports(entry["port"]):
        return f"whose port is none. {remedy}"
    to = str(entry["to"])
    if _is_network(to):
        return ""
    if not NAME.fullmatch(to):
        return f"whose destination is neither a name nor a network (without bits beyond its prefix). {remedy}"
    return "" if "port" in entry else f"which admits every port of whatever has that name. {remedy}"


def _guard_problem(entry: Any) -> str:
    remedy = "Remedy: write {port: a number or FIRST-LAST, from: a list of addresses, users: a list of user ids}."
    if not isinstance(entry, dict) or "port" not in entry or set(entry) - {"port", "from", "users"}:
        return f"which guards no port. {remedy}"
    if not _is_ports(entry["port"]):
        return f"whose port is none. {remedy}"
    if not all(isinstance(entry.get(key, []), list) for key in ("from", "users")):
        return f"which has no list. {remedy}"
    if any(not _is_network(str(source)) for source in entry.get("from", [])):
        return f"whose source is no network. {remedy}"
    return "" if all(str(user).isdigit() for user in entry.get("users", [])) else f"whose user is no id. {remedy}"


def _is_port(port: Any) -> bool:
    if isinstance(port, bool) or not str(port).isascii() or not str(port).isdigit():
        return False
    return 0 < int(port) < 65536


def _is_ports(ports: Any) -> bool:
    first, dash, last = str(ports).partition("-")
    if not dash:
        return _is_port(ports)
    return _is_port(first) and _is_port(last) and int(first) < int(last)


def _network_problem(network: str) -> str:
    try:
        ipaddress.ip_network(network)
    except ValueError:
        try:
            wider = ipaddress.ip_network(network, strict=False)
        except ValueError:
            return "is no network. Remedy: write an address or a CIDR, such as 192.0.2.0/24 or 2001:db8::/64."
        return f"has bits set beyond its prefix. Remedy: write {wider} for the network or {network.split('/')[0]} for the host."
    return ""


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "firewall_names": firewall_names,
            "firewall_networks": firewall_networks,
            "firewall_port": firewall_port,
            "firewall_problems": firewall_problems,
            "firewall_ways": firewall_ways,
            "firewall_ways_to_host": firewall_ways_to_host,
        }
