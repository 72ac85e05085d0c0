#!/usr/bin/python
"""Keeps a directory's files exactly as given: one call instead of one for each of two dozen small files."""

from __future__ import annotations

import os
import stat
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: stack_files
short_description: Keep a directory's files exactly as given
description:
  - Writes what is missing or different, with owner and mode, each file in one step.
  - A file in the directory that is not among them is removed, so that no secret outlives the service that read it.
options:
  directory:
    description: The directory. It is made when it is missing and belongs to root.
    type: path
    required: true
  directory_mode:
    description: Its mode, in octal.
    type: str
    required: true
  mode:
    description: Mode of the files, in octal.
    type: str
    required: true
  files:
    description: Name to the file's content and uid (owner and group).
    type: dict
    required: true
"""

EXAMPLES = """
- stack_files:
    directory: /opt/lakehouse/config
    directory_mode: "0755"
    mode: "0644"
    files:
      jobs.yml: {content: "...", uid: 10005}
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


def write(path: str, content: bytes, uid: int, mode: int) -> None:
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
            os.mkdir(path, 0o700)
    if not check_mode:
        os.chown(path, 0, 0)
        os.chmod(path, mode)
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "directory_mode": {"type": "str", "required": True},
            "mode": {"type": "str", "required": True},
            "files": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    directory, mode = module.params["directory"], int(module.params["mode"], 8)
    wanted = module.params["files"]
    made = make_directory(directory, int(module.params["directory_mode"], 8), module.check_mode)
    there = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    written, diff = [], []
    for name, item in wanted.items():
        path = os.path.join(directory, name)
        content, uid = item["content"].encode(), int(item["uid"])
        before = read(path)
        if before == (content, uid, uid, mode):
            continue
        written.append(name)
        diff.append(
            {
                "before_header": path,
                "after_header": path,
                "before": before[0].decode(errors="replace") if before else "",
                "after": item["content"],
            }
        )
        if not module.check_mode:
            write(path, content, uid, mode)
    removed = [name for name in there if name not in wanted]
    if not module.check_mode:
        for path in (os.path.join(directory, name) for name in removed):
            if not remove_directory(path):
                os.unlink(path)
    result: dict[str, Any] = {"changed": bool(made or written or removed), "written": written, "removed": removed}
    if module._diff:
        result["diff"] = diff
    module.exit_json(**result)


if __name__ == "__main__":
    main()
