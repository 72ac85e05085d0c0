"""Group students by what the lake knows of them: a profile field, or an attribute of the enrolment.

They are there to compare how well the model serves each group; whether the model may use them is another question
(analytics.demographics).
"""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.dropout import metrics
from moodle_lakehouse.dropout.dataset import TooLittleDataError
from moodle_lakehouse.errors import ConfigError, bullet_list
from moodle_lakehouse.lake import table_names, tables

UNKNOWN = "not known"
# A number with more values than this makes four groups of like size instead of one a value.
MAX_VALUES = 8


def fields(spark: SparkSession) -> dict[str, str]:
    """Return the fields that the lake has values of, each with its table."""
    found: dict[str, str] = {}
    for table, column in ((table_names.ENROLMENT_ATTRIBUTE, "attribute"), (table_names.USER_ATTRIBUTE, "field")):
        df = tables.read(spark, table)
        if df is not None:
            found.update({row[column]: table for row in df.select(column).distinct().collect()})
    return dict(sorted(found.items()))


def by(spark: SparkSession, field: str, rows: DataFrame) -> DataFrame:
    """Return the rows (user_key, courseid, ...) with a column group; refuses a field the lake does not know."""
    known = fields(spark)
    if field not in known:
        raise ConfigError(
            f"The lake knows no attribute {field!r} of students or enrolments",
            where="--group-by",
            remedy=f"use one of {', '.join(known)}" if known
            else "name profile fields in analytics.profile_fields or a table in analytics.enrolment_attributes, then ingest and curate",
        )  # fmt: skip
    if known[field] == table_names.USER_ATTRIBUTE:
        values = spark.table(known[field]).where(F.col("field") == field)
        of_whom = values.groupBy("user_key").agg(F.max("value").alias("group"))
        return _with(rows, of_whom, ["user_key"])
    values = spark.table(known[field]).where(F.col("attribute") == field)
    numbers = values.groupBy("user_key", "courseid").agg(F.max("value").alias("value"))
    mine = numbers.join(rows.select("user_key", "courseid").distinct(), ["user_key", "courseid"], "left_semi")
    if mine.select("value").distinct().limit(MAX_VALUES + 1).count() <= MAX_VALUES:
        group = F.regexp_replace(F.col("value").cast("string"), r"\.0$", "")
    else:
        edges = sorted(set(mine.approxQuantile("value", [0.25, 0.5, 0.75], 0.001)))
        group = F.lit(f"more than {edges[-1]:g}")
        for edge, below in reversed(list(zip(edges, [None, *edges[:-1]], strict=True))):
            name = f"up to {edge:g}" if below is None else f"more than {below:g}, up to {edge:g}"
            group = F.when(F.col("value") <= edge, name).otherwise(group)
    return _with(rows, numbers.withColumn("group", group).drop("value"), ["user_key", "courseid"])


def _with(rows: DataFrame, of_whom: DataFrame, on: list[str]) -> DataFrame:
    return rows.join(of_whom, on, "left").withColumn("group", F.coalesce("group", F.lit(UNKNOWN)))


def check_enough(grouped: DataFrame, field: str) -> None:
    """Refuse groups of which fewer than two can be compared. grouped: user_key, courseid, label, group."""
    once = grouped.groupBy("user_key", "courseid", "group").agg(F.max("label").alias("label"))
    sizes = once.groupBy("group").agg(F.count("*").alias("students"), F.sum("label").alias("positives")).collect()
    enough = [
        row for row in sizes
        if row["students"] >= metrics.MIN_IN_GROUP
        and min(row["positives"], row["students"] - row["positives"]) >= metrics.MIN_OF_EACH
    ]  # fmt: skip
    if len(enough) >= 2:
        return
    largest = sorted(sizes, key=lambda row: (-row["students"], row["group"]))[:10]
    raise TooLittleDataError(
        f"Groups by {field!r} cannot be compared: {len(enough)} of {len(sizes)} is large enough, two are needed\n"
        + bullet_list(
            f"{row['group']}: {row['students']} enrolments, {row['positives']:.0f} of them with the outcome"
            for row in largest
        ),
        where="--group-by",
        remedy=f"a group needs {metrics.MIN_IN_GROUP} enrolments in the test's courses,"
        f" {metrics.MIN_OF_EACH} with and {metrics.MIN_OF_EACH} without the outcome",
    )
