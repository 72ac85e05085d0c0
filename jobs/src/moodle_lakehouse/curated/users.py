"""Users, their pseudonyms and the configured attributes of users and enrolments."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import pandas_udf

from moodle_lakehouse.config import EnrolmentAttributes
from moodle_lakehouse.curated.raw_tables import shaped, to_timestamp
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import contracts, table_names

GUEST = 1


def pseudonym_of(key: bytes, userid: int) -> str:
    """Return 16 hex digits of the HMAC-SHA256 of a user's id under the key."""
    return hmac.new(key, str(userid).encode(), hashlib.sha256).hexdigest()[:16]


def pseudonym(key: bytes) -> Callable[[Column], Column]:
    """Return a column function: user id -> its pseudonym under the key.

    A Python function, since an expression of Spark's would show the key in query plans and event logs.
    """

    def keyed(ids: pd.Series) -> pd.Series:
        return ids.map(lambda value: pseudonym_of(key, int(value)))

    function: Callable[[Column], Column] = pandas_udf(keyed, T.StringType())  # type: ignore[call-overload]
    return function


def dim_user(user: DataFrame, user_key: Callable[[Column], Column]) -> DataFrame:
    """Return users. Grain: user, deleted ones included (Moodle keeps their row).

    userid bigint; user_key string, 16 hex digits; is_deleted boolean; created_at timestamp UTC.
    Source: user.
    """
    return user.select(
        F.col("id").alias("userid"),
        user_key(F.col("id")).alias("user_key"),
        (F.coalesce("deleted", F.lit(0)) == 1).alias("is_deleted"),
        to_timestamp("timecreated").alias("created_at"),
    )


def user_attribute(data: DataFrame, fields: DataFrame, users: DataFrame, wanted: Sequence[str]) -> DataFrame:
    """Return configured profile fields. Grain: user and field that has a value.

    userid bigint, user_key string, field string (its short name), value string.
    Source: user_info_data, user_info_field.
    """
    chosen = fields.where(F.col("shortname").isin(list(wanted))) if wanted else fields.limit(0)
    return (
        data.where("data is not null and data != ''")
        .join(F.broadcast(chosen.select(F.col("id").alias("fieldid"), "shortname")), how="inner", on="fieldid")
        .join(F.broadcast(users), how="inner", on="userid")
        .select("userid", "user_key", F.col("shortname").alias("field"), F.col("data").alias("value"))
    )


def enrolment_attribute(spark: SparkSession, plugin: DataFrame | None, wanted: EnrolmentAttributes | None) -> DataFrame:
    """Return what a plugin keeps per enrolment. Grain: user, course and attribute that has a value.

    userid bigint, courseid bigint, attribute string (the plugin's column), value double.
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
    stacked = plugin.select("userid", "courseid", attributes.alias("one")).select("userid", "courseid", "one.*")
    return shaped(spark, stacked.where("value is not null"), shape)
