"""The one place that knows the lake's table names."""

from __future__ import annotations

from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

CATALOG = "lakehouse"
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
ENROLMENT_WEEK = f"{CATALOG}.features.enrolment_week"
STUDENT_RISK = f"{CATALOG}.marts.student_risk"
COURSE_CLUSTER = f"{CATALOG}.marts.course_cluster"
JOB_RUN = f"{CATALOG}.ops.job_run"

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


def replace(
    df: DataFrame,
    table: str,
    *,
    run_id: str,
    partition: Any = None,
    properties: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> None:
    """Write the table anew in one commit; its earlier snapshots stay readable."""
    writer = df.writeTo(table).using("iceberg").option("snapshot-property.lakehouse.run-id", run_id)
    for key, value in (options or {}).items():
        writer = writer.option(key, value)
    for key, value in {**TABLE_PROPERTIES, **(properties or {})}.items():
        writer = writer.tableProperty(key, value)
    if partition is not None:
        writer = writer.partitionedBy(partition)
    writer.createOrReplace()


def append(df: DataFrame, table: str, *, run_id: str) -> None:
    """Add rows, making the table when it is missing."""
    writer = df.writeTo(table).using("iceberg").option("snapshot-property.lakehouse.run-id", run_id)
    if exists(df.sparkSession, table):
        writer.append()
        return
    for key, value in TABLE_PROPERTIES.items():
        writer = writer.tableProperty(key, value)
    writer.create()


def row_count(spark: SparkSession, table: str) -> int:
    """Rows by the current snapshot's summary: no job runs for it."""
    jvm = spark._jvm
    assert jvm is not None
    snapshot = jvm.org.apache.iceberg.spark.Spark3Util.loadIcebergTable(spark._jsparkSession, table).currentSnapshot()
    return 0 if snapshot is None else int(snapshot.summary().get("total-records"))
