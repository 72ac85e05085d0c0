"""A job of half a minute with a shuffle: counts 96 slow numbers by their remainder, wherever executors are."""

import json
import sys
import time

from pyspark.sql import SparkSession


def slowly(number: int) -> tuple[int, int]:
    """Return a number's remainder and a count of one, slowly enough for a host to be lost meanwhile."""
    time.sleep(1.5)
    return number % 4, 1


spark = SparkSession.builder.appName("long job").getOrCreate()
counts = spark.sparkContext.parallelize(range(96), 96).map(slowly).reduceByKey(lambda a, b: a + b, 4).collect()
spark.stop()
json.dump(sorted(counts), sys.stdout)
