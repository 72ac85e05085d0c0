"""Ansible lookup: what in the inventory's files must not stay as it is."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.plugins.lookup import LookupBase
from ansible.template import is_trusted_as_template

DOCUMENTATION = r"""
name: inventory_problems
short_description: Finds placeholders, unfit, missing and well-known secrets and unknown variables in an inventory
description:
  - Reads the inventory's files themselves, so that it can name the file of each variable. Never returns a value.
  - Looks at the variables of all hosts of the play and at the command line's for unknown names.
options:
  _terms: {description: Inventory files or directories., type: list, elements: path, required: true}
  placeholder: {description: What stands where a value must be filled in., type: str, required: true}
  secrets_prefix: {description: How the names of secrets begin., type: str, required: true}
  well_known:
    description: Passwords that everyone knows. Where none are given, two secrets may have the same value, too.
    type: list
    elements: str
    default: []
  rules:
    description:
      - What a secret may be; the first whose C(names), a regular expression, is the whole name counts.
      - C(characters) is a set of SETS, C(min) and C(max) count them, or bytes if C(bytes). C(distinct) values are refused
        when two names have them, whatever well_known is.
    type: list
    elements: dict
    default: []
  prefix: {description: How the names of the project's variables begin., type: str, required: true}
  defaults:
    description: The files that give every known variable its default. Without any, names and missing secrets are not looked at.
    type: list
    elements: path
    default: []
author: [Moodle Lakehouse]
"""

EXAMPLES = r"""
- name: Look at the inventory
  ansible.builtin.debug:
    msg: "{{ query('inventory_problems', inventory_dir, placeholder='CHANGE_ME', secrets_prefix='vault_', prefix='lakehouse_') }}"
"""

RETURN = r"""
_list: {description: The problems with their remedies., type: list, elements: str}
"""

TEXTS = (".yml", ".yaml", ".json", ".ini", "")

# Sets of characters: what the whole value matches, and how a person is told
SETS = {
    # The names of keys: no sign that a header, a path or a policy reads otherwise
    "name": (r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits and . _ -, a letter or digit first"),
    # What goes into a header (RFC 6750)
    "token": (r"[A-Za-z0-9._~+/-]+=*", "letters, digits and . _ ~ + / -"),
    # A line of an INI file as the clients of S3 read it
    "ini": (r"(?! )[ -\"$-:<-Z\\^-~]*(?<! )", "ASCII without # ; [ and ], and no space at either end"),
    "ascii": (r"(?! )[ -~]*(?<! )", "ASCII without control characters, and no space at either end"),
    "text": (
        r"(?!\s)[^\x00-\x1f\x7f-\x9f\u2028\u2029]*(?<!\s)",
        "without control characters, and no space at either end",
    ),
    "any": (r"(?![\r\n])[^\x00]*(?<![\r\n])", "without a line break at either end"),
}


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


def unfit(name: str, value: Any, rules: Iterable[dict[str, Any]]) -> str:
    """Return what a secret would have to be that is not; nothing if it is."""
    if not isinstance(value, str):
        return "to YAML a number, a date or a yes/no, not a text"
    rule = next((rule for rule in rules if re.fullmatch(rule["names"], name)), None)
    if rule is None:
        return ""
    pattern, told = SETS[rule["characters"]]
    least, most = rule.get("min", 1), rule["max"]
    length = len(value.encode("utf-8", "surrogatepass") if rule.get("bytes") else value)
    if least <= length <= most and re.fullmatch(pattern, value, re.DOTALL):
        return ""
    size = f"{least} to {most}" if least > 1 else f"at most {most}"
    return f"not what it may be: {size} {'bytes' if rule.get('bytes') else 'characters'}, {told}"


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each single value below a variable, with its dotted name."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict):  # a placeholder may be a host's name, too
                yield (f"{name}.{key}" if name else str(key)), str(key)
            yield from leaves(f"{name}.{key}" if name else str(key), item)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from leaves(f"{name}[{position}]", item)
    else:
        yield name, "" if value is None else value


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
        known = "known to everyone, and this inventory listens on more than the loopback interface"
        remedies = {
            "still {placeholder}": "fill in your own value.",
            "empty": "./lakehouse secrets {inventory} fills it with a random value.",
            known: "empty it, then ./lakehouse secrets {inventory} fills it with a random value.",
        }
        problems: list[str] = []
        found: dict[tuple[str, Path | None], list[str]] = {}
        values: dict[str, Any] = {}
        parts: dict[str, Path] = {}
        effective = variables or {}
        files = {path: Path(term).name for term in terms for path in inventory_files(Path(term))}
        for path in files:
            try:
                entries = list(self.file_values(path))
            except AnsibleError as error:
                problems.append(
                    f"Inventory: {path} cannot be read: {str(error).strip()}. "
                    "Remedy: correct it, or give the vault's password: --ask-vault-pass"
                )
                continue
            for name, value in entries:
                for part in re.split(r"[.\[]", name):
                    parts.setdefault(part, path)
                values[name.rpartition(".")[2]] = value
                found.setdefault((self.kind(name, value, effective, known), path), []).append(name)
        # Secrets from elsewhere, such as the command line: their effective values count.
        for name in sorted(set(effective) - set(values)):
            if name.startswith(self.get_option("secrets_prefix")):
                values[name] = effective[name]
                found.setdefault((self.kind(name, effective[name], effective, known), None), []).append(name)
        for (kind, place), names in found.items():
            if kind:
                unique = list(dict.fromkeys(names))
                verb = "is" if len(unique) == 1 else "are"
                what = kind.format(placeholder=self.get_option("placeholder"))
                remedy = remedies.get(kind, "write another value, in quotes.").format(
                    inventory=files[place] if place else "INVENTORY"
                )
                where = place or "not in a file of the inventory"
                problems.append(f"Inventory: {', '.join(unique)} {verb} {what} ({where}). Remedy: {remedy}")
        problems += self.twins({name: effective.get(name, value) for name, value in values.items()})
        defaults: dict[str, Any] = {}
        for file in self.get_option("defaults"):
            defaults |= self._loader.load_from_file(str(file), cache="none")
        if defaults:
            problems += self.unknown(defaults, effective, parts)
            problems += self.missing(defaults, effective, next(iter(files.values()), "INVENTORY"))
        return problems

    def unknown(self, known: Iterable[str], variables: dict[str, Any], places: dict[str, Path]) -> Iterator[str]:
        """Yield a problem for each of the project's variables, of whichever host, that there is none of."""
        prefix = self.get_option("prefix")
        hosts = variables.get("ansible_play_hosts_all", [])
        names = set(variables).union(*(variables["hostvars"][host] for host in hosts)).difference(known)
        for name in sorted(name for name in names if name.startswith(prefix)):
            nearest = get_close_matches(name, [other for other in known if other.startswith(prefix)], n=1)
            remedy = (
                f"{nearest[0]} is the nearest" if nearest else f"begin the names of your own otherwise than {prefix}"
            )
            yield (
                f"Inventory: {name} is no variable of this project ({places.get(name, 'not in a file of the inventory')}). "
                f"Remedy: {remedy}; playbooks/group_vars/all/ holds them all."
            )

    def missing(self, defaults: dict[str, Any], variables: dict[str, Any], inventory: str) -> Iterator[str]:
        """Yield a problem for the secrets that are needed, but defined nowhere."""
        secret = re.compile(rf"\b{self.get_option('secrets_prefix')}\w+")
        names: set[str] = set()
        for name, default in defaults.items():
            if secret.search(str(default)):
                try:
                    self._templar.template(variables[name])
                except AnsibleUndefinedVariable:
                    names.update(secret.findall(str(variables[name])))
        if names := names.difference(variables):
            listed = ", ".join(sorted(names))
            yield (
                f"Inventory: {listed} {'is' if len(names) == 1 else 'are'} needed, but defined nowhere. Remedy: ./lakehouse secrets "
                f"{inventory} adds what can be made up to group_vars/lakehouse/vault.yml; a password of somebody else's is "
                "written there by you (if the file is encrypted: ansible-vault edit)."
            )

    def file_values(self, path: Path) -> Iterator[tuple[str, str]]:
        """Yield names and values of a file; a file that is not YAML is read as INI."""
        try:
            content = self._loader.load_from_file(str(path), cache="none")
        except AnsibleError:
            text = path.read_text(encoding="utf-8")
            if path.suffix not in (".ini", "") or text.startswith("$ANSIBLE_VAULT"):
                raise
            yield from plain_lines(text)
        else:
            for name, value in leaves("", content):
                is_secret = name.rpartition(".")[2].startswith(self.get_option("secrets_prefix"))
                yield (name.rpartition(".")[2] if is_secret else name.removeprefix("all.")), value

    def value_of(self, value: Any) -> Any:
        """Return what a secret is once Ansible has evaluated it; raise AnsibleError when that fails."""
        if isinstance(value, str) and is_trusted_as_template(value) and re.search(r"\{[{%#]", value):
            return self._templar.template(value)
        return value

    def twins(self, values: dict[str, Any]) -> Iterator[str]:
        """Yield a problem for the secrets that have the same value: who holds one has the other."""
        names: dict[str, list[str]] = {}
        for name, value in sorted(values.items()):
            if name.startswith(self.get_option("secrets_prefix")):
                with contextlib.suppress(AnsibleError):
                    names.setdefault(str(self.value_of(value)), []).append(name)
        distinct = [rule["names"] for rule in self.get_option("rules") if rule.get("distinct")]
        for value, same in names.items():
            # A well-known value and a placeholder are told anyway.
            if not value or self.get_option("placeholder") in value or value.lower() in self.get_option("well_known"):
                continue
            if not self.get_option("well_known"):
                same = [name for name in same if any(re.fullmatch(names, name) for names in distinct)]
            if len(same) > 1:
                yield (
                    f"Inventory: {' and '.join(same)} have the same value, so whoever is to know one knows the others. "
                    "Remedy: give each its own; ./lakehouse secrets INVENTORY fills an empty one with a random value."
                )

    def kind(self, name: str, value: Any, effective: dict[str, Any], known: str) -> str:
        """Return what is wrong with a value, or nothing."""
        if self.get_option("placeholder") in str(value):
            return "still {placeholder}"
        if name.startswith(self.get_option("secrets_prefix")):
            if isinstance(value, str) and not value:
                return "empty"
            if isinstance(value, str) and re.search(r"\{[{%#]", value):
                if name not in effective:
                    return ""
                try:
                    value = self.value_of(effective[name])
                except AnsibleError:
                    return "read as a template of Ansible, for it holds two braces or one with % or #, and makes no sense as one"
            if isinstance(value, str) and value.lower() in self.get_option("well_known"):
                return known
            return unfit(name, value, self.get_option("rules"))
        return ""
