"""%sql and %%sql: Spark SQL in a cell, and its result as a table.

Written here because none that is kept does it: jupysql wants a connection for each notebook, brings a client of its maker's
telemetry and shows Java's traces; sparksql-magic and its like have had no release for years and have other names.
"""

from __future__ import annotations

import argparse
import html
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lakehouse_notebooks import spark

ROWS = 100
# Options stand before the query.
OPTIONS = re.compile(r"\s*((?:--[A-Za-z](?:[^\s=]*=\S+|\S*\s+\S+)\s*)*)(.*)", re.DOTALL)
USAGE = """\
%sql [--var NAME] [--limit N] QUERY      or      %%sql [--var NAME] [--limit N], the query below
  --var NAME   keep the whole result as a DataFrame of Spark under this name
  --limit N    show at most N rows (100 unless told otherwise)
  {name} in the query is the value of a variable; a DataFrame is a table there."""


class SqlError(Exception):
    """Raised for a query that failed, with Spark's own words."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Result:
    """The first rows of a query, as a table in a browser and as text elsewhere."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, cut: bool) -> None:
        self.columns = columns
        self.rows = rows
        self.note = (
            f"rows shown: {len(rows):,}, and there are more: --limit N shows N, --var NAME keeps all"
            if cut
            else f"{len(rows):,} row{'' if len(rows) == 1 else 's'}"
        )

    def _repr_html_(self) -> str:
        def line(tag: str, values: Sequence[Any]) -> str:
            cells = "".join(f"<{tag}>{html.escape(_shown(value))}</{tag}>" for value in values)
            return f"<tr>{cells}</tr>"

        body = "".join(line("td", row) for row in self.rows)
        return (
            f"<table><thead>{line('th', self.columns)}</thead><tbody>{body}</tbody></table>"
            f"<p>{html.escape(self.note)}</p>"
        )

    def __repr__(self) -> str:
        table = [[str(column) for column in self.columns], *([_shown(value) for value in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        return "\n".join([*lines, f"({self.note})"])


def _shown(value: Any) -> str:
    return "NULL" if value is None else str(value)


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise SqlError(f"%sql: {message}\n{USAGE}")


def parse(line: str, cell: str | None) -> tuple[str | None, int, str]:
    """Return the variable's name, the limit and the query of a line or a cell."""
    options, rest = OPTIONS.fullmatch(line).groups()  # type: ignore[union-attr]
    parser = _Arguments(prog="%sql", add_help=False, allow_abbrev=False)
    parser.add_argument("--var")
    parser.add_argument("--limit", type=int, default=ROWS)
    known = parser.parse_args(shlex.split(options))
    if known.var is not None and not known.var.isidentifier():
        raise SqlError(f"%sql: --var {known.var}: this is no name of a variable")
    if known.limit < 1:
        raise SqlError("%sql: --limit must be 1 or more")
    query = "\n".join(part for part in (rest.strip(), (cell or "").strip()) if part)
    if not query:
        raise SqlError(f"%sql: there is no query\n{USAGE}")
    return known.var, known.limit, query


def with_variables(query: str, names: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the query as a pattern for spark.sql and the variables that it names; other braces stay as they are."""
    used: dict[str, Any] = {}
    parts = re.split(r"\{([A-Za-z_]\w*)\}", query)
    for index, part in enumerate(parts):
        if index % 2 and part in names:
            used[part] = names[part]
            parts[index] = f"{{{part}}}"
        else:
            parts[index] = (f"{{{part}}}" if index % 2 else part).replace("{", "{{").replace("}", "}}")
    return ("".join(parts), used) if used else (query, {})


def run(shell: Any, line: str, cell: str | None) -> Result | None:
    """Run a query and return what to show of it: nothing for a statement without a result."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    name, limit, query = parse(line, cell)
    session = spark.session()
    pattern, variables = with_variables(query, shell.user_ns)
    try:
        frame = session.sql(pattern, **variables)
        rows = frame.limit(limit + 1).collect()
    except (PySparkException, Py4JJavaError) as error:
        raise SqlError(spark.words(error)) from None
    if name:
        shell.user_ns[name] = frame
    return Result(frame.columns, rows[:limit], cut=len(rows) > limit) if frame.columns else None


def register(shell: Any) -> None:
    """Give the shell %sql and %%sql."""
    from IPython.core.magic import no_var_expand

    @no_var_expand  # what IPython would put in for {name} is its text, not its value
    def sql(line: str, cell: str | None = None) -> Result | None:
        return run(shell, line, cell)

    sql.__doc__ = USAGE
    shell.register_magic_function(sql, "line_cell", "sql")
