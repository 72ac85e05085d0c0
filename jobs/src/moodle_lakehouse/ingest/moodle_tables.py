"""Read the catalogue of Moodle's tables (moodle_tables.yml) and plan how a site's actual columns are read.

The catalogue says what is known; the site's information_schema says what exists. plan() joins the two:
tables and columns that a site lacks are left out and reported, numbers that the catalogue does not know are
carried, text that it does not know is dropped and reported, since nobody has reviewed what people write there.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moodle_lakehouse.errors import LakehouseError, bullet_list, fault
from moodle_lakehouse.lake import table_names
from moodle_lakehouse.lake.table_names import quoted_name

FILE = "moodle_tables.yml"
Strategy = Literal["append", "merge", "snapshot", "history"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
_LONG = ("text", "mediumtext", "longtext", "json", "blob", "mediumblob", "longblob")
FULL_EVERY_HOURS = 20  # a table of strategy merge that is read every night is compared whole every night


@dataclass(frozen=True)
class JsonReduction:
    """A JSON column of the log: kept for some events, and of each only some keys (a.b is b inside a).

    named_by: the key that holds the module whose `name` it is, null for those that are named by their text.
    """

    events: dict[str, tuple[str, ...]]
    named_by: str | None = None


@dataclass(frozen=True)
class ProfileFieldReduction:
    """A profile field's value, kept for the configured fields; column holds the field's id."""

    column: str


@dataclass(frozen=True)
class PersonColumn:
    """A column that holds ids of users, and what erase-user does with a row that names an erased one there.

    mentioned: the row is about something or somebody else and only loses the id; otherwise the person is its subject and
    the row goes. when: another column and the value of it without which the number is no user's id. is_log_text: the
    column is text in which ids stand as "userid 7"; it loses those.
    """

    name: str
    mentioned: bool = False
    when: tuple[str, str | int] | None = None
    is_log_text: bool = False

    def condition(self, values: Iterable[str]) -> str:
        """Return the SQL that is true for rows that name one of the values (SQL literals); the same in MySQL and Spark."""
        named = f"{quoted_name(self.name)} IN ({', '.join(values)})"
        if self.when is None:
            return named
        column, value = self.when
        literal = str(value) if isinstance(value, int) else f"'{value}'"
        return f"({quoted_name(column)} = {literal} AND {named})"


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
    known: bool = True  # False: unlisted text columns are the rule and not reported
    person: tuple[PersonColumn, ...] = ()
    numbers: frozenset[str] = frozenset()  # whole numbers that are declared to be no user's id
    expected: frozenset[str] = frozenset()  # columns to be read that the catalogue names for this table alone

    @property
    def keeps_purged(self) -> bool:
        """Return whether rows stay in the lake that the source has purged."""
        return self.strategy in ("append", "history")

    def decided(self, rules: Mapping[str, str]) -> MoodleTable:
        """Return the table with what an inventory declares single columns to be: subject, mentioned or number."""
        people = {c: rule == "mentioned" for c, rule in rules.items() if rule in ("subject", "mentioned")}
        numbers = {c for c, rule in rules.items() if rule == "number"}
        if not people and not numbers:
            return self
        person = [c for c in self.person if c.name not in people and c.name not in numbers]
        person += [PersonColumn(name, mentioned=mentioned) for name, mentioned in people.items()]
        return replace(self, person=tuple(person), numbers=(self.numbers | numbers) - people.keys())


@dataclass(frozen=True)
class Catalogue:
    """All of moodle_tables.yml."""

    tables: dict[str, MoodleTable]
    module_instance: MoodleTable
    extra: MoodleTable

    def table(self, name: str, decided: Mapping[str, str], *, is_module: bool = False) -> MoodleTable:
        """Return what is known about a table, listed or not; decided: what the inventory says about its columns."""
        rule = self.module_instance if is_module else self.extra
        if name in table_names.NAMED_BY_TEXT:
            rule = replace(rule, keep=rule.keep - {"name"}, drop=rule.drop | {"name"})
        known = self.tables.get(name) or replace(rule, name=name)
        return known.decided(decided)


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
        """Return whether the number has no sign."""
        return "unsigned" in self.column_type


@dataclass(frozen=True)
class ReadColumn:
    """A column as it is read: the SQL that selects it and its type in the lake. long: a value may be megabytes.

    hashed: the SQL of the bytes whose keyed hash sql is; sql then holds the key and is the driver's alone (hashed_columns).
    """

    name: str
    sql: str
    spark_type: str
    long: bool = False
    policy: str = ""  # the SQL of the privacy policy alone, where sql leaves out erased people as well
    hashed: str = ""

    @property
    def is_number(self) -> bool:
        """Return whether the column is a number in the lake."""
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
        """Return the whole number by which new rows are found: of a key that is sure, and not for strategy snapshot."""
        if not self.key or self.table.strategy == "snapshot":
            return None
        return self.table.cursor if self._is_whole(self.table.cursor) else None

    @property
    def id_column(self) -> str | None:
        """Return the single whole number that identifies a row, by which the table can be read in ranges."""
        if len(self.table.key) != 1:
            return None
        name = self.table.key[0]
        return name if self._is_whole(name) else None

    @property
    def is_keyed_by_person(self) -> bool:
        """Return whether the id of a row is a user's, so that a range of ids tells of people."""
        return self.id_column in {rule.name for rule in self.person}

    def _is_whole(self, name: str | None) -> bool:
        return any(c.name == name and c.spark_type in ("INT", "BIGINT") for c in self.columns)

    def select(self, condition: str | None = None, names: Sequence[str] | None = None) -> str:
        """Return the SQL that reads the table with the privacy policy in it; names: of its columns, None: their own."""
        named = zip(self.columns, names or [c.name for c in self.columns], strict=True)
        expressions = ", ".join(
            c.sql if c.sql == quoted_name(name) else f"{c.sql} AS {quoted_name(name)}" for c, name in named
        )
        return f"SELECT {expressions} FROM {quoted_name(self.source)}{self.where(condition)}"

    def where(self, condition: str | None = None) -> str:
        """Return the WHERE clause for the rows that may be read and fulfil a condition; nothing for all."""
        both = " AND ".join(c for c in (self.readable, condition) if c)
        return f" WHERE {both}" if both else ""

    def schema(self) -> str:
        """Return the columns' types in Spark's words."""
        return ", ".join(f"{quoted_name(c.name)} {c.spark_type}" for c in self.columns)


