"""What several tests of curated tables begin with."""

from __future__ import annotations

import pytest
from moodle_lakehouse.lake import tables
from pyspark.sql import DataFrame, SparkSession


@pytest.fixture
def users(spark: SparkSession) -> DataFrame:
    people = [(n, f"key{n}", False, None) for n in range(1, 10)]
    return tables.local_rows(spark, people, "userid bigint, user_key string, is_closed boolean, closed bigint")
