"""moodle-demo: fill the demo database with one of three data sets."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import click
import pyarrow as pa

from moodle_demo import dump as dumps
from moodle_demo import oulad, oulad_csv, schema, synthetic
from moodle_demo.database import Database, Marker
from moodle_demo.errors import DemoError, UsageError
from moodle_demo.settings import connection

# Counts up when the same parameters and files give other rows, so that a demo database of an older release is noticed.
GENERATION = 1
LOCK_WAIT = 60  # seconds


class Source(Protocol):
    """A data set: what identifies it, a check of all of it, and its way into the database."""

    name: str
    parameters: dict[str, Any]
    files: list[Path]

    def prepare(self, say: Say) -> None:
        """Read and check everything, without the database."""

    def fill(self, database: Database, say: Say) -> None:
        """Load the empty database."""


class Say:
    """Progress on standard error, with the seconds since the beginning."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        """Print a line with the seconds since the beginning."""
        click.echo(f"{time.monotonic() - self._start:6.1f} s  {text}", err=True)


def _load_tables(database: Database, source: Source, tables: Iterable[tuple[str, Any]], say: Say) -> None:
    database.create(schema.tables())
    # Another data set is another site, and what was made of the former one must not be mixed with it.
    identifier = hashlib.sha256(json.dumps([source.name, source.parameters], sort_keys=True).encode()).hexdigest()[:32]
    database.load("config", [pa.table({"id": [1], "name": ["siteidentifier"], "value": [f"{identifier}demo"]})])
    for name, batches in tables:
        rows = database.load(name, batches)
        if rows >= 10_000:
            say(f"{name}: {rows:,} rows")
    say("keys of the log")


class SyntheticSource:
    """The made-up university."""

    name = "synthetic"

    def __init__(self, parameters: synthetic.Parameters) -> None:
        parameters.check()
        self.parameters: dict[str, Any] = dict(vars(parameters))
        self.files: list[Path] = []
        self._synthetic = synthetic.Synthetic(parameters)

    def prepare(self, say: Say) -> None:
        """Build or read the rows, and check them, before anything is written."""
        say("making people, courses and their records")
        self._synthetic.build()

    def fill(self, database: Database, say: Say) -> None:
        """Create and load Moodle's tables."""
        _load_tables(database, self, self._synthetic.tables(), say)


class OuladSource:
    """OULAD's files."""

    name = "oulad"

    def __init__(self, folder: Path) -> None:
        self.files = list(oulad_csv.find(folder).values())
        self.parameters: dict[str, Any] = {}
        self._folder = folder

    def prepare(self, say: Say) -> None:
        """Build or read the rows, and check them, before anything is written."""
        say(f"reading {self._folder}")
        self._site, self._counts = oulad.build(oulad_csv.read(self._folder))

    def fill(self, database: Database, say: Say) -> None:
        """Create and load Moodle's tables."""
        _load_tables(database, self, oulad.tables(self._site), say)
        click.echo(_table(("file", "rows"), self._counts.items()) + "\n")


class DumpSource:
    """A dump of a site's own database."""

    name = "dump"

    def __init__(self, file: Path, prefix: str) -> None:
        dumps.check_file(file)
        self.files = [file]
        self.parameters: dict[str, Any] = {}
        self._file, self._prefix = file, prefix

    def prepare(self, say: Say) -> None:
        """Build or read the rows, and check them, before anything is written."""
        say(f"reading {self._file}")
        dumps.check(self._file, self._prefix)

    def fill(self, database: Database, say: Say) -> None:
        """Create and load Moodle's tables."""
        for number, statement in enumerate(dumps.load(self._file, self._prefix), 1):
            database.send(statement)
            if number % 1000 == 0:
                say(f"{number:,} statements")


@click.group()
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """The demo Moodle database of the lakehouse."""
    context.obj = debug


