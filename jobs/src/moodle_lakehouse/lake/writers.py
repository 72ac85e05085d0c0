"""Write tables, each change in one commit whose summary carries the run's id and what a job records with it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from moodle_lakehouse.lake import files, snapshots, table_names, tables

# Every table of the lake is written with these.
TABLE_PROPERTIES = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    "write.target-file-size-bytes": str(128 * 1024 * 1024),
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "50",
}


def replace(
    df: DataFrame,
    table: str,
    *,
    run_id: str,
    partition: Any = None,
    properties: dict[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    summary: Mapping[str, str] | None = None,
) -> None:
    """Replace the table in one commit; its earlier snapshots stay readable. summary: kept with the snapshot."""
    writer = _summarised(df.writeTo(table).using("iceberg"), run_id, summary)
    for key, value in (options or {}).items():
        writer = writer.option(key, value)
    for key, value in {**TABLE_PROPERTIES, **(properties or {})}.items():
        writer = writer.tableProperty(key, value)
    if partition is not None:
        writer = writer.partitionedBy(partition)
    writer.createOrReplace()


def replace_part(
    df: DataFrame, table: str, part: Column, *, run_id: str, options: Mapping[str, str], summary: Mapping[str, str]
) -> None:
    """Replace the rows for which a condition holds, in one commit. It must be true or false of whole partitions."""
    writer = _summarised(df.writeTo(table), run_id, summary)
    for key, value in options.items():
        writer = writer.option(key, value)
    writer.overwrite(part)


@dataclass(frozen=True)
class Files:
    """The place of a table's new files: field_ids by the column's name, storage: the settings of S3 for whoever writes them."""

    field_ids: dict[str, int]
    storage: dict[str, str]
    new: Any

    def location(self, name: str) -> str:
        """Return where a new file of this name goes."""
        return str(self.new.locationProvider().newDataLocation(name))


def replace_with_files(
    spark: SparkSession,
    table: str,
    schema: str,
    write: Callable[[Files], Sequence[str]],
    *,
    run_id: str,
    summary: Mapping[str, str],
) -> None:
    """Replace the table as replace() does, by Parquet files that `write` makes and names.

    schema: the columns in Spark's words. The files are committed by Iceberg's own API, which reads their footers.
    """
    jvm: Any = spark._jvm
    catalog, identifier = tables.catalog_of(spark, table)
    columns = jvm.org.apache.spark.sql.types.StructType.fromDDL(schema)
    columns = jvm.org.apache.iceberg.spark.SparkSchemaUtil.convert(columns)
    builder = catalog.buildTable(identifier, columns).withProperties(TABLE_PROPERTIES)
    transaction = builder.createOrReplaceTransaction()
    commit = transaction.newAppend()
    for file in _written(spark, transaction.table(), write):
        commit.appendFile(file)
    _with_summary(commit, run_id, summary).commit()
    transaction.commitTransaction()


def _written(spark: SparkSession, loaded: Any, write: Callable[[Files], Sequence[str]]) -> Iterator[Any]:
    """Yield the files that `write` makes for a table, as Iceberg's commits want them."""
    iceberg: Any = spark._jvm.org.apache.iceberg  # type: ignore[union-attr]
    metrics = iceberg.MetricsConfig.forTable(loaded)
    columns = {c.name(): c.fieldId() for c in loaded.schema().columns()}
    for path in write(Files(columns, files.settings(loaded), loaded)):
        file = loaded.io().newInputFile(path)
        known = iceberg.parquet.ParquetUtil.fileMetrics(file, metrics)
        yield (
            iceberg.DataFiles.builder(loaded.spec())
            .withInputFile(file)
            .withFormat("parquet")
            .withMetrics(known)
            .build()
        )


def partition_as(spark: SparkSession, table: str, spec: Any) -> None:
    """Partition what is written from now on by a specification that the table had and lost when it was replaced."""
    loaded = tables.load(spark, table)
    transform = spark._jvm.org.apache.iceberg.expressions.Expressions.transform  # type: ignore[union-attr]
    change = loaded.updateSpec()
    for field in spec.fields():
        column = spec.schema().findColumnName(field.sourceId())
        if loaded.schema().findField(column) is not None:
            change.addField(field.name(), transform(column, field.transform()))
    change.commit()


