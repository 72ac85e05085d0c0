"""The demo database: whose tables these are, and the fast way of filling them.

The table `lakehouse_demo_load` (outside Moodle's prefix) has one row per prefix: what was loaded, and when the load
began and ended. A row without end is an interrupted load, which the next one replaces. Tables with the prefix but
without a row were not made by this program and are never touched.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pymysql
import pymysql.cursors

from moodle_demo import schema
from moodle_demo.errors import DemoError, UsageError
from moodle_demo.settings import Connection

MARKER = "lakehouse_demo_load"
LARGEST = "logstore_standard_log"
_CSV = pa.csv.WriteOptions(include_header=False, quoting_style="needed")


@dataclass(frozen=True)
class Marker:
    """One row of the marker table: the data set under a prefix; `finished` is False for an interrupted load."""

    dataset: str
    fingerprint: str
    parameters: str
    finished: bool


class Database:
    """One connection to the demo database, with its tables under one prefix."""

    def __init__(self, settings: Connection) -> None:
        self.settings = settings
        self.prefix = settings.prefix
        self._connection = _connect(settings)
        self._keys_later = False
        self._sorter: _Sorter | None = None

    def close(self) -> None:
        """Close the connection; the lock of the load goes with it."""
        self._connection.close()

    def execute(self, sql: str, arguments: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, arguments or None)
                return list(cursor.fetchall())
        except pymysql.MySQLError as error:
            code, message = _reason(error)
            raise DemoError(
                f"Database {self.settings}: {message} ({code}) at {' '.join(sql.split())[:60]!r}. The user"
                f" {self.settings.user} needs every right in the database; then load again."
            ) from error

    def names(self) -> list[str]:
        """Every table of the database that carries the prefix, with it."""
        rows = self.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()")
        return sorted(str(row[0]) for row in rows if str(row[0]).startswith(self.prefix) and row[0] != MARKER)

    def marker(self) -> Marker | None:
        """What the marker table says about this prefix, None when it has no row."""
        if not self.execute(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s", (MARKER,)
        ):
            return None
        rows = self.execute(
            f"SELECT dataset, fingerprint, parameters, finished_at FROM {MARKER} WHERE prefix = %s", (self.prefix,)
        )
        return Marker(rows[0][0], rows[0][1], rows[0][2], rows[0][3] is not None) if rows else None

    def lock(self, wait: int = 0) -> bool:
        """Take the load's lock, which ends with the connection; return whether that was possible within `wait` seconds."""
        return self.execute("SELECT GET_LOCK(CONCAT(DATABASE(), %s), %s)", (f".{MARKER}", wait)) == [(1,)]

    def refuse_foreign_tables(self) -> None:
        """Raise UsageError when there are tables under the prefix that no load of this program made."""
        if self.marker() is None and self.names():
            raise UsageError(
                f"Database {self.settings.database} on {self.settings.host} has tables {self.prefix}* that moodle-demo"
                f" did not make ({', '.join(self.names()[:3])}, ...). It won't touch them, not even with --force:"
                " choose another --database or --prefix, or drop them yourself."
            )

    def begin(self, marker: Marker) -> None:
        """Note that a load begins, then drop every table under the prefix (only ever those of an earlier load)."""
        self.execute(
            f"CREATE TABLE IF NOT EXISTS {MARKER} (prefix VARCHAR(64) NOT NULL PRIMARY KEY, dataset VARCHAR(32) NOT"
            " NULL, fingerprint CHAR(64) NOT NULL, parameters LONGTEXT NOT NULL, started_at DATETIME NOT NULL,"
            " finished_at DATETIME NULL) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
        )
        self.execute(
            f"REPLACE INTO {MARKER} VALUES (%s, %s, %s, %s, UTC_TIMESTAMP(), NULL)",
            (self.prefix, marker.dataset, marker.fingerprint, marker.parameters),
        )
        names = self.names()
        if names:
            self.execute("DROP TABLE " + ", ".join(map(_quoted, names)))

    def finish(self) -> None:
        """Wait for the keys that are still being made, then note that the load is complete."""
        if self._sorter is not None:
            self._sorter.join()
            if self._sorter.error is not None:
                raise self._sorter.error
        self.execute(f"UPDATE {MARKER} SET finished_at = UTC_TIMESTAMP() WHERE prefix = %s", (self.prefix,))

    def create(self, names: Iterable[str]) -> None:
        """Create tables of schema.yml, empty.

        The largest gets its keys when it is full: sorting them then is much faster than keeping them in order. It takes
        the server temporary files of some 300 bytes a row, though, which may be memory where they lie in /tmp.
        """
        self._keys_later = self.execute("SELECT @@tmpdir")[0][0] not in ("/tmp", "/dev/shm")
        for name in names:
            later = self._keys_later and name == LARGEST
            self.execute(schema.tables()[name].create(self.prefix, keys=not later))

    def send(self, statement: bytes) -> None:
        """Run one statement of a dump as it is."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement)  # type: ignore[arg-type]  # bytes are sent unchanged
        except pymysql.MySQLError as error:
            code, message = _reason(error)
            head = statement[:80].decode("utf-8", "replace")
            hint = "Raise max_allowed_packet of the server." if code == 1153 else "Is it a dump of MySQL or MariaDB?"
            raise DemoError(
                f"The server refused a statement of the dump: {message} ({code}): {head!r}. {hint}"
            ) from error

    def counts(self) -> dict[str, int]:
        """Rows of every table under the prefix, by name without it."""
        return {
            name.removeprefix(self.prefix): int(self.execute(f"SELECT COUNT(*) FROM {_quoted(name)}")[0][0])
            for name in self.names()
        }

    def load(self, name: str, batches: Iterable[pa.Table]) -> int:
        """Fill one empty table from Arrow tables of equal columns, as one LOAD DATA LOCAL; return the rows.

        Columns that are left out get their defaults; an empty value of a nullable column is NULL. The rows are written
        as CSV into a named pipe by a thread while the server reads, so neither waits for the other and memory holds
        one batch.
        """
        stream = iter(batches)
        first = next(stream, None)
        if first is None:
            return 0
        statement = self._statement(name, first.column_names)
        with tempfile.TemporaryDirectory(prefix="moodle-demo-") as folder:
            pipe = os.path.join(folder, f"{name}.csv")
            os.mkfifo(pipe, 0o600)
            writer = _Writer(pipe, first, stream)
            writer.start()
            try:
                with self._connection.cursor() as cursor:
                    rows = cursor.execute(statement, (pipe,))
            except pymysql.MySQLError as error:
                writer.abandon()
                if writer.error is None:
                    raise _load_error(name, error) from error
            finally:
                writer.abandon()
            if writer.error is not None:
                raise writer.error
        if rows != writer.rows:
            raise DemoError(f"Table {self.prefix}{name}: {writer.rows} rows were sent, {rows} arrived. Load again.")
        if self._keys_later and name == LARGEST:
            self._sorter = _Sorter(self.settings, schema.tables()[name].add_keys(self.prefix))
            self._sorter.start()
        return rows

    def _statement(self, name: str, given: list[str]) -> str:
        """The LOAD DATA statement; %s stands for the file."""
        columns = {column.name: column for column in schema.tables()[name].columns}
        unknown = set(given) - set(columns)
        if unknown:
            raise KeyError(f"{name} has no columns {sorted(unknown)}")
        targets, settings = [], []
        for item in given:
            targets.append(f"@{item}" if columns[item].nullable else f"`{item}`")
            if columns[item].nullable:
                settings.append(f"`{item}` = NULLIF(@{item}, '')")
        for column in columns.values():
            required = not column.nullable and column.default is None and column.name not in (*given, "id")
            if required and column.is_text:
                settings.append(f"`{column.name}` = ''")
            elif required:
                raise KeyError(f"{name}.{column.name} has no default and was not given")
        return (
            f"LOAD DATA LOCAL INFILE %s INTO TABLE `{self.prefix}{name}` CHARACTER SET utf8mb4"
            " FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' ESCAPED BY '' LINES TERMINATED BY '\\n'"
            f" ({', '.join(targets)})" + (f" SET {', '.join(settings)}" if settings else "")
        )


class _Writer(threading.Thread):
    """Writes Arrow tables as CSV into a named pipe; keeps the error that ended it, if one did."""

    def __init__(self, pipe: str, first: pa.Table, rest: Iterator[pa.Table]) -> None:
        super().__init__(daemon=True, name="moodle-demo-writer")
        self._pipe, self._first, self._rest = pipe, first, rest
        self.rows = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with (
                open(self._pipe, "wb") as sink,
                contextlib.closing(pa.csv.CSVWriter(sink, self._first.schema, write_options=_CSV)) as writer,
            ):
                batch: pa.Table | None = self._first
                while batch is not None:
                    writer.write_table(batch)
                    self.rows += batch.num_rows
                    batch = next(self._rest, None)
        except BrokenPipeError:
            pass
        except Exception as error:  # carried to the thread that waits for this one
            if not (isinstance(error, OSError) and "Broken pipe" in str(error)):
                self.error = error

    def abandon(self) -> None:
        """Let the thread end, also when nobody ever opened the pipe for reading."""
        if self.is_alive():
            with contextlib.suppress(OSError):
                reader = os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK)
                self.join(timeout=0.2)
                os.close(reader)
        self.join(timeout=30)


class _Sorter(threading.Thread):
    """Adds the largest table's keys over a connection of its own, while the other tables are loaded."""

    def __init__(self, settings: Connection, statement: str) -> None:
        super().__init__(daemon=True, name="moodle-demo-keys")
        self._settings, self._statement = settings, statement
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            connection = _connect(self._settings)
            with contextlib.closing(connection), connection.cursor() as cursor:
                cursor.execute(self._statement)
        except pymysql.MySQLError as error:
            self.error = _load_error(LARGEST, error)
        except DemoError as error:
            self.error = error


