"""Measure how fast the log is copied, beside the alternatives, on the same rows in the same minutes.

lakehouse   the first load of `ingest`: reads, writes, commits, queries the source before and after
spark_jdbc  Spark's partitioned JDBC read of the same columns, written to a table of the same kind
raw         parallel `mariadb --quick` clients reading all columns to nowhere: the limit of server and network
dlt         dlt with ConnectorX to local Parquet files, all columns; only where it is installed

Written to the namespace bench, which is empty again at the end.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import multiprocessing
import os
import re
import secrets
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pyspark.sql import SparkSession

from moodle_lakehouse.config import Config, MoodleConfig
from moodle_lakehouse.errors import LakehouseError, reason
from moodle_lakehouse.ingest import jdbc_reader, mysql, read_plan, source_sql, table_sync
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest.moodle_tables import TablePlan
from moodle_lakehouse.ingest.source_sql import TableExtent
from moodle_lakehouse.lake import session, table_names, tables, writers
from moodle_lakehouse.lake.table_names import quoted_name

log = logging.getLogger(__name__)

TABLE = "logstore_standard_log"


def ingest_log(config: Config, rows: int, runs: int) -> dict[str, Any]:
    """Copy the first rows of the log by each reader; seconds of each run without the start of Spark.

    A reader is None where its program is not installed, and holds its error where it failed: the others go on.
    """
    plan, part, extent, server = _first_rows(config, rows)
    client = shutil.which("mariadb")
    readers = {
        "lakehouse": _measure_or_error(
            "lakehouse", lambda: _in_spark(config, "lakehouse", plan, extent, part, rows, runs)
        ),
        "spark_jdbc": _measure_or_error(
            "spark_jdbc", lambda: _in_spark(config, "spark_jdbc", plan, extent, part, rows, runs)
        ),
        "raw": _measure_or_error("raw", lambda: _raw(config, client, plan, extent, rows, runs)) if client else None,
        "dlt": _measure_or_error("dlt", lambda: _dlt(config, plan, extent, rows, runs))
        if importlib.util.find_spec("dlt")
        else None,
    }
    packages = ("moodle-lakehouse", "pyspark", "connectorx", "pyarrow")
    versions = {name.replace("-", "_"): version(name) for name in packages}
    return {"rows": rows, "readers": readers, "versions": {**versions, "database": server}}


def _first_rows(config: Config, rows: int) -> tuple[TablePlan, str | None, TableExtent, str]:
    """Return the log's plan, the condition for its first rows, their extent, and the server's version.

    The condition is None when there are no other rows, as at a first load.
    """
    (plan,) = [p for p in ingest_job.inspect(config).plan.tables if p.table.name == TABLE]
    key = quoted_name(plan.id_column or "id")
    with mysql.connect(config.moodle) as cursor:
        cursor.execute(f"SELECT {key} FROM {quoted_name(plan.source)} ORDER BY {key} LIMIT {rows - 1}, 1")
        last = cursor.fetchone()
        if last is None:
            raise LakehouseError(
                f"The log has only {source_sql.count(cursor, plan, None):,} of {rows:,} rows",
                where=f"{plan.source} of {config.moodle.endpoint}",
                remedy="ask for fewer with --rows, or load a larger demo (moodle_demo_log_rows of the inventory)",
            )
        whole = source_sql.extent(cursor, plan)
        part = f"{key} <= {int(last[0])}" if whole.rows > rows else None
        extent = source_sql.extent(cursor, plan, part) if part else whole
        cursor.execute("SELECT VERSION()")
        answer = cursor.fetchone()
    assert answer is not None
    return plan, part, extent, str(answer[0])


def _measure_or_error(name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return measure()
    except Exception as error:
        log.error("%s: %s", name, reason(error))
        return {"rows_per_second": None, "seconds": [], "error": reason(error)}


def _time_runs(name: str, rows: int, runs: int, once: Callable[[], None]) -> dict[str, Any]:
    seconds = []
    for number in range(1, runs + 1):
        started = time.monotonic()
        once()
        seconds.append(round(time.monotonic() - started, 2))
        log.info("%s, run %d of %d: %.1f s", name, number, runs, seconds[-1])
    return {"rows_per_second": round(rows / statistics.median(seconds)), "seconds": seconds}


def _in_spark(
    config: Config, name: str, plan: TablePlan, extent: TableExtent, part: str | None, rows: int, runs: int
) -> dict[str, Any]:
    """Measure a reader in a Spark session of its own, so that the executors' memory is its own."""
    spark = session.create(f"bench ingest {name}", config)
    table = table_names.bench(f"{TABLE}_{secrets.token_hex(4)}")

    def lakehouse() -> None:
        table_sync.load(spark, config, plan, table, part)

    def spark_jdbc() -> None:
        ranges = read_plan.id_ranges(plan, extent, config.moodle.max_connections)
        df = jdbc_reader.read_table(spark, config.moodle, plan, part, ranges)
        writers.replace(df, table, run_id="bench")

    try:
        with tables.bench_namespace(spark):
            try:
                found = _time_runs(name, rows, runs, lakehouse if name == "lakehouse" else spark_jdbc)
                written = tables.row_count(spark, table)
            finally:
                spark.sql(f"DROP TABLE IF EXISTS {table_names.quoted(table)} PURGE")
        if written != rows:
            raise LakehouseError(f"{written:,} rows arrived of {rows:,}", where=name)
        return {**found, **_peak_memory(spark, config.spark.cores_max)}
    finally:
        spark.stop()