@dataclass(frozen=True)
class SourcePlan:
    """How the whole site is read, and what differs from the catalogue."""

    tables: tuple[TablePlan, ...]
    missing: tuple[str, ...]
    missing_columns: tuple[str, ...]  # table.column, of tables that the site has
    unlisted: tuple[str, ...]
    notes: tuple[str, ...]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
_Path = Annotated[str, Field(pattern=r"^[a-z0-9_]+([.][a-z0-9_]+)*$")]
# They stand in SQL of source and lake alike, as they are.
_Condition = Annotated[dict[_Name, _Name | int], Field(min_length=1, max_length=1)]


class _JsonRule(_Model):
    json_: dict[str, list[_Path]] = Field(alias="json")
    named_by: _Path | None = None

    def reduction(self) -> JsonReduction:
        return JsonReduction({event: tuple(keys) for event, keys in self.json_.items()}, self.named_by)


class _ProfileRule(_Model):
    profile_fields: str

    def reduction(self) -> ProfileFieldReduction:
        return ProfileFieldReduction(self.profile_fields)


class _Text(_Model):
    keep: list[str] = []
    hash: list[str] = []
    drop: list[str] = []
    reduce: dict[str, _JsonRule | _ProfileRule] = {}


class _Table(_Model):
    key: Annotated[list[str], Field(min_length=1)]
    strategy: Strategy
    cursor: str | None = None
    since: str | None = None
    text: _Text = _Text()
    drop: list[str] = []
    full_every: Annotated[float, Field(ge=0)] = FULL_EVERY_HOURS
    person: dict[str, Literal["subject", "mentioned"] | _Condition] = {}
    numbers: list[str] = []

    @model_validator(mode="after")
    def _check(self) -> _Table:
        if self.strategy != "snapshot" and self.cursor is None:
            raise ValueError(f"strategy {self.strategy} needs a cursor")
        text = self.text
        for what, named in (
            ("policies", [*text.keep, *text.hash, *text.drop, *text.reduce, *self.drop]),
            ("declarations (person, numbers)", [*self.person, *self.numbers]),
        ):
            twice = sorted({c for c in named if named.count(c) > 1})
            if twice:
                raise ValueError(f"column {', '.join(twice)} has two {what}")
        return self

    def table(self, name: str, columns: _Columns, *, known: bool = True) -> MoodleTable:
        person = [
            PersonColumn(
                c, mentioned=rule == "mentioned", when=next(iter(rule.items())) if isinstance(rule, dict) else None
            )
            for c, rule in self.person.items()
        ]
        declared = {*self.person, *self.numbers}
        read = {*self.text.keep, *self.text.hash, *self.text.reduce, *declared, *([self.cursor] if self.cursor else [])}
        return MoodleTable(
            name=name,
            key=tuple(self.key),
            strategy=self.strategy,
            cursor=self.cursor,
            since=self.since,
            keep=frozenset(self.text.keep),
            hash=frozenset(self.text.hash),
            drop=frozenset([*self.text.drop, *self.drop]),
            reduce={c: rule.reduction() for c, rule in self.text.reduce.items()},
            full_every=self.full_every,
            known=known,
            person=(*person, *[c for c in columns.person() if c.name not in declared]),
            numbers=frozenset([*self.numbers, *columns.numbers]) - self.person.keys(),
            expected=frozenset(read - {*self.key, *self.drop}) if known else frozenset(),
        )


