"""Find where the lake's files name people: every data file is read, whatever its table's metadata says.

A file counts when any snapshot of its table reaches it, or when it merely lies in the table's folder and no other table
reaches it: of a commit that failed, or left behind by an expiry. Columns that are declared to hold people are searched
and, for pseudonyms, the values of every text behind raw, so that a table that nobody thought of is seen as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.errors import LakehouseError, reason
from moodle_lakehouse.ingest.moodle_tables import PersonColumn, person_columns
from moodle_lakehouse.lake import files, table_names, tables

if TYPE_CHECKING:
    import pyarrow as pa

CURRENT, OLDER, LEFTOVER = "current", "older", "leftover"  # by which snapshots a file is reached


@dataclass(frozen=True)
class People:
    """Who is looked for: by id in raw and elsewhere, by hash where raw has ids hashed, by pseudonym behind raw."""

    ids: tuple[int, ...]
    hashes: tuple[str, ...]
    pseudonyms: tuple[str, ...]

    @property
    def log_pattern(self) -> str:
        """Return the regular expression (of Java and of RE2) for a text that names somebody as "userid 7" or "user_key 0f..."."""
        return rf"\b(userid|user_key) (?:{'|'.join([*map(str, self.ids), *self.pseudonyms])})\b"


@dataclass(frozen=True)
class Trace:
    """Rows of a file that name one of the people, by column; a row may be counted in several columns."""

    table: str
    file: str
    reached: str
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Scan:
    """What was read, and where people are named.

    unread: table and file of what cannot be read, as only the sandbox may have it: a file that is no Parquet, or one of
    another bucket, which its key does not open; an analyst can make such tables, and must not stop an erasure by them.
    """

    tables: int
    files: int
    traces: tuple[Trace, ...]
    unread: tuple[tuple[str, str], ...] = ()

    def by_table(self) -> dict[str, dict[str, Any]]:
        """Return the rows by where the files are reached, and the columns ("by"), of each table that names people.

        A row is counted once for each column that names one, in each file that holds it.
        """
        found: dict[str, dict[str, Any]] = {}
        for trace in self.traces:
            row = found.setdefault(trace.table, {CURRENT: 0, OLDER: 0, LEFTOVER: 0, "by": []})
            row[trace.reached] += sum(trace.rows.values())
            row["by"] = sorted({*row["by"], *trace.rows})
        return found


@dataclass(frozen=True)
class _Task:
    table: str
    file: str
    rules: tuple[PersonColumn, ...]
    storage: Mapping[str, str]


def scan(spark: SparkSession, people: People, rules: Mapping[str, Sequence[PersonColumn]]) -> Scan:
    """Read every data file of the named tables; rules: the columns of each that hold people."""
    reached, tasks, unread = _tasks(spark, rules)
    found: list[tuple[str, str, dict[str, int]]] = []
    if tasks:
        slices = max(1, min(len(tasks), 8 * spark.sparkContext.defaultParallelism))
        found = spark.sparkContext.parallelize(tasks, slices).flatMap(lambda task: _scan_file(task, people)).collect()
    closed = [(name, file) for name, file, rows in found if not rows]
    found = [one for one in found if one[2]]
    hit = {name for name, _, _ in found}
    current = _paths(spark, sorted(hit), "files")
    where = {_plain(f): OLDER for name in hit for f in reached[name]}
    where |= {_plain(f): CURRENT for name in hit for f in current[name]}
    traces = [Trace(name, file, where.get(_plain(file), LEFTOVER), rows) for name, file, rows in found]
    traces.sort(key=lambda trace: (trace.table, trace.reached, trace.file))
    return Scan(len(rules), len(tasks) - len(closed), tuple(traces), tuple(sorted([*unread, *closed])))


def _tasks(
    spark: SparkSession, rules: Mapping[str, Sequence[PersonColumn]]
) -> tuple[dict[str, list[str]], list[_Task], list[tuple[str, str]]]:
    """Return the files that each table's snapshots reach, what is to be read, and what cannot be: table and reason."""
    own = [name for name in rules if not _is_foreign(name)]
    reached, below, unread = _paths(spark, own, "all_files"), {}, []
    for name in rules:
        try:
            if _is_foreign(name):
                reached |= _paths(spark, [name], "all_files")
            loaded = tables.load(spark, name)
            if loaded is not None:
                storage = files.settings(loaded)
                below[name] = storage, files.files_below(loaded.location(), storage)
        except Exception as error:
            if not _is_foreign(name):
                raise
            unread.append((name, reason(error)))
    known_files = {_plain(path) for paths in reached.values() for path in paths}
    tasks: list[_Task] = []
    for name, (storage, there) in below.items():
        # A renamed table keeps its folder.
        leftovers = [f for f in there if f.endswith(".parquet") and _plain(f) not in known_files]
        data_files = {_plain(f): f for f in [*reached[name], *leftovers]}
        tasks.extend(_Task(name, file, tuple(rules[name]), storage) for file in data_files.values())
    return reached, tasks, unread


