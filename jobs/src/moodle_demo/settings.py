"""Where the demo database is: the `moodle:` section of the jobs' configuration file, and options that override it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from moodle_demo.errors import UsageError

DEFAULT_CONFIG = "/etc/lakehouse/jobs.yml"


@dataclass(frozen=True)
class Connection:
    """How to reach the demo database; `prefix` is Moodle's table prefix."""

    host: str
    port: int
    user: str
    database: str
    prefix: str
    password: str = field(repr=False, default="")

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}/{self.database}"


def connection(overrides: dict[str, Any], environ: dict[str, str] | None = None) -> Connection:
    """The connection from the file named by LAKEHOUSE_CONFIG, each value replaced by an option that was given.

    `overrides` has the keys host, port, user, password_file, database and prefix; None stands for not given.
    """
    environ = dict(os.environ) if environ is None else environ
    path = Path(environ.get("LAKEHOUSE_CONFIG", DEFAULT_CONFIG))
    values: dict[str, Any] = {"port": 3306, "prefix": "mdl_"}
    if path.exists():
        values.update(_section(path))
    if "MOODLE_DEMO_PASSWORD_FILE" in environ:
        values["password_file"] = environ["MOODLE_DEMO_PASSWORD_FILE"]
    values.update({key: value for key, value in overrides.items() if value is not None})

    missing = [key for key in ("host", "user", "database", "password_file") if not values.get(key)]
    if missing:
        options = ", ".join("--" + key.replace("_", "-") for key in missing)
        there = "" if path.exists() else " (there is no such file)"
        raise UsageError(
            f"No connection to the demo database: give {options}, or a `moodle:` section in {path}{there}."
        )
    if not str(values["port"]).isdigit():
        raise UsageError(f"Port {values['port']!r} is not a number: correct --port or `moodle: port` in {path}.")
    prefix = str(values["prefix"])
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,15}", prefix):
        raise UsageError(
            f"Table prefix {prefix!r}: expected a lower-case letter, then letters, digits or _ (16 at most), as Moodle does."
        )
    return Connection(
        host=str(values["host"]),
        port=int(values["port"]),
        user=str(values["user"]),
        database=str(values["database"]),
        prefix=prefix,
        password=_password(Path(str(values["password_file"]))),
    )


def _section(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML: {error}") from error
    section = document.get("moodle") if isinstance(document, dict) else None
    if not isinstance(section, dict):
        raise UsageError(f"{path}: expected a section `moodle:` with host, port, database, user and password_file.")
    return section


def _password(path: Path) -> str:
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise UsageError(f"Password file {path}: {error.strerror}. Give a readable file by --password-file.") from error
