"""Create, load and read the lake's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType, _parse_datatype_string

from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import table_names


@contextmanager
def bench_namespace(spark: SparkSession) -> Iterator[None]:
    """Make the namespace of benchmarks' tables, and drop it when none is left."""
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {table_names.CATALOG}.bench")
    try:
        yield
    finally:
        if spark.sql(f"SHOW TABLES IN {table_names.CATALOG}.bench").isEmpty():
            spark.sql(f"DROP NAMESPACE {table_names.CATALOG}.bench")


def ensure_namespaces(spark: SparkSession) -> None:
    """Make the namespaces that the jobs write to."""
    for name in table_names.NAMESPACES:
        spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {table_names.CATALOG}.{name}")


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
    name, inside = table.split(".", 1)
    catalog = jvm.org.apache.iceberg.spark.Spark3Util.loadIcebergCatalog(spark._jsparkSession, name)
    return catalog, jvm.org.apache.iceberg.catalog.TableIdentifier.parse(inside)


def table_locations(spark: SparkSession) -> dict[str, str]:
    """Return namespace.table -> folder of its files, of every table in the catalog, also of those that are not the jobs'."""
    found = {}
    namespaces = [row[0] for row in spark.sql(f"SHOW NAMESPACES IN {table_names.CATALOG}").collect()]
    while namespaces:
        namespace = namespaces.pop()
        place = table_names.quoted(f"{table_names.CATALOG}.{namespace}")
        inner = spark.sql(f"SHOW NAMESPACES IN {place}").collect()
        namespaces.extend(row[0] for row in inner if row[0] != namespace)
        for row in spark.sql(f"SHOW TABLES IN {place}").collect():
            name = f"{namespace}.{row['tableName']}"
            loaded = load(spark, f"{table_names.CATALOG}.{name}")
            if loaded is not None:  # it may have gone meanwhile
                found[name] = str(loaded.location()).rstrip("/") + "/"
    return found


def row_count(spark: SparkSession, table: str) -> int:
    """Return the rows by the current snapshot's summary, without a Spark job. Exact, since no table has delete files."""
    return rows_of(load(spark, table))


def rows_of(loaded: Any) -> int:
    """Return the rows of a loaded table."""
    snapshot = loaded.currentSnapshot()
    return 0 if snapshot is None else int(snapshot.summary().get("total-records"))
