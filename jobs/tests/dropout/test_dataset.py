"""Terms, folds and what is held out; too little data is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from moodle_lakehouse.dropout import dataset, labels


def courses_at(*days: int) -> list[labels.Course]:
    starts = [dt.datetime(2024, 1, 1) + dt.timedelta(days=d) for d in days]
    return [
        labels.Course(i, f"C{i}", start, start + dt.timedelta(days=90), 100, 50, "completion")
        for i, start in enumerate(starts)
    ]


def test_terms_are_told_apart_by_their_starts() -> None:
    found = dataset.terms(courses_at(0, 7, 200, 228, 400))
    assert [[course.courseid for course in term] for term in found] == [[0, 1], [2, 3], [4]]


def test_the_latest_term_is_held_out_where_the_earlier_ones_can_teach() -> None:
    by_term, by_course = dataset.holdout(courses_at(0, 200)), dataset.holdout(courses_at(0, 7))
    assert by_term.latest_term
    assert [[course.courseid for course in fold] for fold in by_term.folds] == [[0], [1]]
    assert [[course.courseid for course in fold] for fold in by_term.measured] == [[1]], "by what came before it"
    assert not by_course.latest_term
    assert [[course.courseid for course in fold] for fold in by_course.folds] == [[0], [1]]
    assert by_course.measured == by_course.folds
    few = [dataclasses.replace(course, students=99) for course in courses_at(0, 200)]
    assert not dataset.holdout(few).latest_term


def test_folds_keep_courses_whole() -> None:
    found = dataset.folds(courses_at(*range(7)))
    assert len(found) == dataset.MAX_FOLDS
    assert sorted(course.courseid for fold in found for course in fold) == list(range(7))


def test_what_is_missing_is_said_at_once() -> None:
    few = [dataclasses.replace(courses_at(0)[0], students=30, positives=5)]
    with pytest.raises(dataset.TooLittleDataError) as refusal:
        dataset.check_enough(few, {"longer than 60 weeks": ["C9"]}, "withdrawal", "over by now")
    text = str(refusal.value)
    for part in (
        "1 finished courses",
        "30 enrolments",
        "leaving the course before its end",
        "left out (longer than 60 weeks): C9",
    ):
        assert part in text
