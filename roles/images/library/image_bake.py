#!/usr/bin/python
"""Build the images that are missing, all of them by one docker buildx bake."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: image_bake
author: Moodle Lakehouse contributors
short_description: Build missing images with docker buildx bake
description:
  - Builds those of I(wanted) whose tag the engine does not have, and what they are made from as far as it is missing, too.
  - What exists is used as it is. With nothing missing nothing is run.
  - What is built is written to I(file) first, so that C(docker buildx bake --file FILE) in I(compose) does it again by hand.
options:
  compose: {description: Folder that the targets' contexts are relative to, type: path, required: true}
  targets: {description: Attributes of every bake target by name, without a tag, type: dict, required: true}
  tags: {description: Full tag of every image by name, type: dict, required: true}
  wanted: {description: Images that are wanted, type: list, elements: str, required: true}
  proxies: {description: Proxy variables for the builds, type: dict, default: {}}
  file: {description: Where the bake file is written, type: path, required: true}
  log: {description: File for the build's whole output, type: path, required: true}
"""

RETURN = """
missing: {description: Wanted images that the engine lacked, type: list, elements: str, returned: always}
built: {description: Images that were built, type: list, elements: str, returned: when something was missing}
seconds: {description: How long the build took, type: float, returned: when something was built}
"""


SHOWN_LINES = 60


def plan(targets: dict[str, Any], wanted: list[str], tags: dict[str, str], present: set[str]) -> dict[str, Any]:
    """Return the targets that `wanted` takes, with their tags.

    A context `target:NAME` whose image exists becomes that image; another one is built as well.
    """
    planned: dict[str, Any] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in planned:
            continue
        contexts = dict(targets[name].get("contexts", {}))
        for context, place in contexts.items():
            kind, _, parent = place.partition(":")
            if kind != "target":
                continue
            if tags.get(parent) in present:
                contexts[context] = f"docker-image://{tags[parent]}"
            else:
                waiting.append(parent)
        planned[name] = {**targets[name], "contexts": contexts}
        if name in tags:
            planned[name]["tags"] = [tags[name]]
    return planned


def literal(value: Any) -> Any:
    """Return a value in which bake, which evaluates the texts of its file, finds nothing to evaluate."""
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [literal(item) for item in value]
    return value.replace("${", "$${").replace("%{", "%%{")


def main() -> None:
    """Run the command."""
    module = AnsibleModule(
        argument_spec={
            "compose": {"type": "path", "required": True},
            "targets": {"type": "dict", "required": True},
            "tags": {"type": "dict", "required": True},
            "wanted": {"type": "list", "elements": "str", "required": True},
            "proxies": {"type": "dict", "default": {}},
            "file": {"type": "path", "required": True},
            "log": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    tags: dict[str, str] = params["tags"]
    _, out, _ = module.run_command(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"], check_rc=True)
    present = set(out.split())
    missing = [name for name in params["wanted"] if tags[name] not in present]
    if not missing or module.check_mode:
        module.exit_json(changed=bool(missing), missing=missing)

    planned = plan(params["targets"], missing, tags, present)
    for target in planned.values():
        # The proxies are predefined arguments: they enter neither images nor their history.
        target["args"] = {**target.get("args", {}), **params["proxies"]}
    built = [name for name in planned if name in tags]
    file = Path(params["file"])
    file.touch(mode=0o600)  # a proxy's address may hold a password
    file.write_text(json.dumps({"group": {"default": {"targets": built}}, "target": literal(planned)}, indent=2))

    started = time.monotonic()
    with open(params["log"], "wb") as log:
        process = subprocess.run(
            ["docker", "buildx", "--builder", "default", "bake", "--file", str(file), "--progress", "plain"],
            cwd=params["compose"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    seconds = round(time.monotonic() - started, 1)
    if process.returncode:
        lines = Path(params["log"]).read_text(errors="replace").splitlines()
        module.fail_json(
            msg=f"Building {', '.join(built)} failed after {seconds} s. The end of {params['log']} follows; what was built "
            "so far is kept, so running again goes on from here.",
            stdout="\n".join(lines[-SHOWN_LINES:]),
        )
    module.exit_json(changed=True, missing=missing, built=built, seconds=seconds)


if __name__ == "__main__":
    main()
