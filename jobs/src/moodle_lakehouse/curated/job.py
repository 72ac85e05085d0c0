"""Make dimensions and facts of the raw tables: lakehouse.curated.

Every transform is a pure function of DataFrames; this module reads and writes.

Users' ids stay within curate: what it writes names people by their pseudonyms (see user_keys).
Moodle's times are seconds since 1970 with 0 or null for "not set"; here they are UTC timestamps or null.
Facts hold known users only: people who were erased from `user` vanish from every fact with the next run.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.config import Config
from moodle_lakehouse.curated import (
    assessments,
    courses,
    enrolments,
    events,
    incremental,
    migration,
    quality,
    raw_tables,
    roles,
    user_keys,
    users,
    versions,
)
from moodle_lakehouse.errors import LakehouseError, bullet_list
from moodle_lakehouse.lake import contracts, input_fingerprint, job_runs, snapshots, table_names, tables, writers

log = logging.getLogger(__name__)

LOG = "logstore_standard_log"
LIFECYCLE_EVENTS = (
    *enrolments.LIFECYCLE_EVENTS, *roles.LIFECYCLE_EVENTS, *courses.LIFECYCLE_EVENTS, *assessments.LIFECYCLE_EVENTS,
)  # fmt: skip


def run(spark: SparkSession, config: Config) -> dict[str, int]:
    """Write the curated tables, unless all were made of the current raw tables; return rows by table.

    Before that, tables of earlier releases are brought to this one's form (see migration), and new users get their
    pseudonyms. Of fact_event only the months that may differ are written (see incremental).

    Raises:
        LakehouseError: there are no raw tables yet, the key of the pseudonyms is another one, or a check of quality stops
            what follows.
    """
    with job_runs.job(spark, "curate") as job:
        tables.ensure_namespaces(spark)
        raw = raw_tables.RawTables(spark)
        if LOG not in raw or "course" not in raw:
            raise LakehouseError(
                "The lake has no raw tables yet", where=f"{table_names.CATALOG}.raw", remedy="run ingest first"
            )
        job.detail.update(migration.run(spark, config))
        attributes = config.analytics.enrolment_attributes
        module_names = [row["name"] for row in raw["modules"].collect()]
        read = {*contracts.RAW_COLUMNS, *module_names, *([attributes.table] if attributes else [])}
        inputs = input_fingerprint.rows(spark, [table_names.raw(name) for name in read if name in raw])
        analytics = config.analytics
        made_of = input_fingerprint.stamp(
            inputs, attributes, analytics.profile_fields, analytics.student_roles, _key_digest(config)
        )
        if input_fingerprint.is_current(spark, table_names.CURATED, made_of):
            log.info("curate: nothing new")
        else:
            summary = input_fingerprint.summary(made_of)
            pseudonyms = user_keys.update(spark, config.privacy.key(), raw["user"].select(F.col("id").alias("userid")))
            with _cache() as keep:
                log_snapshot = inputs.get(incremental.LOG, 0)
                _write_all(spark, config, raw, pseudonyms, module_names, log_snapshot, summary, keep)
        rows = {name.rsplit(".", 1)[-1]: tables.row_count(spark, name) for name in table_names.CURATED}
        job.detail["rows"] = rows
        quality.check(spark, fresh=config.analytics.as_of == "now")
        return rows


def _key_digest(config: Config) -> str:
    """Return what stands for the key of the pseudonyms in a stamp."""
    return hashlib.sha256(config.privacy.key()).hexdigest()


@contextmanager
def _cache() -> Iterator[Callable[[DataFrame], DataFrame]]:
    """Yield a function that has a DataFrame computed once, by the first that needs it, until the end of the block."""
    cached: list[DataFrame] = []

    def keep(df: DataFrame) -> DataFrame:
        cached.append(df.persist())
        return df

    try:
        yield keep
    finally:
        for df in cached:
            df.unpersist()


def _write_all(
    spark: SparkSession,
    config: Config,
    raw: raw_tables.RawTables,
    pseudonyms: DataFrame,
    module_names: list[str],
    log_snapshot: int,
    summary: Mapping[str, str],
    keep: Callable[[DataFrame], DataFrame],
) -> None:
    """Write every curated table."""
    # Few rows, but of every file of the log: brought together, or each use would be as many tasks as there are files.
    lifecycle = keep(events.lifecycle(raw[LOG], LIFECYCLE_EVENTS).hint("rebalance"))
    known_users = tables.bounded_broadcast(keep(users.known(raw["user"], pseudonyms)))
    dim_course = keep(courses.dim_course(raw["course"]))
    instances = courses.module_instances(spark, raw, module_names)
    dim_resource = keep(
        courses.dim_resource(raw["modules"], raw["course_modules"], raw["course_sections"], instances, lifecycle)
    )
    student_roles = config.analytics.student_roles
    roles.check_student_roles(raw["role"], student_roles)
    archetypes = roles.course_archetypes(raw["context"], raw["role"], raw["role_assignments"], lifecycle)
    _report_roles(roles.unplaced(archetypes, student_roles))
    by_course = tables.bounded_broadcast(keep(roles.course_roles(archetypes, student_roles)))
    joined = incremental.Joined(known_users, by_course, dim_resource)
    outputs = {
        **_made_of_enrolments(spark, raw, lifecycle, dim_course, joined, keep),
        table_names.DIM_USER: users.dim_user(known_users),
        table_names.DIM_COURSE: dim_course,
        table_names.DIM_RESOURCE: dim_resource,
        table_names.DIM_COURSE_VERSION: versions.versions(
            dim_course,
            courses.changes(lifecycle, courses.COURSE_UPDATED, F.col("courseid")),
            table_names.DIM_COURSE_VERSION,
            *_until_now(spark, table_names.DIM_COURSE_VERSION),
        ),
        table_names.DIM_RESOURCE_VERSION: versions.versions(
            dim_resource,
            courses.changes(lifecycle, courses.MODULE_UPDATED, F.col("contextinstanceid").alias("cmid")),
            table_names.DIM_RESOURCE_VERSION,
            *_until_now(spark, table_names.DIM_RESOURCE_VERSION),
        ),
        **_attributes(spark, config, raw, joined.user_keys),
    }
    assert {table_names.FACT_EVENT, *outputs} == set(table_names.CURATED)
    rules = input_fingerprint.stamp({}, _key_digest(config), student_roles)
    with ThreadPoolExecutor(max_workers=3, thread_name_prefix="curate") as pool:
        tasks = [pool.submit(events.write, raw[LOG], log_snapshot, joined, rules=rules, summary=summary)]
        tasks += [
            pool.submit(writers.replace, df, name, run_id=job_runs.run_id(), summary=summary)
            for name, df in outputs.items()
        ]
        for task in tasks:
            task.result()


def _report_roles(unplaced: Mapping[str, int]) -> None:
    """Say which roles of people in courses are neither students' nor staff's."""
    if unplaced:
        found = [f"{name} ({people:,} people)" for name, people in unplaced.items()]
        log.warning(
            "Roles that are neither students' nor staff's, so whoever has no other is no student and on no list"
            " (lakehouse_student_roles says which roles are students'):\n%s",
            bullet_list(found),
        )


def _made_of_enrolments(
    spark: SparkSession,
    raw: raw_tables.RawTables,
    lifecycle: DataFrame,
    dim_course: DataFrame,
    joined: incremental.Joined,
    keep: Callable[[DataFrame], DataFrame],
) -> dict[str, DataFrame]:
    """Return fact_enrolment and the facts of enrolled students, by their tables' names."""
    students = keep(
        enrolments.students(
            enrolments.current(raw["user_enrolments"], raw["enrol"]),
            enrolments.logged(lifecycle),
            raw["course_completions"],
            joined.roles,
            joined.users,
            dim_course,
        )
    )
    own_due_dates = keep(
        assessments.own_due_dates(
            raw["assign"], raw["assign_overrides"], raw["assign_user_flags"], raw["quiz"], raw["quiz_overrides"],
            raw["groups_members"],
        )
    )  # fmt: skip
    history = raw["grade_grades_history"]
    teams = assessments.teams(raw["assign"], raw["groups"], raw["groupings_groups"], raw["groups_members"], students)
    items = keep(assessments.weighted_items(raw["grade_items"], raw["grade_categories"]))
    of_items = (raw["grade_grades"], history, items, joined.resources, students)
    return {
        table_names.FACT_ENROLMENT: enrolments.fact_enrolment(students, *_until_now(spark, table_names.FACT_ENROLMENT)),
        table_names.FACT_GRADE: assessments.fact_grade(*of_items),
        table_names.FACT_GRADE_CHANGE: assessments.fact_grade_change(
            *of_items, earlier=_until_now(spark, table_names.FACT_GRADE_CHANGE)[0]
        ),
        table_names.FACT_COURSE_GRADE: assessments.fact_course_grade(
            raw["grade_grades"], history, raw["grade_items"], students
        ),
        table_names.FACT_SUBMISSION: assessments.fact_submission(
            assessments.assignments(raw["assign_submission"], raw["assign"], teams),
            assessments.attempts(raw["quiz_attempts"], raw["quiz"]),
            own_due_dates,
            joined.resources,
            students,
        ),
        table_names.DUE_DATE_EXCEPTION: assessments.due_date_exception(
            own_due_dates, assessments.granted(lifecycle, raw["groups_members"]), joined.resources, students
        ),
    }


def _until_now(spark: SparkSession, name: str) -> tuple[DataFrame, dt.datetime | None, dt.datetime]:
    """Return a table of curate's as it is, without rows where there is none, when it was made, and the moment now."""
    newest = snapshots.newest_rows(tables.load(spark, name))
    held = None if newest is None else tables.read_at(spark, name, int(newest.snapshotId()))
    made = None if newest is None else dt.datetime.fromtimestamp(newest.timestampMillis() / 1000, dt.UTC)
    return raw_tables.shaped(spark, held, contracts.ddl(name)), made, dt.datetime.now(dt.UTC)


def _attributes(
    spark: SparkSession, config: Config, raw: raw_tables.RawTables, known: DataFrame
) -> dict[str, DataFrame]:
    """Return the configured attributes of users and of enrolments, by their tables' names."""
    wanted = config.analytics.enrolment_attributes
    plugin = raw.all_columns(wanted.table) if wanted else None
    return {
        table_names.USER_ATTRIBUTE: users.user_attribute(
            raw["user_info_data"], raw["user_info_field"], known, config.analytics.profile_fields
        ),
        table_names.ENROLMENT_ATTRIBUTE: users.enrolment_attribute(spark, plugin, known, wanted),
    }
