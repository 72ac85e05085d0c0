"""Users, their pseudonyms and attributes, by small cases whose right answer can be seen."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from moodle_lakehouse.config import EnrolmentAttributes
from moodle_lakehouse.curated.users import dim_user, enrolment_attribute, pseudonym, user_attribute
from moodle_lakehouse.errors import LakehouseError
from pyspark.sql import DataFrame, SparkSession
from raw_rows import at, raw, rows


def test_user_key_is_a_keyed_hash(spark: SparkSession) -> None:
    source = raw(spark, "user", {"id": 7, "deleted": 0, "timecreated": 100}, {"id": 8, "deleted": 1, "timecreated": 0})
    found = rows(dim_user(source, pseudonym(b"secret")), "userid", "user_key", "is_deleted", "created_at")
    expected = [hmac.new(b"secret", str(n).encode(), hashlib.sha256).hexdigest()[:16] for n in (7, 8)]
    assert found == [(7, expected[0], False, at(100)), (8, expected[1], True, None)]
    other = rows(dim_user(source, pseudonym(b"another")), "user_key")
    assert {key for (key,) in other}.isdisjoint(expected)


def test_profile_fields_by_configuration(spark: SparkSession, users: DataFrame) -> None:
    fields = raw(spark, "user_info_field", {"id": 1, "shortname": "gender"}, {"id": 2, "shortname": "secret"})
    data = raw(
        spark,
        "user_info_data",
        {"userid": 2, "fieldid": 1, "data": "F"},
        {"userid": 3, "fieldid": 1, "data": ""},
        {"userid": 2, "fieldid": 2, "data": "x"},
    )
    found = user_attribute(data, fields, users, ["gender"])
    assert rows(found, "userid", "user_key", "field", "value") == [(2, "key2", "gender", "F")]
    assert user_attribute(data, fields, users, []).count() == 0


def test_enrolment_attributes_of_a_plugin(spark: SparkSession) -> None:
    plugin = spark.createDataFrame(
        [(1, 2, 10, 60, None)], "id bigint, userid bigint, courseid bigint, credits int, tries int"
    )
    found = enrolment_attribute(spark, plugin, EnrolmentAttributes(table="local_x", columns=["credits", "tries"]))
    assert rows(found, "userid", "courseid", "attribute", "value") == [(2, 10, "credits", 60.0)]
    assert enrolment_attribute(spark, None, None).count() == 0
    with pytest.raises(LakehouseError, match="lacks points"):
        enrolment_attribute(spark, plugin, EnrolmentAttributes(table="local_x", columns=["points"]))
