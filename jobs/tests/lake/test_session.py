"""The JVM of a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from moodle_lakehouse.lake import session
from pyspark.sql import SparkSession


@pytest.mark.skipif(bool(session.test_jars()), reason="outside the image there is no archive of classes")
def test_classes_are_mapped(spark: SparkSession) -> None:
    """Java falls back to reading each class when the archive does not fit the class path, without a word."""
    jvm: Any = spark._jvm
    pid = jvm.java.lang.ProcessHandle.current().pid()
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "/opt/spark/classes.jsa" in maps or "pyspark/classes.jsa" in maps
