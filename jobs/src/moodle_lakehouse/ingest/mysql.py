"""Moodle's database as the jobs' driver sees it: what tables there are, how many rows, which ids."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pymysql
from pymysql.cursors import Cursor

from moodle_lakehouse.config import MoodleConfig
from moodle_lakehouse.errors import ConfigError, LakehouseError, SourceError
from moodle_lakehouse.ingest import row_checksum
from moodle_lakehouse.ingest.moodle_tables import SourceColumn, TablePlan, quoted
from moodle_lakehouse.ingest.row_checksum import Sum

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10
PAUSES = (1, 4, 10)  # seconds before another attempt, where a later one may do: a restart, a moment of too many

# Too many connections (of all, of this user), a shutdown or a broken connection; locks held by others.
_PASSING = {1040, 1053, 1158, 1159, 1160, 1161, 1203, 1205, 1213, 1226, 2002, 2003, 2006, 2013}

# What the server or the client says, and what a person can do about it.
_REMEDIES = {
    1044: "grant the user SELECT on Moodle's database",
    1045: "check moodle user and password (vault_moodle_db_password of the inventory)",
    1049: "check the name of Moodle's database in the inventory",
    1130: "let the database accept this machine (CREATE USER ... @'host')",
    1142: "grant the user SELECT on Moodle's tables",
    1040: "the server has no connection left: see its max_connections, or lower lakehouse_moodle_max_connections",
    1203: "the user has too many connections: lower lakehouse_moodle_max_connections",
    1226: "the user has too many connections: lower lakehouse_moodle_max_connections",
    # MariaDB says this of a user that does not exist as well as of one without a password.
    1698: "check moodle user and password (an account that logs in by socket only needs a password)",
    2002: "check that the database runs and that host and port are right",
    2003: "check that the database runs and that host and port are right",
    3159: "the server wants encrypted connections: set lakehouse_moodle_tls to verify-full",
    2013: "the connection broke: check the network and the server's log",
}


@dataclass(frozen=True)
class TableExtent:
    """Rows of a table or a part of it and, where there is one, the range of its numeric id and the last cursor."""

    rows: int
    low: int | None
    high: int | None
    last: int | None = None


@contextlib.contextmanager
def connect(moodle: MoodleConfig) -> Iterator[Cursor]:
    """A cursor in one read-only transaction: all that is asked through it shows one moment."""
    connection = _connection(moodle)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION READ ONLY, WITH CONSISTENT SNAPSHOT")
            yield cursor
    except pymysql.err.MySQLError as error:
        raise _told(error, moodle) from None
    finally:
        with contextlib.suppress(pymysql.err.MySQLError):
            connection.close()


@contextlib.contextmanager
def reserved(moodle: MoodleConfig, lake: str) -> Iterator[None]:
    """Be the only one that copies this source into this lake, by a named lock of the server's.

    The lock belongs to a connection that does nothing else, so it ends with the process, whatever ends that. The
    commits do not rely on it: they are validated each for itself.
    """
    name = "lakehouse " + hashlib.sha256(f"{lake} {moodle.database} {moodle.prefix}".encode()).hexdigest()[:32]
    connection = _connection(moodle)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION wait_timeout = 604800")  # a week without a word
            cursor.execute("SELECT GET_LOCK(%s, 0), IS_USED_LOCK(%s)", (name, name))
            got, holder = cursor.fetchone() or (None, None)
        if got != 1:
            raise LakehouseError(
                f"Another run copies this Moodle into this lake (connection {holder} of the database); nothing was done",
                where=moodle.endpoint,
                remedy="wait until it has ended (./lakehouse status, docker ps), then run it again if it is still needed",
            )
        yield
    except pymysql.err.MySQLError as error:
        raise _told(error, moodle) from None
    finally:
        # The server notices a closed connection only a moment later.
        with contextlib.suppress(pymysql.err.MySQLError), connection.cursor() as cursor:
            cursor.execute("DO RELEASE_LOCK(%s)", (name,))
        with contextlib.suppress(pymysql.err.MySQLError):
            connection.close()


def _connection(moodle: MoodleConfig) -> pymysql.Connection[Cursor]:
    for pause in (*PAUSES, None):
        try:
            return pymysql.connect(
                host=moodle.host,
                port=moodle.port,
                user=moodle.user,
                password=moodle.password(),
                database=moodle.database,
                charset="utf8mb4",
                connect_timeout=CONNECT_SECONDS,
                read_timeout=600,
                autocommit=True,
                ssl=_tls(moodle.tls, moodle.tls_ca),
                ssl_disabled=moodle.tls == "disabled",
            )
        except (pymysql.err.MySQLError, RuntimeError) as error:  # RuntimeError: an authentication method it lacks
            told = _told(error, moodle)
            if pause is None or not told.passing:
                raise told from None
            log.info("%s; again in %s s", told.what, pause)
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


@functools.cache  # it reads all authorities that the system knows, which takes longer than to connect
def _tls(mode: str, authority: str | None) -> ssl.SSLContext | None:
    """What the server has to prove; None: nothing."""
    if mode == "disabled":
        return None
    try:
        context = ssl.create_default_context(cadata=authority)
    except ssl.SSLError as error:
        raise ConfigError(
            f"The authority's certificate for Moodle's database cannot be used: {error.reason or error}",
            where="moodle.tls_ca",
            remedy="give the text of a PEM file in lakehouse_moodle_tls_ca and deploy again",
        ) from None
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the authorities that MySQL and MariaDB make lack extensions
    context.check_hostname = mode == "verify-full"
    return context


def _told(error: Exception, moodle: MoodleConfig) -> SourceError:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    remedy = _REMEDIES.get(code, "see the database server's log")
    if "SSL" in text or "certificate" in text.lower():
        remedy = (
            "lakehouse_moodle_tls: verify-full wants a certificate of a known authority (lakehouse_moodle_tls_ca) with the"
            " server's name, verify-ca wants no name, disabled wants nothing: use it only where nobody can listen"
        )
        code = 0
    return SourceError(
        f"Moodle's database does not answer as it should: {text}",
        where=moodle.endpoint,
        remedy=remedy,
        passing=code in _PASSING,
    )


def tables(cursor: Cursor, moodle: MoodleConfig) -> dict[str, list[SourceColumn]]:
    """The site's tables (full names, Moodle's prefix) with their columns in order."""
    cursor.execute(
        "SELECT c.table_name, c.column_name, c.data_type, c.column_type, c.numeric_precision, c.numeric_scale, c.column_key"
        " FROM information_schema.columns c JOIN information_schema.tables t"
        " ON t.table_schema = c.table_schema AND t.table_name = c.table_name"
        " WHERE c.table_schema = %s AND t.table_type = 'BASE TABLE' ORDER BY c.table_name, c.ordinal_position",
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
    """Names of the installed activity modules: each has a table of its own name."""
    cursor.execute(f"SELECT name FROM {quoted(moodle.prefix + 'modules')} ORDER BY id")
    return [str(row[0]) for row in cursor.fetchall()]


def sizes(cursor: Cursor, moodle: MoodleConfig) -> dict[str, int]:
    """The server's own estimate of each table's rows, by full name: good for an order, not for a number."""
    cursor.execute(
        "SELECT table_name, table_rows FROM information_schema.tables WHERE table_schema = %s", (moodle.database,)
    )
    return {_text(name): int(rows or 0) for name, rows in cursor.fetchall()}


def extent(cursor: Cursor, plan: TablePlan, condition: str | None = None) -> TableExtent:
    """Exact number of rows that fulfil a condition, the range of their ids and their last cursor."""
    key, last = plan.id_column, plan.cursor
    parts = [f"MIN({quoted(key)}), MAX({quoted(key)})" if key else "NULL, NULL"]
    # A clock that runs ahead must not hide what is written until then.
    parts.append(f"LEAST(MAX({quoted(last)}), UNIX_TIMESTAMP())" if last and last != key else "NULL")
    cursor.execute(f"SELECT COUNT(*), {', '.join(parts)} FROM {quoted(plan.source)}{plan.where(condition)}")
    row = cursor.fetchone()
    assert row is not None
    low, high, latest = (None if v is None else int(v) for v in row[1:])
    return TableExtent(int(row[0]), low, high, high if last == key else latest)


def count(cursor: Cursor, plan: TablePlan, condition: str | None) -> int:
    """Rows of a table that fulfil a condition."""
    cursor.execute(f"SELECT COUNT(*) FROM {quoted(plan.source)}{plan.where(condition)}")
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def longest(cursor: Cursor, plan: TablePlan, condition: str | None) -> int:
    """Bytes of the long columns of the row where they are longest; 0 when the plan has none, which is not asked then."""
    lengths = [f"IFNULL(LENGTH({c.sql}), 0)" for c in plan.columns if c.long]
    if not lengths:
        return 0
    cursor.execute(f"SELECT MAX({' + '.join(lengths)}) FROM {quoted(plan.source)}{plan.where(condition)}")
    row = cursor.fetchone()
    assert row is not None
    return int(row[0] or 0)


def checksum(cursor: Cursor, plan: TablePlan, condition: str | None = None) -> str | None:
    """What stands for the rows as they would be read, privacy applied: equal when the rows are equal.

    None where the server makes no SHA-256: then nothing can be said.
    """
    found = sums(cursor, plan, condition)
    return None if found is None else str(found.get(0, Sum(0, 0)))


def sums(cursor: Cursor, plan: TablePlan, condition: str | None = None, part: str = "0") -> dict[int, Sum] | None:
    """What stands for the rows of each part; part: SQL for the number of a row's part. None as for checksum()."""
    cursor.execute(
        f"SELECT part, COUNT(*), COUNT(h), {row_checksum.sql_total('h')} FROM"
        f" (SELECT {part} AS part, {row_checksum.sql_hash(plan)} AS h"
        f" FROM {quoted(plan.source)}{plan.where(condition)}) t"
        " GROUP BY part"
    )
    found = cursor.fetchall()
    if any(rows != hashed for _, rows, hashed, _ in found):
        return None
    return {int(part): Sum(int(rows), int(total)) for part, rows, _, total in found}