@cli.command()
@click.option("--dataset", type=click.Choice(["synthetic", "oulad", "dump"]), required=True, help="Which data to load.")
@click.option("--seed", type=int, help=f"synthetic: seed [{synthetic.Parameters.seed}].")
@click.option("--courses", type=int, help=f"synthetic: courses over three terms [{synthetic.Parameters.courses}].")
@click.option("--students", type=int, help=f"synthetic: students [{synthetic.Parameters.students}].")
@click.option("--log-rows", type=int, help=f"synthetic: rows of the log [{synthetic.Parameters.log_rows}].")
@click.option("--oulad-dir", type=click.Path(path_type=Path), help="oulad: folder with its CSV files, plain or .gz.")
@click.option("--dump", "dump_file", type=click.Path(path_type=Path), help="dump: file of mysqldump, plain or .gz.")
@click.option("--force", is_flag=True, help="Replace another data set that moodle-demo loaded.")
@click.option("--host", help="Database server; this and the next default to `moodle:` in $LAKEHOUSE_CONFIG.")
@click.option("--port", type=int)
@click.option("--user")
@click.option("--password-file", type=click.Path())
@click.option("--database")
@click.option("--prefix", help="Moodle's table prefix [mdl_].")
def load(dataset: str, force: bool, oulad_dir: Path | None, dump_file: Path | None, **options: Any) -> None:
    """Load a data set into the demo database, unless it is there already.

    The last line of the output is one JSON object: {"changed": true or false, "dataset": ..., "fingerprint": ...}.
    """
    settings = connection(
        {key: options[key] for key in ("host", "port", "user", "password_file", "database", "prefix")}
    )
    sizes = {key: options[key] for key in ("seed", "courses", "students", "log_rows") if options[key] is not None}
    source = _source(dataset, sizes, oulad_dir, dump_file, settings.prefix)
    say = Say()
    marker = Marker(source.name, _fingerprint(source, settings.prefix), json.dumps(source.parameters), False)
    database = Database(settings)
    try:
        changed = _load(database, source, marker, force, say)
        click.echo(_table(("table", "rows"), [item for item in database.counts().items() if item[1]]))
    finally:
        database.close()
    if not changed:
        click.echo(f"\n{settings} holds this data set already: nothing to do.")
    click.echo(json.dumps({"changed": changed, "dataset": source.name, "fingerprint": marker.fingerprint}))


def _source(dataset: str, sizes: dict[str, int], oulad_dir: Path | None, dump_file: Path | None, prefix: str) -> Source:
    given = {"synthetic": bool(sizes), "oulad": oulad_dir is not None, "dump": dump_file is not None}
    for name, there in given.items():
        if there and name != dataset:
            raise UsageError(
                f"An option of the data set {name} was given with --dataset {dataset}. Leave one of them out."
            )
    if dataset == "synthetic":
        return SyntheticSource(synthetic.Parameters(**sizes))
    if dataset == "oulad":
        if oulad_dir is None:
            raise UsageError(f"--dataset oulad needs a folder. {oulad_csv.SOURCE}")
        return OuladSource(oulad_dir)
    if dump_file is None:
        raise UsageError("--dataset dump needs a file made by mysqldump, plain or .gz: give it as --dump.")
    return DumpSource(dump_file, prefix)


def _load(database: Database, source: Source, marker: Marker, force: bool, say: Say) -> bool:
    """Load unless the marker says it was done; return whether it was loaded now."""
    _wait_for_lock(database, say)
    there = database.marker()
    if there is not None and there.finished:
        if there.fingerprint == marker.fingerprint:
            return False
        if not force:
            raise UsageError(
                f"{database.settings} holds the data set {there.dataset} {there.parameters}. Give --force to replace it,"
                " or another --database."
            )
    database.refuse_foreign_tables()
    source.prepare(say)
    if there is not None and not there.finished:
        say(f"the load of {there.dataset} was interrupted: beginning anew")
    database.begin(marker)
    source.fill(database, say)
    database.finish()
    say("done")
    return True


def _wait_for_lock(database: Database, say: Say) -> None:
    """One load at a time; the server takes a moment to notice that the client of an interrupted one is gone."""
    if database.lock():
        return
    say("waiting for another load to end")
    if not database.lock(LOCK_WAIT):
        raise DemoError(
            f"Another moodle-demo has been loading {database.settings} for {LOCK_WAIT} s: wait for its end, or end it."
        )


def _fingerprint(source: Source, prefix: str) -> str:
    """What the data set is made of: release of the generator, parameters, contents of the files."""
    contents = {file.name: _digest(file) for file in source.files}
    text = json.dumps([GENERATION, source.name, source.parameters, prefix, contents], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(file: Path) -> str:
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}. Make it readable.") from error


def _table(header: tuple[str, str], rows: Iterable[tuple[str, int]]) -> str:
    body = [(name, f"{count:,}") for name, count in rows]
    left = max(len(name) for name, _ in [header, *body])
    right = max(len(count) for _, count in [header, *body])

    def lines() -> Iterator[str]:
        for name, count in [header, ("-" * left, "-" * right), *body]:
            yield f"{name:<{left}}  {count:>{right}}"

    return "\n".join(lines())


def main() -> None:
    """The console script: one message for an error, exit code 0, 1 (failed) or 2 (bad usage or configuration)."""
    debug = "--debug" in sys.argv
    try:
        cli(standalone_mode=False)
    except DemoError as error:
        if debug:
            raise
        click.echo(f"moodle-demo: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("moodle-demo: interrupted. The next load begins anew.", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
