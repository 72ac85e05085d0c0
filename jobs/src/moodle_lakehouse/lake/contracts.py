"""Declare every table that the jobs write, and what curate needs of the raw ones, as contracts of readers and writers.

It drives the schemas of what the driver writes, what is read of raw tables, the keys that quality checks, the tests'
fixtures, erase-user and the tables of docs/data-model.md (tests/test_data_model.py says how to write them).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from moodle_lakehouse.lake import table_names

if TYPE_CHECKING:
    from pyspark.sql.types import StructType


class Person(Enum):
    """What a person is in a column, which decides what erase-user does with a row."""

    NONE = ""
    SUBJECT = "subject"  # the row is about the person and is deleted
    MENTIONED = "mentioned"  # the row is about something else, the value becomes null
    IN_TEXT = "in text"  # people stand in it as "userid 7" or "user_key 0f...", which are replaced


@dataclass(frozen=True)
class Column:
    """A column: name, type in Spark's words, meaning.

    nullable: whether values may be null. later: whether Moodle may change the value after the row was first written.
    """

    name: str
    type: str
    meaning: str
    nullable: bool = True
    later: bool = False
    person: Person = Person.NONE


@dataclass(frozen=True)
class Contract:
    """A table: what it is, what a row is, the columns of which each combination stands once, which job writes it.

    prefixes: columns that a site's configuration adds at the end, named by what follows the prefix.
    """

    table: str
    meaning: str
    grain: str
    key: tuple[str, ...]
    writer: str
    columns: tuple[Column, ...]
    prefixes: tuple[Column, ...] = ()


def _key(name: str, kind: str, meaning: str) -> Column:
    return Column(name, kind, meaning, nullable=False)


def _later(name: str, kind: str, meaning: str, *, nullable: bool = True) -> Column:
    return Column(name, kind, meaning, nullable, later=True)


_USER_KEY = Column(
    "user_key", "string", "pseudonym of the person, 16 hex digits", nullable=False, person=Person.SUBJECT
)
_COURSEID = _key("courseid", "bigint", "Moodle's number of the course")
_CMID = _key("cmid", "bigint", "number of the course module")
_MODNAME = Column("modname", "string", "type of the module: quiz, assign, page, ...")
_VERSION = _key("version", "int", "number of the state, from 1")
_VALID_FROM = Column("valid_from", "timestamp", "since when, null for the first that was seen")
_VALID_TO = _later("valid_to", "timestamp", "until when, null for the newest")
_RUN_ID = _key("run_id", "string", "run that wrote the row; sorts by time")
_AS_OF = Column("as_of", "timestamp", "moment that was looked from")

_IDENTITY = (
    Contract(
        table_names.USER_KEY, "whose pseudonym it is: the only table that holds both, and no analyst reads it", "user",
        ("userid",), "curate",
        (
            Column("userid", "bigint", "Moodle's number of the person", nullable=False, person=Person.SUBJECT),
            Column(
                "user_key", "string", "keyed hash of userid, 16 hex digits", nullable=False, person=Person.SUBJECT
            ),
        ),
    ),
)  # fmt: skip

_CURATED = (
    Contract(
        table_names.DIM_USER, "users, deleted ones included", "user", ("user_key",), "curate",
        (
            _USER_KEY,
            _later("is_deleted", "boolean", "deleted in Moodle, which keeps the row", nullable=False),
            Column("created_at", "timestamp", "when the account was made"),
        ),
    ),
    Contract(
        table_names.USER_ATTRIBUTE, "values of the configured profile fields", "user and field that has a value",
        ("user_key", "field"), "curate",
        (
            _USER_KEY, _key("field", "string", "short name of the profile field"),
            _later("value", "string", "its value", nullable=False),
        ),
    ),
    Contract(
        table_names.ENROLMENT_ATTRIBUTE, "numbers that a plugin keeps for an enrolment",
        "user, course and attribute that has a value", ("user_key", "courseid", "attribute"), "curate",
        (
            _USER_KEY, _COURSEID, _key("attribute", "string", "the plugin's column"),
            _later("value", "double", "its value", nullable=False),
        ),
    ),
    Contract(
        table_names.DIM_COURSE, "courses; the site's own course is none", "course", ("courseid",), "curate",
        (
            _COURSEID, _later("shortname", "string", "short name"), _later("fullname", "string", "full name"),
            _later("categoryid", "bigint", "category"), _later("start_at", "timestamp", "start, null when not set"),
            _later("end_at", "timestamp", "end, null when not set"),
            _later("visible", "boolean", "students see it", nullable=False),
        ),
    ),
    Contract(
        table_names.DIM_COURSE_VERSION, "what of a course Moodle overwrites, from when on and until when",
        "course and state of it", ("courseid", "version"), "curate",
        (
            _COURSEID, _VERSION, Column("start_at", "timestamp", "start, null when not set"),
            Column("end_at", "timestamp", "end, null when not set"), _key("visible", "boolean", "students see it"),
            _VALID_FROM, _VALID_TO,
        ),
    ),
    Contract(
        table_names.DIM_RESOURCE, "resources and activities, also those that only the log still knows", "course module",
        ("cmid",), "curate",
        (
            _CMID, Column("courseid", "bigint", "course it is or was in"), _MODNAME,
            Column("instance", "bigint", "row of the module's own table"), _later("name", "string", "name"),
            _later("section", "int", "number of its section in the course"),
            Column("added_at", "timestamp", "when it was added"),
            _later("due_at", "timestamp", "due date of an assignment, closing time of a quiz; null when not set"),
            _later("visible", "boolean", "students see it", nullable=False),
            _later("is_deleted", "boolean", "deleted in Moodle", nullable=False),
            _later("deleted_at", "timestamp", "when it was deleted, null when the log does not say"),
        ),
    ),
    Contract(
        table_names.DIM_RESOURCE_VERSION, "what of a resource Moodle overwrites, from when on and until when",
        "course module and state of it", ("cmid", "version"), "curate",
        (
            _CMID, _VERSION, Column("due_at", "timestamp", "as of dim_resource"),
            _key("visible", "boolean", "students see it"), _VALID_FROM, _VALID_TO,
        ),
    ),
    Contract(
        table_names.FACT_EVENT, "what people did, by month of occurred_at", "log row of a person's act", ("event_id",),
        "curate",
        (
            _key("event_id", "bigint", "number of the log row"), _key("occurred_at", "timestamp", "when"),
            _USER_KEY, Column("courseid", "bigint", "course; 0 or 1 is the site"),
            Column("cmid", "bigint", "course module, null outside of one"), _MODNAME,
            Column("component", "string", "part of Moodle"), Column("eventname", "string", "Moodle's event class"),
            Column("action", "string", "what was done"), Column("target", "string", "to what"),
            Column("crud", "string", "c, r, u or d"), Column("edulevel", "int", "0 other, 1 teaching, 2 participating"),
            _later("role", "string", "the person's in the course then: staff, student or other", nullable=False),
        ),
    ),
    Contract(
        table_names.FACT_ENROLMENT, "students' enrolments, those included that Moodle has deleted", "student and course",
        ("user_key", "courseid"), "curate",
        (
            _USER_KEY, _COURSEID,
            _later("enrolled_at", "timestamp", "earliest start of the enrolments in the course"),
            _later("unenrolled_at", "timestamp", "when the last one ended or will end, null for no end"),
            _later(
                "is_suspended", "boolean", "no present enrolment is active, or the account is suspended or deleted",
                nullable=False,
            ),
            _later("suspended_at", "timestamp", "since when, null for who is not suspended"),
            _later("suspension_is_exact", "boolean", "Moodle dates it; else it is when an ingest first saw it"),
            _later("completed_at", "timestamp", "when the course was completed"),
        ),
    ),
    Contract(
        table_names.FACT_GRADE, "students' final grades; those deleted with an enrolment come from the history",
        "grade item and student", ("itemid", "user_key"), "curate",
        (
            _key("itemid", "bigint", "number of the grade item"), Column("courseid", "bigint", "course"),
            Column("cmid", "bigint", "course module, null for a manual item"), _MODNAME, _USER_KEY,
            _later("fraction", "double", "place between the lowest grade possible, 0, and the highest, 1"),
            _later("weight", "double", "of the item in the course's total, comparable within the course, 0 when unknown"),
            _later("is_extra_credit", "boolean", "adds to the total and is no part of it", nullable=False),
            _later("submitted_at", "timestamp", "null when not known"),
            _later("graded_at", "timestamp", "when it was last set"),
        ),
    ),
    Contract(
        table_names.FACT_GRADE_CHANGE, "what each grade was from when on; without Moodle's history of grades the last value alone",
        "grade item, student and change", ("itemid", "user_key", "changed_at"), "curate",
        (
            _key("itemid", "bigint", "number of the grade item"), Column("courseid", "bigint", "course"),
            Column("cmid", "bigint", "course module, null for a manual item"), _MODNAME, _USER_KEY,
            _key("changed_at", "timestamp", "since when it was so"),
            Column("fraction", "double", "place between the lowest grade possible, 0, and the highest, 1; null: no grade any more"),
            Column("weight", "double", "of the item as of now, as of fact_grade"),
            _key("is_extra_credit", "boolean", "adds to the total and is no part of it"),
        ),
    ),
    Contract(
        table_names.FACT_COURSE_GRADE, "students' totals of courses; those deleted with an enrolment come from the history",
        "course and student", ("courseid", "user_key"), "curate",
        (
            _COURSEID, _USER_KEY,
            _later("fraction", "double", "place between the lowest total possible, 0, and the highest, 1"),
            _later("pass_fraction", "double", "place of the grade to pass, null where the course has none"),
            _later("graded_at", "timestamp", "when it was last set"),
        ),
    ),
    Contract(
        table_names.FACT_SUBMISSION, "students' submissions and finished attempts", "assessment, student and attempt",
        ("cmid", "user_key", "attempt"), "curate",
        (
            _COURSEID, _CMID, _MODNAME, _USER_KEY, _key("attempt", "int", "from 1"),
            _later("submitted_at", "timestamp", "when it was handed in"),
            _later("known_at", "timestamp", "since when it counts for the student: not before joining the team"),
            _later("due_at", "timestamp", "the student's own date, null when not set"),
            _later("status", "string", "Moodle's state"),
        ),
    ),
    Contract(
        table_names.DUE_DATE_EXCEPTION, "due dates of single students that are not everybody's: overrides and extensions",
        "assessment and student", ("cmid", "user_key"), "curate",
        (
            _COURSEID, _CMID, _USER_KEY, _later("due_at", "timestamp", "the student's own date, null for none"),
            _later("known_at", "timestamp", "since when, null when the log does not say"),
        ),
    ),
)  # fmt: skip

_MODULE_GROUPS = ("content", "practice", "forum", "assign")
_COUNTS = (
    ("progress", "share of the course that is over"), ("due", "assessments that were due"),
    ("handed_in", "of these, handed in"), ("handed_in_share", "handed in by due"),
    ("on_time_share", "handed in on time by due"), ("last_due_share", "of the last due ones, handed in"),
    ("handed_in_ahead", "handed in before they were due"), ("days_early", "mean days before the due date"),
    ("days_since_submission", "days since the last submission"), ("grade_avg", "weighted mean grade, 0 to 1"),
    ("grade_last", "last grade, 0 to 1"), ("credited", "results without a submission before them"),
    ("lead_days", "days enrolled before the course's start"), ("days_since_access", "days since the last activity"),
    ("active_days", "days with activity"), ("active_days_2w", "of the last two weeks"), ("events", "events"),
    ("events_2w", "of the last two weeks"), ("trend", "log1p of weekly events of the last two weeks less that of the weeks before"),
    ("writes", "events that change something"), ("resources", "different resources used"),
    *((group, f"events in modules of the group {group}") for group in _MODULE_GROUPS),
    ("past_courses", "the student's other courses that were over"), ("past_completed", "share of them completed"),
    ("past_left", "share of them left before their end"), ("past_grade", "mean grade in them, 0 to 1"),
)  # fmt: skip
_EXPECTED = (
    ("past_non_completion", "log odds of not completing, from the student's past courses, less the usual"),
    ("past_withdrawal", "the same of leaving"),
    ("past_grade_gap", "mean grade in past courses less those courses' mean, less where there are few"),
    ("runs_non_completion", "log odds of not completing in earlier runs of the course, less the usual"),
    ("runs_withdrawal", "the same of leaving"),
)
_AGAINST_COHORT = (
    "lead_z", "handed_in_vs", "on_time_vs", "last_due_vs", "days_early_z", "days_since_submission_vs", "grade_avg_vs",
    "grade_avg_z", "grade_last_vs", "grade_last_z", "days_since_access_vs", "active_days_vs", "active_days_2w_vs",
    "events_vs", "events_2w_vs", "trend_vs", "writes_vs", "resources_vs", *(f"{group}_vs" for group in _MODULE_GROUPS),
)  # fmt: skip


def _against_cohort(name: str) -> Column:
    how = "in standard deviations of" if name.endswith("_z") else "as difference to the mean of"
    return Column(name, "double", f"{name.rsplit('_', 1)[0]} {how} the course's cohort")


_TYPES = ("file", "page", "forum", "quiz", "assign", "collab", "interactive")

_DERIVED = (
    Contract(
        table_names.ENROLMENT_WEEK,
        "what was known at the end of the week, alone and relative to the course's cohort; shares and grades 0 to 1",
        "student, course and week", ("user_key", "courseid", "week"), "features",
        (
            _USER_KEY, _COURSEID, _key("week", "int", "weeks since the course's start"),
            _key("cutoff_at", "timestamp", "start plus the weeks; the row holds what happened before"),
            _key("enrolled", "boolean", "had begun by then"),
            *(Column(name, "double", meaning) for name, meaning in _COUNTS),
            *map(_against_cohort, _AGAINST_COHORT),
            *(Column(name, "double", meaning) for name, meaning in _EXPECTED),
        ),
        (
            Column("attr_", "double", "a configured attribute of the enrolment"),
            Column("profile_", "string", "a configured profile field"),
        ),
    ),
    Contract(
        table_names.STUDENT_RISK, "risk of every student of the running courses", "student and course, per run",
        ("run_id", "user_key", "courseid"), "score",
        (
            _RUN_ID, _AS_OF, _key("scored_at", "timestamp", "when"), _USER_KEY, _COURSEID,
            _key("week", "int", "week of the course that was scored"),
            Column("probability", "double", "calibrated probability of not completing, null in a list by rules"),
            _key("band", "string", "low, medium or high"), Column("change", "double", "since last week, null without one"),
            *(Column(f"reason_{i}", "string", "reason in words, the strongest first") for i in (1, 2, 3)),
            Column("model_version", "string", "version of the model, `rules` where there was none"),
            Column("data_snapshots", "map<string,bigint>", "snapshot of each table that the score was made of"),
        ),
    ),
    Contract(
        table_names.MODEL_CARD, "measures, calibration, gaps, drift and refusals of a model",
        "section, subject, name and week, per training and scoring",
        ("run_id", "job", "section", "subject", "name", "week"), "train, score",
        (
            _RUN_ID, _key("job", "string", "train or score"), _AS_OF, _key("written_at", "timestamp", "when"),
            Column("model_version", "string", "version of the model"), _key("section", "string", "part of the card"),
            Column("subject", "string", "model, group or feature"), _key("name", "string", "measure"),
            Column("week", "int", "week, null for all"), Column("value", "double", "value"),
            Column("low", "double", "lower end of its interval"), Column("high", "double", "upper end of its interval"),
            Column("text", "string", "words where there is no value"),
        ),
    ),
    Contract(
        table_names.COURSE_CLUSTER, "kinds of courses by their use of resources", "course, per run",
        ("run_id", "courseid"), "cluster",
        (
            _RUN_ID, _AS_OF, _COURSEID, Column("shortname", "string", "short name"),
            _key("cluster", "int", "number of the kind, -1 for inactive courses"),
            _key("cluster_name", "string", "name of the kind"),
            Column("distance", "double", "to the kind's centroid, in scaled units"),
            _key("is_active", "boolean", "used enough to be compared"),
            Column("students", "bigint", "students enrolled"),
            *(Column(f"rate_{one}", "double", f"log1p of students' actions in {one} resources per student and week") for one in _TYPES),
            *(Column(f"share_{one}", "double", f"share of {one} in students' actions in resources") for one in _TYPES),
            *(Column(f"breadth_{one}", "double", f"share of students who use {one}") for one in _TYPES),
            Column("rate_all", "double", "log1p of students' actions per student and week"),
            Column("write_share", "double", "share of actions that change something"),
            Column("regularity", "double", "share of weeks with actions"),
            Column("teacher_rate", "double", "log1p of staff's actions per week"),
            *(Column(f"mix_{one}", "double", f"share of {one} in the course's resources") for one in _TYPES),
            Column("code", "string", "what the short names of a course given again share"),
            Column("previous_courseid", "bigint", "the course when it was given before"),
            Column("previous_cluster", "int", "its kind then"),
        ),
    ),
    Contract(
        table_names.RESOURCE_HISTORY, "what was added, renamed, edited, moved, hidden, shown or removed",
        "change of a resource", ("change_id",), "history",
        (
            _key("change_id", "string", "hash of what identifies the change"), Column("courseid", "bigint", "course"),
            Column("cmid", "bigint", "course module"), _MODNAME, Column("name", "string", "name of the resource"),
            Column("section", "int", "number of its section"), _key("change", "string", "kind of change"),
            Column("old", "string", "value before"), Column("new", "string", "value after"),
            Column("changed_at", "timestamp", "when, as exactly as is known"),
            Column("is_exact", "boolean", "the log tells the moment"),
            Column("seen_after", "timestamp", "ingest that did not have the change yet"),
            Column("seen_by", "timestamp", "ingest that had it"), Column("source", "string", "snapshots or log"),
            _later("by_role", "string", "role of who changed it"),
            _later("views_before", "bigint", "views in the 28 days before"),
            _later("views_after", "bigint", "views in the 28 days after"),
        ),
    ),
)  # fmt: skip

_OPS = (
    Contract(
        table_names.JOB_RUN, "what ran, when and how it ended", "job of a run", ("run_id", "job"), "every job",
        (
            _RUN_ID, _key("job", "string", "name of the job"), _key("started_at", "timestamp", "when it began"),
            _key("finished_at", "timestamp", "when it ended"), _key("status", "string", "done or failed"),
            Column("detail", "string", "JSON: what it did, or why it failed", person=Person.IN_TEXT),
        ),
    ),
    Contract(
        table_names.DATA_QUALITY, "results of the checks after curate", "check of a run", ("run_id", "table", "check"),
        "curate",
        (
            _RUN_ID, _key("checked_at", "timestamp", "when"), _key("table", "string", "namespace.table"),
            _key("check", "string", "what every row has to fulfil"), _key("stops", "boolean", "a violation ends the run"),
            _key("rows", "bigint", "rows of the table"), _key("violations", "bigint", "rows that violate"),
            Column("example", "string", "key of one of them", person=Person.IN_TEXT),
        ),
    ),
    Contract(
        table_names.ERASED_USER, "suppression list of the erased, for good", "person", ("person",), "erase-user",
        (
            _key("person", "string", "keyed hash of the id; nothing without the key"),
            _key("key_check", "string", "tells keys apart"), _key("ids_up_to", "bigint", "no id of the row is greater"),
            _key("erased_at", "timestamp", "when"), _RUN_ID,
        ),
    ),
    Contract(
        table_names.MOODLE_SITE, "which Moodle the lake is of: ingest refuses another", "identity of the site",
        ("recorded_at",), "ingest",
        (
            _key("recorded_at", "timestamp", "when; the newest row counts"),
            Column("identifier", "string", "SHA-256 of Moodle's siteidentifier"),
            Column("course_created", "bigint", "creation of the first course, s since 1970"),
            Column("user_created", "bigint", "creation of the first user, s since 1970"), _RUN_ID,
        ),
    ),
)  # fmt: skip

CONTRACTS = {one.table: one for one in (*_IDENTITY, *_CURATED, *_DERIVED, *_OPS)}

# What curate needs of each raw table, by Moodle's names. What people are in them: ingest/moodle_tables.yml.
RAW_COLUMNS: dict[str, str] = {
    "user": "id bigint, deleted int, suspended int, timecreated bigint, timemodified bigint",
    "user_info_field": "id bigint, shortname string",
    "user_info_data": "userid bigint, fieldid bigint, data string",
    "course": "id bigint, category bigint, shortname string, fullname string, startdate bigint, enddate bigint, visible int",
    "course_modules": "id bigint, course bigint, module bigint, instance bigint, section bigint, added bigint,"
    " visible int, deletioninprogress int",
    "course_sections": "id bigint, section bigint",
    "modules": "id bigint, name string",
    "context": "id bigint, contextlevel bigint, instanceid bigint, path string",
    "role": "id bigint, shortname string, archetype string",
    "role_assignments": "roleid bigint, contextid bigint, userid bigint, timemodified bigint",
    "enrol": "id bigint, courseid bigint, status bigint, timecreated bigint, timemodified bigint",
    "user_enrolments": "id bigint, status bigint, enrolid bigint, userid bigint, timestart bigint, timeend bigint,"
    " timecreated bigint, timemodified bigint",
    "course_completions": "userid bigint, course bigint, timecompleted bigint",
    "grade_items": "id bigint, courseid bigint, itemtype string, itemmodule string, iteminstance bigint,"
    " categoryid bigint, gradetype int, grademin decimal(10,5), grademax decimal(10,5), gradepass decimal(10,5),"
    " aggregationcoef decimal(10,5), aggregationcoef2 decimal(10,5)",
    "grade_categories": "id bigint, parent bigint, aggregation bigint, path string",
    "grade_grades": "itemid bigint, userid bigint, finalgrade decimal(10,5), excluded bigint, timecreated bigint,"
    " timemodified bigint",
    "grade_grades_history": "id bigint, action bigint, source string, timemodified bigint, itemid bigint, userid bigint,"
    " finalgrade decimal(10,5), excluded bigint, rawgrademin decimal(10,5), rawgrademax decimal(10,5)",
    "groups": "id bigint, courseid bigint",
    "groupings_groups": "groupingid bigint, groupid bigint",
    "groups_members": "groupid bigint, userid bigint, timeadded bigint",
    "assign": "id bigint, course bigint, duedate bigint, teamsubmission int, teamsubmissiongroupingid bigint,"
    " preventsubmissionnotingroup int",
    "assign_overrides": "assignid bigint, groupid bigint, userid bigint, sortorder bigint, duedate bigint",
    "assign_user_flags": "assignment bigint, userid bigint, extensionduedate bigint",
    "assign_submission": "assignment bigint, userid bigint, groupid bigint, timemodified bigint, status string,"
    " attemptnumber bigint",
    "quiz": "id bigint, timeclose bigint",
    "quiz_overrides": "quiz bigint, groupid bigint, userid bigint, timeclose bigint",
    "quiz_attempts": "quiz bigint, userid bigint, attempt int, preview int, state string, timefinish bigint",
    "logstore_standard_log": "id bigint, eventname string, component string, action string, target string, objectid bigint,"
    " crud string, edulevel int, contextlevel bigint, contextinstanceid bigint, userid bigint, courseid bigint,"
    " relateduserid bigint, anonymous int, other string, timecreated bigint, origin string, realuserid bigint",
}


def names(table: str) -> tuple[str, ...]:
    """Return a table's columns in order."""
    return tuple(column.name for column in CONTRACTS[table].columns)


