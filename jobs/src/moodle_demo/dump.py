"""A dump of somebody's own Moodle database: split into statements, checked, and sent to the demo database.

Only statements about tables with the prefix are sent, and only those that a dump of tables consists of; whatever could
reach beyond the demo database (USE, CREATE DATABASE, a table name with a database before it, ...) is refused.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from moodle_demo.errors import UsageError

# Without these it is no Moodle, or nothing can be said about its students.
REQUIRED = (
    "context", "course", "course_modules", "enrol", "grade_grades", "grade_items", "logstore_standard_log", "modules",
    "role", "role_assignments", "user", "user_enrolments",
)  # fmt: skip
REMEDY = (
    "Make the dump by `mysqldump --single-transaction --skip-triggers DATABASE > FILE` (without --databases), of a Moodle"
    " on MySQL or MariaDB."
)
_CHUNK = 1 << 20
# What may begin a token: the end of a statement, a quoted text, a comment.
_TOKEN = re.compile(rb";|'|\"|`|--[\s]|#|/\*")
_QUOTED = {
    b"'": re.compile(rb"[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL),
    b'"': re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL),
    b"`": re.compile(rb"[^`]*`"),
}
_COMMENTS = re.compile(rb"/\*(?!M?!).*?\*/|/\*M!999999.*?\*/|--[\s][^\n]*(?:\n|$)|#[^\n]*(?:\n|$)", re.DOTALL)
_EXECUTABLE = re.compile(rb"/\*M?!\d*|\*/")
_NAME = rb"(`[^`]+`|[\w$]+)"
_ROWS = re.compile(
    rb"(INSERT(?:\s+IGNORE)?\s+INTO|REPLACE\s+INTO)\s+" + _NAME + rb"\s*(?:\([^()]*\)\s*)?VALUES?\b", re.IGNORECASE
)
_TABLE = re.compile(
    rb"(CREATE\s+TABLE(?:\s+IF\s+NOT\s+EXISTS)?|DROP\s+TABLE(?:\s+IF\s+EXISTS)?|ALTER\s+TABLE|LOCK\s+TABLES)\s+"
    + _NAME,
    re.IGNORECASE,
)
_TEXTS = re.compile(rb"'[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL)
_NAMES = re.compile(rb"`[^`]*`")
_BEYOND = re.compile(rb"[\w$]\s*\.\s*[a-z_$]|\b(SELECT|RENAME|LIKE|DIRECTORY|CONNECTION)\b", re.IGNORECASE)
_HARMLESS = re.compile(rb"(SET|UNLOCK\s+TABLES|START\s+TRANSACTION|BEGIN|COMMIT)\b", re.IGNORECASE)
# The dumping server's own replication, which the demo's user may not set and needn't.
_REPLICATION = re.compile(rb"SET\s.*(@@GLOBAL\.|@@SESSION\.SQL_LOG_BIN)", re.IGNORECASE | re.DOTALL)
# Collations of MySQL 8 that MariaDB does not have.
_COLLATION = re.compile(rb"utf8mb4_0900_(ai_ci|as_ci|as_cs|bin)")


@dataclass(frozen=True)
class Statement:
    """One statement; `table` is None when it is about none, `skipped` when it says nothing about tables."""

    text: bytes
    verb: str
    table: str | None = None
    skipped: bool = False


def check_file(file: Path) -> None:
    """Raise UsageError unless there is a file to read."""
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise UsageError(f"Dump {file} {what}. Give a file made by mysqldump, plain or .gz, as --dump.")


def check(file: Path, prefix: str) -> set[str]:
    """Read the whole dump; raise UsageError on what can't be loaded; return the tables without the prefix."""
    created: set[str] = set()
    for statement in statements(file):
        if statement.verb.startswith("CREATE") and statement.table is not None:
            created.add(statement.table)
    mine = {name.removeprefix(prefix) for name in created if name.startswith(prefix)}
    missing = [name for name in REQUIRED if name not in mine]
    if missing:
        other = sorted(
            name.removesuffix("logstore_standard_log") for name in created if name.endswith("logstore_standard_log")
        )
        hint = f"Its tables begin with {other[0]!r}: give that as --prefix." if other and other[0] != prefix else REMEDY
        tables = ", ".join(prefix + name for name in missing)
        raise UsageError(f"Dump {file} creates no table {tables}, which every Moodle has. {hint}")
    return mine


