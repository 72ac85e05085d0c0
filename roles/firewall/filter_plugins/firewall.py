"""Ansible filters of the role firewall: what is wrong with its input, and the networks of one family."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

NETWORKS = ("firewall_members", "firewall_admin_networks")
PORTS = ("firewall_public_ports", "firewall_published_ports", "firewall_ssh_ports")


def firewall_networks(networks: list[str], version: int) -> list[str]:
    """Return the networks of an IP version, each once, as iptables wants them."""
    parsed = {ipaddress.ip_network(str(network)) for network in networks}
    return [str(network) for network in sorted(n for n in parsed if n.version == version)]


def firewall_problems(values: dict[str, Any], found_ports: list[str]) -> list[str]:
    """Return what is wrong with the role's input; found_ports are those that ssh was found on."""
    return list(_problems(values, found_ports))


def _problems(values: dict[str, Any], found_ports: list[str]) -> Iterator[str]:
    lists = {name: values[name] for name in (*NETWORKS, *PORTS)}
    for name, value in lists.items():
        if not isinstance(value, list):
            yield f"{name} is '{value}', which is no list. Remedy: write [{value}]."
    for name in NETWORKS:
        for network in lists[name] if isinstance(lists[name], list) else []:
            problem = _network_problem(str(network))
            if problem:
                yield f"{name} has '{network}', which {problem}"
    if lists["firewall_members"] == []:
        yield (
            "firewall_members is empty: the hosts of the cluster would shut each other out. "
            "Remedy: set it to their addresses; site.yml takes lakehouse_address of each host of the group lakehouse."
        )
    for name in PORTS:
        for port in lists[name] if isinstance(lists[name], list) else []:
            if (
                isinstance(port, bool)
                or not str(port).isascii()
                or not str(port).isdigit()
                or not 0 < int(port) < 65536
            ):
                yield f"{name} has '{port}', which is no port. Remedy: write a number from 1 to 65535."
    if not found_ports and lists["firewall_ssh_ports"] == []:
        yield (
            "firewall_ssh_ports is empty, no sshd listens on this host, and Ansible did not come by ssh: nobody could log in. "
            "Remedy: set firewall_ssh_ports, for example to [22]."
        )


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

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Return the filters by name."""
        return {"firewall_networks": firewall_networks, "firewall_problems": firewall_problems}
