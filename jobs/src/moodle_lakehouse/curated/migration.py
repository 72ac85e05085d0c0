"""Bring a lake that an earlier release wrote to this one's form, before anything else is made of it.

0.1.0 wrote users' ids (userid) beside their pseudonyms into curated, features and marts, which analysts read. No file
that holds them may stay there, in no snapshot:

1. The ids in marts.student_risk get their pseudonyms, so that `identify` and erase-user know them (user_keys).
2. marts.student_risk keeps its rows, of all runs, and loses the column; its older snapshots, tags and branches go, and
   every file that the new rows are not in.
3. The tables of curated and features are dropped with all that lies in their folders: curate and features, which follow,
   make them anew.

Each step looks at what is there, so a run that was interrupted goes on with the next one, and a lake that has this form
costs one look at each table. Earlier scores stay, but cannot be made again: what they were made of is gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import Config
from moodle_lakehouse.curated import user_keys
from moodle_lakehouse.lake import contracts, job_runs, snapshots, table_names, tables, writers

log = logging.getLogger(__name__)

USERID = "userid"
REBUILT = (*table_names.CURATED, table_names.ENROLMENT_WEEK)


def run(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Do what is needed and return it for ops.job_run; {} when nothing was."""
    risk = tables.load(spark, table_names.STUDENT_RISK)
    held = [table for table in REBUILT if _holds_ids(tables.load(spark, table))]
    if not held and not _holds_ids(risk):
        return {}
    log.warning("curate: tables of an earlier release hold users' ids: they are made anew, without their history")
    places = tables.table_locations(spark)
    if _holds_ids(risk):
        _rewrite(spark, config)
        _purge_history(spark, places)
    for table in held:
        _drop(spark, table, places)
    for name in _others_with_ids(spark, places):
        log.warning("%s holds users' ids where analysts can read them, and is none of the jobs' tables: drop it", name)
    return {"migrated": sorted([*held, *([table_names.STUDENT_RISK] if risk is not None else [])])}


def _others_with_ids(spark: SparkSession, places: Mapping[str, str]) -> list[str]:
    """Return tables in the analysts' namespaces that the jobs did not make and that have the column."""
    names = [f"{table_names.CATALOG}.{name}" for name in sorted(places)]
    readable = tuple(f"{table_names.CATALOG}.{name}." for name in ("curated", "features", "marts"))
    others = [name for name in names if name.startswith(readable) and name not in contracts.CONTRACTS]
    return [name for name in others if _holds_ids(tables.load(spark, name))]


def _holds_ids(loaded: Any) -> bool:
    """Return whether a snapshot of a loaded table has the column, by the table's metadata; None has none."""
    if loaded is None:
        return False
    schemas = {int(number): schema for number, schema in loaded.schemas().items()}
    used = [loaded.schema(), *[schemas[int(s.schemaId())] for s in loaded.snapshots() if s.schemaId() is not None]]
    return any(schema.findField(USERID) is not None for schema in used)


def _rewrite(spark: SparkSession, config: Config) -> None:
    """Replace marts.student_risk by its rows without ids, in one commit that carries on what jobs recorded."""
    risk = spark.table(table_names.STUDENT_RISK)
    if USERID not in risk.columns:
        return  # a run before this one came as far
    known = user_keys.update(spark, config.privacy.key(), risk.select(USERID).where(f"{USERID} > 0"))
    writers.replace(
        without_ids(risk, known),
        table_names.STUDENT_RISK,
        run_id=job_runs.run_id(),
        summary=snapshots.records(tables.load(spark, table_names.STUDENT_RISK)),
    )


def without_ids(risk: DataFrame, known: DataFrame) -> DataFrame:
    """Return rows of marts.student_risk with the present pseudonyms in place of ids; columns of the contract, in its order.

    known: userid, user_key. A row keeps the pseudonym it has where the id is nobody's.
    """
    columns = [name for name in contracts.names(table_names.STUDENT_RISK) if name in risk.columns]
    now = known.select(USERID, F.col("user_key").alias("present_key"))
    return (
        risk.join(now, how="left", on=USERID)
        .withColumn("user_key", F.coalesce("present_key", "user_key"))
        .select(*columns)
    )


def _purge_history(spark: SparkSession, places: Mapping[str, str]) -> None:
    """Remove all of marts.student_risk but its current rows: snapshots, tags, branches, and files that nothing names."""
    loaded = tables.load(spark, table_names.STUDENT_RISK)
    for name, ref in dict(loaded.refs()).items():
        if name != "main":
            changes = loaded.manageSnapshots()
            (changes.removeTag if ref.isTag() else changes.removeBranch)(name).commit()
    snapshots.expire(spark, tables.load(spark, table_names.STUDENT_RISK), older_than=_soon(), keep=1)
    if _shares_folder(table_names.STUDENT_RISK, str(loaded.location()), places):
        return
    jvm: Any = spark._jvm
    actions = jvm.org.apache.iceberg.spark.actions.SparkActions.get(spark._jsparkSession)
    actions.deleteOrphanFiles(tables.load(spark, table_names.STUDENT_RISK)).usePrefixListing(True).olderThan(
        _soon()
    ).execute()


def _drop(spark: SparkSession, table: str, places: Mapping[str, str]) -> None:
    """Drop a table with every file in its folder, those of failed commits included."""
    loaded = tables.load(spark, table)
    location = str(loaded.location())
    spark.sql(f"DROP TABLE {table_names.quoted(table)} PURGE")
    if not _shares_folder(table, location, places):
        loaded.io().deletePrefix(location.rstrip("/") + "/")


def _shares_folder(table: str, location: str, places: Mapping[str, str]) -> bool:
    """Return whether another table has files in a table's folder: one that was renamed keeps its own.

    places: the folder of each table's files, as of tables.table_locations().
    """
    name = table.removeprefix(f"{table_names.CATALOG}.")
    return any(place.startswith(location.rstrip("/") + "/") for other, place in places.items() if other != name)


def _soon() -> int:
    """Return a moment (milliseconds since 1970) that everything written until now is older than."""
    return int(time.time() * 1000) + 1000
