"""OULAD's CSV files, read and checked: every fault is named by file, line, column, what was expected and the remedy.

`python -m moodle_demo.oulad_csv FOLDER` checks all of them but studentVle with nothing but the standard library, so that
a deployment can refuse a faulty folder before it does anything.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from moodle_demo.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

REMEDY = "Take the file as the data set's authors publish it, or correct the line."
SOURCE = "Give the folder with OULAD's CSV files (plain or .gz) as --oulad-dir."
MISSING = ("", "?")  # both stand for a value that is missing
# Nearest Moodle types of the VLE's sites.
SITE_TYPES = {
    "dataplus": "data", "dualpane": "page", "externalquiz": "lti", "folder": "folder", "forumng": "forum",
    "glossary": "glossary", "homepage": "label", "htmlactivity": "page", "oucollaborate": "bigbluebuttonbn",
    "oucontent": "book", "ouelluminate": "bigbluebuttonbn", "ouwiki": "wiki", "page": "page", "questionnaire": "feedback",
    "quiz": "quiz", "repeatactivity": "page", "resource": "resource", "sharedsubpage": "page", "subpage": "page",
    "url": "url",
}  # fmt: skip


class Rule(NamedTuple):
    """How one column reads: `parse` raises ValueError on what is not `expected`."""

    parse: Callable[[str], Any]
    expected: str
    optional: bool = False


def _whole(text: str) -> int:
    value = float(text)
    if not value.is_integer() or abs(value) > 2**31:
        raise ValueError(text)
    return int(value)


def _natural(text: str) -> int:
    value = _whole(text)
    if value < 0:
        raise ValueError(text)
    return value


def _between(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse


def _one_of(values: dict[str, Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return values[text]
        except KeyError:
            raise ValueError(text) from None

    return parse


def _matching(pattern: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return parse


_DAY = Rule(_whole, "a whole number of days from the presentation's start")
_OPTIONAL_DAY = Rule(_whole, "a whole number of days from the presentation's start, empty or ?", optional=True)
_ID = Rule(_natural, "a whole number, 0 or more")
_WEEK = Rule(_natural, "a week's number, empty or ?", optional=True)
_TEXT = Rule(_matching(r".+"), "a text")
_OPTIONAL_TEXT = Rule(_matching(r".+"), "a text, empty or ?", optional=True)
_YES = {"True": True, "TRUE": True, "true": True, "1": True, "Y": True}
_NO = {"False": False, "FALSE": False, "false": False, "0": False, "N": False}
_FLAG = Rule(_one_of({**_YES, **_NO}), "True or False, 1 or 0, Y or N")
_PRESENTATION = {
    "code_module": Rule(_matching(r"[A-Za-z0-9_-]{1,20}"), "a module's code like AAA"),
    "code_presentation": Rule(_matching(r"(19|20)\d\d[BJ]"), "a year and B (February) or J (October), like 2013J"),
}
_RESULTS = ("Pass", "Distinction", "Fail", "Withdrawn")
_TYPES = ("TMA", "CMA", "Exam")

# Per file: its columns, the columns that no two lines may have equal, whether it may be absent.
FILES: dict[str, tuple[dict[str, Rule], tuple[str, ...]]] = {
    "courses": (
        {**_PRESENTATION, "module_presentation_length": Rule(_natural, "a number of days")},
        ("code_module", "code_presentation"),
    ),
    "assessments": (
        {
            **_PRESENTATION,
            "id_assessment": _ID,
            "assessment_type": Rule(_one_of({kind: kind for kind in _TYPES}), "one of " + ", ".join(_TYPES)),
            "date": _OPTIONAL_DAY,
            "weight": Rule(_between(0, 100), "a weight from 0 to 100"),
        },
        ("id_assessment",),
    ),
    "vle": (
        {"id_site": _ID, **_PRESENTATION, "activity_type": _TEXT, "week_from": _WEEK, "week_to": _WEEK},
        ("id_site",),
    ),
    "studentInfo": (
        {
            **_PRESENTATION,
            "id_student": _ID,
            "gender": _OPTIONAL_TEXT,
            "region": _OPTIONAL_TEXT,
            "highest_education": _OPTIONAL_TEXT,
            "imd_band": _OPTIONAL_TEXT,
            "age_band": _OPTIONAL_TEXT,
            "num_of_prev_attempts": _ID,
            "studied_credits": _ID,
            "disability": _FLAG,
            "final_result": Rule(_one_of({kind: kind for kind in _RESULTS}), "one of " + ", ".join(_RESULTS)),
        },
        ("code_module", "code_presentation", "id_student"),
    ),
    "studentRegistration": (
        {**_PRESENTATION, "id_student": _ID, "date_registration": _OPTIONAL_DAY, "date_unregistration": _OPTIONAL_DAY},
        ("code_module", "code_presentation", "id_student"),
    ),
    "studentAssessment": (
        {
            "id_assessment": _ID,
            "id_student": _ID,
            "date_submitted": _DAY,
            "is_banked": _FLAG,
            "score": Rule(_between(0, 100), "a score from 0 to 100, empty or ?", optional=True),
        },
        ("id_assessment", "id_student"),
    ),
}
CLICKS = "studentVle"
_CLICK_COLUMNS = {**_PRESENTATION, "id_student": _ID, "id_site": _ID, "date": _DAY, "sum_click": _ID}


@dataclass
class Rows:
    """One file's values by column (None: missing), and the line of the file each row stands on."""

    file: Path
    columns: dict[str, list[Any]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, column: str) -> list[Any]:
        return self.columns[column]

    def fault(self, row: int, column: str, expected: str) -> UsageError:
        """The error of one cell."""
        return fault(self.file, self.lines[row], column, self.columns[column][row], expected)


