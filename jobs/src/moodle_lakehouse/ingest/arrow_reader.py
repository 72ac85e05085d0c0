"""Copy large tables from the source straight to Parquet files: twice as fast as rows that pass through Spark's JVM.

Executors' Python reads a range of ids as Arrow (ConnectorX, MySQL's binary protocol) in pieces of so many rows, each of
which becomes a row group of a file on the object store. The driver commits the files (lake.writers).

ConnectorX takes no certificate authority and checks no certificate, so it is for sources that are read in plain text.
What it would get wrong is not left to it: decimals are read as text, dates are text already (moodle_tables), and
so is JSON, which it would reformat.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from pyspark.sql import SparkSession

from moodle_lakehouse.config import MoodleConfig
from moodle_lakehouse.errors import without_values
from moodle_lakehouse.ingest.moodle_tables import ReadColumn, TablePlan
from moodle_lakehouse.lake import files, writers
from moodle_lakehouse.lake.table_names import quoted_name

if TYPE_CHECKING:
    import pyarrow as pa

MAX_FILE_ROWS = 5_000_000  # a file ends after about so many: some 60 MB of Moodle's log
THROTTLED_PIECE_SECONDS = 5  # of reading in a piece, where a limit of rows a second is set
MIN_PIECE_ROWS = 10_000  # of a piece: each is a query of its own, which must be worth its connection


@dataclass(frozen=True)
class _CopyTask:
    """What an executor needs to copy ranges.

    columns: name, type as Spark writes it, Iceberg's field id; rate: rows a second, None: without a limit.
    """

    url: str
    password: str
    plan: TablePlan
    condition: str | None
    rows: int
    columns: tuple[tuple[str, str, int], ...]
    storage: Mapping[str, str]
    rate: float | None


def serves(moodle: MoodleConfig, plan: TablePlan, ranges: Sequence[tuple[int, int]], rows: int) -> bool:
    """Return whether this reader can be used: plain text, a large table with a sure id, and many rows to a piece.

    Not where columns are hashed: their key stays in the driver (hashed_columns), which has Spark join the hashes.
    """
    if moodle.tls != "disabled" or any(column.hashed for column in plan.columns):
        return False
    return bool(ranges) and plan.key == (plan.id_column,) and rows >= MIN_PIECE_ROWS


def writer(
    spark: SparkSession,
    moodle: MoodleConfig,
    plan: TablePlan,
    ranges: Sequence[tuple[int, int]],
    *,
    condition: str | None,
    rows: int,
) -> Callable[[writers.Files], list[str]]:
    """Return the function that copies ranges of ids to files of a table, for writers.replace_with_files and add_files.

    rows: the most of a piece. Each range is one task with one connection.
    """
    url = (
        f"mysql://{quote(moodle.user, '')}:{quote(moodle.password(), '')}@{moodle.host}:{moodle.port}/{moodle.database}"
    )

    rate = moodle.rows_per_second
    rows = rows if rate is None else min(rows, max(1, int(rate * THROTTLED_PIECE_SECONDS)))

    def write(target: writers.Files) -> list[str]:
        columns = tuple((c.name, c.spark_type, target.field_ids[c.name]) for c in plan.columns)
        task = _CopyTask(url, moodle.password(), _exact(plan), condition, rows, columns, target.storage, rate)
        name = secrets.token_hex(8)
        ranges_and_stems = [(low, high, target.location(f"{name}-{i}")) for i, (low, high) in enumerate(ranges)]
        done = (
            spark.sparkContext.parallelize(ranges_and_stems, len(ranges_and_stems))
            .map(lambda ends: _copy_range(task, *ends))
            .collect()
        )
        return [path for paths in done for path in paths]

    return write


def _exact(plan: TablePlan) -> TablePlan:
    """Return the plan with the casts that make ConnectorX exact."""

    def exact(column: ReadColumn) -> ReadColumn:
        computed = column.sql != quoted_name(column.name) and not column.sql.startswith("CAST(")
        if column.spark_type.startswith("DECIMAL") or (column.spark_type == "STRING" and computed):
            return dataclasses.replace(column, sql=f"CAST({column.sql} AS CHAR)")
        return column

    return dataclasses.replace(plan, columns=tuple(exact(c) for c in plan.columns))


# On the executors


def _copy_range(task: _CopyTask, low: int, high: int, stem: str) -> list[str]:
    """Copy the rows from low to high, both included; returns the paths of the files."""
    stem = f"{stem}-{secrets.token_hex(4)}"  # a task that is tried again leaves the files of the first attempt alone
    paths: list[str] = []
    pieces = _pieces(task, low, high)
    piece = next(pieces, None)
    while piece is not None:
        paths.append(f"{stem}-{len(paths)}.parquet")
        written = 0
        with files.parquet(paths[-1], piece.schema, task.storage) as writer:
            while piece is not None and written < MAX_FILE_ROWS:
                writer.write_table(piece, row_group_size=max(1, piece.num_rows))
                written += piece.num_rows
                piece = next(pieces, None)
    return paths


def _pieces(task: _CopyTask, low: int, high: int) -> Iterator[pa.Table]:
    """Yield the rows in order of their id, at most task.rows at a time: gaps between ids make no difference."""
    schema, key = _schema(task.columns), task.plan.key[0]
    name, first = quoted_name(key), f">= {low}"
    while True:
        condition = f"{name} {first} AND {name} <= {high}" + (f" AND {task.condition}" if task.condition else "")
        started = time.monotonic()
        piece = _query(task, f"{task.plan.select(condition)} ORDER BY {name} LIMIT {task.rows}")
        wait(started, piece.num_rows, task.rate)
        if piece.num_rows:
            last = piece.column(key)[-1].as_py()
            yield piece.cast(schema)
            first = f"> {last}"
        if piece.num_rows < task.rows:
            return


def throttled(rate: float) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return a function for DataFrame.mapInArrow that passes on at most so many rows a second in each task."""

    def pass_on(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        started = time.monotonic()
        for batch in batches:
            yield batch
            wait(started, batch.num_rows, rate)
            started = time.monotonic()

    return pass_on


def wait(started: float, rows: int, rate: float | None) -> None:
    """Sleep until so many rows may have been read since `started`."""
    if rate is not None:
        time.sleep(max(0.0, started + rows / rate - time.monotonic()))


def _query(task: _CopyTask, sql: str) -> pa.Table:
    import connectorx

    try:
        return connectorx.read_sql(task.url, sql, return_type="arrow")
    except BaseException as error:  # ConnectorX's panics are no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        text = str(error).replace(task.url, "")
        for secret in (task.password, quote(task.password, "")):
            text = text.replace(secret, "***")
        raise RuntimeError(f"reading {task.plan.source} failed: {without_values(text)}") from None


def _schema(columns: Sequence[tuple[str, str, int]]) -> pa.Schema:
    """Return Arrow's schema of Spark's types, with the ids by which Iceberg knows a file's columns."""
    import pyarrow as pa

    simple = {
        "INT": pa.int32(),
        "BIGINT": pa.int64(),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "STRING": pa.string(),
        "BINARY": pa.binary(),
    }

    def arrow(kind: str) -> pa.DataType:
        if kind in simple:
            return simple[kind]
        precision, scale = kind.removeprefix("DECIMAL(").removesuffix(")").split(",")
        return pa.decimal128(int(precision), int(scale))

    return pa.schema([files.field(name, arrow(kind), number) for name, kind, number in columns])
