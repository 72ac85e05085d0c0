"""What an earlier course came to, where completion is not tracked."""

from __future__ import annotations

import datetime as dt

from model_lake import Lake, day, key
from moodle_lakehouse.dropout import history
from pyspark.sql import SparkSession
from raw_rows import rows

START = dt.datetime(2024, 3, 4, tzinfo=dt.UTC)


def test_where_nobody_completes_the_total_tells(spark: SparkSession) -> None:
    """Who passed and stayed counts as having completed; a course without totals tells nothing."""
    lake = Lake()
    for courseid in (7, 8, 9):
        lake.course(courseid, START, 28)
        for user in (1, 2, 3, 4):
            lake.enrol(
                user, courseid, left=10 if user == 3 else None, completed=25 if (user, courseid) == (4, 9) else None
            )
    for user, total in ((1, 0.7), (2, 0.3), (3, 0.8)):
        lake.total(user, 7, 20, total)
        lake.total(user, 9, 20, total)
    src = lake.sources(spark)
    found = history.outcomes(src.enrolments, src.courses, src.totals, pass_share=0.5)
    over, passed, completed = (int(day(START, days).timestamp()) for days in (28, 20, 25))
    assert rows(found, "courseid", "user_key", "known", "completed", "left") == [
        (7, key(1), over, passed, 0), (7, key(2), over, None, 0), (7, key(3), over, None, 1), (7, key(4), over, None, 0),
        (9, key(1), over, None, 0), (9, key(2), over, None, 0), (9, key(3), over, None, 1), (9, key(4), over, completed, 0),
    ]  # fmt: skip
