"""The jobs' configuration: one YAML file, checked completely before anything else happens.

The file's path is taken from the environment variable LAKEHOUSE_CONFIG (default
/etc/lakehouse/jobs.yml). It holds no secret: passwords and keys are the contents of the files it names.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import os
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from moodle_lakehouse.errors import ConfigError, bullet_list, fault

DEFAULT_PATH = "/etc/lakehouse/jobs.yml"
ENVIRONMENT_VARIABLE = "LAKEHOUSE_CONFIG"


def _identifier(name: str) -> str:
    if not name.replace("_", "").isalnum():
        raise ValueError(f"{name!r} is no name of a table or column; letters, digits and _ only, tables without prefix")
    return name


def _prefix(value: str) -> str:
    if value and not value.replace("_", "").isalnum():
        raise ValueError(f"{value!r}; letters, digits and _ only")
    return value


def _date_as_text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date) else value  # YAML reads a bare 2014-02-01 as a date


def _moment(value: str) -> str:
    if value not in ("now", "mid-term"):
        try:
            dt.datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r}; use now, mid-term or a date such as 2014-02-01") from None
    return value


def _one_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    if not groups:
        raise ValueError("no group; put what stays the same in parentheses, as in ^(.+)-[0-9]{4}")
    return pattern


Identifier = Annotated[str, AfterValidator(_identifier)]


class _Section(BaseModel):
    """A mapping of the file: its keys are all known, its values have the declared types and never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class MoodleConfig(_Section):
    """Where Moodle's database is, how gently it is read, and what the site decides about single columns.

    tls: verify-full checks the server's certificate and its name, verify-ca the certificate alone (MySQL's own, made
    at its installation, names no host). tls_ca: certificates in PEM; null: the authorities that the system trusts.
    columns: table -> column -> keep, hash or drop, or whose number it is (subject, mentioned; number: nobody's),
    before what the catalogue says. url: the site as its users know it;
    null: there is none, as behind the data of a demo.
    """

    host: str
    port: int = Field(ge=1, le=65535)
    database: str
    user: str
    password_file: str
    prefix: Annotated[str, AfterValidator(_prefix)]
    url: str | None
    max_connections: int = Field(default=4, ge=1)
    max_rows_per_second: int | None = Field(default=None, ge=1000)
    tls: Literal["disabled", "verify-ca", "verify-full"] = "disabled"
    tls_ca: str | None = None
    extra_tables: list[Identifier] = []
    columns: dict[Identifier, dict[Identifier, Literal["keep", "hash", "drop", "subject", "mentioned", "number"]]] = {}

    def password(self) -> str:
        """Return the password of Moodle's database user."""
        return read_secret(self.password_file, "the password of Moodle's database user")

    @property
    def rows_per_second(self) -> float | None:
        """The share of max_rows_per_second that each connection has; None: there is no limit."""
        return None if self.max_rows_per_second is None else self.max_rows_per_second / self.max_connections

    @property
    def endpoint(self) -> str:
        """The database as messages name it: user@host:port/database."""
        return f"{self.user}@{self.host}:{self.port}/{self.database}"


class PrivacyConfig(_Section):
    """How personal data are treated.

    mode: pseudonymise: personal data never leaves the source; keep: everything is copied, an explicit choice.
    """

    mode: Literal["pseudonymise", "keep"]
    key_file: str

    def key(self) -> bytes:
        """Return the key of the pseudonyms."""
        return read_secret(self.key_file, "the key of the pseudonyms").encode()

    def hash_key(self) -> bytes:
        """Return the key of hashed columns.

        The source sees it in statements, so the pseudonyms' key cannot be derived from it.
        """
        return hmac.new(self.key(), b"hashed columns of lakehouse.raw", hashlib.sha256).digest()


class CatalogConfig(_Section):
    """The Iceberg REST catalog, for clients other than Spark (Spark's own is in spark-defaults.conf)."""

    uri: str
    username: str
    password_file: str
    s3_endpoint: str

    def password(self) -> str:
        """Return the catalog's service password."""
        return read_secret(self.password_file, "the catalog's service password")


class SandboxConfig(_Section):
    """The catalog of analysts' own tables, which the jobs reach as they reach the lake's: erase-user and maintain look there."""

    uri: str


