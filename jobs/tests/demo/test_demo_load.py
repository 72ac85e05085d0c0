"""Loading once, whole or not at all, and only into databases of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import oulad_files
import pymysql
import pytest
import yaml
from moodle_demo import cli, oulad, settings
from moodle_demo.database import Database
from moodle_demo.errors import DemoError, UsageError

SMALL = ("--dataset", "synthetic", "--courses", "3", "--students", "20", "--log-rows", "6000")


def rows(database) -> dict[str, int]:
    return {row[0]: database.value(f"SELECT COUNT(*) FROM `{row[0]}`") for row in database.query("SHOW TABLES")}


def test_the_second_load_changes_nothing(load, database) -> None:
    assert load(database, *SMALL)["changed"] is True
    assert "mdl_logstore_standard_log" not in load.output
    assert "logstore_standard_log" in load.output
    before = database.query("SELECT * FROM lakehouse_demo_load")
    assert load(database, *SMALL)["changed"] is False
    assert "nothing to do" in load.output
    assert database.query("SELECT * FROM lakehouse_demo_load") == before


def test_another_data_set_needs_force(load, database, tmp_path: Path) -> None:
    load(database, *SMALL)
    error = load.fails(database, *SMALL, "--seed", "7")
    assert error.exit_code == 2
    assert "--force" in str(error)
    assert "log_rows" in str(error)
    folder = oulad_files.write(tmp_path / "oulad")
    load(database, "--dataset", "oulad", "--oulad-dir", str(folder), "--force")
    assert database.value("SELECT COUNT(*) FROM mdl_course") == 3
    # Other contents under the same names are another data set.
    oulad_files.write(
        folder, {"vle": oulad_files.FILES["vle"].replace("502,AAA,2014B,homepage,,\n", ""), "studentVle": None}
    )
    (folder / "studentVle.csv").unlink()
    assert "--force" in str(load.fails(database, "--dataset", "oulad", "--oulad-dir", str(folder)))


def test_each_data_set_is_another_site(load, database) -> None:
    identifier = "SELECT value FROM mdl_config WHERE name = 'siteidentifier'"
    load(database, *SMALL)
    first = database.value(identifier)
    load(database, *SMALL, "--seed", "7", "--force")
    assert len(first) == len(database.value(identifier)) == 36
    assert database.value(identifier) != first
    load(database, *SMALL, "--force")
    assert database.value(identifier) == first


def test_an_interrupted_load_is_redone(load, database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = str(oulad_files.write(tmp_path / "oulad"))
    original = oulad.tables

    def breaks(site):
        yield from list(original(site))[:5]
        raise DemoError("the power went")

    monkeypatch.setattr(oulad, "tables", breaks)
    assert "the power went" in str(load.fails(database, "--dataset", "oulad", "--oulad-dir", folder))
    assert database.value("SELECT finished_at FROM lakehouse_demo_load") is None
    assert database.value("SELECT COUNT(*) FROM mdl_logstore_standard_log") > 0
    monkeypatch.undo()
    assert load(database, "--dataset", "oulad", "--oulad-dir", folder)["changed"] is True
    assert "interrupted" in load.output
    assert database.value("SELECT COUNT(*) FROM mdl_user WHERE idnumber <> ''") == 2


def test_an_error_while_rows_are_made_ends_the_load(
    load, database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The thread that writes rows fails in the middle: no hang, no half table taken for a whole one."""
    original = oulad.tables

    def breaks(site):
        for name, batches in original(site):
            if name == "logstore_standard_log":
                yield name, _failing(batches)
            else:
                yield name, batches

    monkeypatch.setattr(oulad, "tables", breaks)
    folder = str(oulad_files.write(tmp_path / "oulad"))
    assert "no more" in str(load.fails(database, "--dataset", "oulad", "--oulad-dir", folder))
    assert database.value("SELECT finished_at FROM lakehouse_demo_load") is None


def _failing(batches):
    yield from batches
    raise DemoError("no more")


def test_foreign_tables_are_never_touched(load, database) -> None:
    database.query("CREATE TABLE mdl_user (id INT)")
    database.query("INSERT INTO mdl_user VALUES (42)")
    for arguments in (SMALL, (*SMALL, "--force")):
        error = load.fails(database, *arguments)
        assert error.exit_code == 2
        assert "mdl_user" in str(error)
    assert rows(database) == {"mdl_user": 1}
    assert load(database, *SMALL, "--prefix", "demo_")["changed"] is True
    assert database.value("SELECT id FROM mdl_user") == 42


def test_two_prefixes_live_side_by_side(load, database) -> None:
    load(database, *SMALL)
    load(database, *SMALL, "--prefix", "m2_")
    found = rows(database)
    assert found["mdl_logstore_standard_log"] == found["m2_logstore_standard_log"] == 6000
    assert len(database.query("SELECT prefix FROM lakehouse_demo_load WHERE finished_at IS NOT NULL")) == 2


