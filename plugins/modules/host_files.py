#!/usr/bin/python
"""Keeps files of a host exactly as given: one call instead of two or three for each."""

from __future__ import annotations

import os
import stat
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: host_files
short_description: Keep files of a host exactly as given
description:
  - Writes what is missing or different, with owner and mode, each file in one step. Missing parents are made.
  - Nothing is written unless every file that would be passes its validation.
options:
  directory:
    description: The directory of the files whose names are relative. It is made when it is missing and belongs to root.
    type: path
  directory_mode:
    description: Its mode, in octal.
    type: str
    default: "0755"
  exact:
    description: Whether a file in the directory that is not named is removed, so that no secret outlives the service that read it.
    type: bool
    default: false
  mode:
    description: Mode of the files that give none, in octal.
    type: str
    default: "0644"
  files:
    description:
      - Name, or absolute path, to the file's C(content), C(uid) (owner and group; root's where it is left out), C(mode) and
        C(validate), a command in which C(%s) stands for the file that is tried.
    type: dict
    required: true
"""

EXAMPLES = """
- host_files:
    directory: /opt/lakehouse/config
    exact: true
    files:
      jobs.yml: {content: "...", uid: 10005}

- host_files:
    files:
      /etc/docker/daemon.json: {content: "{}", validate: /usr/sbin/dockerd --validate --config-file=%s}
"""

RETURN = """
written:
  description: Names of the files that were missing or different.
  type: list
  elements: str
removed:
  description: Names of the files that do not belong there.
  type: list
  elements: str
"""


def read(path: str) -> tuple[bytes, int, int, int] | None:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            return file.read(), status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
    except (FileNotFoundError, IsADirectoryError):
        return None


def validate(module: AnsibleModule, path: str, content: bytes, command: str) -> None:
    with tempfile.NamedTemporaryFile(dir=module.tmpdir, prefix=f"{os.path.basename(path)}.") as file:
        file.write(content)
        file.flush()
        code, output, errors = module.run_command(command % file.name)
    if code:
        said = (errors or output).strip().replace(file.name, path)
        module.fail_json(msg=f"{path}: its new content is refused, so nothing was written: {said}", rc=code)


def write(path: str, content: bytes, uid: int, mode: int) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chown(temporary, uid, uid)
        os.chmod(temporary, mode)
        remove_directory(path)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def remove_directory(path: str) -> bool:
    """Whether there was one: Docker makes an empty one where a file that it should mount is missing."""
    if os.path.isdir(path) and not os.path.islink(path):
        os.rmdir(path)
        return True
    return False


def make_directory(path: str, mode: int, check_mode: bool) -> bool:
    """Whether it was not there as it should be."""
    try:
        status = os.stat(path)
        if (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, mode):
            return False
    except FileNotFoundError:
        if not check_mode:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            os.mkdir(path, 0o700)
    if not check_mode:
        os.chown(path, 0, 0)
        os.chmod(path, mode)
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path"},
            "directory_mode": {"type": "str", "default": "0755"},
            "exact": {"type": "bool", "default": False},
            "mode": {"type": "str", "default": "0644"},
            "files": {"type": "dict", "required": True},
        },
        required_if=[("exact", True, ["directory"])],
        supports_check_mode=True,
    )
    directory, wanted = module.params["directory"], module.params["files"]
    changes = []
    for name, item in wanted.items():
        path = os.path.join(directory or "", name)
        if not os.path.isabs(path):
            module.fail_json(msg=f"{name}: a relative name needs the option directory")
        content, uid = item["content"].encode(), int(item.get("uid", 0))
        mode = int(str(item.get("mode", module.params["mode"])), 8)
        before = read(path)
        if before != (content, uid, uid, mode):
            changes.append((name, path, before, content, uid, mode))
    # Not in check mode, as Ansible's own modules: what validates may not be installed yet.
    for name, path, _, content, _, _ in [] if module.check_mode else changes:
        if command := wanted[name].get("validate"):
            validate(module, path, content, command)

    made = bool(directory) and make_directory(directory, int(module.params["directory_mode"], 8), module.check_mode)
    removed = []
    if module.params["exact"] and os.path.isdir(directory):
        removed = [name for name in sorted(os.listdir(directory)) if name not in wanted]
    if not module.check_mode:
        for _, path, _, content, uid, mode in changes:
            write(path, content, uid, mode)
        for path in (os.path.join(directory, name) for name in removed):
            if not remove_directory(path):
                os.unlink(path)
    written = [name for name, *_ in changes]
    result: dict[str, Any] = {"changed": bool(made or written or removed), "written": written, "removed": removed}
    if module._diff:
        result["diff"] = [
            {
                "before_header": path,
                "after_header": path,
                "before": before[0].decode(errors="replace") if before else "",
                "after": content.decode(),
            }
            for _, path, before, content, _, _ in changes
        ]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
