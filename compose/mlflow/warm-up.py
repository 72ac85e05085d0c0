"""Import what the tracking server imports, so that Python compiles it once, while the image is built."""

import importlib
import sys

MODULES = [
    "alembic.command",
    "boto3",
    "botocore.client",
    "flask_wtf.csrf",
    "gunicorn.app.wsgiapp",
    "mlflow.cli",
    "mlflow.server",
    "mlflow.server.auth",
    "mlflow.server.fastapi_app",
    "mlflow.server.handlers",
    "mlflow.store.artifact.s3_artifact_repo",
    "mlflow.store.db.utils",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "psycopg2",
    "s3transfer",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "uvicorn.main",
    "uvicorn.workers",
    "uvicorn.protocols.http.h11_impl",
]

for name in MODULES:
    try:
        importlib.import_module(name)
    except Exception as error:
        print(f"warm-up: {name}: {error}", file=sys.stderr)
