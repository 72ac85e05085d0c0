"""What a notebook does: ask the catalog by PyIceberg and MLflow for what they have. Prints JSON."""

import json
import sys

import mlflow
from pyiceberg.catalog import load_catalog

namespaces = sorted(".".join(name) for name in load_catalog("lakehouse").list_namespaces())
models = [model.name for model in mlflow.MlflowClient().search_registered_models()]
json.dump({"namespaces": namespaces, "models": models}, sys.stdout)
