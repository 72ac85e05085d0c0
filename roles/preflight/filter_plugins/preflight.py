"""Ansible filters of the role preflight: what is wrong with the inventory's groups and addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

HOST_NAME = re.compile(
    r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE
)


def group_problems(groups: dict[str, list[str]], wanted: dict[str, dict[str, Any]], top: str) -> list[str]:
    """Return what is wrong with the sizes and places of the service groups."""
    return list(_group_problems(groups, wanted, top))


def _group_problems(groups: dict[str, list[str]], wanted: dict[str, dict[str, Any]], top: str) -> Iterator[str]:
    remedy = "Remedy: correct the inventory's hosts file."
    every_host = groups.get(top, [])
    for name, rule in wanted.items():
        hosts = groups.get(name, [])
        least, most = rule.get("min", 0), rule.get("max")
        if len(hosts) < least:
            yield f"Groups: {name} has {_count(hosts)}, but needs at least {least}. {remedy}"
        if most is not None and len(hosts) > most:
            yield f"Groups: {name} has {_count(hosts)}, but at most {most} can serve. {remedy}"
        if len(hosts) in rule.get("refused", []):
            yield (
                f"Groups: {name} has {_count(hosts)}: one host stores on a single node, four or more are a "
                f"distributed store; nothing between them survives the loss of a host. {remedy}"
            )
        pool = rule.get("pool", 0)
        if pool and (pool < 4 or len(hosts) % pool):
            yield (
                f"Groups: {name} has {_count(hosts)}, but lakehouse_object_store_pool_hosts is {pool}: a store grows by whole "
                "pools of four or more hosts. Remedy: set it to the number of hosts that the store began with, and add as many."
            )
        if hosts and rule.get("of_several") and len(every_host) < 2:
            yield f"Groups: {name} is for clusters, but {top} has {_count(every_host)}. Remedy: leave {name} out."
        for beside in rule.get("beside", []):
            apart = sorted(set(hosts) - set(groups.get(beside, [])))
            if apart:
                yield f"Groups: {name} must be on the host of {beside}, not on {', '.join(apart)}. {remedy}"
        strangers = sorted(set(hosts) - set(every_host))
        if strangers:
            yield f"Groups: {', '.join(strangers)} in {name} but not in {top}. Remedy: make {name} a child of {top}."
    idle = [host for host in every_host if not any(host in groups.get(name, []) for name in wanted)]
    if idle:
        yield f"Groups: {', '.join(idle)} in {top} but in none of its service groups. {remedy}"


def _count(hosts: list[str]) -> str:
    return f"{len(hosts)} host{'' if len(hosts) == 1 else 's'}"


def address_problems(
    addresses: dict[str, str], edge_tls: bool = True, firewalls: dict[str, Any] | None = None
) -> list[str]:
    """Return what is wrong with the hosts' addresses: several hosts each need their own that the others reach, in safety."""
    reached = [host for host, address in addresses.items() if not is_loopback_only([address])]
    problems = []
    if not edge_tls and (reached or len(addresses) > 1):
        problems.append(
            "Encryption: lakehouse_edge_tls is false, so passwords would go over the network in clear. "
            "Remedy: leave it out of the inventory, or set it to true."
        )
    problems += [
        f"Firewall: lakehouse_firewall is false, but {host} publishes at {addresses[host]}, which other machines reach. "
        "Remedy: leave it out of the inventory, or set lakehouse_address to 127.0.0.1."
        for host in reached
        if not boolean((firewalls or {}).get(host, True))
    ]
    if len(addresses) < 2:
        return problems
    owners: dict[str, list[str]] = {}
    for host, address in addresses.items():
        owners.setdefault(str(address), []).append(host)
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            problems.append(
                f"Addresses: {host} has '{address}', which is no IP address. Remedy: set lakehouse_address."
            )
            continue
        if parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast:
            problems.append(
                f"Addresses: {host} has {address}, which the other hosts cannot reach. "
                "Remedy: set its lakehouse_address to its private address."
            )
        elif parsed.version != 4:
            problems.append(
                f"Addresses: {host} has {address}, but hosts speak to each other by IPv4. "
                "Remedy: set its lakehouse_address to its private IPv4 address."
            )
    problems += [
        f"Addresses: {' and '.join(hosts)} all have {address}. Remedy: give each its own lakehouse_address."
        for address, hosts in owners.items()
        if len(hosts) > 1
    ]
    return problems


def egress_problems(egress: Any, services: list[str]) -> list[str]:
    """Return what is wrong with what the inventory lets services reach outside of their networks."""
    example = "{jupyterlab: [{to: git.example.org, port: 443}]}"
    if not isinstance(egress, dict):
        return [f"Egress: lakehouse_egress is '{egress}', which is no mapping. Remedy: write it like {example}."]
    problems = [
        f"Egress: lakehouse_egress has '{service}', which is no service with a way out. "
        f"Remedy: name one of {', '.join(sorted(services))}."
        for service in egress
        if service not in services
    ]
    for service, entries in egress.items():
        if not isinstance(entries, list):
            problems.append(f"Egress: lakehouse_egress of {service} is no list. Remedy: write it like {example}.")
            continue
        problems += [
            f"Egress: lakehouse_egress of {service} has {entry}, {problem} Remedy: write it like {example}."
            for entry in entries
            if (problem := _egress_problem(entry))
        ]
    return problems


def _egress_problem(entry: Any) -> str:
    if not isinstance(entry, dict) or set(entry) != {"to", "port"}:
        return "which has not just `to` and `port`."
    port = str(entry["port"])
    if isinstance(entry["port"], bool) or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        return "whose port is no number from 1 to 65535."
    to = str(entry["to"])
    try:
        ipaddress.ip_network(to)
    except ValueError:
        # A last part of digits is an address's: no top-level domain has one.
        if not HOST_NAME.fullmatch(to):
            return "whose `to` is no address, no network (without bits beyond its prefix) and no host name."
    return ""


def is_loopback_only(addresses: dict[str, str] | list[str]) -> bool:
    """Return whether every address is one of the loopback interface; without any address, no."""
    values = list(addresses.values() if isinstance(addresses, dict) else addresses)
    try:
        return bool(values) and all(ipaddress.ip_address(address).is_loopback for address in values)
    except ValueError:
        return False


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "group_problems": group_problems,
            "address_problems": address_problems,
            "egress_problems": egress_problems,
            "is_loopback_only": is_loopback_only,
        }