class MlflowConfig(_Section):
    """Where runs and models are kept."""

    tracking_uri: str
    username: str
    password_file: str
    experiment: str
    model: str

    def password(self) -> str:
        """Return MLflow's service password."""
        return read_secret(self.password_file, "MLflow's service password")


class EnrolmentAttributes(_Section):
    """A plugin's table with columns userid, courseid and numbers known at enrolment."""

    table: Identifier
    columns: list[Identifier]


class ChampionRules(_Section):
    """What a new model must be better by, on the held-out courses, to become champion; below 0: may be worse by.

    AUC must be higher and the Brier score lower by so much than each baseline's and the present champion's.
    """

    auc_over_baselines: float = 0.0
    brier_over_baselines: float = 0.0
    auc_over_champion: float = 0.0
    brier_over_champion: float = 0.0


class RiskRules(_Section):
    """What puts a student on the list while there is no model: days without access, and due assessments not handed in.

    A grade below analytics.pass_share and never having come do so, too.
    """

    days_without_access: int = Field(default=14, ge=1)
    missed: int = Field(default=2, ge=1)


class AnalyticsConfig(_Section):
    """What is predicted, at which moment, and which attributes may be used for it.

    outcomes: what tells who completed a course, the first that the course uses (see dropout.labels). pass_share: the share
    of a course's grades that passes where Moodle has no grade to pass. settling_days: how long after its end a course
    teaches nothing yet, since grades and completions still arrive.
    capacity: how many students of a course an advisor can see to in a week. course_code: a regular expression whose first
    group is the part of a course's short name that stays the same when the course is given again; None: what stands
    before the year (courses.COURSE_CODE). student_roles: short names of the roles whose holders are students; none: those of Moodle's
    archetype student. score_hidden_courses: whether the students of a running course are scored while it is hidden from
    them.
    """

    label: Literal["non_completion", "withdrawal"]
    outcomes: list[Literal["completion", "grade", "withdrawal", "activity"]] = Field(
        default=["completion", "grade", "withdrawal", "activity"], min_length=1
    )
    pass_share: float = Field(default=0.5, gt=0, le=1)
    settling_days: int = Field(default=28, ge=0)
    as_of: Annotated[str, BeforeValidator(_date_as_text), AfterValidator(_moment)]
    profile_fields: list[str] = []
    enrolment_attributes: EnrolmentAttributes | None = None
    demographics: bool = False
    student_roles: list[str] = []
    score_hidden_courses: bool = True
    capacity: int = Field(default=20, ge=1)
    course_code: Annotated[str, AfterValidator(_one_group)] | None = None
    champion: ChampionRules = ChampionRules()
    rules: RiskRules = RiskRules()


class SparkConfig(_Section):
    """What a job takes of the cluster.

    cores_max: the share of the cluster's cores that one job may take.
    """

    cores_max: int = Field(default=2, ge=1)


class Config(_Section):
    """The whole file. sandbox: None where analysts have none."""

    moodle: MoodleConfig
    privacy: PrivacyConfig
    catalog: CatalogConfig
    mlflow: MlflowConfig
    analytics: AnalyticsConfig
    spark: SparkConfig = SparkConfig()
    sandbox: SandboxConfig | None = None


def config_path() -> Path:
    """Return the path of the configuration file."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE, DEFAULT_PATH))


def load(path: str | os.PathLike[str] | None = None) -> Config:
    """Read and check the configuration; every fault is reported at once."""
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
    """Return the typed configuration from the YAML's content; source names the file in messages."""
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(
            "The configuration is not valid:\n" + bullet_list(map(_describe, error.errors())),
            where=source,
            remedy="correct the named keys in the inventory and deploy again (./lakehouse up INVENTORY)",
        ) from None


def read_secret(path: str, what: str) -> str:
    """Return a secret's file without its final newline; raise ConfigError for one that is unreadable or empty."""
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


def _describe(error: Any) -> str:
    path = error["loc"]
    if error["type"] == "extra_forbidden":
        return f"{fault(error)}; known here: {', '.join(sorted(_section(path[:-1]).model_fields))}"
    return fault(error)


def _section(path: Sequence[str | int]) -> type[BaseModel]:
    """Return the class of the section at a path of the document."""
    section: type[BaseModel] = Config
    for name in path:
        hint = section.model_fields[str(name)].annotation
        section = next(c for c in (hint, *typing.get_args(hint)) if isinstance(c, type) and issubclass(c, BaseModel))
    return section
