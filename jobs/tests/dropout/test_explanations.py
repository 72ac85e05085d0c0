"""The words of reasons."""

from __future__ import annotations

import numpy as np
import pytest
from moodle_lakehouse.dropout import explanations, features


@pytest.mark.parametrize(
    ("group", "own", "course", "words"),
    [
        ("handed_in", 0.25, 0.8, "handed in 25 % of what was due (course: 80 %)"),
        ("last_due", 0.0, 0.9, "has not handed in what was due last (course: 90 %)"),
        ("days_since_access", 16.2, 3.0, "last seen in the course 16 days ago (course: 3)"),
        ("lead", -2.0, 30.0, "enrolled 2 days after the start (course: 30 days before)"),
        ("practice", 0.0, 12.25, "has not used quizzes and exercises yet (course: 12.2)"),
        ("trend", np.log(0.2), np.log(0.9), "activity at 20 % of the weeks before (course: 90 %)"),
        ("days_early", -1.5, 2.0, "hands in 1.5 days after the date (course: 2.0 days before)"),
        ("handed_in", 0.9, 0.8, None),
        ("days_since_access", 1.0, 3.0, None),
        ("grade_avg", None, 0.7, "no grade yet (course: 70 % on average)"),
        ("handed_in", None, 0.7, None),
        ("attr_num_of_prev_attempts", 2.0, 0.2, "num of prev attempts: 2 (course: 0.2)"),
        ("attr_num_of_prev_attempts", 0.0, 0.2, None),
        ("past_completed", 1 / 3, 0.8, "completed 33 % of earlier courses (course: 80 %)"),
        ("past_completed", None, 0.8, None),
        ("past_left", 0.5, 0.1, "left 50 % of earlier courses (course: 10 %)"),
        ("past_grade", 0.41, 0.62, "average grade 41 % in earlier courses (course: 62 %)"),
    ],
)
def test_sentences(group: str, own: float | None, course: float, words: str | None) -> None:
    figure = group if group.startswith("attr_") else explanations.REASON[group].figure
    row = {figure: own, f"cohort_{figure}": course}
    assert explanations.sentence(group, row, {"attr_num_of_prev_attempts": 1}) == words


def test_every_feature_has_a_reason_that_can_be_told() -> None:
    for feature in features.FEATURES:
        assert feature.reason in explanations.REASON
    for reason in explanations.REASON.values():
        assert reason.figure in features.RAW
