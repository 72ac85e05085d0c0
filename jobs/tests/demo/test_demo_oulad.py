"""OULAD's real presentations of 2013 as Moodle tables, counted against the files themselves."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

DAY = 86400
STARTS = {
    "2013B": int(dt.datetime(2013, 2, 1, tzinfo=dt.UTC).timestamp()),
    "2013J": int(dt.datetime(2013, 10, 1, tzinfo=dt.UTC).timestamp()),
}


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with gzip.open(folder / f"{name}.csv.gz", "rt", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def files(test_data: Path) -> dict[str, list[dict[str, str]]]:
    folder = test_data / "oulad-2013"
    names = ("courses", "assessments", "vle", "studentInfo", "studentRegistration", "studentAssessment")
    return {name: rows(folder, name) for name in names}


@pytest.fixture(scope="module")
def site(module_database, loader, test_data: Path) -> Any:
    loader(module_database, "--dataset", "oulad", "--oulad-dir", str(test_data / "oulad-2013"))
    return module_database


def test_courses_have_names_and_dates(site, files) -> None:
    expected = set()
    for row in files["courses"]:
        start = STARTS[row["code_presentation"]]
        end = start + int(row["module_presentation_length"]) * DAY
        expected.add((f"{row['code_module']}-{row['code_presentation']}", start, end))
    assert set(site.query("SELECT shortname, startdate, enddate FROM mdl_course WHERE id > 1")) == expected


def test_registrations_are_enrolments_at_their_day(site, files) -> None:
    registrations = files["studentRegistration"]
    expected = {
        (
            f"{row['code_module']}-{row['code_presentation']}",
            row["id_student"],
            STARTS[row["code_presentation"]] + int(float(row["date_registration"])) * DAY,
        )
        for row in registrations
        if row["date_registration"]
    }
    found = site.query(
        "SELECT c.shortname, u.idnumber, l.timecreated FROM mdl_logstore_standard_log l JOIN mdl_course c ON c.id = l.courseid"
        r" JOIN mdl_user u ON u.id = l.relateduserid AND u.idnumber <> '' WHERE l.eventname = '\\core\\event\\user_enrolment_created'"
    )
    assert len(found) == len(registrations)
    assert expected <= set(found)


def test_unregistration_deletes_the_enrolment_and_leaves_it_in_the_log(site, files) -> None:
    gone = [row for row in files["studentRegistration"] if row["date_unregistration"]]
    assert len(gone) == 3723
    expected = {
        (row["id_student"], STARTS[row["code_presentation"]] + int(float(row["date_unregistration"])) * DAY)
        for row in gone
    }
    found = site.query(
        "SELECT u.idnumber, l.timecreated, l.other, l.courseid, l.relateduserid FROM mdl_logstore_standard_log l"
        r" JOIN mdl_user u ON u.id = l.relateduserid WHERE l.eventname = '\\core\\event\\user_enrolment_deleted'"
    )
    assert {(row[0], row[1]) for row in found} == expected
    for _, _, other, course, user in found:
        row = json.loads(other)["userenrolment"]
        assert (row["courseid"], row["userid"], row["status"]) == (str(course), str(user), "0")
    students = len(files["studentRegistration"]) - len(gone)
    assert site.value("SELECT COUNT(*) FROM mdl_user_enrolments") == students + len(files["courses"])
    assert site.value("SELECT COUNT(*) FROM mdl_role_assignments WHERE roleid = 5") == students
    assert (
        site.value(
            "SELECT COUNT(*) FROM mdl_user_lastaccess a JOIN mdl_enrol e ON e.courseid = a.courseid LEFT JOIN"
            " mdl_user_enrolments ue ON ue.enrolid = e.id AND ue.userid = a.userid WHERE ue.id IS NULL"
        )
        == 0
    )


def test_the_log_gives_the_reference_risk_sets(site) -> None:
    expected = {0: 7903, 2: 7763, 4: 7683, 8: 7465, 12: 7310, 16: 7068, 20: 6899}
    last = (
        "SELECT c.id course, c.startdate, l.relateduserid,"
        r" MAX(IF(l.eventname = '\\core\\event\\user_enrolment_deleted', l.timecreated, NULL)) gone"
        " FROM mdl_logstore_standard_log l JOIN mdl_course c ON c.id = l.courseid AND c.shortname LIKE '%2013J'"
        " JOIN mdl_user u ON u.id = l.relateduserid AND u.idnumber <> '' WHERE l.target = 'user_enrolment' GROUP BY 1, 2, 3"
    )
    for week, students in expected.items():
        count = f"SELECT COUNT(*) FROM ({last}) e WHERE gone IS NULL OR gone > startdate + 7 * 86400 * {week}"
        assert site.value(count) == students, f"week {week}"


def test_assessments_have_types_weights_and_due_dates(site, files) -> None:
    ends = {row[0]: row[1] for row in site.query("SELECT shortname, enddate FROM mdl_course")}
    expected = set()
    for row in files["assessments"]:
        key = f"{row['code_module']}-{row['code_presentation']}"
        due = STARTS[row["code_presentation"]] + int(float(row["date"])) * DAY if row["date"] else ends[key]
        if row["assessment_type"] == "Exam":
            text = dt.datetime.fromtimestamp(due, dt.UTC).strftime("Due %Y-%m-%d")
            expected.add((row["id_assessment"], "manual", None, float(row["weight"]), text))
        else:
            kind = {"TMA": "assign", "CMA": "quiz"}[row["assessment_type"]]
            expected.add((row["id_assessment"], "mod", kind, float(row["weight"]), str(due)))
    found = site.query(
        "SELECT COALESCE(cm.idnumber, i.idnumber), i.itemtype, i.itemmodule, i.aggregationcoef + 0e0,"
        " COALESCE(a.duedate, q.timeclose, i.iteminfo) FROM mdl_grade_items i"
        " LEFT JOIN mdl_assign a ON i.itemmodule = 'assign' AND a.id = i.iteminstance"
        " LEFT JOIN mdl_quiz q ON i.itemmodule = 'quiz' AND q.id = i.iteminstance"
        " LEFT JOIN mdl_modules m ON m.name = i.itemmodule"
        " LEFT JOIN mdl_course_modules cm ON cm.module = m.id AND cm.instance = i.iteminstance WHERE i.itemtype <> 'course'"
    )
    assert {tuple(str(value) if place == 4 else value for place, value in enumerate(row)) for row in found} == expected


def test_results_are_submissions_attempts_and_grades(site, files) -> None:
    kinds = {row["id_assessment"]: row["assessment_type"] for row in files["assessments"]}
    results = files["studentAssessment"]
    own = [row for row in results if row["is_banked"] == "False"]
    count = {kind: sum(kinds[row["id_assessment"]] == kind for row in own) for kind in ("TMA", "CMA")}
    assert site.value("SELECT COUNT(*) FROM mdl_assign_submission") == count["TMA"]
    assert site.value("SELECT COUNT(*) FROM mdl_quiz_attempts") == count["CMA"]
    scored = [row for row in results if row["score"]]
    graded = "SELECT COUNT(*) FROM mdl_grade_grades_history WHERE action = 1 AND finalgrade IS NOT NULL"
    assert site.value(graded) == len(scored)
    banked = [row for row in results if row["is_banked"] == "True"]
    overridden = (
        "SELECT COUNT(*) FROM mdl_grade_grades_history WHERE action = 1 AND source = 'gradebook' AND rawgrade IS NULL"
    )
    exams = sum(kinds[row["id_assessment"]] == "Exam" for row in own)
    assert site.value(overridden) == len(banked) + exams
    assert site.value(
        r"SELECT COUNT(*) FROM mdl_logstore_standard_log WHERE eventname = '\\core\\event\\user_graded'"
    ) == len(scored)
    total = "SELECT ROUND(SUM(finalgrade), 3) FROM mdl_grade_grades_history WHERE action = 1"
    assert float(site.value(total)) == pytest.approx(sum(float(row["score"]) for row in scored))


def test_grades_of_the_unenrolled_live_on_in_the_history_only(site) -> None:
    current = site.value("SELECT COUNT(*) FROM mdl_grade_grades")
    made, deleted = (
        site.value(f"SELECT COUNT(*) FROM mdl_grade_grades_history WHERE action = {action}") for action in (1, 3)
    )
    assert deleted > 5000
    assert current == made - deleted
    dangling = (
        "SELECT COUNT(*) FROM mdl_grade_grades_history d LEFT JOIN mdl_grade_grades_history m ON m.oldid = d.oldid"
        " AND m.action = 1 WHERE d.action = 3 AND (m.id IS NULL OR m.timemodified > d.timemodified OR m.id > d.id)"
    )
    assert site.value(dangling) == 0


def test_pass_and_distinction_complete_the_course_at_its_end(site, files) -> None:
    expected = {
        (f"{row['code_module']}-{row['code_presentation']}", row["id_student"])
        for row in files["studentInfo"]
        if row["final_result"] in ("Pass", "Distinction")
    }
    found = site.query(
        "SELECT c.shortname, u.idnumber, cc.timecompleted - c.enddate FROM mdl_course_completions cc"
        " JOIN mdl_course c ON c.id = cc.course JOIN mdl_user u ON u.id = cc.userid"
    )
    assert {row[:2] for row in found} == expected
    assert {row[2] for row in found} == {0}


def test_demographics_are_profile_fields_and_the_plugin_keeps_the_rest(site, files) -> None:
    info = files["studentInfo"]
    assert site.value("SELECT COUNT(*) FROM mdl_local_oulad_enrolment") == len(info)
    one = next(row for row in info if row["id_student"] == "28400")
    fields = dict(
        site.query(
            "SELECT f.shortname, d.data FROM mdl_user_info_data d JOIN mdl_user_info_field f ON f.id = d.fieldid"
            " JOIN mdl_user u ON u.id = d.userid WHERE u.idnumber = '28400'"
        )
    )
    names = ("gender", "region", "highest_education", "imd_band", "age_band")
    assert fields == {name: one[name] for name in names} | {"disability": "N"}
    kept = site.query(
        "SELECT o.num_of_prev_attempts, o.studied_credits FROM mdl_local_oulad_enrolment o JOIN mdl_user u ON u.id = o.userid"
        " WHERE u.idnumber = '28400'"
    )
    assert kept == [(int(one["num_of_prev_attempts"]), int(one["studied_credits"]))]
    missing = sum(row["imd_band"] in ("", "?") for row in info)
    assert missing == 444


def test_sites_are_course_modules_with_contexts(site, files) -> None:
    assessments = sum(row["assessment_type"] != "Exam" for row in files["assessments"])
    assert site.value("SELECT COUNT(*) FROM mdl_course_modules") == len(files["vle"]) + assessments
    lost = (
        "SELECT COUNT(*) FROM mdl_course_modules cm LEFT JOIN mdl_context x ON x.contextlevel = 70 AND x.instanceid = cm.id"
        " LEFT JOIN mdl_course_sections s ON s.id = cm.section AND FIND_IN_SET(cm.id, s.sequence) WHERE x.id IS NULL OR s.id IS NULL"
    )
    assert site.value(lost) == 0
    limited = sum(bool(row["week_from"]) for row in files["vle"])
    assert site.value("SELECT COUNT(*) FROM mdl_course_modules WHERE availability IS NOT NULL") == limited


def test_log_is_in_order_and_its_contexts_are_right(site) -> None:
    assert site.value("SELECT MAX(id) - COUNT(*) FROM mdl_logstore_standard_log") == 0
    backwards = (
        "SELECT COUNT(*) FROM mdl_logstore_standard_log a JOIN mdl_logstore_standard_log b ON b.id = a.id + 1"
        " WHERE b.timecreated < a.timecreated"
    )
    assert site.value(backwards) == 0
    wrong = (
        "SELECT COUNT(*) FROM mdl_logstore_standard_log l LEFT JOIN mdl_context x ON x.id = l.contextid"
        " AND x.contextlevel = l.contextlevel AND x.instanceid = l.contextinstanceid WHERE x.id IS NULL OR NOT JSON_VALID(l.other)"
    )
    assert site.value(wrong) == 0