def fault(file: Path, line: int, column: str, value: Any, expected: str) -> UsageError:
    """The error of one cell of a file."""
    return UsageError(f"{file}, line {line}, column {column}: {value!r} is not {expected}. {REMEDY}")


def find(folder: Path) -> dict[str, Path]:
    """The files of the data set by their names without suffix; studentVle may be absent."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UsageError(f"OULAD's folder {folder} {what}. {SOURCE}")
    found, missing = {}, []
    for name in (*FILES, CLICKS):
        paths = [path for path in (folder / f"{name}.csv", folder / f"{name}.csv.gz") if path.is_file()]
        if paths:
            found[name] = paths[0]
        elif name != CLICKS:
            missing.append(f"{name}.csv[.gz]")
    if missing:
        raise UsageError(f"OULAD's folder {folder} lacks {', '.join(missing)}. {SOURCE}")
    return found


def read_file(name: str, file: Path) -> Rows:
    """One small file, every cell checked, no key twice."""
    rules, key = FILES[name]
    columns: dict[str, list[Any]] = {column: [] for column in rules}
    lines: list[int] = []
    seen: dict[tuple[Any, ...], int] = {}
    for line, cells in _lines(file, tuple(rules)):
        for (column, rule), cell in zip(rules.items(), cells, strict=True):
            columns[column].append(_cell(file, line, column, rule, cell))
        lines.append(line)
        identity = tuple(columns[column][-1] for column in key)
        if identity in seen:
            raise UsageError(
                f"{file}, line {line}, column {key[-1]}: {', '.join(map(str, identity))} stands on line"
                f" {seen[identity]} already, expected once. {REMEDY}"
            )
        seen[identity] = line
    if not lines:
        raise UsageError(f"{file}, line 2: no rows, expected at least one. {REMEDY}")
    return Rows(file, columns, lines)


def _cell(file: Path, line: int, column: str, rule: Rule, cell: str) -> Any:
    text = cell.strip()
    if text in MISSING and rule.optional:
        return None
    try:
        return rule.parse(text)
    except (ValueError, OverflowError):
        raise fault(file, line, column, cell, rule.expected) from None


def _lines(file: Path, wanted: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """The wanted columns of every line with the line's number."""
    line = 1
    try:
        with open_text(file) as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in wanted if name not in header]
            if missing:
                raise UsageError(
                    f"{file}, line 1: no column {', '.join(missing)}; expected the columns {', '.join(wanted)}. {REMEDY}"
                )
            places = [header.index(name) for name in wanted]
            for cells in reader:
                line = reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    column = header[min(len(cells), len(header) - 1)]
                    raise UsageError(
                        f"{file}, line {line}, column {column}: {len(cells)} values, expected {len(header)} as in the"
                        f" first line. {REMEDY}"
                    )
                yield line, [cells[place] for place in places]
                line += 1
    except csv.Error as error:
        raise UsageError(f"{file}, line {line}: {error}; expected comma-separated values. {REMEDY}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}, after line {line}: {error.reason}; expected UTF-8 text. {REMEDY}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{file}, after line {line}: {error}; expected a whole gzip file. Fetch it again.") from error
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}. Make it readable.") from error


