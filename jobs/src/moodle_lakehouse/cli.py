"""moodle-lakehouse: the jobs' command line.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 bad usage
or configuration. Nothing heavy is imported before it is needed, so that help and mistakes answer at once.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from moodle_lakehouse import __version__, config
from moodle_lakehouse.errors import ConfigError, LakehouseError

if TYPE_CHECKING:
    import datetime as dt

    from pyspark.sql import SparkSession

    from moodle_lakehouse.erase import Erasure
    from moodle_lakehouse.ingest import IngestResult
    from moodle_lakehouse.maintain import TableResult as MaintainResult
    from moodle_lakehouse.verify import VerifyResult

WIDTH = 110
RANGES_SHOWN = 20  # of one table


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH})
@click.version_option(__version__, prog_name="moodle-lakehouse")
@click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Moodle's database in Iceberg tables, courses clustered by use, students at risk named early.

    The configuration is the YAML file named by LAKEHOUSE_CONFIG (default /etc/lakehouse/jobs.yml).
    """
    context.obj = {"debug": debug}


as_of_option = click.option(
    "--as-of",
    metavar="MOMENT",
    help="now, mid-term or an ISO date: as if the rest had not happened yet. [default: the configuration's]",
)

format_option = click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True
)


@cli.command()
def ingest() -> None:
    """Copy Moodle's tables into lakehouse.raw."""
    settings = config.load()
    from moodle_lakehouse import ingest as job

    site = job.inspect(settings)  # a wrong password fails before Spark starts
    with _session("ingest", settings) as spark:
        _print_ingest(job.run(spark, settings, site))


@cli.command()
@click.option("--table", "names", multiple=True, metavar="NAME", help="Only this one, without prefix (repeatable).")
@format_option
def verify(names: tuple[str, ...], output: str) -> None:
    """Compare Moodle's tables with lakehouse.raw and name the ranges of rows that differ."""
    settings = config.load()
    from moodle_lakehouse import ingest as reader
    from moodle_lakehouse import verify as job

    plans = job.chosen(reader.inspect(settings), names)
    with _session("verify", settings) as spark:
        try:
            _print_verify(job.run(spark, settings, plans), output)
        except job.DifferentError as error:
            _print_verify(error.result, output)
            raise


@cli.command()
@click.option("--table", "names", multiple=True, metavar="NAME", help="Only this one, such as raw.course (repeatable).")
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
@format_option
def maintain(names: tuple[str, ...], dry_run: bool, output: str) -> None:
    """Join small files, expire old snapshots and remove leftover files of the lake's tables."""
    settings = config.load()
    from moodle_lakehouse import maintain as job

    with _session("maintain", settings) as spark:
        _print_maintain(job.run(spark, names, dry_run=dry_run), dry_run, output)


@cli.command()
def curate() -> None:
    """Make dimensions and facts of the raw tables."""
    settings = config.load()
    settings.privacy.key()
    from moodle_lakehouse import curate as job

    with _session("curate", settings) as spark:
        _print_rows("Curated tables", job.run(spark, settings))


def _as_of_command(name: str, help_text: str) -> None:
    @cli.command(name=name, help=help_text)
    @as_of_option
    def command(as_of: str | None) -> None:
        settings = config.load()
        from moodle_lakehouse import asof, pipeline

        wanted = _checked_as_of(as_of or settings.analytics.as_of)
        with _session(name, settings) as spark:
            moment = asof.resolve_as_of(spark, wanted)
            click.echo(f"{name} as of {moment:%Y-%m-%d %H:%M} UTC", err=True)
            pipeline.step(spark, settings, name, moment)


_as_of_command("features", "Write one row per enrolment and week to lakehouse.features.")
_as_of_command("cluster", "Cluster the courses by the use of their resources.")
_as_of_command("train", "Train the model of risk and register it in MLflow.")
_as_of_command("score", "Score the students of the running courses.")


