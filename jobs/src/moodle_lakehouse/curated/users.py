"""Users and the configured attributes of users and enrolments."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import EnrolmentAttributes
from moodle_lakehouse.curated.raw_tables import shaped, to_timestamp
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import contracts, table_names

GUEST = 1


def known(user: DataFrame, user_keys: DataFrame) -> DataFrame:
    """Return users with id and pseudonym, for curate's own joins. Grain: user, deleted ones included (Moodle keeps their row).

    userid bigint; user_key string, 16 hex digits; is_deleted boolean; created_at timestamp UTC; is_closed boolean, the
    account is suspended or deleted; closed bigint, seconds since 1970: when the account was last changed, if it is closed
    and was changed since it was made. Source: user, identity.user_key.
    """
    is_deleted = F.coalesce("deleted", F.lit(0)) == 1
    is_closed = is_deleted | (F.coalesce("suspended", F.lit(0)) == 1)
    return user.join(user_keys, how="inner", on=F.col("id") == F.col("userid")).select(
        "userid",
        "user_key",
        is_deleted.alias("is_deleted"),
        to_timestamp("timecreated").alias("created_at"),
        is_closed.alias("is_closed"),
        F.when(is_closed & (F.col("timemodified") > F.col("timecreated")), F.col("timemodified")).alias("closed"),
    )


def dim_user(known: DataFrame) -> DataFrame:
    """Return users by their pseudonyms. Grain: user. Columns as of known(), without the id."""
    return known.select("user_key", "is_deleted", "created_at")


def user_attribute(data: DataFrame, fields: DataFrame, users: DataFrame, wanted: Sequence[str]) -> DataFrame:
    """Return configured profile fields. Grain: user and field that has a value; of several the greatest.

    user_key string, field string (its short name), value string.
    Source: user_info_data, user_info_field.
    """
    chosen = fields.where(F.col("shortname").isin(list(wanted))) if wanted else fields.limit(0)
    return (
        data.where("data is not null and data != ''")
        .join(F.broadcast(chosen.select(F.col("id").alias("fieldid"), "shortname")), how="inner", on="fieldid")
        .join(users, how="inner", on="userid")
        .groupBy("user_key", F.col("shortname").alias("field"))
        .agg(F.max("data").alias("value"))
    )


def enrolment_attribute(
    spark: SparkSession, plugin: DataFrame | None, users: DataFrame, wanted: EnrolmentAttributes | None
) -> DataFrame:
    """Return what a plugin keeps per enrolment of a known user. Grain: user, course and attribute that has a value.

    Of several values the greatest counts.
    user_key string, courseid bigint, attribute string (the plugin's column), value double.
    Source: the table and columns of analytics.enrolment_attributes.
    """
    shape = contracts.ddl(table_names.ENROLMENT_ATTRIBUTE)
    if plugin is None or wanted is None:
        return shaped(spark, None, shape)
    absent = [c for c in ("userid", "courseid", *wanted.columns) if c not in plugin.columns]
    if absent:
        raise LakehouseError(
            f"The table of enrolment attributes lacks {', '.join(absent)}",
            where=table_names.raw(wanted.table),
            remedy=f"name in analytics.enrolment_attributes.columns some of: {', '.join(sorted(plugin.columns))}",
        )
    attributes = F.explode(
        F.array(
            *[F.struct(F.lit(c).alias("attribute"), F.col(c).cast("double").alias("value")) for c in wanted.columns]
        )
    )
    stacked = (
        plugin.join(users, how="inner", on="userid")
        .select("user_key", "courseid", attributes.alias("one"))
        .groupBy("user_key", "courseid", F.col("one.attribute").alias("attribute"))
        .agg(F.max("one.value").alias("value"))
    )
    return shaped(spark, stacked.where("value is not null"), shape)
