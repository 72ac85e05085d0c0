"""A configuration and a database's dump, for tests that need a site of their own."""

from __future__ import annotations

from pathlib import Path

from mariadb import Server
from moodle_demo import dump


def config_document(folder: Path) -> dict[str, object]:
    """A complete configuration as YAML holds it, with its secrets' files in the folder."""
    for name, text in (("password", "password"), ("key", "a key for tests only")):
        (folder / name).write_text(text + "\n")
    password = str(folder / "password")
    return {
        "moodle": {
            "host": "127.0.0.1",
            "port": 3306,
            "database": "moodle",
            "user": "moodle",
            "password_file": password,
            "prefix": "mdl_",
            "url": "http://localhost/moodle",
            "max_connections": 4,
        },
        "privacy": {"mode": "pseudonymise", "key_file": str(folder / "key")},
        "catalog": {
            "uri": "http://edge:8080/catalog",
            "username": "service",
            "password_file": password,
            "s3_endpoint": "http://minio:9000",
        },
        "mlflow": {
            "tracking_uri": "http://edge:8080/mlflow",
            "username": "service",
            "password_file": password,
            "experiment": "student_dropout",
            "model": "student_dropout",
        },
        "analytics": {"label": "non_completion", "as_of": "now"},
        "spark": {"cores_max": 2},
    }


def load_dump(target: Server, file: Path) -> None:
    """Load a dump of a Moodle site over one connection, since its statements set the session."""
    with target.connect() as connection, connection.cursor() as cursor:
        for statement in dump.load(file, "mdl_"):
            cursor.execute(statement)
