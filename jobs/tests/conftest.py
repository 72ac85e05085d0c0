"""What the jobs' tests share: a real local Spark with real Iceberg tables, and a configuration.

LAKEHOUSE_TEST_JARS  folder with Iceberg's runtime and MariaDB's driver; not needed in the image jobs-test
LAKEHOUSE_TEST_DATA  folder of the shared test data (default: ../shared/data beside the repository)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mariadb import Server, database, other_servers, server  # noqa: F401 (fixtures)
from moodle_lakehouse import config
from moodle_lakehouse.lake import session, table_names, tables
from pyspark.sql import SparkSession
from site_files import config_document

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One local session with an empty Iceberg catalog named lakehouse."""
    local = session.local(tmp_path_factory.mktemp("warehouse"))
    tables.ensure_namespaces(local)
    yield local
    local.stop()


@pytest.fixture(scope="session")
def emptied(spark: SparkSession) -> Callable[[], SparkSession]:
    """What removes every table of the lake and returns the session."""

    def empty() -> SparkSession:
        for namespace in table_names.NAMESPACES:
            place = f"{table_names.CATALOG}.{namespace}"
            for name in tables.names_in(spark, place):
                spark.sql(f"DROP TABLE {table_names.quoted(place)}.{table_names.quoted_name(name)}")  # the folder goes
        return spark

    return empty


@pytest.fixture
def lake(emptied: Callable[[], SparkSession]) -> SparkSession:
    """The session with every table of the lake removed."""
    return emptied()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The shared test data, or a skip that says where they were looked for."""
    folder = Path(os.environ.get("LAKEHOUSE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}; name their folder in LAKEHOUSE_TEST_DATA")
    return folder


@pytest.fixture
def document(tmp_path: Path) -> dict[str, object]:
    """The configuration's YAML content, to be changed by a test."""
    return config_document(tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> config.Config:
    """A valid configuration."""
    return config.parse(config_document(tmp_path), "test")


@pytest.fixture
def with_source(settings: config.Config) -> Callable[..., config.Config]:
    """The configuration with some of the source's settings replaced."""

    def replaced(**moodle: object) -> config.Config:
        return settings.model_copy(update={"moodle": settings.moodle.model_copy(update=moodle)})

    return replaced


@pytest.fixture
def reading(with_source: Callable[..., config.Config], tmp_path: Path) -> Callable[[Server], config.Config]:
    """The configuration whose source is a given database."""

    def read(source: Server) -> config.Config:
        file = tmp_path / f"password_of_{source.host}"
        file.write_text(source.password)
        return with_source(
            host=source.host,
            port=source.port,
            user=source.user,
            database=source.database,
            password_file=str(file),
        )

    return read


@pytest.fixture
def moodle(
    database: Server,  # noqa: F811 (the fixture)
    reading: Callable[[Server], config.Config],
) -> config.Config:
    """A configuration whose source is an empty database of the tests' server."""
    return reading(database)
