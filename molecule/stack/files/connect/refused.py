"""What docs/connect.md says the analyst may not do; `check` is called with the catalog of that page's first section."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import ForbiddenError


def check(lake: Catalog) -> None:
    """Try to read what is not the analyst's, and to change what is."""
    assert set(lake.list_namespaces()) >= {("curated",), ("features",), ("marts",)}
    table = lake.load_table("marts.course_cluster")
    rows = table.scan().to_arrow()
    assert len(rows)
    for name in ("raw.course", "ops.job_run", "identity.user_key"):
        refused(f"reading {name}", ForbiddenError, partial(lake.load_table, name))
    refused("adding rows", OSError, lambda: table.append(rows))
    refused("a property", ForbiddenError, lambda: table.transaction().set_properties(mine="1").commit_transaction())
    refused("a table", ForbiddenError, lambda: lake.create_table("marts.mine", rows.schema))
    refused("a namespace", ForbiddenError, lambda: lake.create_namespace("mine"))
    refused("dropping a table", ForbiddenError, lambda: lake.drop_table("marts.course_cluster"))


def refused(what: str, kind: type[Exception], action: Callable[[], Any]) -> None:
    """Fail when the action succeeds, or fails for another reason."""
    try:
        action()
    except kind as error:
        if kind is OSError and "ACCESS_DENIED" not in str(error):
            raise
        print(f"{what} is refused: {error}")
    else:
        raise AssertionError(f"{what} is not refused")
