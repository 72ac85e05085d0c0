#!/usr/bin/python
"""Ansible module: what this host lacks for the lakehouse. Reads only, changes nothing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import email.utils
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: preflight_host
short_description: Tells what a host lacks for the lakehouse
description:
  - Reads only. Returns every problem found, each with its remedy, instead of failing at the first.
options:
  releases: {type: list, elements: str, required: true, description: Debian releases that are supported.}
  memory_mb: {type: int, required: true, description: Least MemTotal in MiB.}
  disks:
    type: list
    elements: dict
    default: []
    description: What must be free where. A path docker stands for the place of Docker's data.
    options:
      path: {type: str, required: true, description: The path; it need not exist yet.}
      free_mb: {type: int, required: true, description: MiB that must be free.}
      use: {type: str, required: true, description: What it is for.}
  ports:
    type: list
    elements: dict
    default: []
    description: Ports that will be published here.
    options:
      address: {type: str, required: true, description: The address.}
      port: {type: int, required: true, description: The port.}
      use: {type: str, required: true, description: What it is for.}
  project: {type: str, default: lakehouse, description: The Compose project whose own containers may hold the ports.}
  images: {type: list, elements: str, default: [], description: The images that will run here.}
  images_mb: {type: int, default: 0, description: MiB by which each disk's need shrinks when all the images exist.}
  registries: {type: bool, default: true, description: Whether the registries are tried when images are missing.}
  names: {type: list, elements: str, default: [], description: Host names that must resolve.}
  endpoints:
    type: list
    elements: dict
    default: []
    description: Services elsewhere that must accept a connection.
    options:
      host: {type: str, required: true, description: The host.}
      port: {type: int, required: true, description: The port.}
      use: {type: str, required: true, description: What it is for.}
  now: {type: float, required: true, description: The controller's time, in seconds since 1970.}
  clock_tolerance: {type: int, default: 300, description: Seconds by which clocks may differ.}
  timeout: {type: int, default: 10, description: Seconds to wait for whatever is elsewhere.}
author: [Moodle Lakehouse]
"""

EXAMPLES = r"""
- name: Look at the host
  preflight_host:
    releases: ["12", "13"]
    memory_mb: 7680
    now: "{{ now(utc=true).timestamp() }}"
"""

RETURN = r"""
problems:
  description: Every problem found, each with its remedy.
  returned: always
  type: list
  elements: str
images_present:
  description: Whether all the images exist already.
  returned: always
  type: bool
"""


def run(*command: str, timeout: int = 60) -> subprocess.CompletedProcess[str] | None:
    """Run a command; None when there is no such program or it takes too long."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        return subprocess.run(
            [program, *command[1:]],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def last_line(text: str) -> str:
    """Return the last line that holds text."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def check_system(releases: list[str], os_release: str = "/etc/os-release") -> Iterator[str]:
    """Yield a fault when the host is no supported Debian."""
    values = {}
    with contextlib.suppress(OSError):
        for line in Path(os_release).read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            values[key] = value.strip('"')
    if values.get("ID") != "debian" or values.get("VERSION_ID") not in releases:
        yield (
            f"Operating system: {values.get('PRETTY_NAME', 'unknown')}, but only Debian {' and '.join(releases)} are "
            "supported. Remedy: use such a machine."
        )


def check_memory(need_mb: int, meminfo: str = "/proc/meminfo") -> Iterator[str]:
    """Yield a fault when the host has too little memory."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", Path(meminfo).read_text(encoding="utf-8"), re.MULTILINE)
    have_mb = int(match.group(1)) // 1024 if match else 0
    if have_mb < need_mb:
        yield (
            f"Memory: {have_mb / 1024:.1f} GiB, but {need_mb / 1024:.1f} GiB are needed. "
            "Remedy: a machine with 8 GiB or more."
        )


def docker_directory() -> str:
    """Where Docker's data live, or will."""
    answer = run("docker", "info", "--format", "{{.DockerRootDir}}")
    if answer and answer.returncode == 0 and answer.stdout.startswith("/"):
        return answer.stdout.strip()
    with contextlib.suppress(OSError, ValueError):
        configured = json.loads(Path("/etc/docker/daemon.json").read_text(encoding="utf-8")).get("data-root")
        if configured:
            return str(configured)
    return "/var/lib/docker"


