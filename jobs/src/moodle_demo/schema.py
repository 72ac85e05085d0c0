"""Moodle's tables as data (schema.yml) and the SQL that makes them."""

from __future__ import annotations

import functools
import importlib.resources
import re
from dataclasses import dataclass

import yaml

# Moodle's versions that schema.yml knows, oldest first. What the demo makes is a site of the first.
VERSIONS = ("4.3", "4.5", "5.1")
# The first 48 tables of schema.yml are Moodle's own, compared with a real site's by the tests.
MOODLE_TABLES = 48


@dataclass(frozen=True)
class Column:
    """One column: `type` in MySQL's words, `default` as text or None when it has none."""

    name: str
    type: str
    nullable: bool
    default: str | None

    @property
    def is_text(self) -> bool:
        """Whether the column holds text (its default is quoted, its empty value is '')."""
        return self.type.startswith(("varchar", "longtext"))

    def ddl(self) -> str:
        """The column's line in CREATE TABLE."""
        if self.name == "id":
            return "`id` bigint(10) NOT NULL AUTO_INCREMENT"
        line = f"`{self.name}` {self.type} {'NULL' if self.nullable else 'NOT NULL'}"
        default = self.default
        if default is None and self.type.startswith("varchar") and not self.nullable:
            default = ""
        if default is not None:
            line += f" DEFAULT '{default}'"
        return line


@dataclass(frozen=True)
class Table:
    """One table without its prefix: columns in order (id first), unique and plain keys as tuples of columns."""

    name: str
    columns: tuple[Column, ...]
    unique: tuple[tuple[str, ...], ...]
    index: tuple[tuple[str, ...], ...]

    def create(self, prefix: str, keys: bool = True) -> str:
        """CREATE TABLE with every key, or with the primary key alone."""
        lines = [column.ddl() for column in self.columns] + ["PRIMARY KEY (`id`)"]
        body = ",\n  ".join(lines + (self._keys(prefix) if keys else []))
        return (
            f"CREATE TABLE `{prefix}{self.name}` (\n  {body}\n)"
            " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci"
        )

    def add_keys(self, prefix: str) -> str:
        """ALTER TABLE that adds what `create` left out."""
        return f"ALTER TABLE `{prefix}{self.name}` " + ", ".join(f"ADD {key}" for key in self._keys(prefix))

    def _keys(self, prefix: str) -> list[str]:
        names: set[str] = set()
        lines = []
        for kind, keys, suffix in (("UNIQUE KEY", self.unique, "uix"), ("KEY", self.index, "ix")):
            for key in keys:
                name = self._key_name(prefix, key, suffix, names)
                lines.append(f"{kind} `{name}` ({', '.join(f'`{column}`' for column in key)})")
        return lines

    def _key_name(self, prefix: str, key: tuple[str, ...], suffix: str, taken: set[str]) -> str:
        """Moodle's naming: four letters of a word of the table, three of a column, 30 in all, a number when taken."""
        table = "".join(word[:4] for word in self.name.split("_"))
        stem = f"{prefix}{table}_{''.join(column[:3] for column in key)}"
        room = max(30 - len(suffix) - 1, len(prefix) + 12)
        name, number = f"{stem[:room]}_{suffix}", 1
        while name in taken:
            number += 1
            name = f"{stem[:room]}{number}_{suffix}"
        taken.add(name)
        return name


def _column(name: str, text: str) -> Column:
    match = re.fullmatch(r"(null )?([a-z]+(?:\([\d,]+\))?)(?: =(.*))?", text)
    if match is None:
        raise ValueError(f"schema.yml: column {name}: cannot read {text!r}")
    return Column(name, match[2], match[1] is not None, match[3])


def _in_version(name: str, kinds: str | dict[str, str], version: str) -> Column | None:
    """Return a column as a version of Moodle has it, None where it has none."""
    if isinstance(kinds, str):
        return _column(name, kinds)
    unknown = kinds.keys() - set(VERSIONS)
    if unknown:
        raise ValueError(f"schema.yml: column {name}: unknown version {', '.join(sorted(unknown))}")
    current = [kinds[known] for known in VERSIONS[: VERSIONS.index(version) + 1] if known in kinds]
    return _column(name, current[-1]) if current else None


@functools.cache
def tables(version: str = VERSIONS[0]) -> dict[str, Table]:
    """Return every table of schema.yml by name, in the file's order, as a version of Moodle has it."""
    text = importlib.resources.files(__package__).joinpath("schema.yml").read_text("utf-8")
    result = {}
    for name, spec in yaml.safe_load(text).items():
        found = [_in_version(column, kinds, version) for column, kinds in spec["columns"].items()]
        columns = (_column("id", "bigint(10)"), *[column for column in found if column])
        present = {column.name for column in columns}
        unique, index = (
            tuple(tuple(key) for key in spec.get(kind, []) if present.issuperset(key)) for kind in ("unique", "index")
        )
        result[name] = Table(name, columns, unique, index)
    return result
