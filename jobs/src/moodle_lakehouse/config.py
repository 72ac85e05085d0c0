"""The jobs' configuration: one YAML file, checked completely before anything else happens.

The file's path is taken from the environment variable LAKEHOUSE_CONFIG (default
/etc/lakehouse/jobs.yml). It holds no secret: passwords and keys are the contents of the files it names.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import hmac
import os
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from moodle_lakehouse.errors import ConfigError, bullet_list

DEFAULT_PATH = "/etc/lakehouse/jobs.yml"
ENVIRONMENT_VARIABLE = "LAKEHOUSE_CONFIG"


def _choice(*values: str) -> dict[str, Any]:
    return {"choices": values}


@dataclass(frozen=True)
class MoodleConfig:
    """Where Moodle's database is, how gently it is read, and what the site decides about single columns.

    tls: verify-full checks the server's certificate and its name, verify-ca the certificate alone (MySQL's own, made
    at its installation, names no host). columns: table -> column -> keep, hash or drop, before what the catalogue says.
    url: the site as its users know it; null: there is none, as behind the data of a demo.
    """

    host: str
    port: int
    database: str
    user: str
    password_file: str
    prefix: str
    url: str | None
    max_connections: int = field(default=4, metadata={"minimum": 1})
    max_rows_per_second: int | None = field(default=None, metadata={"minimum": 1000})
    tls: str = field(default="disabled", metadata=_choice("disabled", "verify-ca", "verify-full"))
    tls_ca: str | None = None  # certificates in PEM; null: the authorities that the system trusts
    extra_tables: list[str] = field(default_factory=list)
    columns: dict[str, dict[str, str]] = field(default_factory=dict, metadata=_choice("keep", "hash", "drop"))

    def password(self) -> str:
        return read_secret(self.password_file, "the password of Moodle's database user")

    @property
    def rows_per_second(self) -> float | None:
        """The share of max_rows_per_second that each connection has; None: there is no limit."""
        return None if self.max_rows_per_second is None else self.max_rows_per_second / self.max_connections

    @property
    def endpoint(self) -> str:
        return f"{self.user}@{self.host}:{self.port}/{self.database}"


@dataclass(frozen=True)
class PrivacyConfig:
    """pseudonymise: personal data never leaves the source. keep: everything is carried, an explicit choice."""

    mode: str = field(metadata=_choice("pseudonymise", "keep"))
    key_file: str

    def key(self) -> bytes:
        return read_secret(self.key_file, "the key of the pseudonyms").encode()

    def hash_key(self) -> bytes:
        """The key of hashed columns. The source sees it in statements, so it tells nothing about the pseudonyms' key."""
        return hmac.new(self.key(), b"hashed columns of lakehouse.raw", hashlib.sha256).digest()


@dataclass(frozen=True)
class CatalogConfig:
    """The Iceberg REST catalog, for clients other than Spark (Spark's own is in spark-defaults.conf)."""

    uri: str
    username: str
    password_file: str
    s3_endpoint: str

    def password(self) -> str:
        return read_secret(self.password_file, "the catalog's service password")


@dataclass(frozen=True)
class MlflowConfig:
    """Where runs and models are kept."""

    tracking_uri: str
    username: str
    password_file: str
    experiment: str
    model: str

    def password(self) -> str:
        return read_secret(self.password_file, "MLflow's service password")


@dataclass(frozen=True)
class EnrolmentAttributes:
    """A plugin's table with columns userid, courseid and numbers known at enrolment."""

    table: str
    columns: list[str]


@dataclass(frozen=True)
class ChampionRules:
    """What a new model must be better by, on the held-out courses, to become champion; below 0: may be worse by.

    AUC must be higher and the Brier score lower by so much than each baseline's and the present champion's.
    """

    auc_over_baselines: float = 0.0
    brier_over_baselines: float = 0.0
    auc_over_champion: float = 0.0
    brier_over_champion: float = 0.0


@dataclass(frozen=True)
class AnalyticsConfig:
    """What is predicted, at which moment, and which attributes may be used for it.

    capacity: how many students of a course an advisor can see to in a week. course_code: a regular expression whose first
    group is the part of a course's short name that stays the same when the course is given again; None: cluster.CODE.
    """

    label: str = field(metadata=_choice("non_completion", "withdrawal"))
    as_of: str
    profile_fields: list[str] = field(default_factory=list)
    enrolment_attributes: EnrolmentAttributes | None = None
    demographics: bool = False
    capacity: int = field(default=20, metadata={"minimum": 1})
    course_code: str | None = None
    champion: ChampionRules = field(default_factory=ChampionRules)


@dataclass(frozen=True)
class SparkConfig:
    """cores_max: the share of the cluster that one job may take."""

    cores_max: int = field(default=2, metadata={"minimum": 1})


@dataclass(frozen=True)
class Config:
    """The whole file."""

    moodle: MoodleConfig
    privacy: PrivacyConfig
    catalog: CatalogConfig
    mlflow: MlflowConfig
    analytics: AnalyticsConfig
    spark: SparkConfig = field(default_factory=SparkConfig)


def config_path() -> Path:
    return Path(os.environ.get(ENVIRONMENT_VARIABLE, DEFAULT_PATH))