@cli.command()
@as_of_option
@format_option
def report(as_of: str | None, output: str) -> None:
    """Show the students most at risk with reasons, and the clusters of courses."""
    settings = config.load()
    from moodle_lakehouse import asof, pipeline

    wanted = _checked_as_of(as_of or settings.analytics.as_of)
    with _session("report", settings, on_cluster=False) as spark:
        click.echo(pipeline.report(spark, settings, asof.resolve_as_of(spark, wanted), output))


@cli.command()
@click.option("--train-until", metavar="DATE", help="Train on courses that start before this date.")
@click.option("--test-from", metavar="DATE", help="Test on courses that start on or after this date.")
@click.option("--leave-one-course-out", is_flag=True, help="Instead of the dates: predict each course from the others.")
@click.option("--group-by", metavar="FIELD", help="Compare the model's measures by a profile field or attribute.")
@click.option("--label", type=click.Choice(["non_completion", "withdrawal"]), help="[default: the configuration's]")
@click.option(
    "--weeks", default="0,2,4,8,12,16,20", show_default=True, metavar="LIST", help="Cutoff weeks, with commas."
)
@click.option(
    "--capacity",
    type=click.IntRange(min=1),
    metavar="N",
    help="Students of a course that an advisor can see to in a week. [default: the configuration's]",
)
@format_option
def evaluate(
    train_until: str | None,
    test_from: str | None,
    leave_one_course_out: bool,
    group_by: str | None,
    label: str | None,
    weeks: str,
    capacity: int | None,
    output: str,
) -> None:
    """Measure the model on courses that it was not trained on, week by week."""
    settings = config.load()
    split = _split(train_until, test_from, leave_one_course_out)
    cutoffs = _weeks(weeks)
    from moodle_lakehouse import pipeline
    from moodle_lakehouse.evaluate import Question

    question = Question(
        label=label or settings.analytics.label,
        weeks=cutoffs,
        capacity=capacity or settings.analytics.capacity,
        split=split,
        group_by=group_by,
    )
    with _session("evaluate", settings) as spark:
        document = pipeline.evaluate(spark, settings, question)
    if output == "json":
        click.echo(json.dumps(document))
    else:
        _print_evaluation(document)


def _split(
    train_until: str | None, test_from: str | None, leave_one_course_out: bool
) -> tuple[dt.datetime, dt.datetime] | None:
    """The two dates; None when courses are left out one at a time."""
    if leave_one_course_out:
        if train_until or test_from:
            raise click.UsageError("--leave-one-course-out uses all courses: give it or the dates, not both.")
        return None
    for value, name in ((train_until, "--train-until"), (test_from, "--test-from")):
        if value is None:
            raise click.UsageError(f"Missing option '{name}' (or --leave-one-course-out).")
    from moodle_lakehouse import asof

    until, since = asof.parse(train_until or ""), asof.parse(test_from or "")
    if until > since:
        raise ConfigError(
            "--train-until lies after --test-from: courses would be in both sets", remedy="split at one date"
        )
    return until, since


@cli.command()
@click.option("--run", "run_id", required=True, metavar="RUN_ID", help="A run of marts.student_risk.")
def reproduce(run_id: str) -> None:
    """Score an earlier run again from its own snapshots and model, and compare."""
    settings = config.load()
    from moodle_lakehouse import model

    with _session("reproduce", settings) as spark:
        students, differ = model.reproduce(spark, settings, run_id)
    if differ:
        raise LakehouseError(
            f"{differ:,} of {students:,} scores of run {run_id} come out otherwise",
            remedy="compare the configuration (analytics) and release of the run with those of now",
        )
    click.echo(f"All {students:,} scores of run {run_id} come out the same")


@cli.command()
@click.option("--course", required=True, metavar="X", help="The course's id or short name.")
@click.option("--from", "since", required=True, metavar="DATE", help="From this moment on, UTC.")
@click.option("--to", "until", metavar="DATE", help="Until before this moment, UTC. [default: now]")
@format_option
def history(course: str, since: str, until: str | None, output: str) -> None:
    """Show what was added, changed, hidden and removed in a course between two dates."""
    settings = config.load()
    from moodle_lakehouse import history as job

    wanted = job.period(since, until)
    with _session("history", settings) as spark:
        found = job.find_course(spark, course)
        job.run(spark, refresh=False)
        document = job.collect(spark, found, wanted)
    if output == "json":
        click.echo(json.dumps(document, default=lambda moment: moment.isoformat()))
    else:
        _print_history(document)


