"""Start the Spark session of a job.

Master, catalog and credentials come from spark-defaults.conf alone, so that no secret stands on a command
line. The executors' image holds no code of this package: it is shipped with every session, so new code
restarts no worker.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pyspark.sql import SparkSession

import moodle_lakehouse
from moodle_lakehouse.config import Config
from moodle_lakehouse.errors import ConfigError, LakehouseError
from moodle_lakehouse.lake import py4j_cache, table_names, tables

TEST_JARS_VARIABLE = "LAKEHOUSE_TEST_JARS"

# What the jobs rely on, whatever spark-defaults.conf says.
_DEFAULTS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.execution.arrow.pyspark.fallback.enabled": "false",
    "spark.executorEnv.TZ": "UTC",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.autoBroadcastJoinThreshold": str(tables.BROADCAST_BYTES),
    # Else ${...} in the name of somebody's table is replaced by a setting, and a message tells its value.
    "spark.sql.variable.substitute": "false",
    # What the event log and the environment page hide, of settings whose name or value says that they are secrets.
    "spark.redaction.regex": "(?i)secret|passw|token|access[._-]?key|private[._-]?key|authorization|credential",
}

# For a job in whose statements people's ids stand: they are in no event log and on no page.
_NOWHERE = {"spark.eventLog.enabled": "false", "spark.ui.enabled": "false"}

# For what is read in this process: too little to be worth replanning each of its stages when the last is known.
_IN_PROCESS = {"spark.sql.shuffle.partitions": "2", "spark.sql.adaptive.enabled": "false"}


def create(job: str, config: Config, *, on_cluster: bool = True, event_log: bool = True) -> SparkSession:
    """Start a session for the named job, on the cluster unless it reads so little that its executors would take longer.

    event_log: whether Spark keeps and shows what it did, with its statements, where the configuration has it do so.
    """
    use_utc()
    py4j_cache.remember()
    builder = SparkSession.builder.appName(f"moodle-lakehouse {job}").config(
        "spark.cores.max", str(config.spark.cores_max)
    )
    if not on_cluster:
        builder = builder.master(f"local[{config.spark.cores_max}]")
    settings = {**_DEFAULTS, **({} if on_cluster else _IN_PROCESS), **({} if event_log else _NOWHERE)}
    for key, value in settings.items():
        builder = builder.config(key, value)
    with _stdout_is_stderr():
        try:
            spark = builder.getOrCreate()
        except Exception as error:
            raise LakehouseError(
                f"Spark did not start: {_first_line(error)}",
                where=os.environ.get("SPARK_CONF_DIR", "SPARK_CONF_DIR is not set"),
                remedy="see that spark-master is healthy (docker compose ps) and reachable from here",
            ) from error
    _finish(spark)
    if spark.conf.get(f"spark.sql.catalog.{table_names.CATALOG}", None) is None:
        spark.stop()
        raise ConfigError(
            f"Spark knows no catalog named {table_names.CATALOG}",
            where=os.environ.get("SPARK_CONF_DIR", "SPARK_CONF_DIR is not set"),
            remedy="run the jobs where the stack's spark-defaults.conf is mounted (docker compose run --rm -T jobs ...)",
        )
    return spark


def local(warehouse: str | os.PathLike[str], *, cores: int = 2, name: str = "moodle-lakehouse tests") -> SparkSession:
    """Start a session in this process with an Iceberg catalog in a folder: the tests' lakehouse.

    The jars come from the folder named by LAKEHOUSE_TEST_JARS, or are those of the installed pyspark.
    """
    use_utc()
    py4j_cache.remember()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    Path(warehouse).mkdir(parents=True, exist_ok=True)
    builder = (
        SparkSession.builder.master(f"local[{cores}]")
        .appName(name)
        .config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
        .config(f"spark.sql.catalog.{table_names.CATALOG}", "org.apache.iceberg.spark.SparkCatalog")
        .config(f"spark.sql.catalog.{table_names.CATALOG}.type", "hadoop")
        .config(f"spark.sql.catalog.{table_names.CATALOG}.warehouse", str(Path(warehouse).resolve()))
        .config(f"spark.sql.catalog.{table_names.CATALOG}.cache-enabled", "false")
        .config("spark.sql.defaultCatalog", table_names.CATALOG)
        .config("spark.sql.catalogImplementation", "in-memory")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.memory", "2g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.codegen.cache.maxEntries", "1000")
        .config("spark.sql.ui.explainMode", "simple")
    )
    jars = test_jars()
    if jars:
        builder = builder.config("spark.jars", ",".join(jars))
    for key, value in {**_DEFAULTS, **_IN_PROCESS}.items():
        builder = builder.config(key, value)
    with _stdout_is_stderr():
        spark = builder.getOrCreate()
    _finish(spark)
    return spark


def test_jars() -> list[str]:
    """Return the jars that a local session adds to pyspark's own; none where they are installed beside them."""
    folder = os.environ.get(TEST_JARS_VARIABLE)
    if not folder:
        return []
    return sorted(
        str(jar)
        for jar in Path(folder).glob("*.jar")
        if jar.name.startswith(("iceberg-spark-runtime", "mariadb-java-client"))
    )


def use_utc() -> None:
    """Set the process's zone, which Python's own conversions of timestamps follow: the lake knows UTC only."""
    os.environ["TZ"] = "UTC"
    time.tzset()


@cache
def package_zip() -> str:
    """Make the whole package a zip for the executors, once in a process and removed at its end; returns its path."""
    folder = tempfile.mkdtemp(prefix="moodle-lakehouse-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = Path(folder) / "moodle_lakehouse.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in package_files():
            archive.writestr(name, content)
    return str(target)


def package_files() -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the whole package's code and data (.py, .yml), subpackages included."""
    package = Path(moodle_lakehouse.__file__).resolve().parent
    for file in sorted(package.rglob("*")):
        if file.suffix in (".py", ".yml"):
            yield str(Path(package.name) / file.relative_to(package)), file.read_bytes()


def _finish(spark: SparkSession) -> None:
    spark.sparkContext.setLogLevel("ERROR")
    spark.sparkContext.addPyFile(package_zip())


@contextlib.contextmanager
def _stdout_is_stderr() -> Iterator[None]:
    """Send standard output, which belongs to results alone, to standard error while the JVM inherits the streams."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