def load(path: str | os.PathLike[str] | None = None) -> Config:
    """Read and check the configuration; every fault found is told at once."""
    file = Path(path) if path is not None else config_path()
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The configuration cannot be read: {error.strerror or error}",
            where=str(file),
            remedy=f"deploy the stack (it writes the file) or name another file in {ENVIRONMENT_VARIABLE}",
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            "The configuration is not UTF-8 text", where=str(file), remedy="deploy the stack again"
        ) from None
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"The configuration is not YAML: {error}", where=str(file), remedy="deploy the stack again"
        ) from None
    return parse(document, str(file))


def parse(document: Any, source: str) -> Config:
    """The typed configuration from the YAML's content; source names the file in messages."""
    faults: list[str] = []
    value = _build(Config, document, "", faults)
    if not faults and isinstance(value, Config):
        faults.extend(_check_meaning(value))
    if faults:
        raise ConfigError(
            "The configuration is not valid:\n" + bullet_list(faults),
            where=source,
            remedy="correct the named keys in the inventory and deploy again (./lakehouse up INVENTORY)",
        )
    assert isinstance(value, Config)
    return value


def read_secret(path: str, what: str) -> str:
    """A secret's file without its final newline; told apart: missing, unreadable, empty."""
    remedy = "deploy the stack again: it writes the secrets' files, readable by this container's user only"
    try:
        text = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(
            f"The file of {what} cannot be read: {error.strerror or error}", where=path, remedy=remedy
        ) from None
    if not text:
        raise ConfigError(f"The file of {what} is empty", where=path, remedy=remedy)
    return text


def _check_meaning(config: Config) -> list[str]:
    faults = []
    if not 0 < config.moodle.port < 65536:
        faults.append(f"moodle.port: {config.moodle.port} is no port; use 1 to 65535")
    if not config.moodle.prefix.replace("_", "").isalnum() and config.moodle.prefix:
        faults.append(f"moodle.prefix: {config.moodle.prefix!r}; letters, digits and _ only")
    names = [
        *config.moodle.extra_tables,
        *config.moodle.columns,
        *(c for t in config.moodle.columns.values() for c in t),
    ]
    if config.analytics.enrolment_attributes:
        names.append(config.analytics.enrolment_attributes.table)
        names.extend(config.analytics.enrolment_attributes.columns)
    faults.extend(
        f"{name!r} is no name of a table or column; letters, digits and _ only, tables without prefix"
        for name in names
        if not name.replace("_", "").isalnum()
    )
    try:
        if config.analytics.course_code is not None and not re.compile(config.analytics.course_code).groups:
            faults.append(
                "analytics.course_code: no group; put what stays the same in parentheses, as in ^(.+)-[0-9]{4}"
            )
    except re.error as error:
        faults.append(f"analytics.course_code: {config.analytics.course_code!r} is no regular expression: {error}")
    if config.analytics.as_of not in ("now", "mid-term"):
        try:
            dt.datetime.fromisoformat(config.analytics.as_of)
        except ValueError:
            faults.append(
                f"analytics.as_of: {config.analytics.as_of!r}; use now, mid-term or a date such as 2014-02-01"
            )
    return faults


def _build(cls: type, value: Any, path: str, faults: list[str]) -> Any:
    """An instance of the dataclass from a mapping, or None after noting faults."""
    if not isinstance(value, dict):
        faults.append(f"{path or 'the document'}: {_kind(value)} found where a mapping belongs")
        return None
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    prefix = f"{path}." if path else ""
    before = len(faults)
    for key in value:
        if key not in fields:
            faults.append(f"{prefix}{key}: unknown key; known here: {', '.join(sorted(fields))}")
    arguments = {}
    for name, spec in fields.items():
        if name not in value:
            if spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
                faults.append(f"{prefix}{name}: missing")
            continue
        arguments[name] = _convert(hints[name], value[name], f"{prefix}{name}", faults, spec.metadata)
    return cls(**arguments) if len(faults) == before else None


def _convert(hint: Any, value: Any, path: str, faults: list[str], metadata: typing.Mapping[str, Any]) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, path, faults)
    if typing.get_origin(hint) is list:
        if not isinstance(value, list):
            faults.append(f"{path}: {_kind(value)} found where a list belongs")
            return None
        return [_convert(typing.get_args(hint)[0], item, f"{path}[{i}]", faults, {}) for i, item in enumerate(value)]
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            faults.append(f"{path}: {_kind(value)} found where a mapping belongs")
            return None
        inside = typing.get_args(hint)[1]
        return {str(key): _convert(inside, item, f"{path}.{key}", faults, metadata) for key, item in value.items()}
    if hint is str and isinstance(value, (dt.date, dt.datetime)):
        return value.isoformat()  # YAML reads a bare 2014-02-01 as a date
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        faults.append(f"{path}: {_kind(value)} found where {_NAMES[hint]} belongs")
        return None
    if "choices" in metadata and value not in metadata["choices"]:
        faults.append(f"{path}: {value!r}; use one of {', '.join(metadata['choices'])}")
    if "minimum" in metadata and value < metadata["minimum"]:
        faults.append(f"{path}: {value}; at least {metadata['minimum']}")
    return value


_NAMES = {str: "text", int: "a whole number", bool: "true or false", float: "a number"}


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return _NAMES.get(type(value), type(value).__name__)
