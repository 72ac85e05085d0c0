"""What several tests of curated tables begin with."""

from __future__ import annotations

import pytest
from moodle_lakehouse.lake import tables
from pyspark.sql import DataFrame, SparkSession


@pytest.fixture
def users(spark: SparkSession) -> DataFrame:
    return tables.local_rows(spark, [(n, f"key{n}") for n in range(1, 10)], "userid bigint, user_key string")
