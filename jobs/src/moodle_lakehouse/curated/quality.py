"""Check the curated tables: keys, references, ranges, freshness. Results go to ops.data_quality.

A check that stops means that what is made of the tables would be wrong: curate then ends with an error, and no step
after it runs. The others are reported and kept. What was checked already, on the same rows, is not checked again.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.curated import courses, events
from moodle_lakehouse.curated.raw_tables import RawTables
from moodle_lakehouse.errors import LakehouseError, bullet_list
from moodle_lakehouse.lake import contracts, input_fingerprint, job_runs, table_names, tables, writers

log = logging.getLogger(__name__)

# The columns of which each table has a combination once.
GRAINS = {table: contracts.CONTRACTS[table].key for table in table_names.CURATED}


@dataclass(frozen=True)
class Reference:
    """Values of a fact's column that a dimension must hold; null refers to nothing, nor do numbers up to `up_to`."""

    column: str
    dimension: str
    stops: bool
    up_to: int | None = None


# Facts hold known people only. Courses and resources that were deleted before the log begins are known to nobody.
REFERENCES = {
    table_names.FACT_EVENT: (
        Reference("user_key", table_names.DIM_USER, stops=True),
        Reference("courseid", table_names.DIM_COURSE, stops=False, up_to=1),
        Reference("cmid", table_names.DIM_RESOURCE, stops=False, up_to=0),
    ),
    table_names.FACT_ENROLMENT: (
        Reference("user_key", table_names.DIM_USER, stops=True),
        Reference("courseid", table_names.DIM_COURSE, stops=False, up_to=0),
    ),
    table_names.FACT_GRADE: (
        Reference("user_key", table_names.DIM_USER, stops=True),
        Reference("cmid", table_names.DIM_RESOURCE, stops=False, up_to=0),
    ),
    table_names.FACT_GRADE_CHANGE: (
        Reference("user_key", table_names.DIM_USER, stops=True),
        Reference("cmid", table_names.DIM_RESOURCE, stops=False, up_to=0),
    ),
    table_names.FACT_COURSE_GRADE: (
        Reference("user_key", table_names.DIM_USER, stops=True),
        Reference("courseid", table_names.DIM_COURSE, stops=True, up_to=0),
    ),
    table_names.FACT_SUBMISSION: (
        Reference("user_key", table_names.DIM_USER, stops=True),
        Reference("cmid", table_names.DIM_RESOURCE, stops=True, up_to=0),
    ),
    table_names.DUE_DATE_EXCEPTION: (
        Reference("user_key", table_names.DIM_USER, stops=True),
        Reference("cmid", table_names.DIM_RESOURCE, stops=True, up_to=0),
    ),
}


@dataclass(frozen=True)
class Range:
    """A condition (SQL) that every row fulfils; null counts as fulfilled."""

    name: str
    holds: str
    stops: bool


RANGES = {
    table_names.DIM_COURSE: (Range("ends after it starts", "end_at > start_at", stops=False),),
    table_names.FACT_EVENT: (
        Range("has a moment", "occurred_at IS NOT NULL", stops=True),
        Range("is not of the future", "occurred_at < current_timestamp() + INTERVAL 1 DAY", stops=False),
    ),
    table_names.FACT_ENROLMENT: (
        Range("has a beginning", "enrolled_at IS NOT NULL", stops=False),
        Range("ends after it begins", "unenrolled_at >= enrolled_at", stops=False),
        Range("is completed after it begins", "completed_at >= enrolled_at", stops=False),
    ),
    table_names.FACT_GRADE: (
        Range("is no negative grade", "fraction >= 0", stops=False),
        Range("is at most twice the highest grade", "fraction <= 2", stops=False),
    ),
    table_names.FACT_SUBMISSION: (Range("counts attempts from 1", "attempt >= 1", stops=True),),
}


@dataclass(frozen=True)
class SetAside:
    """Rows of a raw table that curate leaves out, since one of them would make results wrong. example: SQL that names one."""

    table: str
    name: str
    example: str
    rows: Callable[[DataFrame], DataFrame]


SET_ASIDE = (
    SetAside(
        "logstore_standard_log", "has a moment (timecreated); without one set aside", "concat('id ', id)", events.undated
    ),
    SetAside(
        "course_modules", "is the only one of its activity; a second one set aside",
        "concat('id ', id, ': of the same activity as id ', first)", courses.duplicates,
    ),
    SetAside(
        "quiz_attempts", "counts attempts from 1; others set aside", "concat('quiz ', quiz, ', attempt ', attempt)",
        lambda attempts: attempts.where("attempt < 1"),
    ),
    SetAside(
        "assign_submission", "counts attempts from 0; others set aside",
        "concat('assignment ', assignment, ', attemptnumber ', attemptnumber)",
        lambda submissions: submissions.where("attemptnumber < 0"),
    ),
)  # fmt: skip

# A log that has nothing newer than this is not read any more, or nobody uses the site.
FRESH_DAYS = 3


@dataclass(frozen=True)
class _Check:
    name: str
    stops: bool
    violated: Column


