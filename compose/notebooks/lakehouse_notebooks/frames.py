"""Whole DataFrames in the kernel: by Arrow in little memory, and an error that names the size when there is too little."""

from __future__ import annotations

import functools
import gc
import re
from collections.abc import Callable
from typing import Any

from lakehouse_notebooks import limits
from lakehouse_notebooks.imported import when_imported

ADVICE = (
    "Fetch less: aggregate or filter in Spark first, select fewer columns, take a sample with .limit(n), or keep the result as a "
    'table with df.writeTo("sandbox.default.name").create(). toPandas() takes much less than collect(). More memory: '
    "lakehouse_memory_mb of the inventory, or a larger host."
)


MANY_ROWS = 100_000


class TooLargeError(MemoryError):
    """Raised when a result does not fit into the kernel."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def within_memory(name: str, fetch: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method that fetches a whole DataFrame say what did not fit where."""
    from py4j.protocol import Py4JJavaError

    @functools.wraps(fetch)
    def fetched(frame: Any, *args: Any, **kwargs: Any) -> Any:
        limits.apply(fetching=True)
        try:
            result = fetch(frame, *args, **kwargs)
            if len(result) > MANY_ROWS:
                _collect_garbage(frame)
            return result
        except MemoryError:
            limit = f"the {(limits.allowed(fetching=True) or 0) // limits.MIB:,} MiB that are left for this kernel"
        except Py4JJavaError as error:
            if "java.lang.OutOfMemoryError" not in str(error):
                raise
            heap = re.sub("m$", " MiB", frame.sparkSession.conf.get("spark.driver.memory"))
            limit = f"Spark's own memory of {heap}"
        # Outside of the handlers, which keep alive all that was fetched so far.
        gc.collect()
        _collect_garbage(frame)
        raise TooLargeError(
            f"{name}(): {frame.count():,} rows with {len(frame.columns)} columns do not fit into {limit}. {ADVICE}"
        )

    return fetched


def _collect_garbage(frame: Any) -> None:
    # What the rows took in Spark's JVM goes back to the system, for spark-env.sh lets the heap shrink.
    frame.sparkSession._jvm.System.gc()


def by_arrow(fetch: Callable[..., Any]) -> Callable[..., Any]:
    """Make toPandas() convert column by column: Spark's own has the table of Arrow and two copies of the result at once."""

    @functools.wraps(fetch)
    def fetched(frame: Any) -> Any:
        import pandas as pd
        import pyarrow as pa
        from pyspark.sql.pandas.types import _create_converter_to_pandas, to_arrow_schema

        settings = frame.sparkSession._jconf
        try:
            to_arrow_schema(frame.schema)
        except Exception:
            return fetch(frame)  # it says why, and takes the way without Arrow
        batches = frame._collect_as_arrow() if settings.arrowPySparkEnabled() and frame.columns else []
        if not batches:
            return fetch(frame)
        table = pa.Table.from_batches(batches)
        del batches
        columns = []
        for field in frame.schema.fields:
            convert = _create_converter_to_pandas(
                field.dataType,
                field.nullable,
                timezone=settings.sessionLocalTimeZone(),
                struct_in_pandas=settings.pandasStructHandlingMode().replace("legacy", "dict"),
                error_on_duplicated_field_names=settings.pandasStructHandlingMode() == "legacy",
            )
            column = table.column(0).to_pandas(date_as_object=True)
            table = table.remove_column(0)
            columns.append(convert(column))
        result = pd.DataFrame(dict(enumerate(columns)), copy=False)
        result.columns = frame.columns
        return result

    return fetched


def register(shell: Any) -> None:
    """Change Spark's DataFrame when it is imported."""

    def change(module: Any) -> None:
        frame = module.DataFrame
        frame.toPandas = within_memory("toPandas", by_arrow(frame.toPandas))
        frame.collect = within_memory("collect", frame.collect)

    when_imported("pyspark.sql", change)
