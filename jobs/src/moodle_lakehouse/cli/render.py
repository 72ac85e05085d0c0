"""Print results on standard output: tables for people, or a document for programs.

rich is imported when something is printed, so that help and mistakes answer at once.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from moodle_lakehouse.curated.user_keys import Person
    from moodle_lakehouse.ingest.job import IngestResult
    from moodle_lakehouse.ingest.verify import VerifyResult
    from moodle_lakehouse.lake.maintenance import TableResult as MaintainResult
    from moodle_lakehouse.privacy.erasure import Erasure

WIDTH = 110
RANGES_SHOWN = 20  # of one table


def _console() -> Any:
    """Return a console that prints text as it is: names in Moodle may hold what rich would take for its markup."""
    from rich.console import Console

    return Console(width=WIDTH, file=sys.stdout, highlight=False, emoji=False, markup=False)


def _table(title: str, *columns: str, left: Sequence[str] = ("note",)) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def _first(names: Sequence[str], shown: int = 8) -> str:
    """Join the first names and say how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def ingest(result: IngestResult) -> None:
    """Print what an ingest changed, a row a table."""
    columns = ("table", "rows read", "inserted", "updated", "deleted", "seconds", "watermark", "note")
    table = _table("Moodle's tables in lakehouse.raw", *columns)
    shown = [row for row in result.tables if row.changed or row.note]
    for row in shown:
        numbers = [f"{n:,}" for n in (row.rows_read, row.inserted, row.updated, row.deleted)]
        mark = "" if row.watermark is None else str(row.watermark)
        table.add_row(row.table, *numbers, f"{row.seconds:.1f}", mark, row.note)
    table.add_section()
    numbers = [
        f"{sum(values):,}"
        for values in zip(*[(r.rows_read, r.inserted, r.updated, r.deleted) for r in result.tables], strict=True)
    ]
    table.add_row(f"{len(result.tables)} tables", *numbers)
    console = _console()
    console.print(table)
    if len(shown) < len(result.tables):
        console.print(f"Unchanged: {len(result.tables) - len(shown)} tables")
    if result.missing:
        console.print(f"Not in this Moodle: {', '.join(result.missing)}")
    if result.missing_columns:
        console.print(f"Columns not in this Moodle: {_first(result.missing_columns)}")
    if result.unlisted:
        console.print(f"Not in the catalogue, left out: {_first(result.unlisted)}")


def verify(result: VerifyResult, output: str) -> None:
    """Print how Moodle's tables and the lake's compare, and the ranges that differ."""
    if output == "json":
        click.echo(json.dumps(result.document(), default=str))
        return
    console = _console()
    if result.differing:
        columns = ("table", "ids", "rows in Moodle", "in the lake", "missing", "extra", "changed", "doubled")
        table = _table("Ranges that differ", *columns)
        for check in result.differing:
            for one in check.differences[:RANGES_SHOWN]:
                ids = "all" if one.low is None else str(one.low) if one.low == one.high else f"{one.low} to {one.high}"
                kinds = [f"{n:,}" if n else "" for n in (one.missing, one.extra, one.changed, one.doubled)]
                table.add_row(check.table, ids, f"{one.source_rows:,}", f"{one.lake_rows:,}", *kinds)
            if len(check.differences) > RANGES_SHOWN:
                table.add_row(check.table, f"and {len(check.differences) - RANGES_SHOWN} ranges more")
        console.print(table)
    shown = [check for check in result.tables if check.note or check.arrived or check.purged or not check.equal]
    columns = ("table", "in Moodle", "in the lake", "arrived", "purged", "ingested (UTC)", "seconds", "note")
    table = _table("Moodle's tables and lakehouse.raw", *columns)
    for check in shown:
        numbers = [f"{n:,}" for n in (check.source_rows, check.lake_rows, check.arrived, check.purged)]
        moment = f"{check.ingested_at:%Y-%m-%d %H:%M}" if check.ingested_at else ""
        note = "; ".join(part for part in ("" if check.equal else "differs", check.note) if part)
        table.add_row(check.table, *numbers, moment, f"{check.seconds:.1f}", note)
    table.add_section()
    rows = [sum(getattr(c, name) for c in result.tables) for name in ("source_rows", "lake_rows", "arrived", "purged")]
    table.add_row(f"{len(result.tables)} tables", *[f"{n:,}" for n in rows])
    console.print(table)
    console.print(f"Equal: {len(result.tables) - len(result.differing)} of {len(result.tables)} tables")
    for failure in result.failures:
        console.print(f"Not compared: {failure}")