class _Columns(_Model):
    subject: list[str]
    mentioned: list[str]
    numbers: list[str]

    @model_validator(mode="after")
    def _check(self) -> _Columns:
        named = [*self.subject, *self.mentioned, *self.numbers]
        twice = sorted({c for c in named if named.count(c) > 1})
        if twice:
            raise ValueError(f"column {', '.join(twice)} has two declarations")
        return self

    def person(self) -> list[PersonColumn]:
        return [PersonColumn(c) for c in self.subject] + [PersonColumn(c, mentioned=True) for c in self.mentioned]


class _Document(_Model):
    columns: _Columns
    module_instance: _Table
    extra: _Table
    tables: dict[_Name, _Table]


def load() -> Catalogue:
    """Return the catalogue that comes with this package."""
    return parse(yaml.safe_load(importlib.resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8")))


def parse(document: Any) -> Catalogue:
    """Return the checked catalogue of a YAML's content; a wrong one is refused with every fault."""
    try:
        checked = _Document.model_validate(document)
    except ValidationError as error:
        raise LakehouseError(
            "The catalogue of Moodle's tables is not valid:\n"
            + bullet_list(dict.fromkeys(map(_fault, error.errors()))),
            where=FILE,
            remedy="correct the named keys; the head of the file says what each means",
        ) from None
    return Catalogue(
        {name: entry.table(name, checked.columns) for name, entry in checked.tables.items()},
        checked.module_instance.table("module_instance", checked.columns, known=False),
        checked.extra.table("extra", checked.columns, known=False),
    )


def _fault(error: Any) -> str:
    """Describe one of pydantic's errors; a rule that is none of several kinds is one fault, not one for each kind."""
    path = [str(part) for part in error["loc"]]
    for place, remedy in (
        ("person", "use subject, mentioned or one column and its value"),
        ("reduce", "use json or profile_fields"),
    ):
        if place in path[:-1]:
            at = path.index(place) + 2
            return f"{'.'.join(path[:at])}: {remedy}"
    return fault(error)


def person_columns(rules: Iterable[PersonColumn], columns: Sequence[str]) -> tuple[PersonColumn, ...]:
    """Return the rules that apply to a table of these columns."""
    return tuple(c for c in rules if c.name in columns and (c.when is None or c.when[0] in columns))


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
    """Return how every wanted table that the site has is read.

    source_tables: full table name -> its columns. modules: names of the site's activity modules, whose own
    tables are read as well. extra_tables: plugins' tables named by the inventory, without prefix; columns: what the
    inventory decides about single columns (table -> column -> keep, hash, drop, subject, mentioned or number);
    hash_key: of the hashed ones.
    """
    decided = columns or {}
    wanted = {name: catalogue.table(name, decided.get(name, {})) for name in catalogue.tables}
    for names, is_module in ((modules, True), (extra_tables, False)):
        for name in names:
            wanted.setdefault(name, catalogue.table(name, decided.get(name, {}), is_module=is_module))
    optional = set(modules) - set(catalogue.tables)
    plans, missing, missing_columns, notes = [], [], [], []
    for name, table in wanted.items():
        found = source_tables.get(prefix + name)
        if found is None:
            if name not in optional:
                missing.append(name)
            continue
        missing_columns += [f"{name}.{column}" for column in table.expected - {column.name for column in found}]
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
    return SourcePlan(
        tuple(plans), tuple(sorted(missing)), tuple(sorted(missing_columns)), tuple(unlisted), tuple(notes)
    )


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
        """Return keep, hash, drop, reduce, or unknown: text that nobody has reviewed."""
        name, table = column.name, self.table
        if name in self.decided:
            rule = self.decided[name]
            return rule if rule in ("hash", "drop") else "keep"
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
        what, hashed = policy.of(column, spark_type in ("STRING", "BINARY")), ""
        if what in ("drop", "unknown"):
            dropped.append(column.name)
            if what == "unknown" and table.known:
                notes.append(f"{column.name} is text that the catalogue does not know; left out")
            continue
        if what == "reduce":
            sql = policy.reduction(column.name)
            long = long and not isinstance(table.reduce[column.name], JsonReduction)
        elif what == "hash":
            hashed = _bytes(sql, spark_type)
            sql, spark_type = _keyed_hash(hashed, policy.hash_key), "STRING"
            long = False
        if what != "keep":
            reduced.append(column.name)
        read.append(ReadColumn(column.name, sql, spark_type, long, hashed=hashed))
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
        tuple(c for c in person_columns(table.person, sorted(present)) if c.name in numbers),
    )


def lake_type(column: SourceColumn) -> tuple[str | None, str]:
    """Return the SQL that selects a column exactly, and its type in the lake; SQL None where there is none.

    Whole numbers keep their range (an unsigned BIGINT needs a decimal), TINYINT(1) is a number like any
    other, decimals keep precision and scale, dates and times stay the text that the server writes: zero
    dates have no other exact form.
    """
    name = quoted_name(column.name)
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
    name = quoted_name(column)
    if isinstance(rule, ProfileFieldReduction):
        if not profile_fields:
            return "CAST(NULL AS CHAR)"
        wanted = ", ".join(sql_text(f) for f in profile_fields)
        fields = f"SELECT id FROM {quoted_name(prefix + 'user_info_field')} WHERE shortname IN ({wanted})"
        return f"CASE WHEN {quoted_name(rule.column)} IN ({fields}) THEN {name} END"
    from_json, from_php = [], []
    for event, keys in rule.events.items():
        paths = [tuple(k.split(".")) for k in keys]
        json = _json_object(name, paths, named_by=rule.named_by)
        php = _php_object(name, paths, named_by=rule.named_by)
        from_json.append(f"WHEN {sql_text(event)} THEN {json}")
        from_php.append(f"WHEN {sql_text(event)} THEN {php}")
    events = ", ".join(sql_text(event) for event in rule.events)
    return (
        f"CASE WHEN `eventname` NOT IN ({events}) THEN NULL"
        f" WHEN JSON_VALID({name}) THEN CASE `eventname` {' '.join(from_json)} END"
        f" WHEN {name} LIKE {sql_text('a:%:{%}')} THEN CASE `eventname` {' '.join(from_php)} END END"
    )


def _bytes(sql: str, spark_type: str) -> str:
    """Return the SQL of a value's bytes, of text in UTF-8."""
    return f"CAST({sql if spark_type == 'BINARY' else f'CONVERT({sql} USING utf8mb4)'} AS BINARY)"


def _keyed_hash(value: str, key: bytes) -> str:
    """Return the SQL of the HMAC-SHA256 of bytes in 64 hex digits, null for null, made by the server: they do not leave it.

    The statement holds the key's two blocks, hence a key that serves nothing else (config.PrivacyConfig.hash_key).
    """
    block = hashlib.sha256(key).digest() if len(key) > 64 else key
    inner, outer = (bytes(b ^ pad for b in block.ljust(64, b"\0")).hex() for pad in (0x36, 0x5C))
    return f"SHA2(CONCAT(X'{outer}', UNHEX(SHA2(CONCAT(X'{inner}', {value}), 256))), 256)"


def _json_object(
    column: str, paths: list[tuple[str, ...]], inside: tuple[str, ...] = (), *, named_by: str | None = None
) -> str:
    """Return the SQL of a JSON object with the given paths of a JSON column; works the same on MariaDB and MySQL."""
    parts = []
    for name in dict.fromkeys(path[0] for path in paths):
        below = [path[1:] for path in paths if path[0] == name and len(path) > 1]
        here = (*inside, name)
        source = _if_named(column, named_by) if named_by and here == ("name",) else column
        value = _json_object(column, below, here) if below else f"JSON_EXTRACT({source}, '$.{'.'.join(here)}')"
        parts.append(f"'{name}', {value}")
    return f"JSON_OBJECT({', '.join(parts)})"


def _php_object(column: str, paths: list[tuple[str, ...]], *, named_by: str | None = None) -> str:
    """Return the SQL of a JSON object with the given paths of a column in PHP's own format, as sites without JSON keep it.

    A key is looked for as serialize() writes it, from the start of the array around it: Moodle writes what people typed
    (name) after the keys that tell what it is.
    """
    parts = []
    for name in dict.fromkeys(path[0] for path in paths):
        below = [path[1:] for path in paths if path[0] == name and len(path) > 1]
        rest = _after_php_key(column, name)
        value = _php_object(rest, below) if below else _php_word(rest)
        if named_by and name == "name":
            texts = ", ".join(sql_text(module) for module in table_names.NAMED_BY_TEXT)
            value = (
                f"CASE WHEN {_php_word(_after_php_key(column, named_by))} NOT IN ({texts}) THEN {_php_text(rest)} END"
            )
        parts.append(f"'{name}', {value}")
    return f"JSON_OBJECT({', '.join(parts)})"


def _after_php_key(column: str, key: str) -> str:
    """Return the SQL of what follows a key in PHP's format; null where there is no such key."""
    token = f's:{len(key)}:"{key}";'
    return f"SUBSTRING({column}, NULLIF(LOCATE({sql_text(token)}, {column}), 0) + {len(token)})"


def _php_word(rest: str) -> str:
    """Return the SQL of the word or number that a text in PHP's format (s:4:"quiz"; i:9; N;) begins with, null for N."""
    return f"NULLIF(TRIM(BOTH '\"' FROM SUBSTRING_INDEX(SUBSTRING_INDEX({rest}, ';', 1), ':', -1)), 'N')"


def _php_text(rest: str) -> str:
    """Return the SQL of the text that a text in PHP's format begins with: any, since its length in bytes stands before it."""
    length = f"CAST(SUBSTRING_INDEX(SUBSTRING({rest}, 3), ':', 1) AS UNSIGNED)"
    begin = f"LENGTH(SUBSTRING_INDEX({rest}, '\"', 1)) + 2"
    text = f"CONVERT(SUBSTRING(CAST(CONVERT({rest} USING utf8mb4) AS BINARY), {begin}, {length}) USING utf8mb4)"
    return f"CASE WHEN {rest} LIKE {sql_text('s:%')} THEN {text} END"


def _if_named(column: str, named_by: str) -> str:
    """Return the SQL of a JSON column, an empty object unless the module that one of its keys names has a name of its own."""
    texts = ", ".join(sql_text(module) for module in table_names.NAMED_BY_TEXT)
    module = f"JSON_UNQUOTE(JSON_EXTRACT({column}, '$.{named_by}'))"
    return f"CASE WHEN {module} NOT IN ({texts}) THEN {column} ELSE '{{}}' END"


def private_number(number: int) -> str:
    """Return the SQL, of source and lake alike, of a number that may be somebody's id: jdbc_reader keeps it out of plans."""
    return f"/*id*/{number}"


def sql_text(value: str) -> str:
    """Return a string literal that holds under every sql_mode (backslashes mean different things in some)."""
    return f"_utf8mb4 X'{value.encode().hex()}'"
