"""Ansible lookup: what in the inventory's files must not stay as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: inventory_problems
short_description: Finds placeholders, missing secrets and well-known passwords in an inventory's files
description:
  - Reads the inventory's files themselves, so that it can name the file of each variable. Never returns a value.
options:
  _terms: {description: Inventory files or directories., type: list, elements: path, required: true}
  placeholder: {description: What stands where a value must be filled in., type: str, required: true}
  secrets_prefix: {description: How the names of secrets begin., type: str, required: true}
  well_known: {description: Passwords that everyone knows., type: list, elements: str, default: []}
author: [Moodle Lakehouse]
"""

EXAMPLES = r"""
- name: Look at the inventory
  ansible.builtin.debug:
    msg: "{{ query('inventory_problems', inventory_dir, placeholder='CHANGE_ME', secrets_prefix='vault_') }}"
"""

RETURN = r"""
_list: {description: The problems with their remedies., type: list, elements: str}
"""

TEXTS = (".yml", ".yaml", ".json", ".ini", "")


def inventory_files(source: Path) -> Iterator[Path]:
    """Yield the hosts files and everything in group_vars and host_vars."""
    if source.is_file():
        yield source
        source = source.parent
    else:
        yield from (path for path in sorted(source.iterdir()) if path.is_file() and path.suffix in TEXTS)
    for directory in ("group_vars", "host_vars"):
        found = sorted((source / directory).rglob("*"))
        yield from (path for path in found if path.is_file() and path.suffix in TEXTS)


def leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield each single value below a variable, with its dotted name."""
    if isinstance(value, dict):
        for key, item in value.items():
            # A key that is a placeholder (a host's name) counts as a value, too.
            yield (f"{name}.{key}" if name else str(key)), str(key)
            yield from leaves(f"{name}.{key}" if name else str(key), item)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from leaves(f"{name}[{position}]", item)
    else:
        yield name, "" if value is None else str(value)


def plain_lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield what an INI-like file assigns, one by one."""
    for number, line in enumerate(text.splitlines(), start=1):
        for word in line.partition("#")[0].split():
            name, equals, value = word.partition("=")
            yield (name, value) if equals else (f"line {number}", word)


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return the problems of the inventories in terms."""
        self.set_options(var_options=variables, direct=kwargs)
        files = [path for term in terms for path in inventory_files(Path(term))]
        seen: set[str] = set()
        problems = [problem for path in files for problem in self.file_problems(path, seen)]
        # Secrets from elsewhere, such as the command line: their effective values count.
        for name in sorted(set(variables or {}) - seen):
            if name.startswith(self.get_option("secrets_prefix")):
                problems += self.value_problems("not in a file", name, self._templar.template(variables[name]))
        return list(dict.fromkeys(problems))

    def file_problems(self, path: Path, seen: set[str]) -> Iterator[str]:
        try:
            content = self._loader.load_from_file(str(path), cache="none", trusted_as_template=False)
            values = leaves("", content)
        except AnsibleError as error:
            if path.suffix not in (".ini", "") or "vault" in str(error).lower():
                yield f"Inventory: {path} cannot be read: {error}. Remedy: correct it, or give the vault's password."
                return
            values = plain_lines(path.read_text(encoding="utf-8"))
        for name, value in values:
            variable = name.rpartition(".")[2]
            seen.add(variable)
            yield from self.value_problems(str(path), variable if variable.startswith("vault") else name, value)

    def value_problems(self, place: str, name: str, value: Any) -> Iterator[str]:
        placeholder = self.get_option("placeholder")
        if placeholder in str(value):
            yield f"Inventory: {name} is still {placeholder} ({place}). Remedy: fill it in."
        elif name.startswith(self.get_option("secrets_prefix")):
            if not value:
                yield f"Inventory: {name} is empty ({place}). Remedy: ./lakehouse secrets INVENTORY fills it."
            elif str(value) in self.get_option("well_known"):
                yield (
                    f"Inventory: {name} is a password that everyone knows, and this inventory listens on more than "
                    f"the loopback interface ({place}). Remedy: empty it and run ./lakehouse secrets INVENTORY."
                )
