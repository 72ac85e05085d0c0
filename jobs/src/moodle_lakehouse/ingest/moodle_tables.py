"""The catalogue of Moodle's tables (moodle_tables.yml), and what it makes of a site's actual columns.

The catalogue says what is known; the site's information_schema says what there is. plan() joins the two:
tables and columns that a site lacks are left out and told, numbers that the catalogue does not know are
carried, text that it does not know is dropped and told, since nobody has looked at what people write there.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from moodle_lakehouse.errors import LakehouseError, bullet_list

STRATEGIES = ("append", "merge", "snapshot", "history")
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_LONG = ("text", "mediumtext", "longtext", "json", "blob", "mediumblob", "longblob")
_KEYS = {"key", "cursor", "strategy", "since", "text", "drop", "full_every", "person"}
# Numbers that by their name are the id of a user, as Moodle's tables and plugins call them.
_PERSON = re.compile(
    r"(\w*user_?(id)?(_?(from|to))?|(from|to)_?user_?(id)?|\w*user_?(modified|created)|(modifier|grader)(id)?"
    r"|\w*(author|owner|creator|teacher|student|reviewer|assessor|sender|recipient)_?id"
    r"|\w*(over|override|created|updated|modified|edited|graded|marked|reviewed|approved|assigned|submitted|locked|deleted)_?by"
    r"|privatereplyto|allocatedmarker)\Z"
)
FULL_EVERY_HOURS = 20  # a table of strategy merge that is read every night is compared whole every night


@dataclass(frozen=True)
class JsonReduction:
    """A JSON column of the log: kept for some events, and of each only some keys (a.b is b inside a)."""

    events: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class ProfileFieldReduction:
    """A profile field's value, kept for the configured fields; column holds the field's id."""

    column: str


@dataclass(frozen=True)
class PersonColumn:
    """A column that holds ids of users, and what erase-user does with a row that names an erased one there.

    clears: the row is about something or somebody else and only loses the id; otherwise the row is about the person and
    goes. only: a column and its value without which the number is no user's id. told: a text in which ids are told as
    "userid 7", which then loses them.
    """

    name: str
    clears: bool = False
    only: tuple[str, str | int] | None = None
    told: bool = False

    def condition(self, values: Iterable[str]) -> str:
        """The SQL that is true for rows that name one of the values (SQL literals) here; the same in MySQL and Spark."""
        named = f"{quoted(self.name)} IN ({', '.join(values)})"
        if self.only is None:
            return named
        column, value = self.only
        literal = str(value) if isinstance(value, int) else f"'{value}'"
        return f"({quoted(column)} = {literal} AND {named})"


@dataclass(frozen=True)
class MoodleTable:
    """What is known about one table."""

    name: str
    key: tuple[str, ...]
    strategy: str
    cursor: str | None = None
    since: str | None = None
    keep: frozenset[str] = frozenset()
    drop: frozenset[str] = frozenset()
    hash: frozenset[str] = frozenset()
    reduce: dict[str, JsonReduction | ProfileFieldReduction] = field(default_factory=dict)
    full_every: float = FULL_EVERY_HOURS
    known: bool = True  # False: unlisted text columns are the rule, not news
    person: tuple[PersonColumn, ...] = ()

    @property
    def keeps_purged(self) -> bool:
        """Whether rows stay in the lake that the source has purged."""
        return self.strategy in ("append", "history")


@dataclass(frozen=True)
class Catalogue:
    """All of moodle_tables.yml."""

    tables: dict[str, MoodleTable]
    module_instance: MoodleTable
    extra: MoodleTable


@dataclass(frozen=True)
class SourceColumn:
    """A column as information_schema describes it."""

    name: str
    data_type: str
    column_type: str
    precision: int | None = None
    scale: int | None = None
    primary: bool = False

    @property
    def unsigned(self) -> bool:
        return "unsigned" in self.column_type


@dataclass(frozen=True)
class ReadColumn:
    """A column as it is read: the SQL that selects it and its type in the lake. long: a value may be megabytes."""

    name: str
    sql: str
    spark_type: str
    long: bool = False
    policy: str = ""  # the SQL of the privacy policy alone, where sql leaves out erased people as well

    @property
    def is_number(self) -> bool:
        return self.spark_type not in ("STRING", "BINARY")


@dataclass(frozen=True)
class TablePlan:
    """How one table is read: `source` is its full name there, `columns` what leaves it."""

    table: MoodleTable
    source: str
    columns: tuple[ReadColumn, ...]
    dropped: tuple[str, ...]
    reduced: tuple[str, ...]  # hashed ones, too
    notes: tuple[str, ...]
    key: tuple[str, ...] = ()  # the catalogue's key where the site's primary key is the same, else nothing
    person: tuple[PersonColumn, ...] = ()  # of the source's columns
    readable: str | None = None  # the condition for the rows that may be read at all; None: all

    @property
    def cursor(self) -> str | None:
        """The whole number by which new rows are found: of a key that is sure, and not for strategy snapshot."""
        if not self.key or self.table.strategy == "snapshot":
            return None
        return self.table.cursor if self._is_whole(self.table.cursor) else None

    @property
    def id_column(self) -> str | None:
        """The single whole number that identifies a row, by which the table can be read in ranges."""
        if len(self.table.key) != 1:
            return None
        name = self.table.key[0]
        return name if self._is_whole(name) else None

    def _is_whole(self, name: str | None) -> bool:
        return any(c.name == name and c.spark_type in ("INT", "BIGINT") for c in self.columns)

    def select(self, condition: str | None = None) -> str:
        """The SQL that reads the table with the privacy policy in it."""
        expressions = ", ".join(
            c.sql if c.sql == quoted(c.name) else f"{c.sql} AS {quoted(c.name)}" for c in self.columns
        )
        return f"SELECT {expressions} FROM {quoted(self.source)}{self.where(condition)}"

    def where(self, condition: str | None = None) -> str:
        """The WHERE clause for the rows that may be read and fulfil a condition; nothing for all."""
        both = " AND ".join(c for c in (self.readable, condition) if c)
        return f" WHERE {both}" if both else ""

    def schema(self) -> str:
        """The columns' types in Spark's words."""
        return ", ".join(f"{quoted(c.name)} {c.spark_type}" for c in self.columns)


@dataclass(frozen=True)
class SourcePlan:
    """How the whole site is read, and what differs from the catalogue."""

    tables: tuple[TablePlan, ...]
    missing: tuple[str, ...]
    unlisted: tuple[str, ...]
    notes: tuple[str, ...]


def load() -> Catalogue:
    """The catalogue that comes with this package."""
    text = importlib.resources.files(__package__).joinpath("moodle_tables.yml").read_text(encoding="utf-8")
    return parse(yaml.safe_load(text))


def parse(document: Any) -> Catalogue:
    """A checked catalogue from its YAML; a wrong one names every fault."""
    faults: list[str] = []
    if not isinstance(document, dict) or set(document) != {"module_instance", "extra", "tables"}:
        raise LakehouseError("The catalogue needs exactly: module_instance, extra, tables", where="moodle_tables.yml")
    parsed = {name: _table(name, entry, faults) for name, entry in document["tables"].items()}
    module_instance = _table("module_instance", document["module_instance"], faults, known=False)
    extra = _table("extra", document["extra"], faults, known=False)
    if faults:
        raise LakehouseError(
            "The catalogue of Moodle's tables is not valid:\n" + bullet_list(faults), where="moodle_tables.yml"
        )
    return Catalogue(parsed, module_instance, extra)


def _table(name: str, entry: Any, faults: list[str], *, known: bool = True) -> MoodleTable:
    def fault(message: str) -> None:
        faults.append(f"{name}: {message}")

    if not _NAME.match(name):
        fault("no name of a table")
    if not isinstance(entry, dict):
        fault("a mapping belongs here")
        return MoodleTable(name, (), "snapshot")
    for unknown in sorted(set(entry) - _KEYS):
        fault(f"unknown key {unknown}")
    if entry.get("strategy") not in STRATEGIES:
        fault(f"strategy {entry.get('strategy')!r}; use one of {', '.join(STRATEGIES)}")
    if not entry.get("key"):
        fault("no key")
    if entry.get("strategy") in ("append", "merge", "history") and not entry.get("cursor"):
        fault(f"strategy {entry['strategy']} needs a cursor")
    full_every = entry.get("full_every", FULL_EVERY_HOURS)
    if not isinstance(full_every, (int, float)) or full_every < 0:
        fault(f"full_every {full_every!r}; use a number of hours")
    text = entry.get("text") or {}
    for unknown in sorted(set(text) - {"keep", "hash", "drop", "reduce"}):
        fault(f"unknown policy text.{unknown}")
    keep, drop = list(text.get("keep") or []), list(text.get("drop") or []) + list(entry.get("drop") or [])
    reductions: dict[str, JsonReduction | ProfileFieldReduction] = {}
    for column, rule in (text.get("reduce") or {}).items():
        if isinstance(rule, dict) and set(rule) == {"json"}:
            reductions[column] = JsonReduction({event: tuple(keys) for event, keys in rule["json"].items()})
        elif isinstance(rule, dict) and set(rule) == {"profile_fields"}:
            reductions[column] = ProfileFieldReduction(rule["profile_fields"])
        else:
            fault(f"text.reduce.{column}: use json or profile_fields")
    hashed = list(text.get("hash") or [])
    person = []
    for column, rule in (entry.get("person") or {}).items():
        if rule in ("row", "clear"):
            person.append(PersonColumn(column, clears=rule == "clear"))
        elif isinstance(rule, dict) and len(rule) == 1:
            person.append(PersonColumn(column, only=next(iter(rule.items()))))
        else:
            fault(f"person.{column}: use row, clear or one column and its value")
    named = [*keep, *hashed, *drop, *reductions]
    for column in sorted({c for c in named if named.count(c) > 1}):
        fault(f"column {column} has two policies")
    return MoodleTable(
        name=name,
        key=tuple(entry.get("key") or ()),
        strategy=str(entry.get("strategy")),
        cursor=entry.get("cursor"),
        since=entry.get("since"),
        keep=frozenset(keep),
        hash=frozenset(hashed),
        drop=frozenset(drop),
        reduce=reductions,
        full_every=full_every,
        known=known,
        person=tuple(person),
    )


def names_person(column: str) -> bool:
    """Whether a number of this name is the id of a user."""
    return _PERSON.match(column) is not None


def person_columns(rules: Iterable[PersonColumn], columns: Sequence[str]) -> tuple[PersonColumn, ...]:
    """How a table's columns name people: by the catalogue's rules, and by their names where it has none."""
    known = [rule for rule in rules if rule.name in columns and (rule.only is None or rule.only[0] in columns)]
    named = {rule.name for rule in known}
    return (
        *known,
        *[
            PersonColumn(c, clears=c not in ("userid", "user_id"))
            for c in columns
            if names_person(c) and c not in named
        ],
    )


def plan(
    catalogue: Catalogue,
    source_tables: Mapping[str, Sequence[SourceColumn]],
    *,
    prefix: str,
    privacy: str,
    modules: Iterable[str] = (),
    extra_tables: Iterable[str] = (),
    columns: Mapping[str, Mapping[str, str]] | None = None,
    profile_fields: Sequence[str] = (),
    hash_key: bytes = b"",
) -> SourcePlan:
    """How every wanted table that the site has is read.

    source_tables: full table name -> its columns. modules: names of the site's activity modules, whose own
    tables are read as well. extra_tables: plugins' tables named by the inventory, without prefix; columns: what the
    inventory decides about single columns (table -> column -> keep, hash or drop); hash_key: of the hashed ones.
    """
    decided = columns or {}
    wanted = dict(catalogue.tables)
    for rule, names in ((catalogue.module_instance, modules), (catalogue.extra, extra_tables)):
        for name in names:
            if name in wanted:
                continue
            wanted[name] = MoodleTable(name, rule.key, rule.strategy, rule.cursor, keep=rule.keep, known=False)
    optional = set(modules) - set(catalogue.tables)
    plans, missing, notes = [], [], []
    for name, table in wanted.items():
        found = source_tables.get(prefix + name)
        if found is None:
            if name not in optional:
                missing.append(name)
            continue
        policy = _Policy(table, privacy, decided.get(name, {}), prefix, profile_fields, hash_key)
        one = _plan_table(table, prefix, found, policy)
        if not one.columns:
            notes.append(f"{name}: nothing of it may be read under the privacy mode {privacy}; left out")
            continue
        plans.append(one)
    unlisted = sorted(
        name.removeprefix(prefix)
        for name in source_tables
        if name.startswith(prefix) and name.removeprefix(prefix) not in wanted
    )
    return SourcePlan(tuple(plans), tuple(sorted(missing)), tuple(unlisted), tuple(notes))


@dataclass(frozen=True)
class _Policy:
    """What happens to a table's columns: what the inventory decided first, then the catalogue's rules."""

    table: MoodleTable
    privacy: str
    decided: Mapping[str, str]
    prefix: str
    profile_fields: Sequence[str]
    hash_key: bytes

    def of(self, column: SourceColumn, is_text: bool) -> str:
        """keep, hash, drop, reduce, or unknown: text that nobody has looked at."""
        name, table = column.name, self.table
        if name in self.decided:
            return self.decided[name]
        if self.privacy == "keep":
            return "keep"
        for rule, names in (("drop", table.drop), ("hash", table.hash), ("reduce", table.reduce)):
            if name in names:
                return rule
        return "unknown" if is_text and name not in table.keep else "keep"

    def reduction(self, column: str) -> str:
        return _reduction(self.table.reduce[column], column, self.prefix, self.profile_fields)


def _plan_table(table: MoodleTable, prefix: str, columns: Sequence[SourceColumn], policy: _Policy) -> TablePlan:
    read, dropped, reduced, notes = [], [], [], []
    for column in columns:
        sql, spark_type = lake_type(column)
        long = column.data_type.lower() in _LONG
        if sql is None:
            dropped.append(column.name)
            notes.append(f"{column.name} ({column.column_type}) has no counterpart in the lake; left out")
            continue
        what = policy.of(column, spark_type in ("STRING", "BINARY"))
        if what in ("drop", "unknown"):
            dropped.append(column.name)
            if what == "unknown" and table.known:
                notes.append(f"{column.name} is text that the catalogue does not know; left out")
            continue
        if what == "reduce":
            sql = policy.reduction(column.name)
            long = long and not isinstance(table.reduce[column.name], JsonReduction)
        elif what == "hash":
            sql, spark_type = _keyed_hash(sql, spark_type, policy.hash_key), "STRING"
            long = False
        if what != "keep":
            reduced.append(column.name)
        read.append(ReadColumn(column.name, sql, spark_type, long))
    notes.extend(
        f"{name} has a rule in the inventory ({policy.decided[name]}), but the table has no such column"
        for name in policy.decided.keys() - {column.name for column in columns}
    )
    present = {column.name for column in columns}
    notes.extend(f"the key column {k} is missing" for k in table.key if k not in present and table.known)
    primary = {column.name for column in columns if column.primary}
    sure = set(table.key) == primary <= {column.name for column in read}
    numbers = [column.name for column in columns if lake_type(column)[1] in ("INT", "BIGINT", "DECIMAL(20,0)")]
    return TablePlan(
        table,
        prefix + table.name,
        tuple(read),
        tuple(dropped),
        tuple(reduced),
        tuple(notes),
        table.key if sure else (),
        person_columns(table.person, [*numbers, *[c.only[0] for c in table.person if c.only and c.only[0] in present]]),
    )


def lake_type(column: SourceColumn) -> tuple[str | None, str]:
    """The SQL that selects a column exactly, and its type in the lake; SQL None where there is none.

    Whole numbers keep their range (an unsigned BIGINT needs a decimal), TINYINT(1) is a number like any
    other, decimals keep precision and scale, dates and times stay the text that the server writes: zero
    dates have no other exact form.
    """
    name = quoted(column.name)
    kind = column.data_type.lower()
    if kind in ("tinyint", "smallint", "mediumint", "year"):
        return (f"CAST({name} AS UNSIGNED)" if kind == "year" else name), "INT"
    if kind in ("int", "integer"):
        return name, "BIGINT" if column.unsigned else "INT"
    if kind == "bigint":
        return name, "DECIMAL(20,0)" if column.unsigned else "BIGINT"
    if kind in ("decimal", "numeric"):
        precision, scale = column.precision or 10, column.scale or 0
        return (name, f"DECIMAL({precision},{scale})") if precision <= 38 else (f"CAST({name} AS CHAR)", "STRING")
    if kind in ("float", "double", "real"):
        # As a FLOAT the server would send no more than six digits of it.
        return f"{name} + 0e0", "FLOAT" if kind == "float" else "DOUBLE"
    if kind in ("char", "varchar", "tinytext", "text", "mediumtext", "longtext"):
        return name, "STRING"
    if kind in ("json", "enum", "set", "date", "datetime", "timestamp", "time"):
        return f"CAST({name} AS CHAR)", "STRING"
    if kind == "bit":
        return f"CAST({name} AS UNSIGNED)", "DECIMAL(20,0)"
    if kind in ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"):
        return name, "BINARY"
    return None, ""


def _reduction(
    rule: JsonReduction | ProfileFieldReduction, column: str, prefix: str, profile_fields: Sequence[str]
) -> str:
    name = quoted(column)
    if isinstance(rule, ProfileFieldReduction):
        if not profile_fields:
            return "CAST(NULL AS CHAR)"
        wanted = ", ".join(sql_text(f) for f in profile_fields)
        fields = f"SELECT id FROM {quoted(prefix + 'user_info_field')} WHERE shortname IN ({wanted})"
        return f"CASE WHEN {quoted(rule.column)} IN ({fields}) THEN {name} END"
    arms = []
    for event, keys in rule.events.items():
        arms.append(f"WHEN {sql_text(event)} THEN {_json_object(name, [tuple(k.split('.')) for k in keys])}")
    events = ", ".join(sql_text(event) for event in rule.events)
    return f"CASE WHEN `eventname` IN ({events}) AND JSON_VALID({name}) THEN CASE `eventname` {' '.join(arms)} END END"


def _keyed_hash(sql: str, spark_type: str, key: bytes) -> str:
    """HMAC-SHA256 of a value in 64 hex digits, null for null, made by the server: the value does not leave it.

    The statement holds the key's two blocks, hence a key that serves nothing else (config.PrivacyConfig.hash_key).
    """
    block = hashlib.sha256(key).digest() if len(key) > 64 else key
    inner, outer = (bytes(b ^ pad for b in block.ljust(64, b"\0")).hex() for pad in (0x36, 0x5C))
    value = sql if spark_type == "BINARY" else f"CONVERT({sql} USING utf8mb4)"
    return f"SHA2(CONCAT(X'{outer}', UNHEX(SHA2(CONCAT(X'{inner}', CAST({value} AS BINARY)), 256))), 256)"


def _json_object(column: str, paths: list[tuple[str, ...]], inside: tuple[str, ...] = ()) -> str:
    """A JSON object with the given paths of a JSON column; works the same on MariaDB and MySQL."""
    parts = []
    for name in dict.fromkeys(path[0] for path in paths):
        below = [path[1:] for path in paths if path[0] == name and len(path) > 1]
        here = (*inside, name)
        value = _json_object(column, below, here) if below else f"JSON_EXTRACT({column}, '$.{'.'.join(here)}')"
        parts.append(f"'{name}', {value}")
    return f"JSON_OBJECT({', '.join(parts)})"


def quoted(name: str) -> str:
    """A MySQL and Spark identifier."""
    return "`" + name.replace("`", "``") + "`"


def sql_text(value: str) -> str:
    """A string literal that holds under every sql_mode (backslashes mean different things in some)."""
    return f"_utf8mb4 X'{value.encode().hex()}'"