def load(file: Path, prefix: str) -> Iterator[bytes]:
    """The statements to send, in order."""
    for statement in statements(file):
        if statement.skipped or (statement.table is not None and not statement.table.startswith(prefix)):
            continue
        text = statement.text
        if statement.verb.startswith("CREATE"):
            text = _COLLATION.sub(b"utf8mb4_unicode_ci", text)
        yield text


def statements(file: Path) -> Iterator[Statement]:
    """Every statement of the dump but empty ones, each checked."""
    try:
        with _open(file) as stream:
            for text, line in split(stream):
                statement = _classify(file, text, line)
                if statement is not None:
                    yield statement
    except _UnfinishedError as error:
        raise UsageError(
            f"Dump {file}, line {error.line}: the statement that begins here has no end; the file is cut off. {REMEDY}"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"Dump {file}: not a whole gzip file ({error}). Copy it again.") from error
    except OSError as error:
        raise UsageError(f"Dump {file}: {error.strerror or error}. Make it readable.") from error


class _UnfinishedError(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def split(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Statements without their semicolons, and the lines they begin on; memory holds one statement."""
    buffer, line = b"", 1
    position, done = 0, False  # before `position` there is no end of a statement
    while True:
        end, position = _scan(buffer, position, done)
        if end is not None:
            text = buffer[:end]
            yield text, _first_line(text, line)
            line += text.count(b"\n")
            buffer, position = buffer[end + 1 :], 0
            continue
        if done:
            rest = _COMMENTS.sub(b"", buffer).strip()
            if rest:
                raise _UnfinishedError(_first_line(buffer, line))
            return
        chunk = stream.read(_CHUNK)
        done = not chunk
        buffer += chunk


def _first_line(text: bytes, line: int) -> int:
    """The line on which a statement's own text begins."""
    return line + text[: len(text) - len(text.lstrip())].count(b"\n")


def _scan(buffer: bytes, position: int, done: bool) -> tuple[int | None, int]:
    """Where the statement ends, or None and the place from which to go on when there is more of the file."""
    while True:
        token = _TOKEN.search(buffer, position)
        if token is None:
            return None, max(position, len(buffer) - 2)  # a comment's first characters may stand at the end
        mark = token[0]
        if mark == b";":
            return token.start(), 0
        if mark in _QUOTED:
            closed = _QUOTED[mark].match(buffer, token.end())
            finish = closed.end() if closed else -1
        elif mark == b"/*":
            place = buffer.find(b"*/", token.end())
            finish = place + 2 if place >= 0 else -1
        else:
            place = buffer.find(b"\n", token.end() - 1)
            finish = place + 1 if place >= 0 else (len(buffer) if done else -1)
        if finish < 0:
            return None, token.start()
        position = finish


def _classify(file: Path, text: bytes, line: int) -> Statement | None:
    """What a statement does; None when it is only a comment."""
    head = _EXECUTABLE.sub(b" ", _COMMENTS.sub(b" ", text[:20000])).strip()
    if not head:
        return None
    if rows := _ROWS.match(head):
        return Statement(text, _word(rows[1]), _word(rows[2].strip(b"`"), upper=False))
    if (table := _TABLE.match(head)) and not _beyond(table[1], text):
        return Statement(text, _word(table[1]), _word(table[2].strip(b"`"), upper=False))
    if verb := _HARMLESS.match(head):
        skipped = _REPLICATION.match(head) is not None
        if skipped or not re.search(rb"\bGLOBAL\b", head, re.IGNORECASE):
            return Statement(text, _word(verb[1]), skipped=skipped)
    shown = " ".join(head[:200].decode("utf-8", "replace").split())[:60]
    raise UsageError(
        f"Dump {file}, line {line}: {shown!r} is not what a dump of one database's tables consists of, and won't be run."
        f" {REMEDY}"
    )


def _beyond(verb: bytes, text: bytes) -> bool:
    """Whether a statement about a table names another database, or more than one table at a time."""
    plain = _EXECUTABLE.sub(b" ", _COMMENTS.sub(b" ", _NAMES.sub(b"x", _TEXTS.sub(b"''", text))))
    several = not _word(verb).startswith(("CREATE", "ALTER")) and b"," in plain
    return several or _BEYOND.search(plain) is not None


def _word(text: bytes, upper: bool = True) -> str:
    word = " ".join(text.decode("utf-8", "replace").split())
    return word.upper() if upper else word


def _open(file: Path) -> BinaryIO:
    with open(file, "rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(file) if packed else open(file, "rb")  # type: ignore[return-value]