def check_disks(disks: list[dict[str, Any]], already_mb: int) -> Iterator[str]:
    """Compare each file system with the sum of what will be put on it."""
    needs: dict[int, tuple[Path, list[str], int]] = {}
    for disk in disks:
        path = Path(docker_directory() if disk["path"] == "docker" else disk["path"])
        while not path.exists():
            path = path.parent
        _, uses, need = needs.get(path.stat().st_dev, (path, [], 0))
        needs[path.stat().st_dev] = (path, [*uses, disk["use"]], need + max(0, disk["free_mb"] - already_mb))
    for path, uses, need in needs.values():
        free = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize // 2**20
        if free < need:
            yield (
                f"Disk: {free / 1024:.1f} GiB are free at {path}, but {need / 1024:.1f} GiB are needed for "
                f"{' and '.join(uses)}. Remedy: free or add space; docker system prune removes unused images and caches."
            )


def own_containers(project: str) -> tuple[set[str], set[int]]:
    """Ids and published ports of the project's containers."""
    answer = run(
        *("docker", "ps", "--no-trunc", "--filter", f"label=com.docker.compose.project={project}"),
        *("--format", "{{.ID}} {{.Ports}}"),
    )
    if not answer or answer.returncode:
        return set(), set()
    ids = {line.split()[0] for line in answer.stdout.splitlines() if line.strip()}
    return ids, {int(port) for port in re.findall(r":(\d+)->", answer.stdout)}


def listener(port: int) -> tuple[str, str]:
    """Name and cgroup of the process that listens on a TCP port; empty when it cannot be seen."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(descriptor.readlink()) in inodes for descriptor in (process / "fd").iterdir()):
                name = (process / "comm").read_text(encoding="utf-8").strip()
                return f"{name} (process {process.name})", (process / "cgroup").read_text(encoding="utf-8")
    return "", ""


def check_ports(ports: list[dict[str, Any]], project: str) -> Iterator[str]:
    """Yield a fault for each port that something else uses."""
    own_ids: set[str] | None = None
    own_ports: set[int] = set()
    foreign: dict[str, list[str]] = {}
    for wanted in ports:
        address, port, use = wanted["address"], wanted["port"], wanted["use"]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except socket.gaierror:
                foreign.setdefault(address, []).append(use)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    foreign.setdefault(address, []).append(use)
                elif error.errno == errno.EADDRINUSE:
                    if own_ids is None:
                        own_ids, own_ports = own_containers(project)
                    name, cgroup = listener(port)
                    if port in own_ports or any(identity in cgroup for identity in own_ids):
                        continue
                    yield (
                        f"Port: {address}:{port} (for {use}) is in use by {name or 'another process'}. "
                        "Remedy: stop it, or give this one another port in the inventory."
                    )
                elif error.errno != errno.EACCES:  # only root may try the low ports
                    yield f"Port: {address}:{port} (for {use}) cannot be used: {error.strerror}."
    for address, uses in foreign.items():
        yield (
            f"Address: {address} (for {', '.join(dict.fromkeys(uses))}) is none of this host's addresses. "
            "Remedy: set lakehouse_address to one of those that hostname -I shows."
        )


def check_images(images: list[str]) -> bool:
    """Return whether all of the images are on the host."""
    if not images:
        return False
    answer = run("docker", "image", "inspect", "--format", "{{.Id}}", *images)
    return answer is not None and answer.returncode == 0


def check_apt(timeout: int) -> tuple[list[str], float]:
    """Try Debian's package sources as apt itself is configured; also tell by how much their clocks are ahead."""
    answer = run("apt-get", "update", "--print-uris")
    if answer is None or answer.returncode:
        message = last_line(answer.stderr) if answer else "there is no apt-get"
        return [f"Package sources: apt-get update --print-uris says: {message} Remedy: repair /etc/apt."], 0
    uris = re.findall(r"^'([^']+/dists/([^/]+)(?:/[^/]+)?/InRelease)'", answer.stdout, re.MULTILINE)
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    codename = dict(re.findall(r"^(\w+)=\"?([^\"\n]*)", release, re.MULTILINE)).get("VERSION_CODENAME", "stable")
    # Other sources (a vendor's) are none of our business, whether or not they answer.
    debian = [uri for uri, suite in uris if suite in (codename, "stable") or suite.startswith(f"{codename}-")]
    if not debian:
        return [f"Package sources: none for {codename} in /etc/apt. Remedy: add Debian's, or your mirror's, to it."], 0
    options = [f"-oAcquire::{scheme}::Timeout={timeout}" for scheme in ("http", "https")]
    options += [f"-oDebug::Acquire::{scheme}=true" for scheme in ("http", "https")]  # shows the answer's date

    def probe(uri: str) -> tuple[str, float]:
        with tempfile.TemporaryDirectory() as directory:
            command = ("/usr/lib/apt/apt-helper", "-oAcquire::Retries=0", *options, "download-file", uri)
            got = run(*command, f"{directory}/file", timeout=6 * timeout)
        output = got.stdout + got.stderr if got else ""
        header = re.search(r"^date:\s*(.+?)\s*$", output, re.MULTILINE | re.IGNORECASE)
        ahead = 0.0
        if header:
            with contextlib.suppress(ValueError):
                ahead = max(0.0, email.utils.parsedate_to_datetime(header.group(1)).timestamp() - time.time())
        if got and got.returncode == 0:
            return "", ahead
        errors = [line for line in output.splitlines() if line.startswith(("E:", "Err:"))]
        return (
            f"Package source: {uri} cannot be read ({errors[-1] if errors else 'no answer in time'}). "
            "Remedy: repair /etc/apt, the name resolution, the route or apt's proxy; try apt-get update."
        ), ahead

    with concurrent.futures.ThreadPoolExecutor() as pool:
        answers = list(pool.map(probe, debian))
    return [problem for problem, _ in answers if problem], max(ahead for _, ahead in answers)