def _with_summary(commit: Any, run_id: str, summary: Mapping[str, str]) -> Any:
    for key, value in {snapshots.RUN_ID: run_id, **summary}.items():
        commit.set(key, value)
    return commit


def append(df: DataFrame, table: str, *, run_id: str, summary: Mapping[str, str] | None = None) -> None:
    """Add rows, making the table when it is missing, and columns that it lacks. No rows make a snapshot all the same."""
    writer = _summarised(df.writeTo(table).using("iceberg"), run_id, summary)
    if tables.exists(df.sparkSession, table):
        held = set(df.sparkSession.table(table).columns)
        for column in df.schema:
            if column.name not in held:
                new = f"{table_names.quoted_name(column.name)} {column.dataType.simpleString()}"
                df.sparkSession.sql(f"ALTER TABLE {table_names.quoted(table)} ADD COLUMN {new}")
        writer.append()
        return
    for key, value in TABLE_PROPERTIES.items():
        writer = writer.tableProperty(key, value)
    writer.create()


def append_rows(
    spark: SparkSession, rows: Sequence[tuple[Any, ...]], schema: StructType, table: str, *, run_id: str
) -> None:
    """Add a few rows as append() does, but without a Spark job where the table exists: the driver writes their file."""
    import pyarrow as pa

    loaded = tables.load(spark, table)
    names = schema.fieldNames()
    known = set() if loaded is None else {c.name() for c in loaded.schema().columns()}
    if loaded is None or not known.issuperset(names) or loaded.spec().isPartitioned():
        append(tables.local_rows(spark, rows, schema), table, run_id=run_id)
        return

    def write(target: Files) -> list[str]:
        fields = [files.field(f.name, f.type, target.field_ids[f.name]) for f in to_arrow_schema(schema)]
        path = target.location(f"{secrets.token_hex(8)}.parquet")
        columns = [pa.array(column, f.type) for column, f in zip(zip(*rows, strict=True), fields, strict=True)]
        with files.parquet(path, pa.schema(fields), target.storage) as writer:
            writer.write_table(pa.table(columns, pa.schema(fields)))
        return [path]

    commit = loaded.newAppend()
    for file in _written(spark, loaded, write):
        commit.appendFile(file)
    _with_summary(commit, run_id, {}).commit()


@dataclass(frozen=True)
class AppendGuard:
    """Rows whose key is greater than a watermark, up to which a loaded table has all rows and beyond which none."""

    loaded: Any
    key: str
    watermark: int
    snapshot: int

    @classmethod
    def of(cls, loaded: Any, key: str, watermark: int) -> AppendGuard:
        """Return the guard of a table as it was loaded: its own commits would move what Java calls current."""
        return cls(loaded, key, watermark, int(loaded.currentSnapshot().snapshotId()))

    @property
    def takes_files(self) -> bool:
        """Return whether add_files() may be used: files of a partitioned table each belong to one partition."""
        return bool(self.loaded.spec().isUnpartitioned())


def add(df: DataFrame, table: str, above: AppendGuard, *, run_id: str, summary: Mapping[str, str]) -> None:
    """Add rows in one commit that fails when another job has added rows above the watermark since then."""
    writer = _summarised(df.writeTo(table), run_id, summary).option("isolation-level", "serializable")
    writer = writer.option("validate-from-snapshot-id", str(above.snapshot))
    writer.overwrite(F.col(table_names.quoted_name(above.key)) > above.watermark)


