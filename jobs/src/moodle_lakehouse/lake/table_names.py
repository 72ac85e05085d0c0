"""Names of the catalog, its namespaces and the tables that the jobs write."""

from __future__ import annotations

CATALOG = "lakehouse"
NAMESPACES = ("raw", "curated", "features", "marts", "ops")
DIM_USER = f"{CATALOG}.curated.dim_user"
USER_ATTRIBUTE = f"{CATALOG}.curated.user_attribute"
ENROLMENT_ATTRIBUTE = f"{CATALOG}.curated.enrolment_attribute"
DIM_COURSE = f"{CATALOG}.curated.dim_course"
DIM_RESOURCE = f"{CATALOG}.curated.dim_resource"
FACT_EVENT = f"{CATALOG}.curated.fact_event"
FACT_ENROLMENT = f"{CATALOG}.curated.fact_enrolment"
FACT_GRADE = f"{CATALOG}.curated.fact_grade"
FACT_SUBMISSION = f"{CATALOG}.curated.fact_submission"
CURATED = (
    DIM_USER, USER_ATTRIBUTE, ENROLMENT_ATTRIBUTE, DIM_COURSE, DIM_RESOURCE,
    FACT_EVENT, FACT_ENROLMENT, FACT_GRADE, FACT_SUBMISSION,
)  # fmt: skip
ENROLMENT_WEEK = f"{CATALOG}.features.enrolment_week"
STUDENT_RISK = f"{CATALOG}.marts.student_risk"
MODEL_CARD = f"{CATALOG}.marts.model_card"
COURSE_CLUSTER = f"{CATALOG}.marts.course_cluster"
RESOURCE_HISTORY = f"{CATALOG}.marts.resource_history"
JOB_RUN = f"{CATALOG}.ops.job_run"
DATA_QUALITY = f"{CATALOG}.ops.data_quality"
ERASED_USER = f"{CATALOG}.ops.erased_user"


def raw(name: str) -> str:
    """Return the raw table of a Moodle table; name without Moodle's prefix."""
    return f"{CATALOG}.raw.{name}"


def bench(name: str) -> str:
    """Return a table that lives as long as a benchmark."""
    return f"{CATALOG}.bench.{name}"


def quoted(table: str) -> str:
    """Return a full name as SQL wants it."""
    return ".".join(quoted_name(part) for part in table.split("."))


def quoted_name(name: str) -> str:
    """Return an identifier as SQL wants it."""
    return "`" + name.replace("`", "``") + "`"