@cli.command(name="erase-user")
@click.option(
    "--user-id",
    "ids",
    required=True,
    multiple=True,
    type=click.IntRange(2),
    metavar="N",
    help="Moodle's id (repeatable).",
)
@click.option("--yes", is_flag=True, help="Erase. Without it the lake is only searched, and nothing changes.")
def erase_user(ids: tuple[int, ...], yes: bool) -> None:
    """Remove people from every table, snapshot and file of the lake, for good."""
    settings = config.load()
    settings.privacy.key()
    from moodle_lakehouse import erase as job

    with _session("erase-user", settings) as spark:
        result = (job.run if yes else job.look)(spark, settings, ids)
    _print_erasure(result)
    job.check(result)


@cli.command(name="pipeline")
@as_of_option
def pipeline_command(as_of: str | None) -> None:
    """Ingest, curate, history, features, cluster, train, score and report in one go."""
    settings = config.load()
    settings.privacy.key()
    from moodle_lakehouse import pipeline

    result = pipeline.run(settings, _checked_as_of(as_of or settings.analytics.as_of))
    _print_ingest(result.ingested)
    _print_rows("Curated tables", result.curated)
    click.echo(f"\nAs of {result.as_of:%Y-%m-%d %H:%M} UTC (run {result.run_id})\n")
    click.echo(result.report)
    _print_seconds(result.seconds)


@cli.group()
def bench() -> None:
    """Measure on this machine what the documentation says."""


@bench.command(name="ingest")
@click.option("--rows", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="Rows of Moodle's log.")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Runs; their median counts.")
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def bench_ingest(rows: int, runs: int, output: str) -> None:
    """Copy the first rows of Moodle's log to tables that are dropped again, by ingest and by what else there is."""
    settings = config.load()
    from moodle_lakehouse import bench as job

    document = job.ingest_log(settings, rows, runs)
    if output == "json":
        click.echo(json.dumps(document))
    else:
        _print_bench(document)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the console script."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # docker stop ends a job as Ctrl-C does
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run a command; returns the exit code. One message on standard error for what goes wrong."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("moodle_lakehouse").setLevel(logging.INFO)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    debug = "--debug" in arguments
    try:
        cli.main(arguments, prog_name="moodle-lakehouse", standalone_mode=False)
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted; what was not committed is not in the lake. Run it again.", err=True)
        return 1
    except LakehouseError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
        from moodle_lakehouse.errors import reason

        click.echo(
            f"Error: {reason(error)}\n  remedy: run again with --debug before the verb to see where it happened",
            err=True,
        )
        return 1
    return 0


@contextmanager
def _session(name: str, settings: config.Config, *, on_cluster: bool = True) -> Iterator[SparkSession]:
    from moodle_lakehouse import session

    spark = session.create(name, settings, on_cluster=on_cluster)
    try:
        yield spark
    finally:
        spark.stop()


def _checked_as_of(value: str) -> str:
    """Refuse what is no moment before Spark starts."""
    if value not in ("now", "mid-term"):
        from moodle_lakehouse import asof

        asof.parse(value)
    return value


def _weeks(value: str) -> list[int]:
    try:
        weeks = [int(part) for part in value.split(",")]
    except ValueError:
        weeks = []
    if not weeks or min(weeks) < 0:
        raise click.BadParameter(f"{value!r}; use whole numbers with commas, such as 0,2,4", param_hint="--weeks")
    return weeks


def _console() -> Any:
    from rich.console import Console

    return Console(width=WIDTH, file=sys.stdout, highlight=False)


def _table(title: str, *columns: str, left: Sequence[str] = ("note",)) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def _print_ingest(result: IngestResult) -> None:
    columns = ("table", "rows read", "inserted", "updated", "deleted", "seconds", "watermark", "note")
    table = _table("Moodle's tables in lakehouse.raw", *columns)
    told = [row for row in result.tables if row.changed or row.note]
    for row in told:
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
    if len(told) < len(result.tables):
        console.print(f"Unchanged: {len(result.tables) - len(told)} tables")
    if result.missing:
        console.print(f"Not in this Moodle: {', '.join(result.missing)}")
    if result.unlisted:
        more = "" if len(result.unlisted) <= 8 else f" and {len(result.unlisted) - 8} more"
        console.print(f"Not in the catalogue, left out: {', '.join(result.unlisted[:8])}{more}")


