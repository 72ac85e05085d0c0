"""Dumps: split, checked and loaded as they are, and nothing that reaches beyond the demo database."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from moodle_demo import dump

REAL = {"before": (8300, 210), "after": (None, None)}


def tables(prefix: str = "mdl_") -> str:
    """The least that counts as a Moodle."""
    made = [f"CREATE TABLE `{prefix}{name}` (`id` bigint(10) NOT NULL, `t` longtext);" for name in dump.REQUIRED]
    return "\n".join(made) + "\n"


def statements(text: str) -> list[str]:
    return [part.decode() for part, _ in dump.split(io.BytesIO(text.encode()))]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
def test_splitting_knows_quotes_and_comments(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump, "_CHUNK", chunk)
    parts = [
        r"INSERT INTO `a` VALUES ('x;y','it''s','back\\','quote\';','" + '"' + "')",
        '\nINSERT INTO `odd;name` VALUES ("a;b\\"c;")',
        "\n-- a comment; with a semicolon\nSET a=1",
        "\n# another; one\nSET b=2",
        "\n/* and; a third */ SET c=3",
        "\n/*!40101 SET d=4; */",
        "\nSET e=5-1--2",
    ]
    assert statements(";".join(parts) + ";\n-- Dump completed; really\n") == parts


def test_lines_are_counted_from_the_statements_own_text() -> None:
    found = [line for _, line in dump.split(io.BytesIO(b"SET a=1;\n\nSET\nb=2;\nSET c='\n\n';SET d=1;"))]
    assert found == [1, 3, 5, 7]


@pytest.mark.parametrize("name", ["before", "after"])
def test_a_real_moodles_dump_arrives_whole(name: str, load, database, test_data: Path) -> None:
    file = test_data / "moodle-4.3" / f"{name}.sql.gz"
    assert load(database, "--dataset", "dump", "--dump", str(file))["changed"] is True
    with gzip.open(file, "rt") as stream:
        lines = stream.read().splitlines()
    expected, table = {}, ""
    for line in lines:
        if line.startswith("INSERT INTO `"):
            table = line.split("`")[1]
        if line.startswith("(") and line.rstrip().endswith(("),", ");")):
            expected[table] = expected.get(table, 0) + 1
    found = {
        row[0]: database.value(f"SELECT COUNT(*) FROM `{row[0]}`") for row in database.query("SHOW TABLES LIKE 'mdl_%'")
    }
    assert len(found) == 48
    assert {table: count for table, count in found.items() if count} == expected
    assert load(database, "--dataset", "dump", "--dump", str(file))["changed"] is False


REFUSED = {
    "use": "USE `other`;",
    "use in a comment": "/*!40000 USE other */;",
    "create database": "CREATE DATABASE /*!32312 IF NOT EXISTS*/ `moodle` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;",
    "drop database": "DROP DATABASE moodle;",
    "trigger": "/*!50003 CREATE*/ /*!50017 DEFINER=`r`@`h`*/ /*!50003 TRIGGER t BEFORE INSERT ON mdl_user FOR EACH ROW SET @a=1 */;",
    "delimiter": "DELIMITER ;;",
    "grant": "GRANT ALL ON *.* TO me;",
    "outfile": "SELECT 1 INTO OUTFILE '/tmp/x';",
    "local file": "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE mdl_user;",
    "another database": "INSERT INTO `mysql`.`user` VALUES (1);",
    "another database, drop": "DROP TABLE IF EXISTS mysql.user;",
    "another database, second in the list": "DROP TABLE IF EXISTS `mdl_user`, `mysql`.`user`;",
    "select of another database": "CREATE TABLE mdl_x AS SELECT * FROM mysql.user;",
    "insert from another database": "INSERT INTO mdl_user SELECT * FROM mysql.user;",
    "rename": "ALTER TABLE mdl_user RENAME TO mysql.x;",
    "copy": "COPY public.mdl_user (id) FROM stdin;",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_reaches_beyond_the_database_is_refused(case: str, tmp_path: Path, load, database) -> None:
    file = tmp_path / "site.sql"
    file.write_text(tables() + "\n" + REFUSED[case] + "\n")
    error = load.fails(database, "--dataset", "dump", "--dump", str(file))
    assert error.exit_code == 2
    assert f"{file}, line {len(dump.REQUIRED) + 2}" in str(error)
    assert "mysqldump" in str(error)
    assert database.query("SHOW TABLES") == []


def test_no_moodle_and_another_prefix(tmp_path: Path, load, database) -> None:
    file = tmp_path / "site.sql"
    file.write_text(tables("m_").replace("`m_user`", "`m_people`"))
    assert "give that as --prefix" in str(load.fails(database, "--dataset", "dump", "--dump", str(file)))
    error = load.fails(database, "--dataset", "dump", "--dump", str(file), "--prefix", "m_")
    assert "no table m_user," in str(error)
    file.write_text(tables("m_"))
    assert load(database, "--dataset", "dump", "--dump", str(file), "--prefix", "m_")["changed"] is True


def test_a_dump_cut_off_is_refused(tmp_path: Path, load, database) -> None:
    file = tmp_path / "site.sql"
    file.write_text(tables() + "INSERT INTO `mdl_user` VALUES (1,'half a na")
    error = load.fails(database, "--dataset", "dump", "--dump", str(file))
    assert f"line {len(dump.REQUIRED) + 1}" in str(error)
    assert "cut off" in str(error)
    packed = tmp_path / "site.sql.gz"
    packed.write_bytes(gzip.compress(tables().encode())[:-9])
    assert "whole gzip file" in str(load.fails(database, "--dataset", "dump", "--dump", str(packed)))
    assert database.query("SHOW TABLES") == []


def test_dialects_and_other_tables(tmp_path: Path, load, database) -> None:
    """MySQL 8's collation and replication settings, texts that look like statements, tables of something else."""
    file = tmp_path / "site.sql"
    file.write_text(
        "/*M!999999\\- enable the sandbox mode */ \n-- MySQL dump 10.13\n"
        "SET @@SESSION.SQL_LOG_BIN= 0;\nSET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ 'a:1-2';\n/*!40101 SET NAMES utf8mb4 */;\n"
        + tables().replace("longtext);", "longtext) DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_ai_ci;", 1)
        + "CREATE TABLE `mdl_block_like` (`id` int DEFAULT '1.5', `like` decimal(3,1) DEFAULT 0.5 COMMENT 'a.b');\n"
        "CREATE TABLE `wp_posts` (`id` int);\nINSERT INTO `wp_posts` VALUES (1);\n"
        "LOCK TABLES `mdl_user` WRITE;\n"
        "INSERT INTO `mdl_user` VALUES (1,'USE mysql; DROP DATABASE x'),(2,'\\'; -- \u00e9\u4e2d');\nUNLOCK TABLES;\n"
    )
    load(database, "--dataset", "dump", "--dump", str(file))
    assert database.query("SELECT t FROM mdl_user ORDER BY id") == [
        ("USE mysql; DROP DATABASE x",),
        ("'; -- \u00e9\u4e2d",),
    ]
    assert database.query("SHOW TABLES LIKE 'wp%'") == []


def test_a_statement_the_server_refuses_is_a_failure(tmp_path: Path, load, database) -> None:
    file = tmp_path / "site.sql"
    file.write_text(tables() + "INSERT INTO `mdl_user` VALUES (1,2,3);\n")
    error = load.fails(database, "--dataset", "dump", "--dump", str(file))
    assert error.exit_code == 1
    assert "INSERT INTO `mdl_user`" in str(error)
