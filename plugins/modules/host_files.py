#!/usr/bin/python
"""Keeps files of a host exactly as given: one call instead of two or three for each."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

DOCUMENTATION = """
module: host_files
short_description: Keep files of a host exactly as given
description:
  - Writes what is missing or different, with owner and mode, each file in one step. Missing parents are made.
  - Nothing is written unless every file that would be passes its validation.
  - For directories that hold nothing else, and for files that are only good together. M(ansible.builtin.template) does the rest.
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
        C(validate), a command in which C(%s) stands for the file that is tried. Other keys are refused.
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


FILE_SPEC = {
    "content": {"type": "str", "required": True},
    "uid": {"type": "int", "default": 0},
    "mode": {"type": "str"},
    "validate": {"type": "str"},
}


def typed(module: AnsibleModule) -> dict[str, dict[str, Any]]:
    """Return the wanted files with their types checked and their modes as numbers."""
    files = {}
    for name, given in module.params["files"].items():
        if not isinstance(given, dict):
            module.fail_json(msg=f"files: {name} must be a mapping of {', '.join(FILE_SPEC)}. Nothing was written.")
        checked = ArgumentSpecValidator(FILE_SPEC).validate(given)
        if checked.error_messages:
            module.fail_json(msg=f"files: {name}: {'; '.join(checked.error_messages)}. Nothing was written.")
        mode = checked.validated_parameters["mode"] or module.params["mode"]
        files[name] = checked.validated_parameters | {"mode": octal(module, f"the mode of {name}", mode)}
    return files


def octal(module: AnsibleModule, what: str, mode: str) -> int:
    """Return a mode as a number; YAML has made another one of it where it was not quoted."""
    if not re.fullmatch("0[0-7]{3,4}", mode):
        module.fail_json(msg=f'{what} must be octal and quoted, such as "0644", not {mode}. Nothing was written.')
    return int(mode, 8)


def read(path: str) -> tuple[bytes, int, int, int] | None:
    """Return a file's content, owner, group and mode; None where there is no file."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            return file.read(), status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
    except (FileNotFoundError, IsADirectoryError):
        return None


def state_of(path: str) -> dict[str, Any]:
    """Return what a path is, as `--diff` shows it beside the content."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return {"path": path, "state": "absent"}
    return {"path": path, **shown(stat.S_ISDIR(status.st_mode), status.st_uid, status.st_gid, status.st_mode)}


def shown(directory: bool, uid: int, gid: int, mode: int) -> dict[str, Any]:
    """Return owner and mode as `--diff` shows them."""
    kind = "directory" if directory else "file"
    return {"state": kind, "uid": uid, "gid": gid, "mode": f"{stat.S_IMODE(mode):04o}"}


def differences(path: str, content: bytes, after: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what `--diff` shows of one path: owner, mode and whether it is there, then the content."""
    before, now = state_of(path), {"path": path, **after}
    old = (read(path) or (b"",))[0].decode(errors="replace")
    found: list[dict[str, Any]] = [{"before": before, "after": now}] if before != now else []
    if old != content.decode(errors="replace"):
        found.append({"before_header": path, "after_header": path, "before": old, "after": content.decode()})
    return found


def validate(module: AnsibleModule, path: str, content: bytes, command: str) -> None:
    """Refuse a content that the command refuses."""
    with tempfile.NamedTemporaryFile(dir=module.tmpdir, prefix=f"{os.path.basename(path)}.") as file:
        file.write(content)
        file.flush()
        code, output, errors = module.run_command(command % file.name)
    if code:
        said = (errors or output).strip().replace(file.name, path)
        module.fail_json(msg=f"{path}: its new content is refused, so nothing was written: {said}", rc=code)


def write(path: str, content: bytes, uid: int, mode: int) -> None:
    """Replace a file in one step, with its owner and mode."""
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
    """Run the command."""
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
    directory, wanted = module.params["directory"], typed(module)
    directory_mode = octal(module, "directory_mode", module.params["directory_mode"])
    changes = []
    for name, item in wanted.items():
        path = os.path.join(directory or "", name)
        if not os.path.isabs(path):
            module.fail_json(msg=f"{name}: a relative name needs the option directory")
        content, uid, mode = item["content"].encode(), item["uid"], item["mode"]
        if read(path) != (content, uid, uid, mode):
            changes.append((name, path, content, uid, mode))
    # Not in check mode, as Ansible's own modules: what validates may not be installed yet.
    for name, path, content, _, _ in [] if module.check_mode else changes:
        if command := wanted[name]["validate"]:
            validate(module, path, content, command)

    removed = []
    if module.params["exact"] and os.path.isdir(directory):
        removed = [name for name in sorted(os.listdir(directory)) if name not in wanted]
    diff: list[dict[str, Any]] = []
    if module._diff:
        if directory:
            diff += differences(directory, b"", shown(True, 0, 0, directory_mode))
        for _, path, content, uid, mode in changes:
            diff += differences(path, content, shown(False, uid, uid, mode))
        for name in removed:
            diff += differences(os.path.join(directory, name), b"", {"state": "absent"})

    made = bool(directory) and make_directory(directory, directory_mode, module.check_mode)
    if not module.check_mode:
        for _, path, content, uid, mode in changes:
            write(path, content, uid, mode)
        for path in (os.path.join(directory, name) for name in removed):
            if not remove_directory(path):
                os.unlink(path)
    written = [name for name, *_ in changes]
    result: dict[str, Any] = {"changed": bool(made or written or removed), "written": written, "removed": removed}
    module.exit_json(**result, **({"diff": diff} if module._diff else {}))


if __name__ == "__main__":
    main()
