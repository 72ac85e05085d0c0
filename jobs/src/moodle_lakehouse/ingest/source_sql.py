"""Query Moodle's database for what the driver needs to know: its tables, rows, ids and checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymysql.cursors import Cursor

from moodle_lakehouse.config import MoodleConfig
from moodle_lakehouse.errors import SourceError
from moodle_lakehouse.ingest import row_checksum
from moodle_lakehouse.ingest.moodle_tables import SourceColumn, TablePlan
from moodle_lakehouse.ingest.row_checksum import RowsChecksum
from moodle_lakehouse.lake.table_names import quoted_name


@dataclass(frozen=True)
class TableExtent:
    """Rows of a table or a part of it and, where there is one, the range of its numeric id and the last cursor value."""

    rows: int
    low: int | None
    high: int | None
    last: int | None = None


@dataclass(frozen=True)
class SiteIdentity:
    """What tells a Moodle from others: hash of its siteidentifier, creation of its first course and user (s since 1970).

    None: not known, which is no difference.
    """

    identifier: str | None
    course_created: int | None
    user_created: int | None

    def differences(self, other: SiteIdentity) -> list[str]:
        """Return what both know and is not the same."""
        names = {
            "identifier": "siteidentifier",
            "course_created": "creation of the first course",
            "user_created": "creation of the first user",
        }
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return [names[name] for name, (one, two) in pairs.items() if None not in (one, two) and one != two]


def tables(cursor: Cursor, moodle: MoodleConfig) -> dict[str, list[SourceColumn]]:
    """Return the site's tables and views (full names, with Moodle's prefix) and their columns in order.

    Of a system-versioned table these are the current rows; a view has no primary key, so it has no sure id. Raises SourceError when the database is not Moodle's.
    """
    cursor.execute(
        "SELECT c.table_name, c.column_name, c.data_type, c.column_type, c.numeric_precision, c.numeric_scale, c.column_key"
        " FROM information_schema.columns c JOIN information_schema.tables t"
        " ON t.table_schema = c.table_schema AND t.table_name = c.table_name"
        " WHERE c.table_schema = %s AND t.table_type IN ('BASE TABLE', 'SYSTEM VERSIONED', 'VIEW') ORDER BY c.table_name, c.ordinal_position",
        (moodle.database,),
    )
    found: dict[str, list[SourceColumn]] = {}
    for table, name, data_type, column_type, precision, scale, key in cursor.fetchall():
        if table.startswith(moodle.prefix):
            kind, full = _text(data_type).lower(), _text(column_type).lower()
            column = SourceColumn(name, kind, full, precision, scale, primary=_text(key) == "PRI")
            found.setdefault(table, []).append(column)
    needed = [moodle.prefix + name for name in ("course", "user", "logstore_standard_log")]
    absent = [name for name in needed if name not in found]
    if absent:
        raise SourceError(
            f"This is no Moodle database: it has no table {', '.join(absent)}",
            where=moodle.endpoint,
            remedy=f"check the database's name and Moodle's prefix (now {moodle.prefix!r}), or load the demo data",
        )
    return found


def module_names(cursor: Cursor, moodle: MoodleConfig) -> list[str]:
    """Return the names of the installed activity modules: each has a table of its own name."""
    cursor.execute(f"SELECT name FROM {quoted_name(moodle.prefix + 'modules')} ORDER BY id")
    return [str(row[0]) for row in cursor.fetchall()]


def site_identity(cursor: Cursor, moodle: MoodleConfig, found: Mapping[str, Sequence[SourceColumn]]) -> SiteIdentity:
    """Return what tells this Moodle from others, as far as its tables (of tables()) say it."""

    def value(table: str, column: str, rest: str) -> Any:
        full = moodle.prefix + table
        if column not in {one.name for one in found.get(full, ())}:
            return None
        cursor.execute(f"SELECT {quoted_name(column)} FROM {quoted_name(full)} {rest} LIMIT 1")
        row = cursor.fetchone()
        return None if row is None else row[0]

    identifier = value("config", "value", "WHERE name = 'siteidentifier'")
    created = [value(table, "timecreated", "ORDER BY id") for table in ("course", "user")]
    return SiteIdentity(
        None if identifier is None else hashlib.sha256(_text(identifier).encode()).hexdigest(),
        *(None if moment is None else int(moment) for moment in created),
    )


def estimated_rows(cursor: Cursor, moodle: MoodleConfig) -> dict[str, int]:
    """Return the server's estimate of each table's rows, by full name: good for an order, not for a number."""
    cursor.execute(
        "SELECT table_name, table_rows FROM information_schema.tables WHERE table_schema = %s", (moodle.database,)
    )
    return {_text(name): int(rows or 0) for name, rows in cursor.fetchall()}


def extent(cursor: Cursor, plan: TablePlan, condition: str | None = None) -> TableExtent:
    """Return the exact number of rows that fulfil a condition, the range of their ids and their last cursor value."""
    key, last = plan.id_column, plan.cursor
    parts = [f"MIN({quoted_name(key)}), MAX({quoted_name(key)})" if key else "NULL, NULL"]
    # A clock that runs ahead must not hide what is written until then.
    parts.append(f"LEAST(MAX({quoted_name(last)}), UNIX_TIMESTAMP())" if last and last != key else "NULL")
    cursor.execute(f"SELECT COUNT(*), {', '.join(parts)} FROM {quoted_name(plan.source)}{plan.where(condition)}")
    row = cursor.fetchone()
    assert row is not None
    low, high, latest = (None if v is None else int(v) for v in row[1:])
    return TableExtent(int(row[0]), low, high, high if last == key else latest)


def count(cursor: Cursor, plan: TablePlan, condition: str | None) -> int:
    """Return the number of rows that fulfil a condition; None: all rows."""
    cursor.execute(f"SELECT COUNT(*) FROM {quoted_name(plan.source)}{plan.where(condition)}")
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def longest_row(cursor: Cursor, plan: TablePlan, condition: str | None) -> int:
    """Return the bytes of the long columns of the row where they are longest; 0 when the plan has none."""
    lengths = [f"IFNULL(LENGTH({c.sql}), 0)" for c in plan.columns if c.long]
    if not lengths:
        return 0
    cursor.execute(f"SELECT MAX({' + '.join(lengths)}) FROM {quoted_name(plan.source)}{plan.where(condition)}")
    row = cursor.fetchone()
    assert row is not None
    return int(row[0] or 0)


def checksum(cursor: Cursor, plan: TablePlan, condition: str | None = None) -> str | None:
    """Return the checksum of the rows as they would be read, privacy applied: equal when the rows are equal.

    None where the server computes no SHA-256: then nothing is known.
    """
    found = checksums(cursor, plan, condition)
    return None if found is None else str(found.get(0, RowsChecksum(0, 0)))


def checksums(
    cursor: Cursor, plan: TablePlan, condition: str | None = None, part: str = "0"
) -> dict[int, RowsChecksum] | None:
    """Return the checksum of each part's rows, by the part's number.

    part: SQL for the number of a row's part. None as for checksum().
    """
    cursor.execute(
        f"SELECT part, COUNT(*), COUNT(h), {row_checksum.sql_total('h')} FROM"
        f" (SELECT {part} AS part, {row_checksum.sql_hash(plan)} AS h"
        f" FROM {quoted_name(plan.source)}{plan.where(condition)}) t"
        " GROUP BY part"
    )
    found = cursor.fetchall()
    if any(rows != hashed for _, rows, hashed, _ in found):
        return None
    return {int(part): RowsChecksum(int(rows), int(total)) for part, rows, _, total in found}


def _text(value: Any) -> str:
    """Decode a text column of information_schema, which MySQL 8 returns as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