def open_text(file: Path) -> io.TextIOBase:
    """A file as UTF-8 text, unpacked when its name ends in .gz."""
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")  # type: ignore[return-value]
    return open(file, encoding="utf-8-sig", newline="")


@dataclass
class Clicks:
    """studentVle: per row the index of its course, student and site, the day from the start, and its clicks."""

    course: npt.NDArray[np.int16]
    student: npt.NDArray[np.int32]
    site: npt.NDArray[np.int32]
    day: npt.NDArray[np.int16]
    clicks: npt.NDArray[np.int32]


def read_clicks(
    file: Path, courses: dict[str, int], students: npt.NDArray[np.int64], sites: npt.NDArray[np.int64]
) -> Clicks:
    """studentVle, ten million rows, in about 17 bytes a row.

    `courses` gives the index of 'AAA-2013J'; students and sites are the known ids in ascending order.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    parts: list[Clicks] = []
    try:
        types = {name: pa.string() for name in _PRESENTATION} | {
            name: pa.int64() for name in ("id_student", "id_site", "date", "sum_click")
        }
        options = pa.csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=list(MISSING))
        with pa.csv.open_csv(file, convert_options=options) as reader:
            for batch in reader:
                parts.append(_clicks(batch, courses, students, sites))
    except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError, ValueError, OSError, EOFError, zlib.error):
        _find_fault(file, courses, students, sites)
        raise
    if not parts:
        raise UsageError(f"{file}, line 2: no rows, expected at least one. {REMEDY}")
    return Clicks(
        np.concatenate([part.course for part in parts]),
        np.concatenate([part.student for part in parts]),
        np.concatenate([part.site for part in parts]),
        np.concatenate([part.day for part in parts]),
        np.concatenate([part.clicks for part in parts]),
    )


def _clicks(
    batch: pa.RecordBatch, courses: dict[str, int], students: npt.NDArray[np.int64], sites: npt.NDArray[np.int64]
) -> Clicks:
    import numpy as np

    if any(column.null_count for column in batch.columns):
        raise ValueError("missing value")
    module, presentation, student, site, day, clicks = batch.columns
    modules, presentations = module.dictionary_encode(), presentation.dictionary_encode()
    pairs = np.array(
        [
            [courses.get(f"{m}-{p}", -1) for p in presentations.dictionary.to_pylist()]
            for m in modules.dictionary.to_pylist()
        ],
        np.int16,
    )
    course = pairs[modules.indices.to_numpy(), presentations.indices.to_numpy()]
    result = Clicks(
        course,
        _index(students, student.to_numpy()),
        _index(sites, site.to_numpy()),
        day.to_numpy().astype(np.int16),
        clicks.to_numpy().astype(np.int32),
    )
    wrong = (course < 0) | (result.day != day.to_numpy()) | (result.clicks != clicks.to_numpy()) | (result.clicks < 0)
    if wrong.any() or (result.student < 0).any() or (result.site < 0).any():
        raise ValueError("unknown key")
    return result


def _index(known: npt.NDArray[np.int64], values: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """The place of each value among the known ones, -1 when it isn't there."""
    import numpy as np

    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[place] == values, place, -1).astype(np.int32)