def _connect(settings: Connection) -> pymysql.Connection[pymysql.cursors.Cursor]:
    try:
        return pymysql.connect(
            host=settings.host,
            port=settings.port,
            user=settings.user,
            password=settings.password,
            database=settings.database,
            charset="utf8mb4",
            autocommit=True,
            local_infile=True,
            connect_timeout=10,
            init_command="SET SESSION foreign_key_checks = 0, time_zone = '+00:00',"
            " sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO'",
        )
    except pymysql.MySQLError as error:
        code, message = _reason(error)
        if code == 1045:
            raise UsageError(
                f"Database {settings} refused the password. Compare the password file with the user's password there."
            ) from error
        if code in (1044, 1049):
            raise UsageError(
                f"Database {settings}: {message}. Create it, and grant the user everything in it."
            ) from error
        raise DemoError(
            f"Database {settings} cannot be reached: {message}. Is it running, and are host and port right?"
        ) from error


def _quoted(name: str) -> str:
    """Return the name of somebody's table as SQL wants it."""
    return "`" + name.replace("`", "``") + "`"


def _reason(error: pymysql.MySQLError) -> tuple[int, str]:
    """The server's code and words."""
    arguments = [*list(error.args), 0, str(error)]
    return int(arguments[0]), str(arguments[1])


def _load_error(name: str, error: pymysql.MySQLError) -> DemoError:
    code, message = _reason(error)
    if code in (1148, 3948, 4166):
        return DemoError("The database server refuses LOAD DATA LOCAL: set local_infile=ON there, then load again.")
    return DemoError(f"Table {name} could not be loaded: {message} ({code}). Correct that and load again.")
