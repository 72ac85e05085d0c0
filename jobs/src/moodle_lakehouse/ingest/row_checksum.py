"""Compute one checksum of a set of rows, the same by the source in SQL and by Spark from the lake.

A row is written as its columns with commas between them: whole numbers and decimals as they are, floating point
numbers as the 16 hex digits of their bits, short text as the number of its bytes in UTF-8, a colon and itself, text that
may be long or is expensive to compute as the SHA-256 of its UTF-8, bytes as their SHA-256, null as nothing.
So different rows are written differently, and nothing depends on how a program prints a number. The row's hash is the SHA-256 of
that, and a set of rows is their number and the sum of the first 60 bits of each hash. (MySQL has no MD5 since 9.6.)
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from moodle_lakehouse.ingest.moodle_tables import ReadColumn, TablePlan
from moodle_lakehouse.lake.table_names import quoted_name

SUMMED_DIGITS = 15  # of a row's hash


@dataclass(frozen=True)
class RowsChecksum:
    """Number of rows and sum of their hashes: equal when the rows are equal."""

    rows: int
    total: int

    def __str__(self) -> str:
        return f"{self.rows}:{self.total:x}"

    def __add__(self, other: RowsChecksum) -> RowsChecksum:
        return RowsChecksum(self.rows + other.rows, self.total + other.total)


def sql_hash(plan: TablePlan) -> str:
    """Return SQL for the hash of a source row as it would be read, privacy applied; null where the server has no SHA-256."""
    return _sql_sha(
        f"CONCAT_WS(',', {', '.join(f'IFNULL({_sql_cell(c, _is_short(c, plan))}, {_EMPTY})' for c in plan.columns)})"
    )


def sql_total(row_hash: str) -> str:
    """Return SQL for the sum of row hashes."""
    return f"SUM(CAST(CONV(LEFT({row_hash}, {SUMMED_DIGITS}), 16, 10) AS UNSIGNED))"


def spark_hash(plan: TablePlan, lake: T.StructType) -> Column:
    """Return the hash of a row of the lake, in the columns and types of the plan."""
    held = {f.name: f.dataType for f in lake.fields}
    cells = [F.coalesce(_spark_cell(c, held.get(c.name), _is_short(c, plan)), F.lit("")) for c in plan.columns]
    return F.sha2(F.concat_ws(",", *cells), 256)


def spark_checksums(plan: TablePlan, lake: DataFrame, part: Column) -> dict[int, RowsChecksum]:
    """Return the checksum of each part's rows of the lake, by the part's number, as source_sql.checksums() does."""
    hashed = lake.select(part.alias("part"), spark_hash(plan, lake.schema).alias("h"))
    total = F.sum(F.conv(F.substring("h", 1, SUMMED_DIGITS), 16, 10).cast("decimal(20,0)"))
    found = hashed.groupBy("part").agg(F.count("*"), total).collect()
    return {int(number): RowsChecksum(rows, int(total)) for number, rows, total in found}


_EMPTY = "''"


def _is_short(column: ReadColumn, plan: TablePlan) -> bool:
    """Return whether a text is written itself: the source then computes it twice, once for its length."""
    return not column.long and column.name not in plan.reduced


def _sql_cell(column: ReadColumn, is_short: bool) -> str:
    if column.spark_type in ("FLOAT", "DOUBLE"):
        # Neither MariaDB nor MySQL gives the bits of a number, but a point's coordinates are written as theirs.
        return f"HEX(REVERSE(SUBSTRING(ST_AsBinary(POINT({column.sql}, 0)), 6, 8)))"
    if column.spark_type == "STRING":
        text = f"CONVERT({column.sql} USING utf8mb4)"
        return f"CONCAT(LENGTH({text}), ':', {text})" if is_short else _sql_sha(text)
    return column.sql if column.is_number else _sql_sha(column.sql)


def _sql_sha(sql: str) -> str:
    return f"SHA2({sql}, 256)"


def _spark_cell(column: ReadColumn, held: T.DataType | None, is_short: bool) -> Column:
    if held is None:
        return F.lit(None).cast("string")
    value, wanted = F.col(quoted_name(column.name)), T._parse_datatype_string(column.spark_type)
    if held == wanted:
        return _spark_text(value, wanted, is_short)
    # The lake's type is wider than the source's is now: what does not fit into the source's is different.
    narrowed = value.cast(wanted)
    return F.when(narrowed.cast(held).eqNullSafe(value), _spark_text(narrowed, wanted, is_short)).otherwise(
        value.cast("string")
    )


def _spark_text(value: Column, kind: T.DataType, is_short: bool) -> Column:
    if isinstance(kind, T.FloatType | T.DoubleType):
        bits = F.reflect(F.lit("java.lang.Double"), F.lit("doubleToRawLongBits"), value.cast("double"))
        return F.when(value.isNotNull(), F.lpad(F.hex(bits.cast("bigint")), 16, "0"))
    if isinstance(kind, T.DecimalType) and kind.scale:
        return F.translate(F.format_number(value, kind.scale), ",", "")  # a cast would write small ones as 1E-7
    if isinstance(kind, T.StringType) and is_short:
        return F.concat(F.octet_length(value), F.lit(":"), value)
    if isinstance(kind, T.StringType | T.BinaryType):
        return F.sha2(value.cast("binary"), 256)
    return value.cast("string")
