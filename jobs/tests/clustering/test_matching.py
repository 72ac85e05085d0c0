"""Courses given again: their code is found, and what they were in the term before."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from moodle_lakehouse.clustering import matching
from moodle_lakehouse.curated.courses import COURSE_CODE
from pyspark.sql import SparkSession

START = dt.datetime(2024, 3, 4, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("shortname", "code"),
    [
        ("C01-2024A", "C01"), ("AAA 2013J", "AAA"), ("BIO 1 WiSe 2024/25", "BIO 1"), ("MATH-101-F2024", "MATH-101"),
        ("Algebra (2025)", "Algebra"), ("MATH-101", None), ("2024-MATH", None),
    ],
)  # fmt: skip
def test_code_is_what_stands_before_the_year(shortname: str, code: str | None) -> None:
    found = re.search(COURSE_CODE, shortname)
    assert (found[1] if found else None) == code


def test_courses_given_again_know_what_they_were(spark: SparkSession) -> None:
    terms = [START, START + dt.timedelta(days=20), START + dt.timedelta(days=200), START + dt.timedelta(days=400)]
    given = [
        (1, "A-2024", 0, 0), (2, "A-2024b", 1, 1), (3, "A-2025", 2, 0), (4, "A-2026", 3, 2), (5, "B-2024", 0, -1),
        (6, "B-2025", 2, 1), (7, "other", 0, 0), (8, "other", 3, 1), (9, "C-2026", 3, 0),
    ]  # fmt: skip
    courses = spark.createDataFrame(
        [(i, terms[term]) for i, _, term, _ in given], "courseid bigint, start_at timestamp"
    )
    names = {-1: "inactive", 0: "forum", 1: "quizzes", 2: "pages"}
    rows = [(i, name, kind, names[kind]) for i, name, _, kind in given]
    clustered = spark.createDataFrame(rows, "courseid bigint, shortname string, cluster int, cluster_name string")
    found = [
        row.asDict()
        for row in matching.add_previous_term(clustered, courses, COURSE_CODE).orderBy("courseid").collect()
    ]
    # the later of two in one term counts; neither knows the other, nor a course without a code any
    assert [(row["code"], row["previous_courseid"], row["previous_cluster"]) for row in found] == [
        ("A", None, None), ("A", None, None), ("A", 2, 1), ("A", 3, 0), ("B", None, None), ("B", 5, -1),
        (None, None, None), (None, None, None), ("C", None, None),
    ]  # fmt: skip
    assert matching.changes_of_cluster(found) == {
        "again": 3,
        "stayed": 0,
        "moves": [
            {"from": "forum", "to": "pages", "courses": ["A-2026"]},
            {"from": "inactive", "to": "quizzes", "courses": ["B-2025"]},
            {"from": "quizzes", "to": "forum", "courses": ["A-2025"]},
        ],
    }
