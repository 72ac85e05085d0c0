"""OULAD (Open University Learning Analytics Dataset) as a Moodle site.

| OULAD | Moodle |
|---|---|
| presentation | course AAA-2013J; start 1 February (B) or 1 October (J) 0:00 UTC, end = start + length |
| student | user with id_student in idnumber; demographics as custom profile fields, those of the latest presentation |
| num_of_prev_attempts, studied_credits | local_oulad_enrolment |
| registration | enrolment, role, events at start + date_registration; without a date at the start, or at the |
| | unregistration if that was earlier |
| unregistration | enrolment, role and grades deleted, user_enrolment_deleted in the log |
| TMA, CMA, exam | assignment, quiz, manual grade item; weight in aggregationcoef, a missing date is the course's end |
| studentAssessment | submission or attempt, grade (0 to 100), their events; banked: an overridden grade, no submission |
| site of the VLE | course module of the nearest type (oulad_csv.SITE_TYPES), available from week_from to week_to |
| studentVle | one log row each, some time in that day; `other` holds its clicks |
| Pass, Distinction | course completed at its end |

OULAD tells days, not hours: everything but studentVle happens at the day's first second. It has no date of grading, so
a grade is known from the submission on. It names no staff, so every course has one tutor, who made it and grades.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from moodle_demo import log as logs
from moodle_demo import oulad_csv
from moodle_demo.site import ADMIN, EDITINGTEACHER, STUDENT, Course, Ints, Module, Site, address

DAY = 86400
LEAD = 365 * DAY  # courses are made this long before their start, or before the first registration
MONTHS = {"B": 2, "J": 10}
PROFILE = {
    "gender": "Gender", "region": "Region", "highest_education": "Highest education", "imd_band": "Deprivation band",
    "age_band": "Age band", "disability": "Disability",
}  # fmt: skip


def start_of(presentation: str) -> int:
    """Epoch second at which a presentation like 2013J starts."""
    return int(dt.datetime(int(presentation[:4]), MONTHS[presentation[4]], 1, tzinfo=dt.UTC).timestamp())


def build(data: oulad_csv.Data) -> tuple[Site, dict[str, int]]:
    """The site made of the data, and what was read by file, for the report."""
    builder = _Builder(data)
    builder.run()
    files = {
        "courses": data.courses, "assessments": data.assessments, "vle": data.vle, "studentInfo": data.info,
        "studentRegistration": data.registration, "studentAssessment": data.results,
    }  # fmt: skip
    counts = {name: len(rows) for name, rows in files.items()}
    if data.clicks is not None:
        counts[oulad_csv.CLICKS] = len(data.clicks.day)
    return builder.site, counts


class _Builder:
    """Walks through the data once, in the order in which ids should follow each other."""

    def __init__(self, data: oulad_csv.Data) -> None:
        self.data = data
        courses = data.courses
        self.keys = [oulad_csv.key_of(courses, row) for row in range(len(courses))]
        self.starts = {key: start_of(key[-5:]) for key in self.keys}
        lengths = courses["module_presentation_length"]
        self.ends = {key: self.starts[key] + lengths[row] * DAY for row, key in enumerate(self.keys)}
        self._registrations()
        self.site = Site(min(self.created.values()) - LEAD)
        self.courses: dict[str, Course] = {}
        self.tutors: dict[str, int] = {}
        self.modules: dict[int, Module] = {}
        self.sites: dict[int, Module] = {}
        self.access: list[tuple[Ints, Ints, Ints]] = []

    def _registrations(self) -> None:
        """Per registration its course, student, time of enrolment and of leaving (0: stayed), in order of time."""
        rows = self.data.registration
        keys = [oulad_csv.key_of(rows, row) for row in range(len(rows))]
        start = np.array([self.starts[key] for key in keys], np.int64)
        end = [
            None if day is None else int(first + day * DAY)
            for first, day in zip(start, rows["date_unregistration"], strict=True)
        ]
        begin = np.array(
            [
                int(first + day * DAY) if day is not None else int(first if last is None else min(first, last))
                for first, day, last in zip(start, rows["date_registration"], end, strict=True)
            ],
            np.int64,
        )
        left = np.array([0 if last is None else last for last in end], np.int64)
        order = np.lexsort((np.array(rows["id_student"]), begin))
        self.enrolments = [(keys[i], rows["id_student"][i], int(begin[i]), int(left[i])) for i in order]
        self.left = {(key, student): last for key, student, _, last in self.enrolments}
        first: dict[str, int] = {}
        for key, _, time, _ in self.enrolments:
            first[key] = min(time, first.get(key, time))
        self.created = {key: min(self.starts[key] - LEAD, first.get(key, self.starts[key]) - DAY) for key in self.keys}

    def run(self) -> None:
        self._people()
        self._courses()
        self._enrol()
        self._results()
        self._complete()
        self._clicks()
        self._accesses()
        for course in self.courses.values():
            self.site.finish_course(course)
        self.site.finish_history()

    def _people(self) -> None:
        site, info = self.site, self.data.info
        created = np.array([self.created[key] for key in self.keys], np.int64)
        names = [f"tutor-{key.lower()}" for key in self.keys]
        tutors = site.users(names, ["Tutor"] * len(names), list(self.keys), [""] * len(names), created)
        self.tutors = dict(zip(self.keys, map(int, tutors), strict=True))
        first: dict[int, int] = {}
        for _, student, time, _ in self.enrolments:
            first.setdefault(student, time)
        students = sorted(first)
        ids = site.users(
            [f"student{student}" for student in students], ["Student"] * len(students), [str(s) for s in students],
            [str(student) for student in students], np.array([first[student] for student in students]),
        )  # fmt: skip
        self.users = dict(zip(students, map(int, ids), strict=True))
        site.add("user_info_category", name="OULAD", sortorder=1)
        order = sorted(range(len(info)), key=lambda row: self.starts[oulad_csv.key_of(info, row)])
        for place, (column, name) in enumerate(PROFILE.items(), 1):
            latest = {info["id_student"][row]: info[column][row] for row in order if info[column][row] is not None}
            texts = {student: _flag(value) for student, value in sorted(latest.items())}
            field = site.add(
                "user_info_field", shortname=column, name=name, datatype="menu", categoryid=1, sortorder=place,
                visible=1, param1="\n".join(sorted(set(texts.values()))),
            )[0]  # fmt: skip
            site.add(
                "user_info_data", userid=[self.users[student] for student in texts], fieldid=int(field),
                data=list(texts.values()),
            )  # fmt: skip

    def _courses(self) -> None:
        category = {module: self.site.category(module) for module in sorted({key[:-6] for key in self.keys})}
        for key in sorted(self.keys, key=lambda key: (self.created[key], key)):
            self.courses[key] = course = self.site.course(
                key, f"Module {key[:-6]}, presentation {key[-5:]}", category[key[:-6]], self.created[key],
                self.starts[key], self.ends[key],
            )  # fmt: skip
            self.site.enrol(course, np.array([self.tutors[key]]), EDITINGTEACHER, np.array([course.created]))
            self.site.add("course_completion_criteria", course=course.id, criteriatype=7, role=EDITINGTEACHER)
            self._assessments(key, course)
            self._vle(key, course)

    def _assessments(self, key: str, course: Course) -> None:
        rows = self.data.assessments
        numbers: dict[str, int] = {}
        mine = [row for row in range(len(rows)) if oulad_csv.key_of(rows, row) == key]
        for row in sorted(mine, key=lambda row: (self._due(key, row), rows["id_assessment"][row])):
            kind, number, weight = rows["assessment_type"][row], rows["id_assessment"][row], rows["weight"][row]
            numbers[kind] = numbers.get(kind, 0) + 1
            name, due = f"{kind} {numbers[kind]:02}", self._due(key, row)
            common: dict[str, Any] = {
                "section": max(0, (due - course.start) // (7 * DAY)), "added": course.created,
                "by": self.tutors[key], "completion": 2, "idnumber": str(number), "intro": "",
            }  # fmt: skip
            if kind == "TMA":
                module = self.site.module(course, "assign", name, duedate=due, grade=100, completionsubmit=1, **common)
            elif kind == "CMA":
                module = self.site.module(
                    course, "quiz", name, timeclose=due, sumgrades=100.0, grade=100.0, attempts=1,
                    preferredbehaviour="deferredfeedback", timecreated=course.created, **common,
                )  # fmt: skip
            else:
                module = Module(0, course.id, "", 0, name)
                day = dt.datetime.fromtimestamp(due, dt.UTC).strftime("%Y-%m-%d")
                item = self.site.add(
                    "grade_items", courseid=course.id, itemname=name, itemtype="manual", iteminfo=f"Due {day}",
                    idnumber=str(number), gradepass=40.0, aggregationcoef=float(weight), sortorder=100 + number % 100,
                    timecreated=course.created, timemodified=course.created,
                )  # fmt: skip
                module.item = int(item[0])
            if kind != "Exam":
                self.site.grade_item(module, weight, course.created)
            self.modules[number] = module

    def _due(self, key: str, row: int) -> int:
        """When an assessment is due: its day's first second; without a date the course's end."""
        day = self.data.assessments["date"][row]
        return self.ends[key] if day is None else self.starts[key] + int(day) * DAY

    def _vle(self, key: str, course: Course) -> None:
        rows = self.data.vle
        for row in range(len(rows)):
            if oulad_csv.key_of(rows, row) != key:
                continue
            number, kind = rows["id_site"][row], rows["activity_type"][row]
            first, last = rows["week_from"][row], rows["week_to"][row]
            limits = [(">=", first)] if first is not None else []
            limits += [("<", last + 1)] if last is not None else []
            dates = [{"type": "date", "d": sign, "t": course.start + week * 7 * DAY} for sign, week in limits]
            availability = json.dumps({"op": "&", "c": dates, "showc": [True] * len(dates)}) if dates else None
            self.sites[number] = self.site.module(
                course, oulad_csv.SITE_TYPES[kind], f"{kind} {number}", section=first or 0, added=course.created,
                by=self.tutors[key], availability=availability, idnumber=str(number),
            )  # fmt: skip

    def _enrol(self) -> None:
        for key, course in self.courses.items():
            mine = [(self.users[student], time, left) for owner, student, time, left in self.enrolments if owner == key]
            if mine:
                users, times, left = (np.array(column, np.int64) for column in zip(*mine, strict=True))
                self.site.enrol(course, users, STUDENT, times, left, flags=logs.WS)
        rows = self.data.info
        order = sorted(
            range(len(rows)), key=lambda row: (self.courses[oulad_csv.key_of(rows, row)].id, rows["id_student"][row])
        )
        self.site.add(
            "local_oulad_enrolment",
            userid=[self.users[rows["id_student"][row]] for row in order],
            courseid=[self.courses[oulad_csv.key_of(rows, row)].id for row in order],
            num_of_prev_attempts=[rows["num_of_prev_attempts"][row] for row in order],
            studied_credits=[rows["studied_credits"][row] for row in order],
        )

    def _results(self) -> None:
        rows, assessments = self.data.results, self.data.assessments
        of: dict[int, list[int]] = {}
        for row, number in enumerate(rows["id_assessment"]):
            of.setdefault(number, []).append(row)
        for place, number in enumerate(assessments["id_assessment"]):
            mine = of.get(number, [])
            if not mine:
                continue
            key = oulad_csv.key_of(assessments, place)
            mine.sort(key=lambda row: (rows["date_submitted"][row], rows["id_student"][row]))
            users = np.array([self.users[rows["id_student"][row]] for row in mine], np.int64)
            time = self.starts[key] + np.array([rows["date_submitted"][row] for row in mine], np.int64) * DAY
            left = np.array([self.left[key, rows["id_student"][row]] for row in mine], np.int64)
            score = np.array([np.nan if rows["score"][row] is None else rows["score"][row] for row in mine])
            banked = np.array([rows["is_banked"][row] for row in mine])
            module, course = self.modules[number], self.courses[key]
            if module.modname == "assign":
                self._submissions(course, module, users[~banked], time[~banked], score[~banked])
            elif module.modname == "quiz":
                self._attempts(course, module, users[~banked], time[~banked], score[~banked])
            own = (module.modname != "") & ~banked
            for mask, overridden in ((own, False), (~own, True)):
                if mask.any():
                    submitted = np.where(overridden, 0, time[mask])
                    if module.modname == "":
                        submitted = time[mask]
                    self.site.grades(
                        module.item, course.id, users[mask], score[mask], submitted, time[mask], left[mask],
                        source="gradebook" if overridden else f"mod/{module.modname}",
                        by=users[mask] if module.modname == "quiz" and not overridden else self.tutors[key],
                        overridden=overridden,
                    )  # fmt: skip

    def _submissions(self, course: Course, module: Module, users: Ints, time: Ints, score: Any) -> None:
        site, tutor = self.site, self.tutors[course.shortname]
        ids = site.add(
            "assign_submission", assignment=module.instance, userid=users, timecreated=time, timemodified=time,
            status="submitted", latest=1,
        )  # fmt: skip
        at = {"course": course.id, "module": module.id}
        site.log.add("assign_submitted", time, users, object=ids, **at)
        graded = ~np.isnan(score)
        ids = site.add(
            "assign_grades", assignment=module.instance, userid=users[graded], timecreated=time[graded],
            timemodified=time[graded], grader=tutor, grade=score[graded],
        )  # fmt: skip
        site.log.add("assign_graded", time[graded], tutor, object=ids, related=users[graded], **at)
        self.access.append((users, np.full(len(users), course.id), time))

    def _attempts(self, course: Course, module: Module, users: Ints, time: Ints, score: Any) -> None:
        site = self.site
        graded = ~np.isnan(score)
        value = pa.array(np.where(graded, score, 0.0), mask=~graded)
        ids = site.new_ids("quiz_attempts", len(users))
        site.add(
            "quiz_attempts", id=ids, quiz=module.instance, userid=users, attempt=1, uniqueid=ids, layout="1,0",
            state="finished", timestart=time, timefinish=time, timemodified=time, sumgrades=value,
        )  # fmt: skip
        at = {"course": course.id, "module": module.id, "object": ids}
        site.log.add("quiz_started", time, users, related=users, **at)
        site.log.add("quiz_submitted", time, users, related=users, a=users, b=module.instance, **at)
        site.add(
            "quiz_grades", quiz=module.instance, userid=users[graded], grade=score[graded], timemodified=time[graded]
        )
        self.access.append((users, np.full(len(users), course.id), time))

    def _complete(self) -> None:
        rows, began = self.data.info, {(key, student): time for key, student, time, _ in self.enrolments}
        passed = [row for row, result in enumerate(rows["final_result"]) if result in ("Pass", "Distinction")]
        passed.sort(key=lambda row: (self.ends[oulad_csv.key_of(rows, row)], rows["id_student"][row]))
        if not passed:
            return
        keys = [oulad_csv.key_of(rows, row) for row in passed]
        users = np.array([self.users[rows["id_student"][row]] for row in passed], np.int64)
        courses = np.array([self.courses[key].id for key in keys], np.int64)
        ends = np.array([self.ends[key] for key in keys], np.int64)
        times = np.array([began[key, rows["id_student"][row]] for key, row in zip(keys, passed, strict=True)], np.int64)
        ids = self.site.add(
            "course_completions", userid=users, course=courses, timeenrolled=times,
            timestarted=[self.starts[key] for key in keys], timecompleted=ends,
        )  # fmt: skip
        tutors = np.array([self.tutors[key] for key in keys], np.int64)
        self.site.log.add("course_completed", ends, tutors, course=courses, object=ids, related=users, a=users)

    def _clicks(self) -> None:
        clicks = self.data.clicks
        if clicks is None or len(clicks.day) == 0:
            return
        users = np.array([self.users[student] for student in sorted(self.users)], np.int64)
        modules = [self.sites[number] for number in sorted(self.sites)]
        events = ["course_viewed" if module.modname == "label" else f"{module.modname}_viewed" for module in modules]
        codes = np.array([logs.CODES[event] for event in events], np.int16)[clicks.site]
        viewed = codes != logs.CODES["course_viewed"]
        courses = np.array([self.courses[key].id for key in self.keys], np.int32)[clicks.course]
        starts = np.array([self.starts[key] for key in self.keys], np.int64)[clicks.course]
        second = np.random.default_rng(0).integers(8 * 3600, 22 * 3600, len(codes), dtype=np.int32)
        time = (starts + clicks.day.astype(np.int64) * DAY + second).astype(np.int32)
        user = users[clicks.student]
        self.site.log.add_codes(
            codes, time=time, user=user, course=courses,
            module=np.where(viewed, np.array([module.id for module in modules], np.int32)[clicks.site], 0),
            object=np.where(viewed, np.array([module.instance for module in modules], np.int32)[clicks.site], 0),
            a=clicks.clicks, flags=np.full(len(codes), logs.CLICKS, np.int8),
        )  # fmt: skip
        self.access.append((user, courses.astype(np.int64), time.astype(np.int64)))

    def _accesses(self) -> None:
        """user_lastaccess of those still enrolled, and the users' own first and last access."""
        top = max(self.users.values(), default=ADMIN) + 1
        first, last = np.full(top, 2**31, np.int64), np.zeros(top, np.int64)
        latest: dict[int, int] = {}
        width = max(course.id for course in self.courses.values()) + 1
        for users, courses, time in self.access:
            np.minimum.at(first, users, time)
            np.maximum.at(last, users, time)
            pairs, place = np.unique(users * width + courses, return_inverse=True)
            newest = np.zeros(len(pairs), np.int64)
            np.maximum.at(newest, place, time)
            for pair, value in zip(pairs.tolist(), newest.tolist(), strict=True):
                latest[pair] = max(value, latest.get(pair, 0))
        stay = {
            self.users[student] * width + self.courses[key].id for key, student, _, left in self.enrolments if left == 0
        }
        kept = sorted((time, pair) for pair, time in latest.items() if pair in stay)
        if kept:
            self.site.add(
                "user_lastaccess", userid=[pair // width for _, pair in kept],
                courseid=[pair % width for _, pair in kept], timeaccess=[time for time, _ in kept],
            )  # fmt: skip
        first[first == 2**31] = 0
        self.site.store_users(first, last)


def _flag(value: Any) -> str:
    return ("Y" if value else "N") if isinstance(value, bool) else str(value)


def tables(site: Site) -> Iterator[tuple[str, Any]]:
    """Every table of the site with its Arrow batches, the log first."""
    yield "logstore_standard_log", logs.render(site.log, site.contexts(), 1, address)
    yield from site.tables()
