"""What containers reach outside of their networks, from the endpoints in playbooks/group_vars/all/egress.yml."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

DOCUMENTATION = """
name: egress_table
short_description: List the destinations outside of each container network
description:
  - Takes the endpoints that services speak to, leaves out other containers, which are met inside a network, and adds what the
    inventory allows a service.
positional: services, ways, inside, more
options:
  _input:
    description: Service to endpoints, each a URL, HOST:PORT, or a host with all of its ports. Empty ones are left out.
    type: dict
    required: true
  services:
    description: The services that count.
    type: list
    elements: str
    required: true
  ways:
    description: Service to the network by which it has a way out, or to the user id that it has.
    type: dict
    required: true
  inside:
    description: The names of containers.
    type: list
    elements: str
    required: true
  more:
    description: Service to further destinations, each with to and port.
    type: dict
    default: {}
"""

EXAMPLES = """
table: "{{ {'jobs': ['db.example.org:3306', 'http://minio:9000']} | egress_table(['jobs'], {'jobs': 'spark'}, ['minio']) }}"
"""

RETURN = """
_value:
  description: Network or user id to its destinations, each with to and mostly port. Those without any are left out.
  type: dict
"""

PORTS = {"http": 80, "https": 443}


def destination(endpoint: str) -> dict[str, Any] | None:
    """Return the host and the port of an endpoint; nothing for one without a host."""
    if "//" not in endpoint and "[" not in endpoint and endpoint.count(":") > 1:  # HOST:PORT with an IPv6 address
        address, _, number = endpoint.rpartition(":")
        endpoint = f"[{address}]:{number}"
    url = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    if not url.hostname:
        return None
    port = url.port or PORTS.get(url.scheme)
    return {"to": url.hostname, "port": port} if port else {"to": url.hostname}


def egress_table(
    endpoints: Mapping[str, Iterable[str]],
    services: Collection[str],
    ways: Mapping[str, Any],
    inside: Collection[str],
    more: Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
) -> dict[Any, list[dict[str, Any]]]:
    """Return the destinations outside of each network, each once; sorted, for Ansible's filters of sets know no order."""
    table: dict[Any, list[dict[str, Any]]] = {}
    for service in services:
        if service not in ways:
            continue
        found = [destination(str(endpoint)) for endpoint in endpoints.get(service, [])]
        entries = [entry for entry in found if entry and entry["to"] not in inside]
        for entry in [
            *entries,
            *({"to": str(row["to"]), "port": row["port"]} for row in (more or {}).get(service, [])),
        ]:
            if entry not in table.setdefault(ways[service], []):
                table[ways[service]].append(entry)
    return {
        way: sorted(entries, key=lambda entry: (entry["to"], str(entry.get("port", ""))))
        for way, entries in sorted(table.items(), key=lambda item: str(item[0]))
        if entries
    }


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {"egress_table": egress_table}
