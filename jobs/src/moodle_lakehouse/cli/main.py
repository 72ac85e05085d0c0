"""moodle-lakehouse: the jobs' command line.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 bad usage
or configuration. Nothing heavy is imported before it is needed, so that help and mistakes answer at once.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from moodle_lakehouse import __version__, config
from moodle_lakehouse.cli import render
from moodle_lakehouse.errors import ConfigError, LakehouseError, reason

if TYPE_CHECKING:
    import datetime as dt

    from pyspark.sql import SparkSession


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": render.WIDTH})
@click.version_option(__version__, prog_name="moodle-lakehouse")
@click.option("--debug", is_flag=True, help="Show messages for debugging, and the traceback of a failure.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Moodle's database in Iceberg tables, courses clustered by use, students at risk named early.

    The configuration is the YAML file named by LAKEHOUSE_CONFIG (default /etc/lakehouse/jobs.yml).
    """
    context.obj = {"debug": debug}


as_of_option = click.option(
    "--as-of",
    metavar="MOMENT",
    help="now, mid-term or an ISO date; later data are left out. [default: the configuration's]",
)

format_option = click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True
)


@cli.command()
@click.option("--same-site", is_flag=True, help="The site's identity has changed: record the new one.")
def ingest(same_site: bool) -> None:
    """Copy Moodle's tables into lakehouse.raw."""
    settings = config.load()
    from moodle_lakehouse.ingest import job

    site = job.inspect(settings)  # a wrong password fails before Spark starts
    with _session("ingest", settings) as spark:
        render.ingest(job.run(spark, settings, site, same_site=same_site))


@cli.command()
@click.option("--table", "names", multiple=True, metavar="NAME", help="Only this one, without prefix (repeatable).")
@format_option
def verify(names: tuple[str, ...], output: str) -> None:
    """Compare Moodle's tables with lakehouse.raw and name the ranges of rows that differ."""
    settings = config.load()
    from moodle_lakehouse.ingest import job as reader
    from moodle_lakehouse.ingest import verify as job

    site = reader.inspect(settings)
    job.chosen(site, names)  # an unknown name fails before Spark starts
    with _session("verify", settings) as spark:
        try:
            render.verify(job.run(spark, settings, site, names), output)
        except job.DifferentError as error:
            render.verify(error.result, output)
            raise


@cli.command()
@click.option("--table", "names", multiple=True, metavar="NAME", help="Only this one, such as raw.course (repeatable).")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@format_option
def maintain(names: tuple[str, ...], dry_run: bool, output: str) -> None:
    """Join small files, expire old snapshots and remove leftover files of the lake's tables."""
    settings = config.load()
    from moodle_lakehouse.lake import maintenance as job

    with _session("maintain", settings) as spark:
        results = job.run(spark, names, dry_run=dry_run, sandbox=settings.sandbox is not None)
        render.maintain(results, dry_run, output)


@cli.command()
def curate() -> None:
    """Build dimensions and facts from the raw tables."""
    settings = config.load()
    settings.privacy.key()
    from moodle_lakehouse.curated import job

    with _session("curate", settings) as spark:
        render.rows("Curated tables", job.run(spark, settings))


def _as_of_command(name: str, help_text: str) -> None:
    @cli.command(name=name, help=help_text)
    @as_of_option
    def command(as_of: str | None) -> None:
        settings = config.load()
        from moodle_lakehouse import pipeline
        from moodle_lakehouse.lake import point_in_time

        wanted = _checked_as_of(as_of or settings.analytics.as_of)
        with _session(name, settings) as spark:
            moment = point_in_time.resolve_as_of(spark, wanted)
            click.echo(f"{name} as of {moment:%Y-%m-%d %H:%M} UTC", err=True)
            pipeline.step(spark, settings, name, moment)


