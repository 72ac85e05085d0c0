"""How the source is reached: encrypted and verified, patient with what passes, and columns that leave it as hashes."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.errors import ConfigError, SourceError
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest import mysql, sync_steps
from pyspark.sql import SparkSession
from small_moodle import fill, insert, raw

CA_VARIABLE = "LAKEHOUSE_TEST_MYSQL_CA"

With = Callable[..., config.Config]


@pytest.fixture
def ca() -> str:
    """The authority of the server's certificate, which names the server as the tests do."""
    file = os.environ.get(CA_VARIABLE)
    if not file:
        pytest.skip(f"the server has no certificate; name its authority's file in {CA_VARIABLE}")
    return Path(file).read_text()


@contextlib.contextmanager
def user(database: Server, name: str, rule: str) -> Iterator[None]:
    database.query(f"CREATE USER {name}@'%' IDENTIFIED BY '{database.password}' {rule}")
    try:
        database.query(f"GRANT SELECT ON {database.database}.* TO {name}@'%'")
        yield
    finally:
        database.query(f"DROP USER {name}@'%'")


def changed(moodle: config.Config, **settings: Any) -> config.Config:
    return moodle.model_copy(update={"moodle": moodle.moodle.model_copy(update=settings)})


def test_verified_tls_reads_as_a_user_who_may_not_do_without(
    lake: SparkSession, database: Server, moodle: config.Config, ca: str
) -> None:
    fill(database, moodle, "INSERT INTO `{p}course` VALUES (1), (2)")
    with user(database, "encrypted", "REQUIRE SSL"):
        secure = changed(moodle, user="encrypted", tls="verify-full", tls_ca=ca)
        ingest_job.run(lake, secure)
        with pytest.raises(SourceError, match="Access denied"):
            ingest_job.inspect(changed(moodle, user="encrypted", tls="disabled"))
    assert [row["id"] for row in raw(lake, "course")] == [1, 2]


def test_certificate_is_held_against_authority_and_name(database: Server, moodle: config.Config, ca: str) -> None:
    fill(database, moodle)
    address = socket.gethostbyname(database.host)  # not in the certificate
    assert ingest_job.inspect(changed(moodle, host=address, tls="verify-ca", tls_ca=ca)).plan.tables
    for settings in (
        {"host": address, "tls": "verify-full", "tls_ca": ca},
        {"tls": "verify-full"},  # the system's authorities do not know it
        {"tls": "verify-ca"},
    ):
        with pytest.raises(SourceError, match="certificate verify failed") as caught:
            ingest_job.inspect(changed(moodle, **settings))
        assert "lakehouse_moodle_tls_ca" in str(caught.value)


def test_executors_hold_the_certificate_against_the_authority_too(
    lake: SparkSession, database: Server, moodle: config.Config, ca: str
) -> None:
    fill(database, moodle)
    for settings in ({"tls_ca": ca, "host": socket.gethostbyname(database.host)}, {}):
        asked = changed(moodle, tls="verify-full", **settings)
        with pytest.raises(Exception, match=r"hostname verification failed|Self signed certificates"):
            lake.read.jdbc(
                mysql.jdbc_url(asked.moodle), "mdl_course", properties=mysql.jdbc_properties(asked.moodle)
            ).count()


def test_authority_that_is_no_certificate_is_refused(moodle: config.Config) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        ingest_job.inspect(changed(moodle, tls="verify-ca", tls_ca="no certificate"))


def test_moment_without_a_free_connection_is_waited_for(
    database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, moodle)
    with user(database, "lonely", "WITH MAX_USER_CONNECTIONS 1"):
        lonely = changed(moodle, user="lonely")
        monkeypatch.setattr(mysql, "RETRY_DELAYS", (0, 0))
        with mysql.connect(lonely.moodle), pytest.raises(SourceError, match="max_user_connections"):
            ingest_job.inspect(lonely)
        monkeypatch.setattr(mysql, "RETRY_DELAYS", (0, 2))
        with contextlib.ExitStack() as held:
            held.enter_context(mysql.connect(lonely.moodle))
            threading.Timer(1, held.close).start()
            assert ingest_job.inspect(lonely).plan.tables


