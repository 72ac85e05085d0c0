"""Create, load and read the lake's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType, _parse_datatype_string

from moodle_lakehouse.errors import LakehouseError, reason
from moodle_lakehouse.lake import table_names


@contextmanager
def bench_namespace(spark: SparkSession) -> Iterator[None]:
    """Make the namespace of benchmarks' tables, and drop it when none is left."""
    bench = table_names.full_name(table_names.CATALOG, "bench")
    create_namespace(spark, bench)
    try:
        yield
    finally:
        if not names_in(spark, bench):
            spark.sql(f"DROP NAMESPACE {table_names.quoted(bench)}")


def ensure_namespaces(spark: SparkSession) -> None:
    """Make the namespaces that the jobs write to."""
    for name in table_names.NAMESPACES:
        create_namespace(spark, table_names.full_name(table_names.CATALOG, name))


def create_namespace(spark: SparkSession, namespace: str) -> None:
    """Make a namespace (full name) unless it is there."""
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {table_names.quoted(namespace)}")


def exists(spark: SparkSession, table: str) -> bool:
    """Return whether the table exists."""
    return spark.catalog.tableExists(table)


def read(spark: SparkSession, table: str) -> DataFrame | None:
    """Return the table, or None when it does not exist (yet)."""
    try:
        return spark.table(table)
    except AnalysisException as error:
        if error.getErrorClass() == "TABLE_OR_VIEW_NOT_FOUND":
            return None
        raise


def local_rows(spark: SparkSession, rows: Sequence[tuple[Any, ...]], schema: StructType | str) -> DataFrame:
    """Return a few rows of the driver as a frame, by Arrow: of a list, createDataFrame would start Python on the executors."""
    import pandas as pd

    columns = _parse_datatype_string(schema) if isinstance(schema, str) else schema
    assert isinstance(columns, StructType)
    found = pd.DataFrame(list(rows), columns=columns.names, dtype=object)
    return spark.createDataFrame(found, columns).coalesce(1)


def settled(df: DataFrame, most: int = 200_000) -> DataFrame:
    """Return the rows computed now and held by the driver, so that what is made of them is planned without what they came of.

    For rows of courses, of which there are few. most: with more rows than that the frame is returned as it is.
    """
    found = df._jdf.limit(most + 1).collectAsList()
    if found.size() > most:
        return df
    spark = df.sparkSession
    return DataFrame(spark._jsparkSession.createDataFrame(found, df._jdf.schema()), spark)


# What a broadcast may take of each driver and executor by Spark's own count; in a join it takes some times that.
BROADCAST_BYTES = 16 * 1024 * 1024


def bounded_broadcast(df: DataFrame) -> DataFrame:
    """Return a persisted frame, marked for broadcast where its rows, computed now, are few enough for it."""
    df.count()
    size = df._jdf.queryExecution().withCachedData().stats().sizeInBytes()
    return F.broadcast(df) if int(size) <= BROADCAST_BYTES else df


def read_at(spark: SparkSession, table: str, snapshot: int) -> DataFrame:
    """Return the table as of a snapshot; one that has expired is refused."""
    loaded = load(spark, table)
    if loaded is None or loaded.snapshot(snapshot) is None:
        raise LakehouseError(
            f"Snapshot {snapshot} of {table} is gone",
            where=table,
            remedy="snapshots are kept as long as the retention says; what is older cannot be read again",
        )
    return spark.read.option("snapshot-id", snapshot).table(table)


def at(spark: SparkSession, table: str, loaded: Any) -> DataFrame:
    """Return the rows of a loaded table that has some, whatever is committed to it later."""
    return spark.read.option("snapshot-id", str(loaded.currentSnapshot().snapshotId())).table(table)


def load(spark: SparkSession, table: str) -> Any:
    """Return Iceberg's own (Java) view of the current table, or None when it does not exist. No Spark job runs for it.

    The catalog is asked first: where a table does not exist that is named like one of Iceberg's metadata tables, as
    Moodle's `files` is, a REST catalog that loads it fails.
    """
    catalog, identifier = catalog_of(spark, table)
    return catalog.loadTable(identifier) if catalog.tableExists(identifier) else None


def catalog_of(spark: SparkSession, table: str) -> tuple[Any, Any]:
    """Return Iceberg's own catalog of a table, and the table's identifier there."""
    jvm: Any = spark._jvm
    name, *inside = table_names.parts(table)
    catalog = jvm.org.apache.iceberg.spark.Spark3Util.loadIcebergCatalog(spark._jsparkSession, name)
    names = spark.sparkContext._gateway.new_array(jvm.java.lang.String, len(inside))  # type: ignore[union-attr]
    for place, part in enumerate(inside):
        names[place] = part
    return catalog, jvm.org.apache.iceberg.catalog.TableIdentifier.of(names)


def table_locations(
    spark: SparkSession, catalog: str = table_names.CATALOG, unreadable: dict[str, str] | None = None
) -> dict[str, str]:
    """Return namespace.table -> folder of its files, of every table in the catalog, also of those that are not the jobs'.

    The names are full ones but for the catalog: whoever may write there chose them, so any character may be in them.
    unreadable: gets the names of tables that cannot be loaded, with the reason; without it one such table is an error.
    """
    found = {}
    namespaces = _namespaces(spark, catalog)
    while namespaces:
        namespace = namespaces.pop()
        place = f"{catalog}.{namespace}"
        namespaces.extend(inner for inner in _namespaces(spark, place) if inner != namespace)
        for table in names_in(spark, place):
            name = f"{namespace}.{table_names.full_name(table)}"
            try:
                loaded = load(spark, f"{catalog}.{name}")
            except Exception as error:
                if unreadable is not None:
                    unreadable[name] = reason(error)
                    continue
                raise LakehouseError(
                    f"The catalog cannot load a table: {reason(error)}",
                    where=f"{catalog}.{name}",
                    remedy="drop it, or bring its metadata back (troubleshooting.md)",
                ) from error
            if loaded is not None:  # it may have gone meanwhile
                found[name] = str(loaded.location()).rstrip("/") + "/"
    return found


def _namespaces(spark: SparkSession, place: str) -> list[str]:
    """Return the namespaces right below a catalog or a namespace, as full names but for the catalog."""
    rows = spark.sql(f"SHOW NAMESPACES IN {table_names.quoted(place)}").collect()
    return [table_names.full_name(*table_names.parts(row[0])) for row in rows]


def names_in(spark: SparkSession, namespace: str) -> list[str]:
    """Return the tables of a namespace (full name), each by its own name as the catalog has it."""
    return [row["tableName"] for row in spark.sql(f"SHOW TABLES IN {table_names.quoted(namespace)}").collect()]


def row_count(spark: SparkSession, table: str) -> int:
    """Return the rows by the current snapshot's summary, without a Spark job. Exact, since no table has delete files."""
    return rows_of(load(spark, table))


def rows_of(loaded: Any) -> int:
    """Return the rows of a loaded table."""
    snapshot = loaded.currentSnapshot()
    return 0 if snapshot is None else int(snapshot.summary().get("total-records"))
