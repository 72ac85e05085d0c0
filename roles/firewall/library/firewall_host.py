#!/usr/bin/python
"""Ansible module: what of the packet filter a host has, and where ssh listens. Reads only, changes nothing."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: firewall_host
short_description: Tells what of the packet filter a host has, and where ssh listens
description: Reads only.
options:
  unit: {type: path, required: true, description: The unit that loads the rules at boot.}
  ask_sshd: {type: bool, required: true, description: Whether sshd's ports are looked for.}
  names: {type: list, elements: str, default: [], description: Names that may be this host's own.}
"""

RETURN = """
systemd: {type: bool, description: Whether systemd is process 1.}
iptables: {type: bool, description: Whether iptables is installed.}
unit: {type: bool, description: Whether the unit is there.}
sshd_ports: {type: list, elements: int, description: The TCP ports that sshd listens on, but for this host alone.}
ansible_ports: {type: list, elements: int, description: The one that Ansible came by, if it came by ssh.}
own_names: {type: list, elements: str, description: The names that lead to this host itself.}
"""

PROC = Path("/proc")
LOOPBACK = re.compile(r"127\.|\[::1\]$")
SERVERS = {"sshd", "dropbear"}
USER = re.compile(r'\("([^"]+)",pid=(\d+),')


def command_of(process: int) -> str:
    """Return the name of a process's program; empty where it has ended."""
    try:
        return (PROC / str(process) / "comm").read_text().strip()
    except OSError:  # it has ended
        return ""


def parent_of(process: int) -> int:
    """Return the id of a process's parent."""
    try:
        status = (PROC / str(process) / "status").read_text()
    except OSError:
        return 0
    found = re.search(r"^PPid:\s*(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else 0


def listening_ports(sockets: str) -> Iterator[int]:
    """Not what a session forwards: its process is a child of another sshd."""
    for line in sockets.splitlines():
        host, _, port = line.split()[3].rpartition(":")
        users = [(name, int(process)) for name, process in USER.findall(line)]
        servers = [process for name, process in users if name in SERVERS]
        if servers and not LOOPBACK.match(host) and not command_of(parent_of(servers[0])).startswith("sshd"):
            yield int(port)


def sockets_of_systemd(module: AnsibleModule) -> Iterator[int]:
    """Where systemd listens in sshd's place."""
    for unit in ("ssh.socket", "sshd.socket"):
        active, _, _ = module.run_command(["systemctl", "is-active", "--quiet", unit])
        if active == 0:
            _, output, _ = module.run_command(["systemctl", "show", "--property", "Listen", unit])
            yield from map(int, re.findall(r"^Listen=.*\D(\d+) \(Stream\)$", output, re.MULTILINE))


def came_by() -> Iterator[int]:
    """Yield the port that this session's ssh came by: sshd sets it in the first process, sudo removes it from its children."""
    process = os.getpid()
    while process > 1:
        try:
            environment = (PROC / str(process) / "environ").read_bytes().split(b"\0")
        except OSError:
            return
        for variable in environment:
            if variable.startswith(b"SSH_CONNECTION="):
                yield from map(int, variable.split()[3:4])
                return
        process = parent_of(process)


def is_own(name: str) -> bool:
    """Return whether a name leads to this host itself; Debian's installer lets its own lead to loopback."""
    with contextlib.suppress(OSError):
        for family, _, _, _, address in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((address[0], 0, *address[2:]))
                return True
    return False


def main() -> None:
    """Run the command."""
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "path", "required": True},
            "ask_sshd": {"type": "bool", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    systemd = os.path.isdir("/run/systemd/system")
    ports: set[int] = set()
    if module.params["ask_sshd"]:
        # Not sshd's configuration, which may be newer than the process. A port that is not found would be closed.
        show = ["ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes"]
        _, sockets, _ = module.run_command(show, check_rc=True)
        ports = {*listening_ports(sockets), *(sockets_of_systemd(module) if systemd else [])}
    module.exit_json(
        changed=False,
        systemd=systemd,
        iptables=os.path.exists("/usr/sbin/iptables"),
        unit=os.path.exists(module.params["unit"]),
        sshd_ports=sorted(ports),
        ansible_ports=list(came_by()),
        own_names=[name for name in module.params["names"] if is_own(name)],
    )


if __name__ == "__main__":
    main()
