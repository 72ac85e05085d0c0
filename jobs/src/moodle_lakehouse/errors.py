"""Errors that a person reads: what was wrong, where, and what to do. The class gives the exit code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


class LakehouseError(Exception):
    """A job failed for a known reason. Exit code 1."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where:  {self.where}")
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)


class ConfigError(LakehouseError):
    """Bad usage or configuration: nothing was tried. Exit code 2."""

    exit_code = 2


class SourceError(LakehouseError):
    """Moodle's database cannot be used: unreachable, refused, or not a Moodle. Exit code 1.

    passing: waiting may help.
    """

    def __init__(
        self, what: str, *, where: str | None = None, remedy: str | None = None, passing: bool = False
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.passing = passing


def bullet_list(lines: Iterable[str]) -> str:
    """Join several findings into one message, a line each."""
    return "\n".join(f"  - {line}" for line in lines)


_OF_DATABASE = re.compile(r"\bjava\.sql\.|\borg\.mariadb\.|\bpymysql\.|MySqlError")


def without_values(message: str) -> str:
    """Return a database server's message without what it quotes: values of rows, or parts of a statement with ids in it."""
    return re.sub(r"'.*'|\".*\"", "'...'", message, flags=re.DOTALL)


def reason(error: BaseException) -> str:
    """Return the line of an error that names its cause, of a Python worker's, Spark's or Java's too.

    It is printed and kept with the job's run, so it holds nothing of a row.
    """
    found = _cause(error)
    return without_values(found) if _OF_DATABASE.search(found) else found


def _cause(error: BaseException) -> str:
    lines = str(error).splitlines()
    tracebacks = [place for place, line in enumerate(lines) if "Traceback (most recent call last):" in line]
    if tracebacks:  # of a Python worker: below the last one, after the indented frames, stands what was raised
        raised = [line for line in lines[tracebacks[-1] + 1 :] if line.strip() and not line[0].isspace()]
        return (raised or [type(error).__name__])[0][:500]
    lines = [line.strip().lstrip(": ") for line in lines]
    lines = [line for line in lines if line and not line.startswith("An error occurred while calling")]
    causes = [line.split("Caused by:", 1)[1].strip() for line in lines if "Caused by:" in line]
    return (causes[-1:] or lines or [type(error).__name__])[0][:500]


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "float_type": "a number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_KINDS = {
    str: "text",
    int: "a whole number",
    bool: "true or false",
    float: "a number",
    dict: "a mapping",
    list: "a list",
    type(None): "nothing",
}


def fault(error: Any, path: str = "") -> str:
    """Describe one of pydantic's errors in a line: the path of the value and what belongs there.

    path: of the validated document in a larger one.
    """
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    name = ".".join(str(part) for part in (path, *error["loc"]) if part != "") or "the document"
    if kind in _EXPECTED:
        return f"{name}: {_KINDS.get(type(value), type(value).__name__)} found where {_EXPECTED[kind]} belongs"
    words = {
        "missing": "missing",
        "extra_forbidden": "unknown key",
        "literal_error": f"{value!r}; use {context.get('expected')}",
        "value_error": str(context.get("error")),
        "greater_than_equal": f"{value}; at least {context.get('ge')}",
        "less_than_equal": f"{value}; at most {context.get('le')}",
    }
    return f"{name}: {words.get(kind, error['msg'])}"
