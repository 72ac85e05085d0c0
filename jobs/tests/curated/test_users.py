"""Users and their attributes, by small cases whose right answer can be seen."""

from __future__ import annotations

import pytest
from moodle_lakehouse.config import EnrolmentAttributes
from moodle_lakehouse.curated.users import dim_user, enrolment_attribute, known, user_attribute
from moodle_lakehouse.errors import LakehouseError
from pyspark.sql import DataFrame, SparkSession
from raw_rows import at, raw, rows


def test_users_are_known_by_their_pseudonyms(spark: SparkSession, users: DataFrame) -> None:
    source = raw(spark, "user", {"id": 7, "deleted": 0, "timecreated": 100}, {"id": 8, "deleted": 1, "timecreated": 0})
    found = known(source, users)
    assert rows(found, "userid", "user_key", "is_deleted", "created_at") == [
        (7, "key7", False, at(100)), (8, "key8", True, None)
    ]  # fmt: skip
    assert dim_user(found).columns == ["user_key", "is_deleted", "created_at"]


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
    assert found.columns == ["user_key", "field", "value"]
    assert rows(found, *found.columns) == [("key2", "gender", "F")]
    assert user_attribute(data, fields, users, []).count() == 0


def test_enrolment_attributes_of_a_plugin(spark: SparkSession, users: DataFrame) -> None:
    plugin = spark.createDataFrame(
        [(1, 2, 10, 60, None), (2, 99, 10, 60, None)],
        "id bigint, userid bigint, courseid bigint, credits int, tries int",
    )
    wanted = EnrolmentAttributes(table="local_x", columns=["credits", "tries"])
    found = enrolment_attribute(spark, plugin, users, wanted)
    assert found.columns == ["user_key", "courseid", "attribute", "value"]
    assert rows(found, *found.columns) == [("key2", 10, "credits", 60.0)], "99 is nobody"
    assert enrolment_attribute(spark, None, users, None).count() == 0
    with pytest.raises(LakehouseError, match="lacks points"):
        enrolment_attribute(spark, plugin, users, EnrolmentAttributes(table="local_x", columns=["points"]))
