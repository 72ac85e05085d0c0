"""Render the risk and cluster report: who is at risk and why, what kinds of courses there are, how fresh the data are."""

from __future__ import annotations

import datetime as dt
import io
import json
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moodle_lakehouse.clustering import matching, naming
from moodle_lakehouse.config import Config
from moodle_lakehouse.dropout import dataset, labels, rules, scoring
from moodle_lakehouse.errors import ConfigError
from moodle_lakehouse.lake import point_in_time, table_names, tables

WIDTH = 110
MAX_STUDENTS = 10
MAX_MOVES = 3
WHO = "Whose a key is, identify KEY tells whoever may know (docs/privacy.md)."


def render(spark: SparkSession, config: Config, as_of: dt.datetime | None, format: str = "text") -> str:
    """Return the report as tables for a terminal of 110 columns, or as one JSON document.

    It shows the latest run that scored (clustered) at as_of or before. People are in it by pseudonym alone, since it is
    printed and kept in the journal; `identify` tells who they are.
    """
    if format not in ("text", "json"):
        raise ConfigError(f"The report has no format {format!r}", where="--format", remedy="use text or json")
    document = collect(spark, config, as_of)
    return json.dumps(document, default=_json, indent=1) if format == "json" else _text(document)


def collect(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> dict[str, Any]:
    """Return what the report says, as plain values."""
    risks = _latest(tables.read(spark, table_names.STUDENT_RISK), as_of)
    clusters = _latest(tables.read(spark, table_names.COURSE_CLUSTER), as_of)
    students = _students(spark, risks) if risks is not None else []
    courses = [row.asDict() for row in clusters.collect()] if clusters is not None else []  # a row a course
    document: dict[str, Any] = {
        "as_of": as_of,
        "label": config.analytics.label,
        "data_until": _data_until(spark, as_of),
        "scored": _scored(risks) if risks is not None else None,
        "students": students,
        "clusters": _clusters(courses),
        "moves": matching.changes_of_cluster(courses),
        "not_scored": None,
    }
    if document["scored"] is None or document["scored"]["model_version"] == rules.BASIS:
        document["not_scored"] = _why_not(spark, config, as_of)
    return document


def _latest(df: DataFrame | None, as_of: dt.datetime | None) -> DataFrame | None:
    """Return the rows of the latest run at as_of or before; None when there is none."""
    if df is None:
        return None
    if as_of is not None:
        df = df.where(F.col("as_of") <= point_in_time.literal(as_of))
    # Run ids sort by time: of several runs for one moment the last counts.
    last = df.select("as_of", "run_id").orderBy(F.desc("as_of"), F.desc("run_id")).first()
    return (
        None
        if last is None
        else df.where((F.col("run_id") == last["run_id"]) & (F.col("as_of") == F.lit(last["as_of"])))
    )


def _students(spark: SparkSession, risks: DataFrame) -> list[dict[str, Any]]:
    courses = spark.table(table_names.DIM_COURSE).select("courseid", "shortname")
    # A list by rules has no probability: the more rules hold, the higher.
    order = (
        F.desc("probability"),
        F.col("reason_3").isNull(),
        F.col("reason_2").isNull(),
        "band",
        "courseid",
        "user_key",
    )
    top = (
        risks.where(F.col("probability").isNotNull() | (F.col("band") != "low"))
        .orderBy(*order)
        .limit(MAX_STUDENTS)
        .join(F.broadcast(courses), "courseid", "left")
        .orderBy(*order)
    )
    return [
        {
            "user_key": row["user_key"],
            "course": row["shortname"],
            "week": row["week"],
            "probability": row["probability"],
            "band": row["band"],
            "change": row["change"],
            "reasons": [row[f"reason_{i}"] for i in (1, 2, 3) if row[f"reason_{i}"]],
            "courseid": row["courseid"],
        }
        for row in top.collect()
    ]


def _scored(risks: DataFrame) -> dict[str, Any] | None:
    row = risks.agg(
        F.count("*").alias("students"),
        F.countDistinct("courseid").alias("courses"),
        *[F.count(F.when(F.col("band") == band, 1)).alias(band) for band in ("high", "medium", "low")],
        F.max("as_of").alias("as_of"),
        F.max("scored_at").alias("scored_at"),
        F.max("model_version").alias("model_version"),
    ).first()
    return row.asDict() if row is not None and row["students"] else None


def _clusters(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    result = []
    for number in sorted({row["cluster"] for row in rows}, key=lambda value: (value < 0, value)):
        own = [row for row in rows if row["cluster"] == number]
        result.append(
            {
                "cluster": number,
                "name": own[0]["cluster_name"],
                "courses": len(own),
                "students": sum(row["students"] for row in own),
                "marks": naming.distinguishing_shares(rows, number)
                if number >= 0
                else ["hardly any students or actions"],
                "examples": [row["shortname"] for row in sorted(own, key=_nearest)[:3]],
            }
        )
    return result


def _nearest(row: dict[str, Any]) -> tuple[float, int]:
    return (row["distance"] if row["distance"] is not None else 0.0, row["courseid"])


def _data_until(spark: SparkSession, as_of: dt.datetime | None) -> dt.datetime | None:
    events = tables.read(spark, table_names.FACT_EVENT)
    if events is None:
        return None
    row = point_in_time.cut(events, table_names.FACT_EVENT, as_of).agg(F.max("occurred_at").alias("last")).first()
    return row["last"] if row is not None else None


def _why_not(spark: SparkSession, config: Config, as_of: dt.datetime | None) -> str:
    refusal = dataset.refusal(spark, config, as_of)
    if refusal is not None:
        return refusal.what
    return (
        "No course with enrolled students is running, or no model has become champion yet (train says why; then score)."
    )


def _text(document: dict[str, Any]) -> str:
    out = io.StringIO()
    console = _console(out)
    outcome = labels.NAMES[document["label"]]
    scored = document["scored"]
    if document["students"]:
        title = "Students at risk by rules" if scored["model_version"] == rules.BASIS else f"Most at risk of {outcome}"
        console.print(_risk_table(document["students"], title))
    else:
        console.print(Text("No students at risk to show", style="bold"))
    if scored:
        console.print(_scored_line(scored), soft_wrap=False)
    if document["not_scored"]:
        console.print(document["not_scored"])
    if document["students"]:
        console.print(WHO)
    console.print()
    if document["clusters"]:
        console.print(_cluster_table(document["clusters"]))
        if document["moves"]["again"]:
            console.print(_moves_line(document["moves"]))
    else:
        console.print("No clusters of courses yet: no course has begun, or cluster has not run.")
    until, as_of = document["data_until"], document["as_of"]
    console.print(
        f"Data: last event {_minute(until) if until else 'none'}"
        + (f", everything from {_minute(as_of)} on left out" if as_of else "")
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _scored_line(scored: dict[str, Any]) -> str:
    by_rules = scored["model_version"] == rules.BASIS
    bands = (
        (" (two rules, or never came)", " (one rule)", "")
        if by_rules
        else (f" ({_share(scoring.HIGH)} or more)", f" ({_share(scoring.MEDIUM)} or more)", "")
    )
    by = "by rules, since there is no model yet" if by_rules else f"by model version {scored['model_version']}"
    counts = [f"{scored[name]:,} {name}{what}" for name, what in zip(("high", "medium", "low"), bands, strict=True)]
    return (
        f"{scored['students']:,} students in {scored['courses']:,} running courses scored as of {_day(scored['as_of'])}"
        f" {by}: {', '.join(counts)}."
    )


def _console(out: io.StringIO) -> Console:
    """Return a console that prints text as it is: names of courses may hold what rich would take for its markup."""
    return Console(
        file=out, width=WIDTH, force_terminal=False, color_system=None, highlight=False, emoji=False, markup=False
    )


def _risk_table(students: list[dict[str, Any]], title: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        width=WIDTH,
        pad_edge=False,
    )
    table.add_column("student, course", no_wrap=True)
    table.add_column("week", justify="right", no_wrap=True)
    table.add_column("risk", justify="right", no_wrap=True)
    table.add_column("band", no_wrap=True)
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("reasons", overflow="fold", ratio=1)
    for student in students:
        change = student["change"]
        why = [f"{place}. {words}" for place, words in enumerate(student["reasons"], 1)]
        table.add_row(
            f"{student['user_key']}\n{_short(student['course'])}",
            str(student["week"]),
            "" if student["probability"] is None else _share(student["probability"]),
            student["band"],
            "" if student["probability"] is None else "new" if change is None else f"{_signed(100 * change)} pts",
            Text("\n".join(why)),
            end_section=True,
        )
    return table


def _cluster_table(clusters: list[dict[str, Any]]) -> Table:
    table = Table(
        title="Courses by the use of their resources",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        width=WIDTH,
        pad_edge=False,
    )
    table.add_column("cluster", ratio=2)
    table.add_column("courses", justify="right", no_wrap=True)
    table.add_column("students", justify="right", no_wrap=True)
    table.add_column("what marks it", ratio=4)
    table.add_column("such as", ratio=2)
    for row in clusters:
        table.add_row(
            Text(row["name"]),
            str(row["courses"]),
            f"{row['students']:,}",
            Text("\n".join(row["marks"]) or "close to the average of all courses"),
            Text(", ".join(_short(name) for name in row["examples"])),
            end_section=True,
        )
    return table


def _moves_line(moves: dict[str, Any]) -> str:
    parts = [f"{len(move['courses'])} from {move['from']} to {move['to']}" for move in moves["moves"][:MAX_MOVES]]
    others = sum(len(move["courses"]) for move in moves["moves"][MAX_MOVES:])
    parts += [f"{others} others"] if others else []
    return f"Of {moves['again']} courses given again in a later term {moves['stayed']} stayed what they were" + (
        f"; moved: {', '.join(parts)}." if parts else "."
    )


def _short(name: str | None) -> str:
    """Shorten a course's short name to a column's 24 characters; Moodle allows 255."""
    name = name or "?"
    return name if len(name) <= 24 else name[:23] + "…"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _signed(points: float) -> str:
    return "0" if round(points) == 0 else f"{points:+.0f}"


def _day(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _minute(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _json(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return point_in_time.utc(value).isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