def check_pip(timeout: int) -> Iterator[str]:
    """Try the Python package index as pip is configured here; without pip there is nothing to ask."""
    answer = run(
        *(sys.executable, "-m", "pip", "--retries", "0", "--timeout", str(timeout), "index", "versions", "pip"),
        timeout=6 * timeout,
    )
    if answer is None or (answer.returncode and "No module named pip" not in answer.stderr):
        message = last_line(answer.stderr) if answer else "no answer in time"
        yield (
            f"Python package index: pip cannot read it ({message}). "
            "Remedy: a mirror, a proxy or a CA belongs in pip's configuration: pip config list"
        )


def check_clock(offsets: dict[str, float], tolerance: int) -> Iterator[str]:
    """Judge by how much other clocks are ahead; signatures and certificates fail when this one is wrong."""
    for who, ahead in offsets.items():
        if abs(ahead) > tolerance:
            yield (
                f"Clock: {abs(ahead):.0f} seconds {'behind' if ahead > 0 else 'ahead of'} {who}. "
                "Remedy: switch time synchronisation on: timedatectl set-ntp true"
            )
            return


def check_names(names: Iterable[str]) -> Iterator[str]:
    """Yield a fault for each name that cannot be resolved."""
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            yield f"Name resolution: {name}: {error}. Remedy: repair /etc/hosts or /etc/resolv.conf."


def check_endpoints(endpoints: list[dict[str, Any]], timeout: int) -> Iterator[str]:
    """Yield a fault for each service that cannot be reached."""
    for wanted in endpoints:
        try:
            socket.create_connection((wanted["host"], wanted["port"]), timeout).close()
        except OSError as error:
            yield (
                f"Connection: {wanted['host']}:{wanted['port']} ({wanted['use']}) cannot be reached: {error}. "
                "Remedy: correct host and port in the inventory, start the service, or open the firewall to it."
            )


def main() -> None:
    """Run the command."""
    place = {"type": "str", "required": True}
    number = {"type": "int", "required": True}

    def listing(**options: dict[str, Any]) -> dict[str, Any]:
        return {"type": "list", "elements": "dict", "default": [], "options": options}

    module = AnsibleModule(
        argument_spec={
            "releases": {"type": "list", "elements": "str", "required": True},
            "memory_mb": number,
            "disks": listing(path=place, free_mb=number, use=place),
            "ports": listing(address=place, port=number, use=place),
            "project": {"type": "str", "default": "lakehouse"},
            "images": {"type": "list", "elements": "str", "default": []},
            "images_mb": {"type": "int", "default": 0},
            "registries": {"type": "bool", "default": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "endpoints": listing(host=place, port=number, use=place),
            "now": {"type": "float", "required": True},
            "clock_tolerance": {"type": "int", "default": 300},
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    clocks = {"the controller": wanted["now"] - time.time()}
    problems = [*check_system(wanted["releases"]), *check_memory(wanted["memory_mb"])]
    images_present = check_images(wanted["images"])
    problems += check_disks(wanted["disks"], wanted["images_mb"] if images_present else 0)
    problems += check_ports(wanted["ports"], wanted["project"])
    problems += check_names(wanted["names"])
    problems += check_endpoints(wanted["endpoints"], wanted["timeout"])
    if wanted["registries"] and not images_present:
        # A caching proxy repeats old answers, so their dates prove a clock to be behind, never ahead: 0 at least.
        with concurrent.futures.ThreadPoolExecutor() as pool:
            apt = pool.submit(check_apt, wanted["timeout"])
            pip_problems = list(check_pip(wanted["timeout"]))
            apt_problems, clocks["the package source"] = apt.result()
        problems += [*apt_problems, *pip_problems]
    problems += check_clock(clocks, wanted["clock_tolerance"])
    module.exit_json(changed=False, problems=problems, images_present=images_present)


if __name__ == "__main__":
    main()