_as_of_command("features", "Write one row per enrolment and week to lakehouse.features.")
_as_of_command("cluster", "Cluster courses by the use of their resources.")
_as_of_command("train", "Train the dropout model and register it in MLflow.")
_as_of_command("score", "Score the students of running courses.")


@cli.command()
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="This one, whatever it was measured at.")
def promote(version: int | None) -> None:
    """Make the latest model champion where its training says it is better, as train does in the end; or a given one."""
    settings = config.load()
    from moodle_lakehouse.dropout import promotion
    from moodle_lakehouse.dropout.registry import Registry

    promotion.promote(Registry(settings.mlflow), None if version is None else str(version))


@cli.command()
@as_of_option
@format_option
def report(as_of: str | None, output: str) -> None:
    """Show the students most at risk with reasons, and the clusters of courses."""
    settings = config.load()
    from moodle_lakehouse import pipeline
    from moodle_lakehouse.lake import point_in_time

    wanted = _checked_as_of(as_of or settings.analytics.as_of)
    with _session("report", settings, on_cluster=False) as spark:
        click.echo(pipeline.report(spark, settings, point_in_time.resolve_as_of(spark, wanted), output))


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
    from moodle_lakehouse.dropout.evaluation import EvaluationSpec

    question = EvaluationSpec(
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
        render.evaluation(document)


def _split(
    train_until: str | None, test_from: str | None, leave_one_course_out: bool
) -> tuple[dt.datetime, dt.datetime] | None:
    """Return the two dates; None when courses are left out one at a time."""
    if leave_one_course_out:
        if train_until or test_from:
            raise click.UsageError("--leave-one-course-out uses all courses: give it or the dates, not both.")
        return None
    for value, name in ((train_until, "--train-until"), (test_from, "--test-from")):
        if value is None:
            raise click.UsageError(f"Missing option '{name}' (or --leave-one-course-out).")
    from moodle_lakehouse.lake import point_in_time

    until, since = point_in_time.parse(train_until or ""), point_in_time.parse(test_from or "")
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
    from moodle_lakehouse.dropout import scoring

    with _session("reproduce", settings) as spark:
        students, differ = scoring.reproduce(spark, settings, run_id)
    if differ:
        raise LakehouseError(
            f"{differ:,} of {students:,} scores of run {run_id} differ",
            remedy="compare the configuration (analytics) and release of the run with those of now",
        )
    click.echo(f"All {students:,} scores of run {run_id} are the same")


@cli.command()
@click.option("--course", required=True, metavar="X", help="The course's id or short name.")
@click.option("--from", "since", required=True, metavar="DATE", help="From this moment on, UTC.")
@click.option("--to", "until", metavar="DATE", help="Until before this moment, UTC. [default: now]")
@format_option
def history(course: str, since: str, until: str | None, output: str) -> None:
    """Show what was added, changed, hidden and removed in a course between two dates."""
    settings = config.load()
    from moodle_lakehouse.curated import course_history, resource_history

    wanted = course_history.period(since, until)
    with _session("history", settings) as spark:
        found = course_history.find_course(spark, course)
        resource_history.run(spark, refresh=False)
        document = course_history.collect(spark, found, wanted)
    if output == "json":
        click.echo(json.dumps(document, default=lambda moment: moment.isoformat()))
    else:
        render.history(document)


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
    """Remove people from every table, snapshot and file of the lake, permanently."""
    settings = config.load()
    settings.privacy.key()
    from moodle_lakehouse.privacy import erasure as job

    # Its statements hold the ids, and Spark would keep them in its event log.
    with _session("erase-user", settings, event_log=False) as spark:
        result = (job.run if yes else job.look)(spark, settings, ids)
    render.erasure(result)
    job.check(result)


@cli.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@format_option
def identify(keys: tuple[str, ...], output: str) -> None:
    """Tell whose pseudonyms (user_key) these are: Moodle's ids, with the links of their pages.

    For whoever may know who the students are, such as an advisor's helper; nothing else prints it.
    """
    settings = config.load()
    wanted = list(dict.fromkeys(key.strip().lower() for key in keys))
    from moodle_lakehouse.curated import user_keys
    from moodle_lakehouse.lake import table_names

    malformed = [key for key in wanted if not re.fullmatch("[0-9a-f]{16}", key)]
    if malformed:
        raise ConfigError(
            f"No pseudonym: {', '.join(malformed)}",
            where="identify",
            remedy="a pseudonym is the 16 hex digits of a user_key, as report prints them",
        )
    with _session("identify", settings, on_cluster=False) as spark:
        people = user_keys.identify(spark, wanted, settings.moodle.url)
    render.people(people, output)
    unknown = [key for key in wanted if key not in {person.user_key for person in people}]
    if unknown:
        raise LakehouseError(
            f"Nobody has the pseudonym {', '.join(unknown)}",
            where=table_names.USER_KEY,
            remedy="the person was erased, or the key was made with another vault_privacy_key or for another lake",
        )


@cli.command(name="pipeline")
@as_of_option
def pipeline_command(as_of: str | None) -> None:
    """Ingest, curate, history, features, cluster, train, score and report in one go."""
    settings = config.load()
    settings.privacy.key()
    from moodle_lakehouse import pipeline

    result = pipeline.run(settings, _checked_as_of(as_of or settings.analytics.as_of))
    render.ingest(result.ingested)
    render.rows("Curated tables", result.curated)
    click.echo(f"\nAs of {result.as_of:%Y-%m-%d %H:%M} UTC (run {result.run_id})\n")
    click.echo(result.report)
    render.seconds(result.seconds)


@cli.group()
def bench() -> None:
    """Repeat the documentation's measurements on this machine."""


@bench.command(name="ingest")
@click.option("--rows", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="Rows of Moodle's log.")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Runs; their median counts.")
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def bench_ingest(rows: int, runs: int, output: str) -> None:
    """Copy the first rows of Moodle's log to tables that are dropped again, by ingest and by other readers."""
    settings = config.load()
    from moodle_lakehouse.ingest import benchmark as job

    document = job.ingest_log(settings, rows, runs)
    if output == "json":
        click.echo(json.dumps(document))
    else:
        render.bench(document)
    if any(found and "error" in found for found in document["readers"].values()):
        raise click.exceptions.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command of the process's arguments, or of these, and exit; the console script's entry point."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # docker stop ends a job as Ctrl-C does
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code; a failure is one message on standard error."""
    debug = "--debug" in arguments
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("moodle_lakehouse").setLevel(logging.DEBUG if debug else logging.INFO)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    try:
        status = cli.main(arguments, prog_name="moodle-lakehouse", standalone_mode=False)
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
        click.echo(
            f"Error: {reason(error)}\n  remedy: run again with --debug before the verb to see where it happened",
            err=True,
        )
        return 1
    return int(status or 0)  # a command's own: raise click.exceptions.Exit


@contextmanager
def _session(
    name: str, settings: config.Config, *, on_cluster: bool = True, event_log: bool = True
) -> Iterator[SparkSession]:
    from moodle_lakehouse.lake import session

    spark = session.create(name, settings, on_cluster=on_cluster, event_log=event_log)
    try:
        yield spark
    finally:
        spark.stop()


def _checked_as_of(value: str) -> str:
    """Return the moment as given; refuse what is none before Spark starts."""
    if value not in ("now", "mid-term"):
        from moodle_lakehouse.lake import point_in_time

        point_in_time.parse(value)
    return value


def _weeks(value: str) -> list[int]:
    try:
        weeks = [int(part) for part in value.split(",")]
    except ValueError:
        weeks = []
    if not weeks or min(weeks) < 0:
        raise click.BadParameter(f"{value!r}; use whole numbers with commas, such as 0,2,4", param_hint="--weeks")
    return weeks


if __name__ == "__main__":
    main()
