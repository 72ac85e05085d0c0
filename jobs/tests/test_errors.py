"""Messages of errors: the line that names the cause is found, whoever raised it."""

from __future__ import annotations

import pytest
from moodle_lakehouse.errors import reason
from pyspark.sql import SparkSession
from pyspark.sql import functions as F


def test_cause_of_javas_errors_is_found() -> None:
    text = "An error occurred while calling o1.jdbc.\n: java.sql.SQLException: no table\n\tat x.y\nCaused by: z: deeper\n\tat z"
    assert reason(Exception(text)) == "z: deeper"
    assert reason(Exception("An error occurred while calling o1.jdbc.\n: java.sql.SQLException: no table")) == (
        "java.sql.SQLException: no table"
    )
    assert reason(ValueError()) == "ValueError"


def test_cause_of_a_python_workers_error_is_the_tracebacks_last_line(spark: SparkSession) -> None:
    def fail(number: int) -> int:
        raise ValueError(f"{number} is a bad row")

    with pytest.raises(Exception, match="Traceback") as in_sql:
        spark.range(5, 6).select(F.udf(fail)("id")).collect()
    with pytest.raises(Exception, match="Traceback") as in_rdd:
        spark.sparkContext.parallelize([5], 1).map(fail).collect()
    assert reason(in_sql.value) == reason(in_rdd.value) == "ValueError: 5 is a bad row"
