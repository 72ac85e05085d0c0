"""The main catalog is read only here: what a refused write says, and PyIceberg's part of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lakehouse_notebooks.imported import when_imported

ADVICE = (
    "The main catalog is read-only for analysts. Write to the sandbox: in Spark and %%sql to sandbox.default.NAME, "
    'in PyIceberg with load_catalog("sandbox").'
)

# What writes files before it asks the catalog, so that it is the object store that refuses
WRITING = ("add_files", "append", "delete", "dynamic_partition_overwrite", "overwrite", "upsert")


class ReadOnlyError(Exception):
    """Raised when the object store refused to write a table's files."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def _advised(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except OSError as error:
            if not isinstance(error, PermissionError) and "ACCESS_DENIED" not in str(error):
                raise
            refused = f"{error}\n{ADVICE}"
        raise ReadOnlyError(refused)

    return called


def _in_table(module: Any) -> None:
    for kind in (module.Table, module.Transaction):
        for name in WRITING:
            setattr(kind, name, _advised(getattr(kind, name)))


def _in_exceptions(module: Any) -> None:
    # The catalog's own words are enough: edge names the sandbox.
    module.ForbiddenError._render_traceback_ = lambda self: [f"{type(self).__name__}: {self}"]


def register(shell: Any) -> None:
    """Change PyIceberg when it is imported."""
    when_imported("pyiceberg.table", _in_table)
    when_imported("pyiceberg.exceptions", _in_exceptions)