def _find_fault(
    file: Path, courses: dict[str, int], students: npt.NDArray[np.int64], sites: npt.NDArray[np.int64]
) -> None:
    """Read slowly what could not be read fast, to name the line."""
    known_students, known_sites = set(students.tolist()), set(sites.tolist())
    for line, cells in _lines(file, tuple(_CLICK_COLUMNS)):
        module, presentation, student, site, day, clicks = (
            _cell(file, line, column, rule, cell)
            for (column, rule), cell in zip(_CLICK_COLUMNS.items(), cells, strict=True)
        )
        if f"{module}-{presentation}" not in courses:
            raise fault(file, line, "code_presentation", presentation, f"a presentation of {module} in courses.csv")
        if student not in known_students:
            raise fault(file, line, "id_student", student, "a student of studentInfo.csv")
        if site not in known_sites:
            raise fault(file, line, "id_site", site, "a site of vle.csv")
        if abs(day) > 20000:
            raise fault(file, line, "date", day, "a day near the presentation")
        if clicks > 2**31 - 1:
            raise fault(file, line, "sum_click", clicks, "a number of clicks")


@dataclass
class Data:
    """The files' contents, checked against each other."""

    courses: Rows
    assessments: Rows
    vle: Rows
    info: Rows
    registration: Rows
    results: Rows
    clicks: Clicks | None


def key_of(rows: Rows, row: int) -> str:
    """Return the name of a row's presentation, such as AAA-2013J."""
    return f"{rows['code_module'][row]}-{rows['code_presentation'][row]}"


def read(folder: Path, with_clicks: bool = True) -> Data:
    """Read and check the data set, perhaps without studentVle; raises UsageError on the first fault."""
    files = find(folder)
    tables = {name: read_file(name, files[name]) for name in FILES}
    courses = {key_of(tables["courses"], row): row for row in range(len(tables["courses"]))}
    for name in ("assessments", "vle", "studentInfo", "studentRegistration"):
        rows = tables[name]
        for row in range(len(rows)):
            if key_of(rows, row) not in courses:
                raise rows.fault(
                    row, "code_presentation", f"a presentation of {rows['code_module'][row]} in courses.csv"
                )
    info, registration = tables["studentInfo"], tables["studentRegistration"]
    enrolled = {(key_of(info, row), info["id_student"][row]): row for row in range(len(info))}
    registered = {(key_of(registration, row), registration["id_student"][row]) for row in range(len(registration))}
    for row, student in enumerate(registration["id_student"]):
        if (key_of(registration, row), student) not in enrolled:
            raise registration.fault(row, "id_student", "a student of that presentation in studentInfo.csv")
    for row, student in enumerate(info["id_student"]):
        if (key_of(info, row), student) not in registered:
            raise info.fault(row, "id_student", "a student of that presentation in studentRegistration.csv")
    assessments, results = tables["assessments"], tables["studentAssessment"]
    places = {number: key_of(assessments, row) for row, number in enumerate(assessments["id_assessment"])}
    for row, (number, student) in enumerate(zip(results["id_assessment"], results["id_student"], strict=True)):
        if number not in places:
            raise results.fault(row, "id_assessment", "an assessment of assessments.csv")
        if (places[number], student) not in enrolled:
            raise results.fault(row, "id_student", f"a student of {places[number]} in studentInfo.csv")
    for row, kind in enumerate(tables["vle"]["activity_type"]):
        if kind not in SITE_TYPES:
            raise tables["vle"].fault(row, "activity_type", "one of " + ", ".join(sorted(SITE_TYPES)))
    clicks = None
    if CLICKS in files and with_clicks:
        import numpy as np

        students = np.unique(np.array(info["id_student"], np.int64))
        sites = np.sort(np.array(tables["vle"]["id_site"], np.int64))
        clicks = read_clicks(files[CLICKS], courses, students, sites)
    return Data(tables["courses"], assessments, tables["vle"], info, registration, results, clicks)


if __name__ == "__main__":
    try:
        read(Path(sys.argv[1]), with_clicks=False)
    except UsageError as error:
        sys.exit(str(error))
