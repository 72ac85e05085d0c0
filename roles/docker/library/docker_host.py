#!/usr/bin/python
"""Ansible module: what a host has of the engine, and where its packages come from. Reads only, changes nothing."""

from __future__ import annotations

import json
import os
import re

from ansible.module_utils import distro
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: docker_host
short_description: Tells what a host has of the engine, and where its packages come from
description:
  - Reads only. Fails where /etc/docker/daemon.json is there, but cannot be merged with anything.
options:
  packages: {type: list, elements: str, required: true, description: Names of packages that are looked for.}
  native_release: {type: int, required: true, description: The release from which on nothing is asked about archives.}
"""

RETURN = """
distribution: {type: str, description: The system by its own name.}
is_debian: {type: bool, description: Whether it is a Debian.}
release: {type: int, description: Its major version; 0 where it tells none.}
codename: {type: str, description: Its release's name.}
systemd: {type: bool, description: Whether systemd is process 1.}
installed: {type: list, elements: str, description: The packages that are installed; none on another system.}
daemon: {type: dict, description: The settings of /etc/docker/daemon.json.}
has_lists: {type: bool, description: Whether apt has ever fetched a list of Debian's packages.}
archive: {type: str, description: The Debian archive that its release comes from; empty where apt knows none.}
security_archive: {type: str, description: The same for its security updates.}
"""

DAEMON_JSON = "/etc/docker/daemon.json"
# A package file of apt-cache policy is two lines: priority, address and suite/component; then what the suite says of itself.
PACKAGE_FILE = re.compile(r"^ *-?\d+ (\S+) \S+/main \S+ Packages\n +release (\S.*)$", re.MULTILINE)


def installed(module: AnsibleModule) -> list[str]:
    show = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *module.params["packages"]]
    _, output, _ = module.run_command(show)  # fails when one is unknown, and tells of the others
    lines = [line.split() for line in output.splitlines()]
    return [name for name, *status in lines if status == ["installed"]]


def daemon_options(module: AnsibleModule) -> dict[str, object]:
    try:
        with open(DAEMON_JSON, encoding="utf-8") as file:
            options = json.loads(file.read().strip() or "{}")
    except FileNotFoundError:
        return {}
    except ValueError as error:
        module.fail_json(msg=f"{DAEMON_JSON} is no JSON: {error}. Nothing has been changed. Repair or remove it.")
    if not isinstance(options, dict):
        module.fail_json(msg=f"{DAEMON_JSON} is no JSON object. Nothing has been changed. Repair or remove it.")
    return options


def archive(policy: str, codename: str, label: str) -> str:
    for address, said in PACKAGE_FILE.findall(policy):
        if {"o=Debian", f"n={codename}", f"l={label}"} <= set(said.split(",")):
            return str(address)
    return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "required": True},
            "native_release": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    is_debian, release, codename = distro.id() == "debian", int(distro.major_version() or 0), distro.codename()
    policy = ""
    if is_debian and release < module.params["native_release"]:
        _, policy, _ = module.run_command(["apt-cache", "policy"])
    module.exit_json(
        changed=False,
        distribution=distro.name(pretty=True),
        is_debian=is_debian,
        release=release,
        codename=codename,
        systemd=os.path.isdir("/run/systemd/system"),
        installed=installed(module) if is_debian else [],
        daemon=daemon_options(module),
        has_lists="o=Debian" in policy,
        archive=archive(policy, codename, "Debian"),
        security_archive=archive(policy, f"{codename}-security", "Debian-Security"),
    )


if __name__ == "__main__":
    main()
