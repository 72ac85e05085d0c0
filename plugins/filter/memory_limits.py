"""Memory limits of a host's services from the table in playbooks/group_vars/all/memory.yml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

DOCUMENTATION = """
name: memory_limits
short_description: Share a host's memory out to its services
description:
  - Every service gets its floor. What the host has beyond the floors of its own services is shared out in the
    proportions of the column share. A service with several containers gets a limit for each.
positional: services, memory_mb, usable, replicas
options:
  _input:
    description: The table, service to {floor, share}.
    type: dict
    required: true
  services:
    description: The services of this host.
    type: list
    elements: str
    required: true
  memory_mb:
    description: The host's memory in MiB.
    type: int
    required: true
  usable:
    description: The part of the host's memory that containers may have.
    type: float
    default: 1.0
  replicas:
    description: Service to its number of containers, where it is not one.
    type: dict
    default: {}
"""

EXAMPLES = """
limits: "{{ {'minio': {'floor': 384, 'share': 1}} | memory_limits(['minio'], 8192) }}"
"""

RETURN = """
_value:
  description: Service to the limit of one of its containers in MiB.
  type: dict
"""


def memory_limits(
    table: Mapping[str, Mapping[str, int]],
    services: Iterable[str],
    memory_mb: int,
    usable: float = 1.0,
    replicas: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return each service's memory limit in MiB: its floor and its share of what the floors leave."""
    mine = {name: table[name] for name in services}
    beyond = max(0, int(memory_mb * usable) - sum(row["floor"] for row in mine.values()))
    shares = sum(row["share"] for row in mine.values())
    return {
        name: int(row["floor"] + beyond * row["share"] / shares) // max(1, (replicas or {}).get(name, 1))
        for name, row in mine.items()
    }


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {"memory_limits": memory_limits}
