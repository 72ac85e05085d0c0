#!/usr/bin/python
"""Build the images that are missing, all of them by one docker buildx bake."""

from __future__ import annotations

import json
import os
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
  - Builds those of I(targets) whose tag the engine does not have, and what they are made from as far as it is missing, too.
  - What exists is used as it is. With nothing missing nothing is run.
options:
  compose: {description: Folder with versions.hcl and docker-bake.hcl, type: path, required: true}
  tags: {description: Full tag of every image by name, type: dict, required: true}
  targets: {description: Images that are wanted, type: list, elements: str, required: true}
  variables: {description: Values of the bake file's variables, type: dict, default: {}}
  proxies: {description: Proxy variables for the builds, type: dict, default: {}}
  log: {description: File for the build's whole output, type: path, required: true}
"""

RETURN = """
missing: {description: Wanted images that the engine lacked, type: list, elements: str, returned: always}
built: {description: Images that were built, type: list, elements: str, returned: when something was missing}
seconds: {description: How long the build took, type: float, returned: when something was built}
"""


FILES = ["--file", "versions.hcl", "--file", "docker-bake.hcl"]
SHOWN_LINES = 60


def plan(definition: dict[str, Any], wanted: list[str], tags: dict[str, str], present: set[str]) -> dict[str, Any]:
    """What to build and how: target name to the attributes that override the bake file's.

    A context `target:NAME` whose image exists becomes that image; another one is built as well.
    """
    overrides: dict[str, Any] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in overrides:
            continue
        contexts = {}
        for context, place in definition[name].get("contexts", {}).items():
            kind, _, parent = place.partition(":")
            if kind != "target":
                continue
            if tags.get(parent) in present:
                contexts[context] = f"docker-image://{tags[parent]}"
            else:
                waiting.append(parent)
        overrides[name] = {"contexts": contexts} if contexts else {}
        if name in tags:
            overrides[name]["tags"] = [tags[name]]
    return overrides


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "compose": {"type": "path", "required": True},
            "tags": {"type": "dict", "required": True},
            "targets": {"type": "list", "elements": "str", "required": True},
            "variables": {"type": "dict", "default": {}},
            "proxies": {"type": "dict", "default": {}},
            "log": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    tags: dict[str, str] = params["tags"]
    unknown = sorted(set(params["targets"]) - tags.keys())
    if unknown:
        module.fail_json(
            msg=f"There is no image called {', '.join(unknown)}. The images are: {', '.join(sorted(tags))}."
        )

    _, out, _ = module.run_command(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"], check_rc=True)
    present = set(out.split())
    missing = [name for name in params["targets"] if tags[name] not in present]
    if not missing or module.check_mode:
        module.exit_json(changed=bool(missing), missing=missing)

    environment = {name: str(value) for name, value in params["variables"].items()}
    bake = ["docker", "buildx", "--builder", "default", "bake", *FILES]
    _, out, _ = module.run_command(
        [*bake, "--print", *missing], cwd=params["compose"], environ_update=environment, check_rc=True
    )
    definition = json.loads(out)["target"]
    overrides = plan(definition, missing, tags, present)
    for override in overrides.values():
        override["args"] = dict(params["proxies"])  # predefined arguments: they enter neither images nor their history
    override_file = Path(params["log"]).with_name("bake-override.json")
    override_file.write_text(json.dumps({"target": overrides}, indent=2))
    override_file.chmod(0o600)

    built = [name for name in definition if name in overrides and name in tags]
    # MinIO's compiler works longest: it starts first.
    built.sort(key=lambda name: name != "minio")
    started = time.monotonic()
    with open(params["log"], "wb") as log:
        process = subprocess.run(
            [*bake, "--file", str(override_file), "--progress", "plain", *built],
            cwd=params["compose"],
            env=os.environ | environment,
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
