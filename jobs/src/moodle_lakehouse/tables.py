"""The one place that knows the lake's table names."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType, _parse_datatype_string

from moodle_lakehouse import storage
from moodle_lakehouse.errors import LakehouseError

CATALOG = "lakehouse"
RUN_ID = "lakehouse.run-id"  # in the summary of every snapshot
NAMESPACES = ("raw", "curated", "features", "marts", "ops")

DIM_USER = f"{CATALOG}.curated.dim_user"
USER_ATTRIBUTE = f"{CATALOG}.curated.user_attribute"
ENROLMENT_ATTRIBUTE = f"{CATALOG}.curated.enrolment_attribute"
DIM_COURSE = f"{CATALOG}.curated.dim_course"
DIM_RESOURCE = f"{CATALOG}.curated.dim_resource"
FACT_EVENT = f"{CATALOG}.curated.fact_event"
FACT_ENROLMENT = f"{CATALOG}.curated.fact_enrolment"
FACT_GRADE = f"{CATALOG}.curated.fact_grade"
FACT_SUBMISSION = f"{CATALOG}.curated.fact_submission"
CURATED = (
    DIM_USER, USER_ATTRIBUTE, ENROLMENT_ATTRIBUTE, DIM_COURSE, DIM_RESOURCE,
    FACT_EVENT, FACT_ENROLMENT, FACT_GRADE, FACT_SUBMISSION,
)  # fmt: skip
ENROLMENT_WEEK = f"{CATALOG}.features.enrolment_week"
STUDENT_RISK = f"{CATALOG}.marts.student_risk"
MODEL_CARD = f"{CATALOG}.marts.model_card"
COURSE_CLUSTER = f"{CATALOG}.marts.course_cluster"
RESOURCE_HISTORY = f"{CATALOG}.marts.resource_history"
JOB_RUN = f"{CATALOG}.ops.job_run"
DATA_QUALITY = f"{CATALOG}.ops.data_quality"
ERASED_USER = f"{CATALOG}.ops.erased_user"

# What every table of the lake is written with.
TABLE_PROPERTIES = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    "write.target-file-size-bytes": str(128 * 1024 * 1024),
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "50",
}


def raw(name: str) -> str:
    """The raw table of a Moodle table; name without Moodle's prefix."""
    return f"{CATALOG}.raw.{name}"


def bench(name: str) -> str:
    """A table that lives as long as a measurement."""
    return f"{CATALOG}.bench.{name}"


@contextmanager
def bench_namespace(spark: SparkSession) -> Iterator[None]:
    """The namespace of such tables, for as long as there are any."""
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {CATALOG}.bench")
    try:
        yield
    finally:
        if spark.sql(f"SHOW TABLES IN {CATALOG}.bench").isEmpty():
            spark.sql(f"DROP NAMESPACE {CATALOG}.bench")


def ensure_namespaces(spark: SparkSession) -> None:
    """Make the namespaces that the jobs write to."""
    for name in NAMESPACES:
        spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {CATALOG}.{name}")


def exists(spark: SparkSession, table: str) -> bool:
    return spark.catalog.tableExists(table)


def read(spark: SparkSession, table: str) -> DataFrame | None:
    """The table, or None when it does not exist (yet)."""
    try:
        return spark.table(table)
    except AnalysisException as error:
        if error.getErrorClass() == "TABLE_OR_VIEW_NOT_FOUND":
            return None
        raise


def local_rows(spark: SparkSession, rows: Sequence[tuple[Any, ...]], schema: StructType | str) -> DataFrame:
    """A few rows that the driver has, by Arrow. For a list, createDataFrame would start Python on the executors."""
    import pandas as pd

    columns = _parse_datatype_string(schema) if isinstance(schema, str) else schema
    assert isinstance(columns, StructType)
    found = pd.DataFrame(list(rows), columns=columns.names, dtype=object)
    return spark.createDataFrame(found, columns).coalesce(1)


def read_at(spark: SparkSession, table: str, snapshot: int) -> DataFrame:
    """The table as a snapshot of it was; refuses one that is gone."""
    loaded = load(spark, table)
    if loaded is None or loaded.snapshot(snapshot) is None:
        raise LakehouseError(
            f"Snapshot {snapshot} of {table} is gone",
            where=table,
            remedy="snapshots are kept as long as the retention says; what is older cannot be read again",
        )
    return spark.read.option("snapshot-id", snapshot).table(table)


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
    """Write the table anew in one commit; its earlier snapshots stay readable. summary: kept with the snapshot."""
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
    """Write the rows anew for which a condition holds, in one commit. It must be true or false of whole partitions."""
    writer = _summarised(df.writeTo(table), run_id, summary)
    for key, value in options.items():
        writer = writer.option(key, value)
    writer.overwrite(part)