def jdbc_properties(moodle: MoodleConfig) -> dict[str, str]:
    """What MariaDB's driver needs besides the URL: who asks, and what the server has to prove."""
    properties = {"user": moodle.user, "password": moodle.password(), "driver": "org.mariadb.jdbc.Driver"}
    if moodle.tls != "disabled":
        properties["sslMode"] = moodle.tls
        if moodle.tls_ca is not None:
            properties["serverSslCert"] = moodle.tls_ca
    return properties


def jdbc_url(moodle: MoodleConfig) -> str:
    """The URL for Spark. Its jdbc:mysql: chooses Spark's MySQL dialect, which MariaDB's driver then serves."""
    options = {
        "permitMysqlScheme": "true",
        "allowPublicKeyRetrieval": "true",  # MySQL 8 without TLS: the password travels encrypted with the server's key
        "tinyInt1isBit": "false",  # edulevel and completionstate hold more than two values
        "yearIsDateType": "false",
        "connectTimeout": str(CONNECT_SECONDS * 1000),
        "socketTimeout": "600000",
        "tcpKeepAlive": "true",
    }
    return f"jdbc:mysql://{moodle.host}:{moodle.port}/{moodle.database}?" + "&".join(
        f"{k}={v}" for k, v in options.items()
    )


def _text(value: Any) -> str:
    """MySQL 8 returns information_schema's text columns as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
