"""Evolve a raw table's columns with its source's.

A new column is added and filled, a wider type widens the lake's, a narrower one fits the lake's type unchanged.
A column that the source no longer has stays, null from then on. Any other change of a type is refused, as one
Iceberg table cannot hold both: nothing is changed then.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.ingest.moodle_tables import TablePlan
from moodle_lakehouse.lake.table_names import quoted, quoted_name


def check(plan: TablePlan, table: str, lake: T.StructType) -> None:
    """Refuse a plan that the lake's table cannot follow, by LakehouseError."""
    held = {f.name: f.dataType for f in lake.fields}
    wrong = [
        f"{name} was {held[name].simpleString()} and is {new.simpleString()}"
        for name, new in _types(plan).items()
        if name in held and not _holds(held[name], new) and not _widens(held[name], new)
    ]
    if wrong:
        raise LakehouseError(
            f"Columns changed their type so that the lake's table cannot follow: {', '.join(wrong)}",
            where=f"{plan.source} to {table}",
            remedy=f"rename {table} if what it holds still matters, else drop it; the next run reads it again",
        )


def follow(spark: SparkSession, plan: TablePlan, table: str, lake: T.StructType) -> list[str]:
    """Add and widen columns; returns notes of what was done and of columns that the source no longer has."""
    held = {f.name: f.dataType for f in lake.fields}
    notes = []
    for name, new in _types(plan).items():
        if name not in held:
            spark.sql(f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted_name(name)} {new.simpleString()}")
            notes.append(f"{name} is new")
        elif not _holds(held[name], new):
            spark.sql(f"ALTER TABLE {quoted(table)} ALTER COLUMN {quoted_name(name)} TYPE {new.simpleString()}")
            notes.append(f"{name} was {held[name].simpleString()}, is {new.simpleString()}")
    gone = [name for name in held if name not in _types(plan)]
    return notes + [f"{name} is gone from the source: null from now on" for name in gone]


def shaped(df: DataFrame, lake: T.StructType) -> DataFrame:
    """Return rows of the source in the lake's columns and types."""

    def column(f: T.StructField) -> Column:
        value = F.col(quoted_name(f.name)) if f.name in df.columns else F.lit(None)
        return value.cast(f.dataType).alias(f.name)

    return df.select(*[column(f) for f in lake.fields])


def _types(plan: TablePlan) -> dict[str, T.DataType]:
    return {c.name: T._parse_datatype_string(c.spark_type) for c in plan.columns}


def _holds(old: T.DataType, new: T.DataType) -> bool:
    """Return whether every value of the new type is one of the old."""
    if old == new:
        return True
    if isinstance(old, T.DecimalType):
        if isinstance(new, T.DecimalType):
            return new.scale <= old.scale and new.precision - new.scale <= old.precision - old.scale
        digits = {T.IntegerType: 10, T.LongType: 19}.get(type(new))
        return digits is not None and old.precision - old.scale >= digits
    return (type(old), type(new)) in ((T.LongType, T.IntegerType), (T.DoubleType, T.FloatType))


def _widens(old: T.DataType, new: T.DataType) -> bool:
    """Return whether Iceberg can turn the old type into the new one."""
    if isinstance(old, T.DecimalType) and isinstance(new, T.DecimalType):
        return new.scale == old.scale and new.precision > old.precision
    return (type(old), type(new)) in ((T.IntegerType, T.LongType), (T.FloatType, T.DoubleType))