def _print_verify(result: VerifyResult, output: str) -> None:
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
    told = [check for check in result.tables if check.note or check.arrived or check.purged or not check.equal]
    columns = ("table", "in Moodle", "in the lake", "arrived", "purged", "ingested (UTC)", "seconds", "note")
    table = _table("Moodle's tables and lakehouse.raw", *columns)
    for check in told:
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


def _print_maintain(results: list[MaintainResult], dry_run: bool, output: str) -> None:
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

    def told(before: int, after: int) -> str:
        return f"{before:,}" if before == after else f"{before:,} > {after:,}"

    changed = [one for one in results if one.changed or one.note]
    for one in changed:
        sizes = [
            told(getattr(one.before, n), getattr(one.after, n)) for n in ("files", "bytes", "snapshots", "manifests")
        ]
        joined = f"{one.rewritten:,} > {one.written:,}" if one.rewritten else ""
        table.add_row(one.table, *sizes, joined, *[f"{n:,}" if n else "" for n in (one.expired, one.orphans)], one.note)
    table.add_section()
    sums = [
        told(sum(getattr(one.before, n) for one in results), sum(getattr(one.after, n) for one in results))
        for n in ("files", "bytes", "snapshots", "manifests")
    ]
    totals = [sum(getattr(one, n) for one in results) for n in ("rewritten", "expired", "orphans")]
    table.add_row(f"{len(results)} tables", *sums, *[f"{n:,}" for n in totals])
    console = _console()
    console.print(table)
    if len(changed) < len(results):
        console.print(f"Nothing to do: {len(results) - len(changed)} tables")


def _print_rows(title: str, rows: dict[str, int]) -> None:
    table = _table(title, "table", "rows")
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    _console().print(table)


def _print_seconds(seconds: dict[str, float]) -> None:
    table = _table("Seconds by step", "step", "seconds")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.1f}")
    table.add_section()
    table.add_row("all", f"{sum(seconds.values()):.1f}")
    _console().print(table)


def _print_history(document: dict[str, Any]) -> None:
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
    told = ", ".join(f"{count} {change}" for change, count in document["counts"].items()) or "nothing changed"
    console.print(f"{told} {span}. Last look at Moodle: {document['seen_until']:%Y-%m-%d %H:%M}.")
    if document["changes"]:
        console.print(
            f"Views: students' in the {days} days before and after. by: the log does not tell when, the next ingest saw it."
        )
    for note in document["notes"]:
        console.print(note)


def _print_bench(document: dict[str, Any]) -> None:
    table = _table(
        f"{document['rows']:,} rows of Moodle's log",
        "reader", "rows a second", "seconds", "an executor, MiB", "driver, MiB", "all, MiB",
    )  # fmt: skip
    for name, found in document["readers"].items():
        if found is None:
            table.add_row(name, "not installed")
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


def _print_erasure(result: Erasure) -> None:
    columns = ("table", "rows now", "in older files", "in leftover files", "by")
    table = _table("Where the lake names them", *columns, left=("by",))
    for name, found in result.before.by_table().items():
        numbers = [f"{found[kind]:,}" if found[kind] else "" for kind in ("current", "older", "leftover")]
        table.add_row(name.removeprefix("lakehouse."), *numbers, ", ".join(found["by"]))
    console = _console()
    console.print(table)
    if result.active:
        console.print(f"Moodle has {result.active} of them as active users: only the lake leaves them out.")
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


def _print_evaluation(document: dict[str, Any]) -> None:
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
    """A measure with the half width of its interval; nothing for none."""
    if value is None:
        return ""
    return format(value, form) + (f" ±{(interval[1] - interval[0]) / 2:.3f}" if interval else "")


if __name__ == "__main__":
    main()
