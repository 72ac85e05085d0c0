#!/usr/bin/python
"""Ansible module: what of this host others can reach, and how old its images are. Reads only, changes nothing."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: host_exposure
short_description: Tells what of a host others can reach, and how old its images are
description:
  - Reads only. Ports on loopback are left out, whoever listens there.
options:
  project:
    description: The Compose project whose containers are told apart from everything else.
    type: str
    default: lakehouse
  firewall:
    description: The program that checks the loaded rules.
    type: path
    default: /usr/local/sbin/lakehouse-firewall
  images:
    description: Images to tell the age of.
    type: list
    elements: str
    default: []
  now:
    description: The controller's time, in seconds since 1970.
    type: float
    required: true
"""

EXAMPLES = """
- host_exposure:
    images: [lakehouse/edge:0123456789ab]
    now: "{{ now(utc=true).timestamp() }}"
"""

RETURN = """
ports:
  description: What listens beyond loopback; C(service) is the project's, or empty. Published ports count as listening.
  type: list
  elements: dict
firewall:
  description: loaded, absent, or what is not as it should be.
  type: str
images:
  description: Image -> days since its oldest layer, Debian's own packages, was made. Missing images are left out.
  type: dict
"""

LISTENING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
Listener = tuple[str, str, int]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command; one that is not there counts as failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def address(text: str) -> str:
    """Return an address of the kernel's tables, which are in the order of the machine's bytes."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    parsed = ipaddress.ip_address(b"".join(words))
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def listening(tables: Path = Path("/proc/net")) -> dict[Listener, str]:
    """Return protocol, address and port of what listens, with the socket's inode."""
    found = {}
    for table, state in LISTENING.items():
        with contextlib.suppress(OSError):
            for line in (tables / table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == state:
                    host, port = fields[1].rsplit(":", 1)
                    found[(table.removesuffix("6"), address(host), int(port, 16))] = fields[9]
    return found


def holders(inodes: set[str]) -> dict[str, tuple[str, str]]:
    """Return name and cgroup of the process behind each socket."""
    found: dict[str, tuple[str, str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                match = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
                if match and match[1] in inodes:
                    name = (process / "comm").read_text(encoding="utf-8").strip()
                    # What systemd listens for in the place of another counts as that one's only where nobody else has it.
                    if match[1] not in found or name != "systemd":
                        found[match[1]] = (name, (process / "cgroup").read_text(encoding="utf-8"))
    return found


def containers(project: str) -> tuple[dict[str, str], dict[Listener, str]]:
    """Return service by container id, and service by what is published, of the project's containers that run."""
    services: dict[str, str] = {}
    published: dict[Listener, str] = {}
    filters = ("--no-trunc", "--filter", f"label=com.docker.compose.project={project}")
    shown = '{{.ID}}\t{{.Label "com.docker.compose.service"}}\t{{.Ports}}'
    for line in run("docker", "ps", *filters, "--format", shown).stdout.splitlines():
        identity, service, ports = line.split("\t")
        services[identity] = service
        for host, first, last, protocol in re.findall(r"([0-9a-f.:\[\]]+):(\d+)(?:-(\d+))?->[^/]*/(\w+)", ports):
            for port in range(int(first), int(last or first) + 1):
                published[(protocol, host.strip("[]") or "::", port)] = service
    return services, published


def exposed(project: str) -> list[dict[str, Any]]:
    """Return what listens beyond loopback."""
    services, published = containers(project)
    sockets = listening()
    behind = holders(set(sockets.values()))
    rows = []
    for key in sorted({*sockets, *published}):
        protocol, host, port = key
        if ipaddress.ip_address(host).is_loopback:
            continue
        name, cgroup = behind.get(sockets.get(key, ""), ("", ""))
        own = next((service for identity, service in services.items() if identity in cgroup), "")
        service = published.get(key, own)
        program = name or ("the engine" if key in published else "unknown")
        rows.append({"protocol": protocol, "address": host, "port": port, "program": program, "service": service})
    return rows


def firewall(program: str) -> str:
    """Return whether the rules are loaded."""
    if not Path(program).exists():
        return "absent"
    checked = run(program, "check")
    return "loaded" if checked.returncode == 0 else (checked.stdout + checked.stderr).strip() or "the check failed"


def ages(images: list[str], now: float) -> dict[str, int]:
    """Return each image's age in days: that of its oldest layer, which the others only add to."""
    days = {}
    for image in images:
        told = run("docker", "history", "--human=false", "--format", "{{json .CreatedAt}}", image)
        with contextlib.suppress(ValueError):
            made = [datetime.fromisoformat(json.loads(line)) for line in told.stdout.splitlines()]
            if told.returncode == 0 and made:
                oldest = min(made).timestamp()
                days[image] = max(0, int((now - oldest) // 86400))
    return days


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "default": "lakehouse"},
            "firewall": {"type": "path", "default": "/usr/local/sbin/lakehouse-firewall"},
            "images": {"type": "list", "elements": "str", "default": []},
            "now": {"type": "float", "required": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    module.exit_json(
        changed=False,
        ports=exposed(given["project"]),
        firewall=firewall(given["firewall"]),
        images=ages(given["images"], given["now"]),
    )


if __name__ == "__main__":
    main()