def test_connection_that_breaks_while_a_table_is_read_costs_another_reading(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, moodle)
    insert(database, "INSERT INTO mdl_course VALUES (%s)", [(1,), (2,)])
    monkeypatch.setattr(mysql, "RETRY_DELAYS", (0,))
    read, cut = sync_steps.TableSync._read, []

    def waits_and_breaks(self: Any, *arguments: Any) -> Any:
        df = read(self, *arguments)
        if self.plan.table.name != "course" or cut:
            return df
        held = threading.Event()

        def breaks() -> None:
            with database.connect() as other, other.cursor() as cursor:
                cursor.execute("LOCK TABLES mdl_course WRITE")
                held.set()
                for _ in range(300):
                    waiting = database.query(
                        "SELECT id FROM information_schema.processlist WHERE info LIKE '%mdl_course%'"
                        " AND state LIKE 'Waiting for table metadata lock%'"
                    )
                    if waiting:
                        break
                    time.sleep(0.1)
                for (number,) in waiting:
                    cut.append(number)
                    database.query(f"KILL CONNECTION {number}")

        thread = threading.Thread(target=breaks)
        thread.start()
        held.wait()
        return df

    monkeypatch.setattr(sync_steps.TableSync, "_read", waits_and_breaks)
    ingest_job.run(lake, moodle)
    assert len(cut) == 1
    assert [row["id"] for row in raw(lake, "course")] == [1, 2]


@contextlib.contextmanager
def cut_off_once(database: Server, after: int) -> Iterator[tuple[int, list[int]]]:
    """A port that leads to the server, and ends the first connection whose answers are longer than so many bytes; which it adds."""
    cut: list[int] = []

    class Way(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((database.host, database.port)) as there:
                threading.Thread(target=self.ask, args=[there], daemon=True).start()
                passed = 0
                while answer := there.recv(65_536):
                    passed += len(answer)
                    if passed > after and not cut:
                        cut.append(passed)
                        break
                    self.request.sendall(answer)

        def ask(self, there: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while question := self.request.recv(65_536):
                    there.sendall(question)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Way) as ways:
        threading.Thread(target=ways.serve_forever, daemon=True).start()
        try:
            yield ways.server_address[1], cut
        finally:
            ways.shutdown()


def test_answer_that_ends_in_the_middle_costs_another_reading(
    lake: SparkSession, database: Server, moodle: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, moodle, "ALTER TABLE `{p}course` ADD `fullname` text")
    insert(database, "INSERT INTO mdl_course VALUES (%s, %s)", [(i, "x" * 1000) for i in range(2000)])
    monkeypatch.setattr(mysql, "RETRY_DELAYS", (0,))
    with cut_off_once(database, after=1_000_000) as (port, cut):
        ingest_job.run(lake, changed(moodle, host="127.0.0.1", port=port))
    assert len(cut) == 1
    assert [row["id"] for row in raw(lake, "course")] == list(range(2000))


def test_hashed_column_is_the_keyed_hash_of_its_value(
    lake: SparkSession, database: Server, moodle: config.Config
) -> None:
    odd = "ALTER TABLE `{p}user` ADD `idnumber` varchar(99), ADD `code` blob, ADD `phone` bigint(10)"
    fill(database, moodle, odd)
    values = [(1, "straße 'x'\\", b"\x00\xff", 7), (2, "", b"", 0), (3, None, None, None)]
    insert(database, "INSERT INTO mdl_user VALUES (%s, %s, %s, %s)", values)
    hashed = changed(moodle, columns={"user": {"idnumber": "hash", "code": "hash", "phone": "hash"}})

    def expected(value: Any) -> str | None:
        content = value if isinstance(value, bytes) else None if value is None else str(value).encode()
        return None if content is None else hmac.new(moodle.privacy.hash_key(), content, hashlib.sha256).hexdigest()

    ingest_job.run(lake, hashed)
    assert [tuple(row.values()) for row in raw(lake, "user")] == [
        (row[0], *[expected(value) for value in row[1:]]) for row in values
    ]
