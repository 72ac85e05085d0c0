"""Import what jobs and executors import, so that Python compiles it once, while the image is built."""

import importlib
import sys

MODULES = [
    "click",
    "connectorx",
    "mlflow",
    "mlflow.client",
    "mlflow.models",
    "mlflow.pyfunc",
    "mlflow.spark",
    "mlflow.tracking",
    "mlflow.xgboost",
    "numpy",
    "pandas",
    "pyarrow",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.fs",
    "pyarrow.parquet",
    "pyiceberg.catalog.rest",
    "pyiceberg.io.pyarrow",
    "pyiceberg.transforms",
    "pymysql",
    "pyspark.daemon",
    "pyspark.ml",
    "pyspark.ml.clustering",
    "pyspark.ml.connect",
    "pyspark.ml.evaluation",
    "pyspark.ml.feature",
    "pyspark.pandas.typedef",
    "pyspark.serializers",
    "pyspark.sql",
    "pyspark.sql.functions",
    "pyspark.sql.pandas.conversion",
    "pyspark.sql.pandas.serializers",
    "pyspark.sql.types",
    "pyspark.worker",
    "pyspark.resource",
    "requests",
    "rich.console",
    "rich.table",
    "scipy.sparse",
    "scipy.stats",
    "sklearn.cluster",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "xgboost",
    "xgboost.spark",
    "yaml",
]

for name in MODULES:
    try:
        importlib.import_module(name)
    except Exception as error:  # an import that needs a running Spark still compiles what it read
        print(f"warm-up: {name}: {error}", file=sys.stderr)
