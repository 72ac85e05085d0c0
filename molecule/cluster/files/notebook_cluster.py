"""What a notebook does where notebooks have a cluster of their own: ipython <this file>. Prints where its tasks ran, as JSON."""

import json

from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
rows = spark.table("marts.student_risk").repartition(4)
kept = rows.groupBy("band").count()
kept.writeTo("sandbox.default.bands").createOrReplace()
assert spark.table("sandbox.default.bands").agg({"count": "sum"}).first()[0] == rows.count()
spark.sql("DROP TABLE sandbox.default.bands PURGE")
executors = spark.sparkContext._jsc.sc().getExecutorMemoryStatus().keySet().mkString(" ").split()

try:
    rows.write.parquet("/home/notebooks/notebooks/bands")
except Exception as error:
    refusal = str(error)
else:
    refusal = ""
print(json.dumps({"master": spark.sparkContext.master, "executors": executors, "refusal": refusal}))