@dataclass(frozen=True)
class Files:
    """Where the files of a table go: field_ids by the column's name, storage: the settings of S3 for whoever writes them."""

    field_ids: dict[str, int]
    storage: dict[str, str]
    new: Any

    def location(self, name: str) -> str:
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
    """Write the table anew, as replace() does, of Parquet files that `write` makes and names.

    schema: the columns in Spark's words. The files are committed by Iceberg's own API, which reads their footers.
    """
    jvm: Any = spark._jvm
    catalog, identifier = _found_by(spark, table)
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
    """The files that `write` makes for a table, as Iceberg's commits want them."""
    iceberg: Any = spark._jvm.org.apache.iceberg  # type: ignore[union-attr]
    metrics = iceberg.MetricsConfig.forTable(loaded)
    columns = {c.name(): c.fieldId() for c in loaded.schema().columns()}
    for path in write(Files(columns, storage.settings(loaded), loaded)):
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
    """Partition by a specification that the table had, and lost when it was written anew, what is written from now on."""
    loaded = load(spark, table)
    transform = spark._jvm.org.apache.iceberg.expressions.Expressions.transform  # type: ignore[union-attr]
    change = loaded.updateSpec()
    for field in spec.fields():
        column = spec.schema().findColumnName(field.sourceId())
        if loaded.schema().findField(column) is not None:
            change.addField(field.name(), transform(column, field.transform()))
    change.commit()


def _with_summary(commit: Any, run_id: str, summary: Mapping[str, str]) -> Any:
    for key, value in {RUN_ID: run_id, **summary}.items():
        commit.set(key, value)
    return commit


def append(df: DataFrame, table: str, *, run_id: str, summary: Mapping[str, str] | None = None) -> None:
    """Add rows, making the table when it is missing, and columns that it lacks. No rows make a snapshot all the same."""
    writer = _summarised(df.writeTo(table).using("iceberg"), run_id, summary)
    if exists(df.sparkSession, table):
        held = set(df.sparkSession.table(table).columns)
        for column in df.schema:
            if column.name not in held:
                new = f"{_quoted(column.name)} {column.dataType.simpleString()}"
                df.sparkSession.sql(f"ALTER TABLE {table} ADD COLUMN {new}")
        writer.append()
        return
    for key, value in TABLE_PROPERTIES.items():
        writer = writer.tableProperty(key, value)
    writer.create()


def append_rows(
    spark: SparkSession, rows: Sequence[tuple[Any, ...]], schema: StructType, table: str, *, run_id: str
) -> None:
    """Add a few rows as append() does, but without a job where the table is there: the driver writes their file."""
    import pyarrow as pa

    loaded = load(spark, table)
    names = schema.fieldNames()
    known = set() if loaded is None else {c.name() for c in loaded.schema().columns()}
    if loaded is None or not known.issuperset(names) or loaded.spec().isPartitioned():
        append(local_rows(spark, rows, schema), table, run_id=run_id)
        return

    def write(target: Files) -> list[str]:
        fields = [storage.field(f.name, f.type, target.field_ids[f.name]) for f in to_arrow_schema(schema)]
        path = target.location(f"{secrets.token_hex(8)}.parquet")
        columns = [pa.array(column, f.type) for column, f in zip(zip(*rows, strict=True), fields, strict=True)]
        with storage.parquet(path, pa.schema(fields), target.storage) as writer:
            writer.write_table(pa.table(columns, pa.schema(fields)))
        return [path]

    commit = loaded.newAppend()
    for file in _written(spark, loaded, write):
        commit.appendFile(file)
    _with_summary(commit, run_id, {}).commit()


@dataclass(frozen=True)
class Above:
    """Rows whose key is greater than a watermark, up to which a loaded table has all rows and beyond which none."""

    loaded: Any
    key: str
    watermark: int
    snapshot: int

    @classmethod
    def of(cls, loaded: Any, key: str, watermark: int) -> Above:
        """Of a table as it was loaded; its own commits would move what Java calls current."""
        return cls(loaded, key, watermark, int(loaded.currentSnapshot().snapshotId()))

    @property
    def takes_files(self) -> bool:
        """Whether add_files() may be used: files of a partitioned table each belong to one partition."""
        return bool(self.loaded.spec().isUnpartitioned())


def add(df: DataFrame, table: str, above: Above, *, run_id: str, summary: Mapping[str, str]) -> None:
    """Add rows in one commit that fails when somebody else has added rows above the watermark since then."""
    writer = _summarised(df.writeTo(table), run_id, summary).option("isolation-level", "serializable")
    writer = writer.option("validate-from-snapshot-id", str(above.snapshot))
    writer.overwrite(F.col(_quoted(above.key)) > above.watermark)