def test_only_one_load_at_a_time(load, database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "LOCK_WAIT", 1)
    holder = Database(
        settings.Connection(database.host, database.port, database.user, database.database, "mdl_", database.password)
    )
    try:
        assert holder.lock()
        assert "Another moodle-demo" in str(load.fails(database, *SMALL))
    finally:
        holder.close()
    assert load(database, *SMALL)["changed"] is True


@pytest.mark.parametrize("temporary", ["/tmp", "/var/lib/temporary"])
def test_the_log_has_its_keys_wherever_the_server_sorts(
    temporary: str, load, database, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = Database.execute

    def pretend(self, sql: str, arguments: tuple = ()) -> list:
        return [(temporary,)] if sql == "SELECT @@tmpdir" else execute(self, sql, arguments)

    monkeypatch.setattr(Database, "execute", pretend)
    load(database, *SMALL)
    keys = {row[2] for row in database.query("SHOW KEYS FROM mdl_logstore_standard_log")}
    assert len(keys) == 9


def test_connections_that_fail_say_why(load, database) -> None:
    error = load.fails(replace(database, password="wrong"), *SMALL)
    assert (error.exit_code, "password" in str(error)) == (2, True)
    error = load.fails(replace(database, database="nowhere_at_all"), *SMALL)
    assert (error.exit_code, "nowhere_at_all" in str(error)) == (2, True)
    error = load.fails(replace(database, port=1), *SMALL)
    assert (error.exit_code, "cannot be reached" in str(error)) == (1, True)


def test_a_server_without_local_infile_says_what_to_set(load, database) -> None:
    try:
        database.query("SET GLOBAL local_infile = 0")
    except pymysql.MySQLError as error:
        pytest.skip(f"the server's user may not set local_infile: {error}")
    try:
        assert "local_infile=ON" in str(load.fails(database, *SMALL))
    finally:
        database.query("SET GLOBAL local_infile = 1")
    assert load(database, *SMALL)["changed"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--dataset", "oulad"), "--oulad-dir"),
        (("--dataset", "dump"), "--dump"),
        (("--dataset", "dump", "--dump", "/nowhere.sql"), "does not exist"),
        (("--dataset", "oulad", "--oulad-dir", "/nowhere"), "does not exist"),
        (("--dataset", "oulad", "--oulad-dir", "/nowhere", "--seed", "1"), "synthetic"),
        (("--dataset", "synthetic", "--dump", "x.sql"), "dump"),
        (("--dataset", "synthetic", "--log-rows", "1"), "--log-rows"),
        (("--dataset", "synthetic", "--students", "200", "--log-rows", "1000"), "Give at least"),
        (("--dataset", "synthetic", "--prefix", "mdl-"), "prefix"),
    ],
)
def test_bad_usage_touches_nothing(arguments: tuple[str, ...], words: str, load, database) -> None:
    error = load.fails(database, *arguments)
    assert error.exit_code == 2
    assert words in str(error)
    assert rows(database) == {}


def test_the_connection_comes_from_the_jobs_configuration(tmp_path: Path) -> None:
    file, password = tmp_path / "jobs.yml", tmp_path / "password"
    password.write_text("secret\n")
    section = {
        "host": "db",
        "user": "moodle",
        "database": "moodle",
        "password_file": str(password),
        "max_connections": 4,
    }
    file.write_text(yaml.safe_dump({"moodle": section}))
    environ = {"LAKEHOUSE_CONFIG": str(file)}
    found = settings.connection({"port": 3307, "user": None}, environ)
    assert found == settings.Connection("db", 3307, "moodle", "moodle", "mdl_", "secret")
    assert "secret" not in repr(found)
    file.write_text("moodle: nothing")
    with pytest.raises(UsageError, match="section"):
        settings.connection({}, environ)
    with pytest.raises(UsageError, match=r"--host.*no such file"):
        settings.connection({}, {"LAKEHOUSE_CONFIG": str(tmp_path / "none.yml")})
    with pytest.raises(UsageError, match=r"--host.*--user"):
        settings.connection({}, {"LAKEHOUSE_CONFIG": str(_write(tmp_path / "few.yml", "moodle: {database: a}"))})


def _write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_the_program_ends_with_a_message_and_a_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moodle_demo.cli", "load", "--dataset", "oulad", "--host", "127.0.0.1"]
    password = str(_write(tmp_path / "password", "x"))
    options = ["--user", "u", "--database", "d", "--password-file", password, "--oulad-dir", str(tmp_path / "none")]
    environ = {"PYTHONPATH": str(Path(cli.__file__).parents[1]), "PATH": ""}
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 2
    assert "none does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert subprocess.run([*command, "--nonsense"], capture_output=True, check=False, env=environ).returncode == 2