def maintain(results: list[MaintainResult], dry_run: bool, output: str) -> None:
    """Print what maintenance changed, or would change."""
    if output == "json":
        click.echo(json.dumps({"dry_run": dry_run, "tables": [dataclasses.asdict(one) for one in results]}))
        return
    columns = (
        "table",
        "files",
        "bytes",
        "snapshots",
        "manifests",
        "files joined",
        "snapshots expired",
        "orphans",
        "note",
    )
    title = "What maintain would do" if dry_run else "The lake's tables before and after"
    table = _table(title, *columns)

    def change(before: int, after: int) -> str:
        return f"{before:,}" if before == after else f"{before:,} > {after:,}"

    changed = [one for one in results if one.changed or one.note]
    for one in changed:
        sizes = [
            change(getattr(one.before, n), getattr(one.after, n)) for n in ("files", "bytes", "snapshots", "manifests")
        ]
        joined = f"{one.rewritten:,} > {one.written:,}" if one.rewritten else ""
        table.add_row(one.table, *sizes, joined, *[f"{n:,}" if n else "" for n in (one.expired, one.orphans)], one.note)
    table.add_section()
    sums = [
        change(sum(getattr(one.before, n) for one in results), sum(getattr(one.after, n) for one in results))
        for n in ("files", "bytes", "snapshots", "manifests")
    ]
    totals = [sum(getattr(one, n) for one in results) for n in ("rewritten", "expired", "orphans")]
    table.add_row(f"{len(results)} tables", *sums, *[f"{n:,}" for n in totals])
    console = _console()
    console.print(table)
    if len(changed) < len(results):
        console.print(f"Nothing to do: {len(results) - len(changed)} tables")


def rows(title: str, rows: dict[str, int]) -> None:
    """Print the number of rows of each table."""
    table = _table(title, "table", "rows")
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    _console().print(table)


def seconds(seconds: dict[str, float]) -> None:
    """Print the seconds of each step."""
    table = _table("Seconds by step", "step", "seconds")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.1f}")
    table.add_section()
    table.add_row("all", f"{sum(seconds.values()):.1f}")
    _console().print(table)


def history(document: dict[str, Any]) -> None:
    """Print the changes of a course's resources."""
    course, days = document["course"], document["view_days"]
    title = f"{course['shortname'] or 'Deleted course'} ({course['id']}): {course['fullname'] or ''}".rstrip(": ")
    table = _table(
        title,
        "when (UTC)",
        "change",
        "resource",
        "what",
        "by",
        "views before",
        "after",
        left=("change", "resource", "what", "by"),
    )
    for row in document["changes"]:
        when = f"{row['changed_at']:%Y-%m-%d %H:%M}"
        what = " → ".join(text for text in (row["old"], row["new"]) if text)
        views = ["" if row[key] is None else f"{row[key]:,}" for key in ("views_before", "views_after")]
        resource = f"{row['modname'] or 'module'}: {row['name'] or row['cmid']}"
        table.add_row(
            when if row["is_exact"] else f"by {when}", row["change"], resource, what, row["by_role"] or "", *views
        )
    console = _console()
    console.print(table)
    span = f"from {document['from']:%Y-%m-%d %H:%M} to {document['to']:%Y-%m-%d %H:%M}"
    changes = ", ".join(f"{count} {change}" for change, count in document["counts"].items()) or "nothing changed"
    console.print(f"{changes} {span}. Moodle last read: {document['seen_until']:%Y-%m-%d %H:%M}.")
    if document["changes"]:
        console.print(
            f"Views: students' in the {days} days before and after. by: the log does not say when; the next ingest found it."
        )
    for note in document["notes"]:
        console.print(note)


def bench(document: dict[str, Any]) -> None:
    """Print the readers' measures."""
    table = _table(
        f"{document['rows']:,} rows of Moodle's log",
        "reader", "rows a second", "seconds", "an executor, MiB", "driver, MiB", "all, MiB",
    )  # fmt: skip
    for name, found in document["readers"].items():
        if found is None:
            table.add_row(name, "not installed")
            continue
        if "error" in found:
            table.add_row(name, f"failed: {found['error']}")
            continue
        memory = [found.get(f"peak_{part}_bytes") for part in ("executor", "driver", "memory")]
        table.add_row(
            name,
            f"{found['rows_per_second']:,}",
            " ".join(f"{s:.1f}" for s in found["seconds"]),
            *["" if m is None else f"{m / 2**20:,.0f}" for m in memory],
        )
    console = _console()
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in document["versions"].items()))


