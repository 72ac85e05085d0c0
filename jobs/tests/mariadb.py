"""A real MariaDB for tests: the one named by LAKEHOUSE_TEST_MYSQL, or one started for the session.

LAKEHOUSE_TEST_MYSQL=host:port:user:password names a server on which the user may create databases. Without it
`mariadbd` (Debian's mariadb-server-core) is started in a temporary folder, on a free port of the loopback address.
LAKEHOUSE_TEST_MYSQL_OTHERS names servers of other versions in the same form, separated by spaces, for the tests that
compare versions.

A conftest or test module takes the fixtures in by `from mariadb import database, server  # noqa: F401`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pymysql
import pytest


@dataclass(frozen=True)
class Server:
    """Where a server listens and who may do everything there; `database` is empty for none."""

    host: str
    port: int
    user: str
    password: str
    database: str = ""

    def connect(self, **options: Any) -> pymysql.Connection[Any]:
        """A connection in plain text: to read the authorities' certificates for one takes longer than most statements."""
        return pymysql.connect(
            host=self.host, port=self.port, user=self.user, password=self.password, database=self.database or None,
            autocommit=True, charset="utf8mb4", ssl_disabled=True, **options,
        )  # fmt: skip

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of one statement."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def value(self, sql: str) -> Any:
        """The only value of the only row of one statement."""
        rows = self.query(sql)
        assert len(rows) == 1, f"{len(rows)} rows: {sql}"
        assert len(rows[0]) == 1, f"{len(rows[0])} columns: {sql}"
        return rows[0][0]

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Server]:
        """A new empty database, dropped at the end."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.query(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
        try:
            yield replace(self, database=name)
        finally:
            self.query(f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server for the whole session."""
    named = os.environ.get("LAKEHOUSE_TEST_MYSQL")
    if named:
        yield _named(named)
        return
    programs = [
        shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("mariadbd", "mariadb-install-db")
    ]
    if not all(programs):
        pytest.skip("no mariadbd: install mariadb-server-core, or name a server in LAKEHOUSE_TEST_MYSQL")
    with _started(str(programs[0]), str(programs[1]), tmp_path_factory.mktemp("mariadb")) as started:
        yield started


@pytest.fixture(scope="session")
def other_servers() -> list[Server]:
    """Servers of other versions; none where none is named."""
    return [_named(one) for one in os.environ.get("LAKEHOUSE_TEST_MYSQL_OTHERS", "").split()]


def _named(server: str) -> Server:
    host, port, user, password = server.split(":", 3)
    return Server(host, int(port), user, password)


@pytest.fixture
def database(server: Server) -> Iterator[Server]:
    """A new empty database for one test."""
    with server.temporary() as made:
        yield made


@contextlib.contextmanager
def _started(daemon: str, installer: str, folder: Path) -> Iterator[Server]:
    data, user = folder / "data", ["--user=root"] if os.geteuid() == 0 else []
    install = [installer, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", *user]
    subprocess.run([*install, "--skip-test-db"], check=True, capture_output=True)
    init = folder / "init.sql"
    init.write_text(
        "CREATE USER tester@'%' IDENTIFIED BY 'secret';\nGRANT ALL ON *.* TO tester@'%' WITH GRANT OPTION;\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [
            daemon, "--no-defaults", f"--datadir={data}", f"--socket={folder}/socket", f"--pid-file={folder}/pid",
            f"--tmpdir={folder}",
            "--bind-address=127.0.0.1", f"--port={port}", f"--init-file={init}", "--innodb-buffer-pool-size=256M",
            "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve", "--skip-log-bin", *user,
        ],
        stdout=log,
        stderr=log,
    )  # fmt: skip
    made = Server("127.0.0.1", port, "tester", "secret")
    try:
        _wait(process, made, folder / "log")
        yield made
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], server: Server, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        with contextlib.suppress(pymysql.MySQLError):
            server.query("SELECT 1")
            return
        time.sleep(0.1)
    pytest.fail(f"mariadbd did not start: {log.read_text()[-2000:]}")
