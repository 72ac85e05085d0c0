"""Show what became of a course's resources between two moments, of lakehouse.marts.resource_history."""

from __future__ import annotations

import datetime as dt
import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.curated import raw_tables, resource_states
from moodle_lakehouse.curated.resource_history import COLUMNS, VIEW_DAYS, HistoryState, format_ms, read_state, utc_of_ms
from moodle_lakehouse.errors import ConfigError, LakehouseError
from moodle_lakehouse.lake import point_in_time, table_names, tables


@dataclass(frozen=True)
class Period:
    """From when (included) to when (not included), UTC."""

    since: dt.datetime
    until: dt.datetime


def period(since: str, until: str | None) -> Period:
    """Return the period of two dates; until None: now.

    Raises:
        ConfigError: a date cannot be read or lies in the future, or the first is not before the second.
    """
    now = dt.datetime.now(dt.UTC)  # to the microsecond: what an ingest has just seen belongs to the period
    first = point_in_time.parse(since, where="--from")
    last = point_in_time.parse(until, where="--to") if until is not None else now
    for option, moment in (("--from", first), ("--to", last)):
        if moment > now:
            raise ConfigError(
                f"{moment:%Y-%m-%d %H:%M} UTC lies in the future: nothing has happened then",
                where=option,
                remedy="use a past moment; without --to the history goes on until now",
            )
    if first >= last:
        raise ConfigError(
            f"--from {first:%Y-%m-%d %H:%M} is not before --to {last:%Y-%m-%d %H:%M}",
            where="--from, --to",
            remedy="name the earlier moment first; a date means its beginning, in UTC",
        )
    return Period(first, last)


def find_course(spark: SparkSession, wanted: str) -> dict[str, Any]:
    """Return id, shortname and fullname of a course by its id or short name; of one that Moodle deleted the id alone.

    Raises:
        LakehouseError: there are no courses yet, or none of that id or name.
    """
    courses = tables.read(spark, table_names.raw("course"))
    if courses is None:
        raise LakehouseError("The lake has no courses yet", where=table_names.raw("course"), remedy="run ingest first")
    courses = raw_tables.shaped(spark, courses, "id bigint, shortname string, fullname string")
    number = int(wanted) if wanted.isdecimal() and len(wanted) < 19 else None
    by_name = F.lower("shortname") == wanted.lower()
    found = courses.where(by_name if number is None else by_name | (F.col("id") == number)).collect()
    for row in sorted(found, key=lambda r: r["id"] != number):
        return dict(row.asDict())
    mart = tables.read(spark, table_names.RESOURCE_HISTORY) if number is not None else None
    if mart is not None and mart.where(F.col("courseid") == number).limit(1).count():
        return {"id": number, "shortname": None, "fullname": None}
    close = _similar(courses, wanted.lower())
    raise LakehouseError(
        f"No course has the id or short name {wanted!r}",
        where=table_names.raw("course"),
        remedy=f"did you mean {', '.join(close)}?" if close else "see SELECT id, shortname FROM lakehouse.raw.course",
    )


def _similar(courses: DataFrame, wanted: str) -> list[str]:
    """Return up to five short names that are like a name in lower case, or hold it."""
    names = {name.lower(): name for (name,) in courses.select("shortname").collect() if name}
    close = difflib.get_close_matches(wanted, list(names), n=5, cutoff=0.5)
    close += [name for name in names if wanted in name and name not in close][: 5 - len(close)]
    return [names[name] for name in close]


def collect(spark: SparkSession, course: Mapping[str, Any], wanted: Period) -> dict[str, Any]:
    """Return what happened to a course's resources in a period, as plain values in order of time."""
    mart = tables.read(spark, table_names.RESOURCE_HISTORY)
    state = read_state(spark)
    assert mart is not None
    assert state is not None
    changes = _changes(mart, course["id"], wanted)
    runs = resource_states.ingests(spark)
    return {
        "course": dict(course),
        "from": wanted.since,
        "to": wanted.until,
        "history_begins": utc_of_ms(state.begins),
        "seen_until": utc_of_ms(runs[-1].finished if runs else state.seen),
        "view_days": VIEW_DAYS,
        "notes": _notes(state, wanted),
        "counts": dict(sorted(Counter(row["change"] for row in changes).items())),
        "changes": changes,
    }


def _changes(mart: DataFrame, courseid: int, wanted: Period) -> Sequence[Mapping[str, Any]]:
    since, until = point_in_time.literal(wanted.since), point_in_time.literal(wanted.until)
    rows = (
        mart.where(F.col("courseid") == courseid)
        .where((F.col("changed_at") >= since) & (F.col("changed_at") < until))
        .orderBy("changed_at", "cmid", "change")
        .select(*[name for name in COLUMNS if name not in ("change_id", "courseid")])
    )
    return [
        {key: point_in_time.utc(value) if isinstance(value, dt.datetime) else value for key, value in row.items()}
        for row in (found.asDict() for found in rows.collect())
    ]


def _notes(state: HistoryState, wanted: Period) -> list[str]:
    """Return what a reader has to know of the time before the first ingest, and of what is lost."""
    notes = []
    if wanted.since < utc_of_ms(state.begins):
        notes.append(
            f"The lake's history begins at {format_ms(state.begins)} UTC. What is shown of the time before is the log's:"
            " resources that were added, renamed, edited and removed, none that were moved, hidden or shown."
        )
    for name, since, until in state.gaps:
        if utc_of_ms(since) < wanted.until and utc_of_ms(until) > wanted.since:
            notes.append(
                f"{name}: what happened between {format_ms(since)} and {format_ms(until)} is lost,"
                " its snapshots had expired."
            )
    return notes
