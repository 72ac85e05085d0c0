"""Names of the catalog, its namespaces and the tables that the jobs write."""

from __future__ import annotations

import re

CATALOG = "lakehouse"
STAGING = "staging"  # the namespace of what a running job keeps for itself
SANDBOX = "sandbox"  # the catalog of analysts' own tables
NAMESPACES = ("raw", "identity", "curated", "features", "marts", "ops")
USER_KEY = f"{CATALOG}.identity.user_key"
DIM_USER = f"{CATALOG}.curated.dim_user"
USER_ATTRIBUTE = f"{CATALOG}.curated.user_attribute"
ENROLMENT_ATTRIBUTE = f"{CATALOG}.curated.enrolment_attribute"
DIM_COURSE = f"{CATALOG}.curated.dim_course"
DIM_RESOURCE = f"{CATALOG}.curated.dim_resource"
DIM_COURSE_VERSION = f"{CATALOG}.curated.dim_course_version"
DIM_RESOURCE_VERSION = f"{CATALOG}.curated.dim_resource_version"
FACT_EVENT = f"{CATALOG}.curated.fact_event"
FACT_ENROLMENT = f"{CATALOG}.curated.fact_enrolment"
FACT_GRADE = f"{CATALOG}.curated.fact_grade"
FACT_GRADE_CHANGE = f"{CATALOG}.curated.fact_grade_change"
FACT_COURSE_GRADE = f"{CATALOG}.curated.fact_course_grade"
FACT_SUBMISSION = f"{CATALOG}.curated.fact_submission"
DUE_DATE_EXCEPTION = f"{CATALOG}.curated.due_date_exception"
CURATED = (
    DIM_USER, USER_ATTRIBUTE, ENROLMENT_ATTRIBUTE, DIM_COURSE, DIM_COURSE_VERSION, DIM_RESOURCE, DIM_RESOURCE_VERSION,
    FACT_EVENT, FACT_ENROLMENT, FACT_GRADE, FACT_GRADE_CHANGE, FACT_COURSE_GRADE, FACT_SUBMISSION,
    DUE_DATE_EXCEPTION,
)  # fmt: skip
# Activity modules that Moodle names by the start of the text that they show: their name is text like any other.
NAMED_BY_TEXT = ("label", "unilabel", "customlabel")
ENROLMENT_WEEK = f"{CATALOG}.features.enrolment_week"
STUDENT_RISK = f"{CATALOG}.marts.student_risk"
MODEL_CARD = f"{CATALOG}.marts.model_card"
COURSE_CLUSTER = f"{CATALOG}.marts.course_cluster"
RESOURCE_HISTORY = f"{CATALOG}.marts.resource_history"
JOB_RUN = f"{CATALOG}.ops.job_run"
DATA_QUALITY = f"{CATALOG}.ops.data_quality"
ERASED_USER = f"{CATALOG}.ops.erased_user"
MOODLE_SITE = f"{CATALOG}.ops.moodle_site"


_PLAIN = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*)?")  # a part that SQL takes as it is, and none at all
_PART = re.compile(r"`((?:[^`]|``)+)`|([^`.]+)")


def raw(name: str) -> str:
    """Return the raw table of a Moodle table; name without Moodle's prefix."""
    return full_name(CATALOG, "raw", name)


def bench(name: str) -> str:
    """Return a table that lives as long as a benchmark."""
    return full_name(CATALOG, "bench", name)


def staging(name: str) -> str:
    """Return a table that lives as long as the job that makes it."""
    return full_name(CATALOG, STAGING, name)


# A full name is what Spark calls a multi-part identifier: its parts with dots between them, in backticks where they are
# no plain words, so that every part may hold any character. Spark's methods (table, writeTo) take it as it is.


def full_name(*parts: str) -> str:
    """Return the full name of these parts, such as catalog, namespace and table."""
    return ".".join(part if _PLAIN.fullmatch(part) else quoted_name(part) for part in parts)


def parts(name: str) -> tuple[str, ...]:
    """Return the parts of a full name, as the catalog knows them; ValueError for what is none."""
    found, place = [], 0
    while match := _PART.match(name, place):
        found.append(match[2] or match[1].replace("``", "`"))
        place = match.end()
        if place == len(name):
            return tuple(found)
        if name[place] != ".":
            break
        place += 1
    raise ValueError(f"{name!r} is no full name: parts with dots between them, in backticks where they hold such")


def quoted(table: str) -> str:
    """Return a full name as SQL wants it, every part in backticks."""
    return ".".join(quoted_name(part) for part in parts(table))


def quoted_name(name: str) -> str:
    """Return an identifier as SQL wants it; the same in Spark, MariaDB and MySQL."""
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """Return a text as Spark's SQL wants it, for statements that take no parameters; MySQL's is moodle_tables.sql_text."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
