"""The JVM of a session, and the package that it gives its executors."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import moodle_lakehouse
import pytest
from moodle_lakehouse.lake import input_fingerprint, session
from pyspark.sql import SparkSession


@pytest.mark.skipif(bool(session.test_jars()), reason="outside the image there is no archive of classes")
def test_classes_are_mapped(spark: SparkSession) -> None:
    """Without a word Java reads each class when the archive does not fit the class path, and the whole archive at another address."""
    jvm: Any = spark._jvm
    pid = jvm.java.lang.ProcessHandle.current().pid()
    found = re.findall(
        r"pyspark/classes.jsa\nSize: +(\d+) kB(?:\n.*)+?\nAnonymous: +(\d+) kB", Path(f"/proc/{pid}/smaps").read_text()
    )
    assert found
    size, own = (sum(int(pair[column]) for pair in found) for column in (0, 1))
    assert own < size / 2, f"{own} of the archive's {size} KiB are this JVM's own: it is not where it was made for"


def test_executors_get_the_whole_package() -> None:
    package = Path(moodle_lakehouse.__file__).parent
    known = {str(file.relative_to(package.parent)) for kind in ("*.py", "*.yml") for file in package.rglob(kind)}
    for part in ("lake/session.py", "ingest/moodle_tables.yml", "lake/maintenance.yml", "dropout/__init__.py"):
        assert f"moodle_lakehouse/{part}" in known
    with zipfile.ZipFile(session.package_zip()) as archive:
        assert set(archive.namelist()) == known
    others = {p.suffix for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts} - {".py", ".yml"}
    assert others <= {"", ".typed"}  # py.typed


def test_executors_import_modules_of_every_subpackage(spark: SparkSession) -> None:
    def names(_: int) -> list[str]:
        import importlib

        loaded = importlib.import_module("moodle_lakehouse.ingest.moodle_tables").load()
        return sorted(loaded.tables)[:1]

    assert spark.sparkContext.parallelize([0], 1).flatMap(names).collect() == ["assign"]


@pytest.mark.parametrize(
    "changed", ["moodle_lakehouse/dropout/features.py", "moodle_lakehouse/ingest/moodle_tables.yml"]
)
def test_fingerprint_of_the_code_follows_every_subpackage(monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    before = input_fingerprint._code.__wrapped__()
    files = {**dict(session.package_files()), changed: b"changed"}
    monkeypatch.setattr(session, "package_files", lambda: iter(files.items()))
    assert input_fingerprint._code.__wrapped__() != before
