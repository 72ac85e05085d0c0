"""Students' own activity, counted in weeks of a course: what features and course profiles share."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from moodle_lakehouse.curated.roles import STAFF

DAY = 86400  # seconds
WEEK = 7 * DAY
MAX_WEEKS = 60  # a course that runs longer, or has no end, is no course with a beginning and an end

# Log rows about a student's enrolment and results are no activity, whoever is named as their user.
NO_ACTIVITY = ("user_enrolment", "role", "grade", "course_module_completion", "course_completion")
TEACHING = 1  # edulevel


def by_students(events: DataFrame) -> DataFrame:
    """Return the rows of fact_event that students did themselves: nothing of staff, no teaching, no results of theirs."""
    result = F.col("target").isin(*NO_ACTIVITY) | ((F.col("target") == "course") & (F.col("action") == "completed"))
    return events.where((F.col("role") != STAFF) & (F.col("edulevel") != TEACHING) & ~result)