def check(spark: SparkSession, *, fresh: bool) -> None:
    """Check the current curated tables; raises LakehouseError when a check that stops is violated.

    fresh: also whether the log goes up to now; that of a demo, or of a past moment that is looked at, does not.
    """
    today = dt.datetime.now(dt.UTC).date().isoformat() if fresh else None
    inputs = input_fingerprint.stamp(
        input_fingerprint.rows(spark, table_names.CURATED),
        GRAINS,
        REFERENCES,
        RANGES,
        [s.name for s in SET_ASIDE],
        today,
    )
    if input_fingerprint.is_current(spark, [table_names.DATA_QUALITY], inputs):
        found = _last(spark)
    else:
        now, raw = dt.datetime.now(dt.UTC), RawTables(spark)
        with ThreadPoolExecutor(max_workers=3, thread_name_prefix="quality") as pool:
            checked = pool.map(lambda table: _check_table(spark, table, now, fresh), table_names.CURATED)
            found = [row for of_table in checked for row in of_table]
            found += [
                row for row in pool.map(lambda one: _set_aside(spark, raw, one, now), SET_ASIDE) if row is not None
            ]
        df = tables.local_rows(spark, found, contracts.schema(table_names.DATA_QUALITY))
        writers.append(
            df, table_names.DATA_QUALITY, run_id=job_runs.run_id(), summary=input_fingerprint.summary(inputs)
        )
    violated = {stops: [_finding(row) for row in found if row[6] and row[4] == stops] for stops in (True, False)}
    if violated[False]:
        log.warning("Data quality:\n%s", bullet_list(violated[False]))
    if violated[True]:
        raise LakehouseError(
            "The curated tables are not fit for use:\n" + bullet_list(violated[True]),
            where=table_names.DATA_QUALITY,
            remedy="look at the named rows in Moodle and in lakehouse.raw (verify compares them), then run curate again",
        )


def _last(spark: SparkSession) -> list[tuple[object, ...]]:
    df = spark.table(table_names.DATA_QUALITY)
    newest = df.agg(F.max("checked_at").alias("checked_at"))
    return [
        tuple(row)
        for row in df.join(newest, "checked_at")
        .select(*contracts.schema(table_names.DATA_QUALITY).fieldNames())
        .collect()
    ]


def _check_table(spark: SparkSession, table: str, now: dt.datetime, fresh: bool) -> list[tuple[object, ...]]:
    """Return the rows of ops.data_quality for one table, by two passes over it at most."""
    df, key = spark.table(table), list(GRAINS[table])
    checks = []
    for reference in REFERENCES.get(table, ()):
        df, violated = _refer(spark, df, reference)
        name = f"{reference.column} is in {reference.dimension.rsplit('.', 1)[-1]}"
        checks.append(_Check(name, reference.stops, violated))
    for rule in RANGES.get(table, ()):
        checks.append(_Check(rule.name, rule.stops, ~F.coalesce(F.expr(rule.holds), F.lit(True))))
    # Counted by themselves: with the other measures beside them, each key would be grouped with all that these keep.
    distinct = spark.table(table).select(*key).distinct().count()
    named = F.concat_ws(", ", *[F.concat(F.lit(f"{k} "), F.col(k).cast("string")) for k in key])
    measures = [F.count(F.lit(1))]
    for one in checks:
        measures += [F.count(F.when(one.violated, 1)), F.min(F.when(one.violated, named))]
    has_age = fresh and table == table_names.FACT_EVENT
    if has_age:
        measures.append(F.datediff(F.current_timestamp(), F.max("occurred_at")))
    row = df.agg(*measures).first()
    assert row is not None
    rows, values = row[0], list(row[1:])

    def result(name: str, stops: bool, violations: int, example: str | None) -> tuple[object, ...]:
        return (
            job_runs.run_id(),
            now,
            table.removeprefix(table_names.CATALOG + "."),
            name,
            stops,
            rows,
            violations,
            example,
        )

    found = [result(f"one row for each {', '.join(key)}", True, rows - distinct, None)]
    for place, one in enumerate(checks):
        found.append(result(one.name, one.stops, values[2 * place], values[2 * place + 1]))
    if has_age:
        age = values[-1]
        stale = int(age is None or age > FRESH_DAYS)
        found.append(
            result(f"goes up to {FRESH_DAYS} days ago", False, stale, None if age is None else f"ends {age} days ago")
        )
    return found


def _set_aside(spark: SparkSession, raw: RawTables, one: SetAside, now: dt.datetime) -> tuple[object, ...] | None:
    """Return the row of ops.data_quality for what curate leaves out of a raw table; None where there is no table."""
    if one.table not in raw:
        return None
    row = one.rows(raw[one.table]).agg(F.count(F.lit(1)), F.min(F.expr(one.example))).first()
    assert row is not None
    rows = tables.row_count(spark, table_names.raw(one.table))
    return (job_runs.run_id(), now, f"raw.{one.table}", one.name, False, rows, row[0], row[1])


def _refer(spark: SparkSession, df: DataFrame, reference: Reference) -> tuple[DataFrame, Column]:
    """Return the rows joined with the dimension, and the condition that is true where it does not hold the value."""
    known = f"known_{reference.column}"
    held = spark.table(reference.dimension).select(F.col(reference.column), F.lit(True).alias(known))
    joined = df.join(held, reference.column, "left")
    value = F.col(reference.column)
    refers = value.isNotNull() if reference.up_to is None else value > reference.up_to
    return joined, refers & F.col(known).isNull()


def _finding(row: tuple[object, ...]) -> str:
    _, _, table, name, _, rows, violations, example = row
    return f"{table}: {violations:,} of {rows:,} rows violate: {name}" + (f" ({example})" if example else "")