def _is_foreign(table: str) -> bool:
    """Return whether a table is an analyst's, who may have made it of anything."""
    return table.startswith(f"{table_names.SANDBOX}.")


def _paths(spark: SparkSession, names: Sequence[str], kind: str) -> dict[str, list[str]]:
    """Return the files of each table, by one of Iceberg's metadata tables: `files` of now, `all_files` of every snapshot."""
    found: dict[str, list[str]] = {name: [] for name in names}
    if names:
        parts = [
            spark.table(f"{table_names.quoted(name)}.{kind}").select(F.lit(name), "file_path").distinct()
            for name in names
        ]
        for name, path in reduce(DataFrame.unionAll, parts).collect():
            found[name].append(path)
    return found


def _plain(path: str) -> str:
    """Return a path without what may be written in several ways."""
    return path.removeprefix("file:").replace("s3a://", "s3://").replace("///", "/")


# On the executors


def _scan_file(task: _Task, people: People) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Yield table, file and rows of a file that names somebody; no rows where it cannot be read."""
    import pyarrow as pa
    from pyarrow import parquet

    system, inside = files.place(task.file, task.storage)
    try:
        with system.open_input_file(inside) as stream:
            rows = _count(parquet.ParquetFile(stream), task, people)
    except OSError as error:
        if _is_foreign(task.table):
            yield task.table, task.file, {}
            return
        raise LakehouseError(
            f"A file cannot be read: {error}", where=f"{task.table}: {task.file}", remedy="see that no other job runs"
        ) from None
    except pa.ArrowInvalid:  # ORC or Avro
        yield task.table, task.file, {}
        return
    if rows:
        yield task.table, task.file, rows


def _count(file: Any, task: _Task, people: People) -> dict[str, int]:
    """Count the rows of a Parquet file that name one of the people, by column."""
    import pyarrow as pa

    fields = {field.name: field.type for field in file.schema_arrow}
    numbers = [name for name, kind in fields.items() if pa.types.is_integer(kind) or pa.types.is_decimal(kind)]
    texts = [name for name, kind in fields.items() if name not in numbers and _holds_text(kind)]
    rules = person_columns(task.rules, [*numbers, *texts])
    is_raw = task.table.startswith(table_names.raw(""))
    words = people.hashes if is_raw else people.pseudonyms
    wanted = {rule.name: rule for rule in rules}
    if not is_raw:
        wanted = {name: PersonColumn(name) for name in texts} | wanted
    columns = sorted(wanted.keys() | {rule.when[0] for rule in wanted.values() if rule.when})
    found: dict[str, int] = dict.fromkeys(wanted, 0)
    for batch in file.iter_batches(columns=columns) if columns else ():
        for name, rule in wanted.items():
            values = people.ids if name in numbers else (*words, people.log_pattern) if rule.is_log_text else words
            found[name] += _matches(batch, rule, values)
    return {name: rows for name, rows in found.items() if rows}


def _matches(batch: pa.RecordBatch, rule: PersonColumn, values: Sequence[Any]) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = batch.column(rule.name)
    if rule.when is not None:
        name, value = rule.when
        other = batch.column(name)
        column = column.filter(pc.equal(other, pa.scalar(value, other.type)))
    while pa.types.is_nested(column.type):
        column = _flat(column)
    if pa.types.is_integer(column.type) or pa.types.is_decimal(column.type):
        return int(pc.sum(pc.is_in(pc.cast(column, pa.int64(), safe=False), pa.array(values, pa.int64()))).as_py() or 0)
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        return 0
    return int(pc.sum(pc.match_substring_regex(column, "|".join(values))).as_py() or 0)


def _holds_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_nested(kind):
        return any(_holds_text(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _flat(column: Any) -> Any:
    """Return the texts inside of lists, maps and structures, one level less deep."""
    import pyarrow as pa

    if pa.types.is_struct(column.type):
        texts = [part for part in column.flatten() if _holds_text(part.type)]
        if len(texts) == 1:
            return texts[0]
        plain: list[Any] = []
        for part in texts:
            while pa.types.is_nested(part.type):
                part = _flat(part)
            plain.append(part.cast(pa.large_string()))
        return pa.concat_arrays(plain) if plain else pa.array([], pa.large_string())
    if pa.types.is_map(column.type):
        entries = [part for part in (column.keys, column.items) if _holds_text(part.type)]
        return _flat(pa.StructArray.from_arrays(entries, [str(i) for i in range(len(entries))]))
    return column.flatten()
