"""Fills what is empty or missing in a vault file with random values and encrypts it, with the vault password Ansible was given."""

from __future__ import annotations

import os
import re
import secrets
import string
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.parsing.vault import is_encrypted, match_encrypt_secret
from ansible.plugins.action import ActionBase

DOCUMENTATION = """
action: vault_fill
short_description: Fill the empty and the missing variables of a vault file with random values and encrypt it
description:
  - Runs on the controller. Comments and order stay. A value that is there is never changed.
  - Nothing is written before the whole new content is known; the file is replaced in one step.
options:
  path:
    description: The file, YAML with one variable a line, encrypted or not.
    type: path
    required: true
  template:
    description: Another such file. Its variables that are empty there and missing here are added at the end.
    type: path
  elsewhere:
    description: Names that are not missing, for they are defined elsewhere.
    type: list
    elements: str
    default: []
  lengths:
    description: Letters and digits of a random value, by a regular expression for the whole name. The first that fits counts.
    type: dict
    default: {}
  note:
    description: The comment above what is added.
    type: str
    default: Added
"""

RETURN = """
filled: {description: Names of the variables that were empty., type: list, elements: str}
added: {description: Names of those that were missing., type: list, elements: str}
"""

NAME = re.compile(r"^(vault_\w+):", re.MULTILINE)
EMPTY = re.compile(r"""^(vault_\w+):[ \t]*(?:""|''|~|null)?[ \t]*(#.*)?$""", re.MULTILINE)
ALPHABET = string.ascii_letters + string.digits


class ActionModule(ActionBase):
    """The action of the task."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("path", "template", "elsewhere", "lengths", "note"))

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action and return its result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        path = Path(str(args["path"]))
        lengths = {str(name): int(length) for name, length in args.get("lengths", {}).items()}

        vault = self._loader._vault
        if not vault.secrets:
            raise AnsibleActionFail(
                f"No vault password was given, and without one {path} cannot be encrypted. Write a long random text into a file "
                "outside the repository (mode 0600), then add --vault-password-file FILE; or type one: --ask-vault-pass."
            )
        content = self._read(path)
        was_encrypted = is_encrypted(content)
        text = to_text(vault.decrypt(content) if was_encrypted else content)
        filled = [match[1] for match in EMPTY.finditer(text)]
        new = EMPTY.sub(lambda match: self._line(match[1], lengths) + (f"  {match[2]}" if match[2] else ""), text)

        added: list[str] = []
        if args.get("template"):
            has = {*NAME.findall(text), *args.get("elsewhere", [])}
            wanted = EMPTY.finditer(to_text(self._read(Path(str(args["template"])))))
            added = [match[1] for match in wanted if match[1] not in has]
        if added:
            lines = [f"# {args.get('note', 'Added')}", *(self._line(name, lengths) for name in added)]
            new = "\n".join([new.rstrip("\n"), "", *lines, ""])

        result["filled"] = filled
        result["added"] = added
        result["changed"] = bool(filled or added) or not was_encrypted
        if result["changed"] and not self._task.check_mode:
            _, secret = match_encrypt_secret(vault.secrets)
            self._replace(path, to_bytes(vault.encrypt(to_bytes(new), secret)))
        return result

    @staticmethod
    def _read(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise AnsibleActionFail(f"{path}: {error.strerror}. Copy the file from inventories/prod.") from error

    @staticmethod
    def _line(name: str, lengths: dict[str, int]) -> str:
        length = next((length for names, length in lengths.items() if re.fullmatch(names, name)), 32)
        return f"{name}: {''.join(secrets.choice(ALPHABET) for _ in range(length))}"

    @staticmethod
    def _replace(path: Path, content: bytes) -> None:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(temporary, path)  # mkstemp made it 0600
        except BaseException:
            os.unlink(temporary)
            raise