def add_files(
    spark: SparkSession,
    above: Above,
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
    """Apply changes in one commit that fails when somebody else has written among the same rows since it began.

    changes: the table's columns and OPERATION; key: the columns that identify a row; bounds: the least and the
    greatest key of the changes, where it is one whole number, so that no file beyond them is read.
    """
    spark = changes.sparkSession
    view = f"changes_{secrets.token_hex(8)}"
    columns = [_quoted(c) for c in changes.columns if c != OPERATION]
    matches = [f"t.{_quoted(k)} = s.{_quoted(k)}" for k in key]
    if bounds is not None:
        matches.append(f"t.{_quoted(key[0])} BETWEEN {bounds[0]} AND {bounds[1]}")
    statement = (
        f"MERGE INTO {quoted(table)} t USING {view} s ON {' AND '.join(matches)}"
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
    for key, value in {RUN_ID: run_id, **(summary or {})}.items():
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
        {RUN_ID: run_id, **summary}, call, class_of("java.lang.Exception")
    )


def load(spark: SparkSession, table: str) -> Any:
    """Iceberg's own (Java) view of the table as it is now, or None when it does not exist. No job runs for it.

    The catalog is asked first: where a table does not exist that is named like one of Iceberg's metadata tables, as
    Moodle's `files` is, a REST catalog that loads it fails.
    """
    catalog, identifier = _found_by(spark, table)
    return catalog.loadTable(identifier) if catalog.tableExists(identifier) else None


def _found_by(spark: SparkSession, table: str) -> tuple[Any, Any]:
    """Iceberg's own catalog of a table, and what the table is called there."""
    jvm: Any = spark._jvm
    name, inside = table.split(".", 1)
    catalog = jvm.org.apache.iceberg.spark.Spark3Util.loadIcebergCatalog(spark._jsparkSession, name)
    return catalog, jvm.org.apache.iceberg.catalog.TableIdentifier.parse(inside)


def snapshot_id(loaded: Any) -> int | None:
    """The current snapshot of a loaded table; None before the first."""
    snapshot = loaded.currentSnapshot()
    return None if snapshot is None else int(snapshot.snapshotId())


def ancestors(loaded: Any) -> Iterator[Any]:
    """The snapshots of a loaded table from the current one back to the oldest that has not expired; none of None."""
    snapshot = None if loaded is None else loaded.currentSnapshot()
    while snapshot is not None:
        yield snapshot
        parent = snapshot.parentId()
        snapshot = None if parent is None else loaded.snapshot(parent)


def newest_rows(loaded: Any) -> Any:
    """The snapshot that last changed a loaded table's rows; maintenance's own snapshots only move them to other files."""
    found = None
    for snapshot in ancestors(loaded):
        found = snapshot
        if snapshot.operation() != "replace":
            break
    return found


def was_overtaken(error: BaseException) -> bool:
    """Whether a commit failed because somebody else committed to the table first."""
    return any(name in str(error) for name in ("ValidationException", "CommitFailedException"))


def notes(loaded: Any) -> dict[str, str]:
    """What jobs noted in the newest snapshot that has such a note (watermark.Mark, history.Mark, made_from).

    A commit that is not theirs has to carry it on, before the snapshots behind it expire.
    """
    return next((found for snapshot in ancestors(loaded) if (found := notes_of(snapshot))), {})


def notes_of(snapshot: Any) -> dict[str, str]:
    """What jobs noted in a snapshot's summary, besides the run's id."""
    return {k: v for k, v in dict(snapshot.summary()).items() if k.startswith(f"{CATALOG}.") and k != RUN_ID}


def expire(spark: SparkSession, loaded: Any, *, older_than: int, keep: int) -> Any:
    """Expire snapshots from before a moment (milliseconds since 1970), and delete the files that they alone hold.

    Kept are the newest ones, so many, and what tags and branches keep. Returns Iceberg's numbers of deleted files.
    """
    jvm: Any = spark._jvm
    actions = jvm.org.apache.iceberg.spark.actions.SparkActions.get(spark._jsparkSession)
    return actions.expireSnapshots(loaded).expireOlderThan(older_than).retainLast(keep).execute()


def homes(spark: SparkSession) -> dict[str, str]:
    """namespace.table -> where its files are, of everything in the catalog, also what is not the jobs'."""
    found = {}
    namespaces = [row[0] for row in spark.sql(f"SHOW NAMESPACES IN {CATALOG}").collect()]
    while namespaces:
        namespace = namespaces.pop()
        place = quoted(f"{CATALOG}.{namespace}")
        inner = spark.sql(f"SHOW NAMESPACES IN {place}").collect()
        namespaces.extend(row[0] for row in inner if row[0] != namespace)
        for row in spark.sql(f"SHOW TABLES IN {place}").collect():
            name = f"{namespace}.{row['tableName']}"
            loaded = load(spark, f"{CATALOG}.{name}")
            if loaded is not None:  # it may have gone meanwhile
                found[name] = str(loaded.location()).rstrip("/") + "/"
    return found


def row_count(spark: SparkSession, table: str) -> int:
    """Rows by the current snapshot's summary: no job runs for it. Exact, since no table has delete files."""
    return rows_of(load(spark, table))


def rows_of(loaded: Any) -> int:
    """Rows of a loaded table."""
    snapshot = loaded.currentSnapshot()
    return 0 if snapshot is None else int(snapshot.summary().get("total-records"))


def quoted(table: str) -> str:
    """A full name as SQL wants it."""
    return ".".join(_quoted(part) for part in table.split("."))


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
