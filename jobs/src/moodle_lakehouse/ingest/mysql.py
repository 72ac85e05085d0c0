"""Connect to Moodle's database: from the driver, with retries and TLS, and the settings for Spark's JDBC."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import ssl
import time
from collections.abc import Iterator

import pymysql
from pymysql.cursors import Cursor

from moodle_lakehouse.config import MoodleConfig
from moodle_lakehouse.errors import ConfigError, LakehouseError, SourceError, without_values
from moodle_lakehouse.lake import availability
from moodle_lakehouse.lake.availability import Part

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10
RETRY_DELAYS = (1, 4, 10)  # seconds before another attempt at an error that passes: a restart, too many connections

# Too many connections (of all, of this user), a shutdown or a broken connection; locks held by others.
_TRANSIENT = {1040, 1053, 1158, 1159, 1160, 1161, 1203, 1205, 1213, 1226, 2002, 2003, 2006, 2013}

_AWAY = {1053, 2002, 2003, 2006, 2013}  # those of them that say that nobody is there

# Errors of the server that quote names of users, hosts, databases, tables and columns alone. Others quote the statement or
# values of rows, which are not to be printed or kept.
_FIRST_OF_SERVER, _OF_CLIENT = 1000, range(2000, 3000)
_NAMES_ONLY = {1044, 1045, 1049, 1054, 1130, 1142, 1143, 1146, 1203, 1226, 1698}

# What a person can do about the server's or the client's error.
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


@contextlib.contextmanager
def connect(moodle: MoodleConfig) -> Iterator[Cursor]:
    """Yield a cursor in one read-only transaction: all its queries see one moment."""
    connection = _connection(moodle)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION READ ONLY, WITH CONSISTENT SNAPSHOT")
            yield cursor
    except pymysql.err.MySQLError as error:
        raise _source_error(error, moodle) from None
    finally:
        with contextlib.suppress(pymysql.err.MySQLError):
            connection.close()


@contextlib.contextmanager
def reserved(moodle: MoodleConfig, lake: str) -> Iterator[None]:
    """Hold a named lock of the server, so that only one run copies this source into this lake.

    The lock belongs to a connection that does nothing else, so it ends with the process, whatever ends that.
    Commits do not rely on it: each is validated by itself.
    """
    name = "lakehouse " + hashlib.sha256(f"{lake} {moodle.database} {moodle.prefix}".encode()).hexdigest()[:32]
    connection = _connection(moodle)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION wait_timeout = 604800")  # a week without a query
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
        raise _source_error(error, moodle) from None
    finally:
        # The server notices a closed connection only a moment later.
        with contextlib.suppress(pymysql.err.MySQLError), connection.cursor() as cursor:
            cursor.execute("DO RELEASE_LOCK(%s)", (name,))
        with contextlib.suppress(pymysql.err.MySQLError):
            connection.close()


def part(moodle: MoodleConfig) -> Part:
    """Return the source as something that a job needs: a server that has no connection left does answer."""

    def ask() -> str | None:
        try:
            _connect(moodle, availability.ANSWER_SECONDS, availability.ANSWER_SECONDS).close()
        except (pymysql.err.MySQLError, RuntimeError) as error:
            code = error.args[0] if error.args else 0
            return str(error.args[-1]) if code in _AWAY else None
        return None

    return Part("Moodle's database", moodle.endpoint, _REMEDIES[2003], ask)


def _connection(moodle: MoodleConfig) -> pymysql.Connection[Cursor]:
    for delay in (*RETRY_DELAYS, None):
        try:
            return _connect(moodle, CONNECT_SECONDS, 600)
        except (pymysql.err.MySQLError, RuntimeError) as error:  # RuntimeError: an authentication method it lacks
            failure = _source_error(error, moodle)
            if delay is None or not failure.passing:
                raise failure from None
            log.info("%s; again in %s s", failure.what, delay)
            time.sleep(delay)
    raise AssertionError("the last attempt returns or raises")


def _connect(moodle: MoodleConfig, connect_seconds: int, read_seconds: int) -> pymysql.Connection[Cursor]:
    return pymysql.connect(
        host=moodle.host,
        port=moodle.port,
        user=moodle.user,
        password=moodle.password(),
        database=moodle.database,
        charset="utf8mb4",
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        autocommit=True,
        ssl=_tls(moodle.tls, moodle.tls_ca),
        ssl_disabled=moodle.tls == "disabled",
    )


@functools.cache  # reading all authorities of the system takes longer than to connect
def _tls(mode: str, authority: str | None) -> ssl.SSLContext | None:
    """Return what the server has to prove; None: nothing."""
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


def _source_error(error: Exception, moodle: MoodleConfig) -> SourceError:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    if code >= _FIRST_OF_SERVER and code not in (*_NAMES_ONLY, *_OF_CLIENT):
        text = without_values(text)
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
        passing=code in _TRANSIENT,
    )


def jdbc_properties(moodle: MoodleConfig) -> dict[str, str]:
    """Return what MariaDB's driver needs besides the URL: the user, and what the server has to prove."""
    properties = {"user": moodle.user, "password": moodle.password(), "driver": "org.mariadb.jdbc.Driver"}
    if moodle.tls != "disabled":
        properties["sslMode"] = moodle.tls
        if moodle.tls_ca is not None:
            properties["serverSslCert"] = moodle.tls_ca
    return properties


def jdbc_url(moodle: MoodleConfig) -> str:
    """Return the URL for Spark: jdbc:mysql: selects Spark's MySQL dialect, which MariaDB's driver then serves."""
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