def erasure(result: Erasure) -> None:
    """Print where the people were found and what was erased."""
    columns = ("table", "rows now", "in older files", "in leftover files", "by")
    table = _table("Where the lake names them", *columns, left=("by",))
    for name, found in result.before.by_table().items():
        numbers = [f"{found[kind]:,}" if found[kind] else "" for kind in ("current", "older", "leftover")]
        table.add_row(name.removeprefix("lakehouse."), *numbers, ", ".join(found["by"]))
    console = _console()
    console.print(table)
    if result.active:
        console.print(f"Moodle has {result.active} of them as active users: only the lake leaves them out.")
    for one in result.possible:
        name = one.table.removeprefix("lakehouse.")
        console.print(
            f"Possibly a person: {name}.{one.column} equals an id in {one.rows:,} rows. Nothing of it is erased;"
            " lakehouse_moodle_columns declares it as subject, mentioned or number."
        )
    if result.after is None:
        console.print(f"{result.before.files:,} files were read and nothing was changed; --yes erases.")
        return
    done = _table("What was done", "table", "rows deleted", "ids cleared", "snapshots expired", "leftovers deleted")
    for row in result.tables:
        numbers = [f"{n:,}" if n else "" for n in (row.deleted, row.cleared, row.snapshots, row.files)]
        done.add_row(row.table.removeprefix("lakehouse."), *numbers)
    console.print(done)
    after = result.after
    console.print(f"Proof: {after.files:,} files of {after.tables} tables were read, {len(after.traces):,} name them.")


def people(people: Sequence[Person], output: str) -> None:
    """Print whose pseudonyms were asked for."""
    if output == "json":
        click.echo(json.dumps([dataclasses.asdict(person) for person in people]))
        return
    for person in people:
        click.echo("  ".join([person.user_key, str(person.userid), *([person.link] if person.link else [])]))


def evaluation(document: dict[str, Any]) -> None:
    """Print the model's and the baselines' measures."""
    console, protocol = _console(), document["protocol"]
    for name, rows in [("model", document["model"]), *document["baselines"].items()]:
        columns = ["week", "students", "base rate", "AUC", "PR-AUC", "Brier", "ECE", "precision", "recall"]
        table = _table(name.replace("_", " "), *columns)
        for row in rows:
            table.add_row(
                str(row["week"]), f"{row['students']:,}", _figure(row["base_rate"]), _figure(row["auc"], row["auc_ci"]),
                _figure(row["pr_auc"]), _figure(row["brier"], row["brier_ci"]), _figure(row["ece"]),
                _figure(row["precision"]), _figure(row["recall"]),
            )  # fmt: skip
        console.print(table)
    if "courses" in document:
        weeks = [row["week"] for row in document["model"]]
        table = _table("AUC by course", "course", "students", *[f"week {week}" for week in weeks], "note")
        for course in document["courses"]:
            found = [_figure(row["auc"]) for row in course["weeks"]] or [""] * len(weeks)
            table.add_row(course["course"], f"{course['students']:,}", *found, course["note"] or "")
        table.add_section()
        table.add_row("all", "", *[_figure(row["auc"]) for row in document["model"]])
        console.print(table)
    if "groups" in document:
        columns = ["week", "group", "students", "base rate", "mean risk", "AUC", "gap", "ABROCA", "note"]
        table = _table(f"by {document['groups']['field']}", *columns)
        for week in document["groups"]["weeks"]:
            for row in week["groups"]:
                gap = _figure(row["auc_gap"], row["auc_gap_ci"], "+.3f")
                table.add_row(
                    str(week["week"]), row["group"], f"{row['students']:,}", _figure(row["base_rate"]),
                    _figure(row["probability"]), _figure(row["auc"]), gap, _figure(row["abroca"]), row["note"] or "",
                )  # fmt: skip
            table.add_section()
        console.print(table)
    console.print(
        f"{protocol['label']}, {protocol['split']}. Trained on {protocol['train']}; tested on {protocol['test']}."
        f" Precision and recall of the {protocol['capacity']} most probable of each course and week."
        f" ± is half the interval, {protocol['intervals']}."
    )


def _figure(value: float | None, interval: Sequence[float] | None = None, form: str = ".3f") -> str:
    """Format a measure with the half width of its interval; nothing for none."""
    if value is None:
        return ""
    return format(value, form) + (f" ±{(interval[1] - interval[0]) / 2:.3f}" if interval else "")