def add_files(
    spark: SparkSession,
    above: AppendGuard,
    write: Callable[[Files], Sequence[str]],
    *,
    run_id: str,
    summary: Mapping[str, str],
) -> None:
    """Add rows as add() does, of Parquet files as replace_with_files() takes them."""
    commit = above.loaded.newOverwrite()
    for file in _written(spark, above.loaded, write):
        commit.addFile(file)
    expressions: Any = spark._jvm.org.apache.iceberg.expressions.Expressions  # type: ignore[union-attr]
    commit.validateFromSnapshot(above.snapshot).validateNoConflictingData()
    commit.conflictDetectionFilter(expressions.greaterThan(above.key, above.watermark))
    _with_summary(commit, run_id, summary).commit()


OPERATION = "lakehouse_operation"  # the column of merge()'s changes that says what happens to a row


INSERT, UPDATE, DELETE = "insert", "update", "delete"


def merge(
    changes: DataFrame,
    table: str,
    *,
    key: Sequence[str],
    bounds: tuple[int, int] | None,
    run_id: str,
    summary: Mapping[str, str],
) -> None:
    """Apply changes in one commit that fails when another job has written among the same rows since it began.

    changes: the table's columns and OPERATION; key: the columns that identify a row; bounds: the least and the
    greatest key of the changes, where it is one whole number, so that no file beyond them is read.
    """
    spark = changes.sparkSession
    view = f"changes_{secrets.token_hex(8)}"
    columns = [table_names.quoted_name(c) for c in changes.columns if c != OPERATION]
    matches = [f"t.{table_names.quoted_name(k)} = s.{table_names.quoted_name(k)}" for k in key]
    if bounds is not None:
        matches.append(f"t.{table_names.quoted_name(key[0])} BETWEEN {bounds[0]} AND {bounds[1]}")
    statement = (
        f"MERGE INTO {table_names.quoted(table)} t USING {view} s ON {' AND '.join(matches)}"
        f" WHEN MATCHED AND s.{OPERATION} = '{DELETE}' THEN DELETE"
        f" WHEN MATCHED THEN UPDATE SET {', '.join(f't.{c} = s.{c}' for c in columns)}"
        f" WHEN NOT MATCHED AND s.{OPERATION} <> '{DELETE}'"
        f" THEN INSERT ({', '.join(columns)}) VALUES ({', '.join(f's.{c}' for c in columns)})"
    )
    changes.createOrReplaceTempView(view)
    try:
        change(spark, statement, run_id=run_id, summary=summary)
    finally:
        spark.catalog.dropTempView(view)


def _summarised(writer: Any, run_id: str, summary: Mapping[str, str] | None) -> Any:
    for key, value in {snapshots.RUN_ID: run_id, **(summary or {})}.items():
        writer = writer.option(f"snapshot-property.{key}", value)
    return writer


def change(spark: SparkSession, statement: str, *, run_id: str, summary: Mapping[str, str]) -> None:
    """Run a statement (MERGE, UPDATE, DELETE) whose commit carries the summary.

    SQL has no options for it: Iceberg takes the properties of a call, which has to be Java's own, made here of
    SparkSession.sql and its two arguments.
    """
    jvm: Any = spark._jvm
    session: Any = spark._jsparkSession
    invoke, class_of = jvm.java.lang.invoke, jvm.java.lang.Class.forName
    kind = invoke.MethodType.methodType(session.emptyDataFrame().getClass(), class_of("java.lang.String"))
    sql = invoke.MethodHandles.publicLookup().findVirtual(session.getClass(), "sql", kind)
    arguments = spark.sparkContext._gateway.new_array(jvm.java.lang.Object, 2)  # type: ignore[union-attr]
    arguments[0], arguments[1] = session, statement
    call = invoke.MethodHandleProxies.asInterfaceInstance(
        class_of("java.util.concurrent.Callable"), invoke.MethodHandles.insertArguments(sql, 0, arguments)
    )
    jvm.org.apache.iceberg.spark.CommitMetadata.withCommitProperties(
        {snapshots.RUN_ID: run_id, **summary}, call, class_of("java.lang.Exception")
    )


def was_overtaken(error: BaseException) -> bool:
    """Return whether a commit failed because another job committed to the table first."""
    return any(name in str(error) for name in ("ValidationException", "CommitFailedException"))