def ddl(table: str) -> str:
    """Return a table's columns and their types in Spark's words."""
    return ", ".join(f"{table_names.quoted_name(c.name)} {c.type}" for c in CONTRACTS[table].columns)


def schema(table: str) -> StructType:
    """Return a table's columns as Spark's schema, nullable ones as such."""
    from pyspark.sql.types import StructField, StructType, _parse_datatype_string

    return StructType(
        [StructField(c.name, _parse_datatype_string(c.type), c.nullable) for c in CONTRACTS[table].columns]
    )


def markdown(namespace: str) -> str:
    """Return the tables of a namespace as docs/data-model.md shows them: an overview, then the columns of each."""
    contracts = [one for one in CONTRACTS.values() if one.table.split(".")[1] == namespace]
    overview = [
        (f"`{_short(one.table)}`", one.grain, one.meaning, f"`{'`, `'.join(one.key)}`", one.writer) for one in contracts
    ]
    parts = [_table(("table", "a row is a", "what it is", "key", "written by"), overview)]
    for one in contracts:
        rows = [
            (
                f"`{c.name}`" if c in one.columns else f"`{c.name}...`",
                c.type,
                "yes" if c.nullable else "",
                "yes" if c.later else "",
                c.person.value,
                c.meaning,
            )
            for c in (*one.columns, *one.prefixes)
        ]
        head = ("column", "type", "may be null", "Moodle may change it", "person", "meaning")
        parts.append(
            f"<details><summary><code>{_short(one.table)}</code></summary>\n\n{_table(head, rows)}\n\n</details>"
        )
    return "\n\n".join(parts)


def documented(text: str) -> str:
    """Return a document with the contracts' tables between its lines `<!-- contracts: NAMESPACE -->` and `<!-- end -->`."""
    return re.sub(
        r"(<!-- contracts: (\w+) -->\n).*?(\n<!-- end -->)",
        lambda found: f"{found[1]}{markdown(found[2])}{found[3]}",
        text,
        flags=re.DOTALL,
    )


def _short(table: str) -> str:
    return table.rsplit(".", 1)[-1]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(documented(document.read_text(encoding="utf-8")), encoding="utf-8")
