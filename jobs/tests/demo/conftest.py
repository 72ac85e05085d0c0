"""What the demo's tests share: the command line against a real database, and small data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mariadb import Server, database, server  # noqa: F401
from moodle_demo import cli
from moodle_demo.errors import DemoError

Load = Callable[..., dict[str, Any]]


class Loader:
    """Runs `moodle-demo load` and returns the JSON of its last line."""

    def __init__(self, folder: Path) -> None:
        self._password = folder / "password"
        self.output = ""

    def __call__(self, target: Server, *arguments: str) -> dict[str, Any]:
        self._password.write_text(target.password + "\n")
        connection = {
            "--host": target.host,
            "--port": str(target.port),
            "--user": target.user,
            "--password-file": str(self._password),
            "--database": target.database,
        }
        options = [word for pair in connection.items() for word in pair]
        result = CliRunner().invoke(cli.cli, ["load", *options, *arguments], standalone_mode=False)
        self.output = result.output
        if result.exception is not None:
            raise result.exception
        return dict(json.loads(result.stdout.strip().splitlines()[-1]))

    def fails(self, target: Server, *arguments: str) -> DemoError:
        """The error of a load that must not succeed."""
        with pytest.raises(DemoError) as caught:
            self(target, *arguments)
        return caught.value


@pytest.fixture
def load(tmp_path: Path) -> Loader:
    """The command line."""
    return Loader(tmp_path)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """The command line, for a data set that a whole module looks at."""
    return Loader(tmp_path_factory.mktemp("loader"))


@pytest.fixture(scope="module")
def module_database(server: Server) -> Iterator[Server]:  # noqa: F811
    """A new empty database for one module."""
    with server.temporary() as made:
        yield made