def _raw(config: Config, client: str, plan: TablePlan, extent: TableExtent, rows: int, runs: int) -> dict[str, Any]:
    moodle, peak, key = config.moodle, 0, quoted_name(plan.id_column or "")
    command = [client, "--quick", "-h", moodle.host, "-P", str(moodle.port), "-u", moodle.user, moodle.database, "-e"]
    ranges = read_plan.id_ranges(plan, extent, moodle.max_connections) or [(extent.low or 0, extent.high or 0)]

    def once() -> None:
        nonlocal peak
        clients = [
            subprocess.Popen(
                [*command, f"SELECT * FROM {quoted_name(plan.source)} WHERE {key} BETWEEN {low} AND {high}"],
                stdout=subprocess.DEVNULL,
                env={**os.environ, "MYSQL_PWD": moodle.password()},
            )
            for low, high in ranges
        ]
        ended = [os.wait4(one.pid, 0) for one in clients]
        peak = max(peak, sum(usage.ru_maxrss * 1024 for _, _, usage in ended))
        if any(status for _, status, _ in ended):
            raise LakehouseError("a client failed", where="raw", remedy="see its message above")

    return {**_time_runs("raw", rows, runs, once), "peak_memory_bytes": peak}


def _dlt(config: Config, plan: TablePlan, extent: TableExtent, rows: int, runs: int) -> dict[str, Any]:
    """Measure dlt, each run in a process of its own: a lack of memory ends nothing else."""
    peaks = []

    def once() -> None:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            try:
                peaks.append(process.submit(_dlt_run, config.moodle, plan, extent).result())
            except BrokenProcessPool as error:
                raise LakehouseError(
                    "its process was killed, most likely for lack of memory",
                    where="dlt",
                    remedy="raise the memory limit of the container, or ask for fewer --rows",
                ) from error

    return {**_time_runs("dlt", rows, runs, once), "peak_memory_bytes": max(peaks)}


def _dlt_run(moodle: MoodleConfig, plan: TablePlan, extent: TableExtent) -> int:
    """Copy once; returns the peak memory of this process in bytes."""
    import dlt
    from dlt.sources.sql_database import sql_table

    user, password = quote(moodle.user, ""), quote(moodle.password(), "")
    with tempfile.TemporaryDirectory() as folder:
        target = dlt.destinations.filesystem(f"file://{folder}/out")
        pipeline = dlt.pipeline("bench", destination=target, dataset_name="raw", pipelines_dir=f"{folder}/state")
        data = sql_table(
            f"mysql+pymysql://{user}:{password}@{moodle.host}:{moodle.port}/{moodle.database}",
            table=plan.source,
            backend="connectorx",
            backend_kwargs={"return_type": "arrow"},
            query_adapter_callback=lambda query, table: query.where(table.c[plan.id_column] <= extent.high),
        )
        pipeline.run(data, loader_file_format="parquet", write_disposition="replace").raise_on_failed_jobs()
    return _peak_bytes(os.getpid())


# Peak resident memory, as the kernel recorded it for each process. Pages that processes share count for each.


def _peak_memory(spark: SparkSession, cores: int) -> dict[str, int]:
    """Return peaks of the driver, of the largest executor, and of all; an executor is its JVM and its Python processes."""
    jvm: Any = spark._jvm
    driver = _peak_bytes(os.getpid()) + _peak_bytes(int(jvm.java.lang.ProcessHandle.current().pid()))
    tasks = spark.sparkContext.parallelize(range(cores * 4), cores * 4).map(lambda _: _executor_peak())
    executors = dict(tasks.collect())
    return {
        "peak_memory_bytes": driver + sum(executors.values()),
        "peak_executor_bytes": max(executors.values()),
        "peak_driver_bytes": driver,
    }


def _executor_peak() -> tuple[tuple[str, int], int]:
    """Return, on an executor, its identity and its peak. Waits a little, so that every executor gets such a task."""
    time.sleep(0.3)
    daemon = os.getppid()
    parents = {int(p.name): _status(int(p.name), "PPid") for p in Path("/proc").iterdir() if p.name.isdigit()}
    machine = parents[daemon]
    family = [machine, daemon, *[pid for pid, parent in parents.items() if parent == daemon]]
    return (socket.gethostname(), machine), sum(_peak_bytes(pid) for pid in family)


def _peak_bytes(pid: int) -> int:
    """Return the peak memory of a process in bytes; 0 when it is gone."""
    return _status(pid, "VmHWM") * 1024


def _status(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0
