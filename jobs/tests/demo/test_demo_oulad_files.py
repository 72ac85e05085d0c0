"""OULAD's files with their peculiarities and faults, in a data set of a handful of rows."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import oulad_files
import pytest
from moodle_demo import oulad_csv
from moodle_demo.errors import UsageError

DAY = 86400
B = int(dt.datetime(2014, 2, 1, tzinfo=dt.UTC).timestamp())
J = int(dt.datetime(2014, 10, 1, tzinfo=dt.UTC).timestamp())


def test_missing_values_and_both_kinds_of_files(tmp_path: Path, load, database) -> None:
    folder = oulad_files.write(tmp_path / "oulad", packed=("vle", "studentVle"))
    load(database, "--dataset", "oulad", "--oulad-dir", str(folder))
    enrolments = dict(
        database.query(
            "SELECT CONCAT(c.shortname, ' ', u.idnumber), l.timecreated FROM mdl_logstore_standard_log l JOIN mdl_course c"
            " ON c.id = l.courseid JOIN mdl_user u ON u.id = l.relateduserid AND u.idnumber <> ''"
            r" WHERE l.eventname = '\\core\\event\\user_enrolment_created'"
        )
    )
    # No date of registration: at the unregistration, which was before the start.
    assert enrolments == {"AAA-2014B 11": B - 30 * DAY, "AAA-2014B 12": B - 5 * DAY, "BBB-2014J 12": J - 400 * DAY}
    assert database.value("SELECT MIN(timecreated) FROM mdl_course WHERE shortname = 'BBB-2014J'") == J - 401 * DAY
    assert database.query("SELECT duedate FROM mdl_assign ORDER BY id") == [(B + 19 * DAY,), (J + 269 * DAY,)]
    assert database.query("SELECT attempt, sumgrades, state FROM mdl_quiz_attempts") == [(1, None, "finished")]
    grades = database.query(
        "SELECT u.idnumber, i.itemname, g.finalgrade + 0e0, g.timecreated, g.timemodified FROM mdl_grade_grades g"
        " JOIN mdl_grade_items i ON i.id = g.itemid JOIN mdl_user u ON u.id = g.userid ORDER BY g.id"
    )
    assert sorted(grades, key=str) == sorted(
        [
            ("11", "TMA 01", 78.0, B + 18 * DAY, B + 18 * DAY),
            ("11", "CMA 01", None, B + 50 * DAY, None),
            ("11", "Exam 01", 55.5, B + 238 * DAY, B + 238 * DAY),
            ("12", "TMA 01", 90.0, None, B - DAY),
            ("12", "TMA 01", 64.0, J + 20 * DAY, J + 20 * DAY),
        ],
        key=str,
    )
    assert database.value("SELECT COUNT(*) FROM mdl_assign_submission") == 2
    profile = database.query(
        "SELECT f.shortname, d.data FROM mdl_user_info_data d JOIN mdl_user_info_field f ON f.id = d.fieldid"
        " JOIN mdl_user u ON u.id = d.userid WHERE u.idnumber = '12' AND f.shortname IN ('region', 'disability')"
    )
    assert dict(profile) == {"region": "Scotland", "disability": "Y"}  # of the latest presentation


def test_each_row_of_clicks_is_a_log_row_of_its_day(tmp_path: Path, load, database) -> None:
    load(database, "--dataset", "oulad", "--oulad-dir", str(oulad_files.write(tmp_path / "oulad")))
    clicks = database.query(
        "SELECT u.idnumber, l.eventname, l.contextlevel, COALESCE(cm.idnumber, ''), l.other, l.timecreated DIV 86400"
        " FROM mdl_logstore_standard_log l JOIN mdl_user u ON u.id = l.userid LEFT JOIN mdl_course_modules cm ON"
        " l.contextlevel = 70 AND cm.id = l.contextinstanceid WHERE l.action = 'viewed' ORDER BY l.id"
    )
    viewed = "\\mod_{}\\event\\course_module_viewed"
    assert clicks == [
        ("11", viewed.format("resource"), 70, "501", '{"clicks":4}', B // DAY - 10),
        ("11", viewed.format("resource"), 70, "501", '{"clicks":4}', B // DAY - 10),
        ("11", "\\core\\event\\course_viewed", 50, "", '{"clicks":1}', B // DAY + 3),
        ("12", viewed.format("wiki"), 70, "601", '{"clicks":17}', J // DAY + 100),
    ]
    last = "SELECT timeaccess DIV 86400 FROM mdl_user_lastaccess a JOIN mdl_user u ON u.id = a.userid WHERE u.idnumber = '12'"
    assert database.value(last) == J // DAY + 100


def change(name: str, old: str, new: str) -> dict[str, str | None]:
    assert old in oulad_files.FILES[name]
    return {name: oulad_files.FILES[name].replace(old, new, 1)}


FAULTS = {
    "no file": ({"vle": None}, ["vle.csv"]),
    "no column": (
        change("courses", "module_presentation_length", "length"),
        ["courses.csv, line 1", "module_presentation_length"],
    ),
    "empty": ({"assessments": ""}, ["assessments.csv, line 1"]),
    "no rows": (
        {"vle": "id_site,code_module,code_presentation,activity_type,week_from,week_to\n"},
        ["vle.csv, line 2"],
    ),
    "too few values": (
        change("courses", "BBB,2014J,269", "BBB,2014J"),
        ["courses.csv, line 3", "2 values, expected 3"],
    ),
    "no number": (
        change("studentAssessment", "2,11,50,0,?", "2,11,soon,0,?"),
        ["studentAssessment.csv, line 3, column date_submitted", "'soon'"],
    ),
    "half a day": (
        change("assessments", "19.0", "19.5"),
        ["assessments.csv, line 2, column date", "whole number of days"],
    ),
    "score": (change("studentAssessment", "55.5", "155.5"), ["line 4, column score", "0 to 100"]),
    "missing": (change("studentAssessment", "1,11,18", "1,11,?"), ["line 2, column date_submitted"]),
    "nan": (change("studentAssessment", "55.5", "nan"), ["line 4, column score"]),
    "infinity": (change("assessments", "19.0", "inf"), ["line 2, column date"]),
    "result": (
        change("studentInfo", "Withdrawn", "Gone"),
        ["studentInfo.csv, line 3, column final_result", "Withdrawn"],
    ),
    "type": (change("assessments", "CMA", "Quiz"), ["line 3, column assessment_type", "TMA, CMA, Exam"]),
    "activity": (change("vle", "ouwiki", "oupodcast"), ["vle.csv, line 5, column activity_type", "ouwiki"]),
    "presentation": (
        change("courses", "2014J", "2014X"),
        ["courses.csv, line 3, column code_presentation", "B (February) or J (October)"],
    ),
    "unknown course": (change("vle", "601,BBB", "601,CCC"), ["vle.csv, line 5", "courses.csv"]),
    "unknown assessment": (
        change("studentAssessment", "4,12,20", "5,12,20"),
        ["studentAssessment.csv, line 6, column id_assessment"],
    ),
    "not enrolled": (change("studentAssessment", "4,12,20", "4,11,20"), ["line 6, column id_student", "BBB-2014J"]),
    "not registered": (
        change("studentRegistration", "AAA,2014B,11,-30,?\n", ""),
        ["studentInfo.csv, line 2, column id_student"],
    ),
    "twice": (change("courses", "BBB,2014J,269", "AAA,2014B,240"), ["courses.csv, line 3", "line 2 already"]),
    "open quote": (change("studentInfo", '"Region, South"', '"Region, South'), ["studentInfo.csv", "comma-separated"]),
    "clicks' number": (change("studentVle", ",17", ",many"), ["studentVle.csv, line 5, column sum_click", "'many'"]),
    "clicks' site": (change("studentVle", "601", "999"), ["studentVle.csv, line 5, column id_site"]),
    "clicks' student": (change("studentVle", "12,601", "13,601"), ["studentVle.csv, line 5, column id_student"]),
    "clicks' course": (
        change("studentVle", "BBB,2014J", "BBB,2013J"),
        ["studentVle.csv, line 5, column code_presentation"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_place_and_remedy(fault: str, tmp_path: Path, load, database) -> None:
    changes, expected = FAULTS[fault]
    folder = oulad_files.write(tmp_path / "oulad", changes)
    error = load.fails(database, "--dataset", "oulad", "--oulad-dir", str(folder))
    assert error.exit_code == 2
    for words in (*expected, str(folder)):
        assert words in str(error)
    assert database.query("SHOW TABLES") == []


def test_a_file_cut_off_is_named(tmp_path: Path) -> None:
    folder = oulad_files.write(tmp_path / "oulad", packed=("vle",))
    path = folder / "vle.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"vle\.csv\.gz.*whole gzip file"):
        oulad_csv.read(folder)


def test_other_encodings_are_named(tmp_path: Path) -> None:
    folder = oulad_files.write(tmp_path / "oulad")
    path = folder / "studentInfo.csv"
    path.write_bytes(path.read_text().replace("Wales", "Gwynedd \u00f4").encode("latin-1"))
    with pytest.raises(UsageError, match=r"studentInfo\.csv.*UTF-8"):
        oulad_csv.read(folder)


def test_spreadsheets_byte_order_mark_and_line_ends_are_fine(tmp_path: Path) -> None:
    folder = oulad_files.write(tmp_path / "oulad")
    path = folder / "courses.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(oulad_csv.read(folder).courses) == 2


@pytest.mark.parametrize("fault", ["", "score"])
def test_the_check_before_a_deployment_needs_the_standard_library_only(fault: str, tmp_path: Path) -> None:
    changes, expected = FAULTS[fault] if fault else ({}, [])
    folder = oulad_files.write(tmp_path / "oulad", changes)
    environ = {"PYTHONPATH": str(Path(oulad_csv.__file__).parents[1])}
    # -S: without site-packages.
    command = [sys.executable, "-S", "-m", "moodle_demo.oulad_csv", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == (1 if fault else 0), done.stderr
    assert all(words in done.stderr for words in expected)
    assert "Traceback" not in done.stderr
