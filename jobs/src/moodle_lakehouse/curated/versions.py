"""Remember what Moodle overwrites: a row for each state of a course or a resource, from when on and until when.

The table is its own memory: each run compares what Moodle has now with the newest states and adds what differs. So it
outlives the snapshots of the raw tables, and knows nothing of what was overwritten before the first run.
"""

from __future__ import annotations

import datetime as dt

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.curated.raw_tables import to_timestamp
from moodle_lakehouse.lake import contracts


def versions(
    current: DataFrame, changes: DataFrame, table: str, earlier: DataFrame, read: dt.datetime | None, now: dt.datetime
) -> DataFrame:
    """Return the states of courses or resources, with the current one. Grain: (id, version).

    A state begins when the log last says that the course or resource was changed, unless it was seen in another state
    after that, else now. What Moodle has no more keeps its last state.
    current: dim_course or dim_resource; changes: the id and changed, seconds since 1970; table: whose contract it is, with
    the id first; earlier: the table until now, which was made at `read`.
    """
    names = contracts.names(table)
    key, values = names[0], [name for name in names[1:] if name not in ("version", "valid_from", "valid_to")]
    newest = earlier.where("valid_to IS NULL").select(
        key, "version", "valid_from", F.struct(*values).alias("was"), F.lit(True).alias("is_known")
    )
    changed = to_timestamp("changed")
    seen = F.lit(read).cast("timestamp")
    is_other = F.col("is_known").isNull() | ~F.col("value").eqNullSafe(F.col("was"))
    compared = (
        newest.join(current.select(key, F.struct(*values).alias("value")), how="full", on=key)
        .join(changes, how="left", on=key)
        .withColumn("begins", F.when(F.col("is_known"), F.when(changed > seen, changed).otherwise(F.lit(now))))
        .withColumn("is_new", F.col("value").isNotNull() & is_other)
    )
    before = compared.where("is_known").select(
        key, "version", "was.*", "valid_from", F.when(F.col("is_new"), F.col("begins")).alias("valid_to")
    )
    added = compared.where("is_new").select(
        key, (F.coalesce("version", F.lit(0)) + 1).alias("version"), "value.*", F.col("begins").alias("valid_from"),
        F.lit(None).cast("timestamp").alias("valid_to"),
    )  # fmt: skip
    found = earlier.where("valid_to IS NOT NULL").unionByName(before).unionByName(added)
    return found.select(*names)
