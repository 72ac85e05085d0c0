"""A made-up university's Moodle: three terms of courses, students whose engagement drifts, the rows Moodle would keep.

What is put in, and can be found again:
- Every student has a latent ability and a trait of engagement; in every course engagement starts near the trait and
  drifts from week to week. Log rows, posts, submissions and their punctuality rise with engagement, scores with ability
  and engagement.
- Each week a student may withdraw, with a hazard that falls with engagement and ability; who stays passes when the
  weighted mark reaches PASS_MARK. Both are noisy: engagement is never seen, only what it causes.
- Courses follow an archetype's mix of resources and activity (archetypes.yml), named in course.idnumber.

Everything is drawn from the seed, course by course, so that the same parameters give the same rows. The log has
exactly the rows asked for: what follows from enrolments, submissions and grades first, page views for the rest.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.resources
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml

from moodle_demo import log as logs
from moodle_demo.errors import UsageError
from moodle_demo.site import ADMIN, EDITINGTEACHER, MANAGER, STUDENT, TEACHER, Course, Ints, Module, Site, address

Floats = npt.NDArray[np.float64]
DAY, WEEK, HOUR = 86400, 7 * 86400, 3600
WEEKS = 16  # length of a term
BEFORE, AFTER = 2, 1  # weeks of page views before and after it
LEAD = 30 * DAY  # courses are made this long before their start
# Mondays, 0:00 UTC; far enough from each other that no event of one term falls into another's stretch of the log.
TERMS = (("2024A", dt.date(2024, 9, 30)), ("2025S", dt.date(2025, 3, 3)), ("2025A", dt.date(2025, 9, 29)))
PASS_MARK = 40.0
# Relative activity of the weeks -2 to 16: the beginning, a break in week 8, the examinations.
SEASON = np.array(
    [0.06, 0.30, 1.3, 1.2, 1.0, 1.0, 1.0, 0.95, 1.0, 1.05, 0.6, 0.95, 1.0, 1.0, 1.0, 1.05, 1.1, 1.3, 0.05]
)
HOURS = np.array([0.0] * 7 + [1, 3, 5, 6, 6, 4, 5, 6, 6, 5, 4, 4, 5, 5, 3, 0.0, 0.0])
DAYS = np.array([1.2, 1.2, 1.1, 1.0, 0.8, 0.6, 0.9])
CONTENT = ("resource", "page", "url", "book", "folder", "h5pactivity", "scorm")
ALWAYS = -10, 99  # weeks of a module that is there from before the term until after it


@dataclass(frozen=True)
class Parameters:
    """Size and seed of the data set; `log_rows` is exact."""

    seed: int = 1
    courses: int = 60
    students: int = 3000
    log_rows: int = 1_000_000

    def check(self) -> None:
        """Raise UsageError on a size that makes no site."""
        ranges = (
            ("seed", 0, 2**31 - 1),
            ("courses", 3, 2000),
            ("students", 20, 200_000),
            ("log_rows", 1000, 200_000_000),
        )
        for name, low, high in ranges:
            value = getattr(self, name)
            if not low <= value <= high:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} {value}: expected {low} to {high}. Give a number in that range.")


@dataclass
class _Resource:
    """A module as the views see it: weeks in which it can be viewed, the week it is about, codes of its events."""

    module: Module
    weight_type: str
    first: int
    last: int
    week: int
    due: bool = False
    discussions: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # by week


@dataclass
class _Class:
    """A course in a term with its students; arrays have one value a student, engagement also one a week."""

    course: Course
    number: int
    mix: dict[str, Any]
    teachers: Ints
    users: Ints
    ability: Floats
    engagement: Floats
    enrolled: Ints
    left: Ints  # 0: stayed
    back: Ints  # enrolled again, 0: not
    resources: list[_Resource] = field(default_factory=list)


def _archetypes() -> dict[str, Any]:
    text = importlib.resources.files(__package__).joinpath("archetypes.yml").read_text("utf-8")
    return dict(yaml.safe_load(text))


def _epoch(day: dt.date) -> int:
    return int(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC).timestamp())


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _sigmoid(values: Floats) -> Floats:
    return 1 / (1 + np.exp(-values))


class Synthetic:
    """The site under construction. `build` makes everything but the page views, `log` then renders the log."""

    def __init__(self, parameters: Parameters) -> None:
        parameters.check()
        self.parameters = parameters
        self.rng = np.random.default_rng(parameters.seed)
        self.settings = _archetypes()
        self.starts = [_epoch(day) for _, day in TERMS]
        self.site = Site(self.starts[0] - LEAD - 5 * DAY)
        self.logs = [self.site.log, *(logs.Log() for _ in TERMS[1:])]  # one a term
        self.classes: list[list[_Class]] = []

    def build(self) -> None:
        """Make people, courses and all that follows from enrolments; raise UsageError when log_rows has no room."""
        self._people()
        courses = self._catalogue()
        for term in range(len(TERMS)):
            self.site.log = self.logs[term]
            self.classes.append(self._term(term, courses))
        self._deletions()
        self._noise()
        needed = sum(part.rows for part in self.logs)
        least = int(needed * 1.25) + 1
        if self.parameters.log_rows < least:
            p = self.parameters
            raise UsageError(
                f"--log-rows {p.log_rows}: {p.students} students in {p.courses} courses leave {needed} log rows by"
                f" enrolments, submissions and grades alone. Give at least {least}, or fewer students."
            )

    def tables(self) -> Iterator[tuple[str, Any]]:
        """The log first, then every other table; each with its Arrow batches."""
        yield "logstore_standard_log", self._log()
        for modules in self.classes:
            for item in modules:
                self.site.finish_course(item.course)
        self.site.finish_history()
        self._accesses()
        yield from self.site.tables()

    # People

    def _people(self) -> None:
        site, rng, size = self.site, self.rng, self.parameters.students
        created = site.created
        staff = max(4, self.parameters.courses // 2)
        self.staff = self._users(staff, created, "T")
        manager = self._users(1, created, "M")
        site.add(
            "role_assignments", roleid=MANAGER, contextid=1, userid=manager, timemodified=created, modifierid=ADMIN
        )
        self.ability = rng.normal(size=size)
        self.trait = 0.45 * self.ability + np.sqrt(1 - 0.45**2) * rng.normal(size=size)
        self.entry = np.sort(rng.choice(len(TERMS), size, p=[0.5, 0.25, 0.25]))
        groups = []
        for term, start in enumerate(self.starts):
            site.log = self.logs[term]
            count = int((self.entry == term).sum())
            groups.append(self._users(count, start - LEAD + rng.integers(0, 5 * DAY, count), "S"))
        self.students = np.concatenate(groups)
        self.deleted: dict[int, int] = {}
        site.add("user_info_category", name="Study", sortorder=1)
        fields = {
            "gender": (["f", "m", "x"], [0.52, 0.46, 0.02]),
            "entry": (["school", "work", "transfer"], [0.7, 0.2, 0.1]),
        }
        for place, (name, (values, shares)) in enumerate(fields.items(), 1):
            number = site.add(
                "user_info_field", shortname=name, name=name.capitalize(), datatype="menu", categoryid=1,
                sortorder=place, visible=1, param1="\n".join(values),
            )[0]  # fmt: skip
            drawn = rng.choice(len(values), size, p=shares)
            if name == "entry":
                self.trait -= 0.25 * (drawn == 1)
            site.add(
                "user_info_data", userid=self.students, fieldid=int(number), data=[values[value] for value in drawn]
            )

    def _users(self, size: int, created: int | Ints, letter: str) -> Ints:
        site, rng = self.site, self.rng
        first, last = self.settings["first_names"], self.settings["last_names"]
        ids = site.new_ids("user", size)
        return site.users(
            [f"user{number}" for number in ids], [first[i] for i in rng.integers(len(first), size=size)],
            [last[i] for i in rng.integers(len(last), size=size)], [f"{letter}{number:06}" for number in ids], created, ids,
        )  # fmt: skip

    # Courses

    def _catalogue(self) -> list[dict[str, Any]]:
        """Per course code (given again each term) its archetype, mix and popularity."""
        rng, kinds, noise = self.rng, self.settings["archetypes"], self.settings["noise"]
        codes = -(-self.parameters.courses // len(TERMS))
        shares = np.array([kind["share"] for kind in kinds.values()])
        ends = np.cumsum(shares / shares.sum()) * codes
        names = [list(kinds)[int(np.searchsorted(ends, code + 0.5))] for code in range(codes)]
        rng.shuffle(names)
        balanced = kinds["balanced"]
        result = []
        for name in names:
            own, blend = kinds[name], 0.0 if name == "inactive" else rng.beta(2, 2 / noise["blend"] - 2)
            mix: dict[str, Any] = {"archetype": name, "staff": own["staff"]}
            for part, sigma in (("modules", noise["modules"]), ("activity", noise["activity"])):
                types = sorted(set(own[part]) | (set(balanced[part]) if blend else set()))
                mix[part] = {
                    kind: ((1 - blend) * own[part].get(kind, 0) + blend * balanced[part].get(kind, 0))
                    * float(np.exp(rng.normal(0, sigma)))
                    for kind in types
                }
            mix["posts"] = ((1 - blend) * own["posts"] + blend * balanced["posts"]) * float(np.exp(rng.normal(0, 0.3)))
            mix["scale"] = own["scale"] * float(np.exp(rng.normal(0, noise["scale"])))
            mix["popularity"] = float(np.exp(rng.normal(0, 0.4)))
            mix["difficulty"] = float(rng.normal(0, 3))
            result.append(mix)
        return result

    def _term(self, term: int, catalogue: list[dict[str, Any]]) -> list[_Class]:
        site, rng, label = self.site, self.rng, TERMS[term][0]
        codes = [code for code in range(len(catalogue)) if code * len(TERMS) + term < self.parameters.courses]
        category = site.category(f"Term {label}", label)
        choices = self._choices(term, np.array([catalogue[code]["popularity"] for code in codes]))
        classes = []
        for place, code in enumerate(codes):
            mix = self._vary(catalogue[code])
            start = self.starts[term] + int(rng.integers(0, 2)) * WEEK
            subject = self.settings["subjects"][code % len(self.settings["subjects"])]
            level = ("I", "II", "III", "IV")[code // len(self.settings["subjects"]) % 4]
            created = self.starts[term] - LEAD + 5 * DAY + code * 97
            course = site.course(
                f"C{code + 1:02}-{label}", f"{subject} {level} ({label})", category, created, start,
                self.starts[term] + WEEKS * WEEK, f"archetype-{mix['archetype']}",
            )  # fmt: skip
            number = term * 100_000 + code
            classes.append(_Course(self, course, number, mix, np.flatnonzero(choices[:, place])).build())
        return classes

    def _vary(self, mix: dict[str, Any]) -> dict[str, Any]:
        """The same course, a little different this term."""
        sigma = self.settings["noise"]["term"]
        parts = {
            part: {kind: value * float(np.exp(self.rng.normal(0, sigma))) for kind, value in mix[part].items()}
            for part in ("modules", "activity")
        }
        return {**mix, **parts, "scale": mix["scale"] * float(np.exp(self.rng.normal(0, sigma)))}

    def _choices(self, term: int, popularity: Floats) -> npt.NDArray[np.bool_]:
        """Which student (row) takes which course (column) of a term: one to three, popular ones more often."""
        rng, size = self.rng, self.parameters.students
        active = (self.entry == term) | ((self.entry < term) & (rng.random(size) < 0.7))
        count = np.minimum(rng.choice([1, 2, 3], size, p=[0.25, 0.45, 0.3]), len(popularity))
        keys = np.log(popularity) + rng.gumbel(size=(size, len(popularity)))
        rank = np.argsort(np.argsort(-keys, axis=1), axis=1)
        return (rank < count[:, None]) & active[:, None]

    def _deletions(self) -> None:
        """Some of those who left every course of theirs are deleted as users a few days later."""
        last: dict[int, tuple[int, int]] = {}
        kept: set[int] = set()
        for term, classes in enumerate(self.classes):
            for item in classes:
                kept.update(item.users[(item.left == 0) | (item.back > 0)].tolist())
                for user, left in zip(item.users.tolist(), item.left.tolist(), strict=True):
                    last[user] = max(last.get(user, (0, 0)), (term, left))
        for user in sorted(set(last) - kept)[:: max(1, self.parameters.students // 100)][:5]:
            term, left = last[user]
            self.deleted[user] = when = left + 2 * DAY
            name = f"user{user}"
            log = self.logs[term]
            text = log.text(
                username=name, email=f"{name}@example.org", idnumber=f"S{user:06}", picture="0", mnethostid="1"
            )
            log.add("user_deleted", when, ADMIN, object=user, related=user, a=text, flags=logs.CLI)

    # What isn't students' and teachers' own, and must not be taken for it

    def _noise(self) -> None:
        """Rows that a reader must leave out: failed logins, notices, guests, history brought by a course restore."""
        rng, share = self.rng, self.parameters.log_rows // len(TERMS)
        for term, log in enumerate(self.logs):
            low, high = self.starts[term], self.starts[term] + WEEKS * WEEK
            size = max(1, share // 2000)
            times = rng.integers(low, high, (3, size))
            log.add("login_failed", times[0], 0, a=rng.integers(1, 99, size))
            log.add(
                "notification_sent", times[1], 0, related=rng.choice(self.students, size), object=1, a=1, flags=logs.CLI
            )
            log.add("course_viewed", times[2], 1, course=1)
        log, last = self.logs[-1], self.classes[-1]
        copy = max(last, key=lambda item: len(item.users))
        size = max(1, self.parameters.log_rows // 1000)
        pages = [resource.module for resource in copy.resources if resource.module.modname == "resource"]
        if pages:
            chosen = rng.integers(len(pages), size=size)
            log.add(
                "resource_viewed", copy.course.created + rng.integers(0, 60, size), rng.choice(self.students, size),
                course=copy.course.id, module=np.array([page.id for page in pages])[chosen],
                object=np.array([page.instance for page in pages])[chosen], flags=logs.RESTORED,
            )  # fmt: skip

    # The log

    def _log(self) -> Iterator[pa.Table]:
        """Every term's rows in order of time; page views fill up to the number asked for."""
        contexts = self.site.contexts()
        cells = [[_Views.weights(item, self.parameters.seed) for item in term] for term in self.classes]
        totals = np.array([sum(float(part.sum()) for part in term) for term in cells])
        free = self.parameters.log_rows - sum(log.rows for log in self.logs)
        per_term = np.random.default_rng([self.parameters.seed, 11]).multinomial(free, totals / totals.sum())
        self.last: dict[tuple[int, int], int] = {}
        top = int(self.students[-1]) + 1
        self.first_access, self.last_access = np.full(top, 2**31, np.int64), np.zeros(top, np.int64)
        first_id = 1
        for term, classes in enumerate(self.classes):
            log, self.logs[term] = self.logs[term], logs.Log()
            rng = np.random.default_rng([self.parameters.seed, 12, term])
            sums = np.array([float(part.sum()) for part in cells[term]])
            counts = rng.multinomial(per_term[term], sums / sums.sum())
            for item, weights, count in zip(classes, cells[term], counts, strict=True):
                newest, oldest = _Views(item, self.parameters.seed).add(log, weights, int(count))
                seen = newest > 0
                users = item.users[seen]
                np.minimum.at(self.first_access, users, oldest[seen])
                np.maximum.at(self.last_access, users, newest[seen])
                for user, time, left, back in zip(
                    users.tolist(), newest[seen].tolist(), item.left[seen], item.back[seen], strict=True
                ):
                    if left == 0 or back:
                        self.last[user, item.course.id] = time
            rows = log.rows
            yield from logs.render(log, contexts, first_id, address)
            first_id += rows

    def _accesses(self) -> None:
        order = sorted(self.last.items(), key=lambda item: item[1])
        self.site.add(
            "user_lastaccess", userid=[user for (user, _), _ in order], courseid=[course for (_, course), _ in order],
            timeaccess=[time for _, time in order],
        )  # fmt: skip
        self.first_access[self.first_access == 2**31] = 0
        self.site.store_users(self.first_access, self.last_access, self.deleted)


class _Course:
    """Builds one course of one term: its modules, its students' fates, and what follows from them."""

    def __init__(self, owner: Synthetic, course: Course, number: int, mix: dict[str, Any], chosen: Ints) -> None:
        self.site, self.mix, self.course = owner.site, mix, course
        self.rng = rng = np.random.default_rng([owner.parameters.seed, 10, number])
        teachers = rng.choice(owner.staff, 2, replace=False)[: 1 + int(rng.random() < 0.3)]
        users, ability, trait = owner.students[chosen], owner.ability[chosen], owner.trait[chosen]
        size = len(users)
        engagement = np.empty((size, WEEKS))
        engagement[:, 0] = 0.75 * trait + 0.6 * rng.normal(size=size)
        for week in range(1, WEEKS):
            drift = rng.normal(0, 0.3, size) - 0.03
            engagement[:, week] = 0.2 * 0.06 * trait + 0.985 * engagement[:, week - 1] + drift
        self.it = _Class(
            course, number, mix, teachers, users, ability, engagement, np.zeros(size, np.int64),
            np.zeros(size, np.int64), np.zeros(size, np.int64),
        )  # fmt: skip
        self.week0 = course.end - WEEKS * WEEK  # Monday of week 0
        self.teacher = int(teachers[0])

    def build(self) -> _Class:
        self._fates()
        self._modules()
        self._enrol()
        marks = self._assessments()
        self._forums()
        self._end(marks)
        self._teaching()
        return self.it

    def _fates(self) -> None:
        """When each student enrols, whether and when they leave, and whether they come back."""
        it, rng, size = self.it, self.rng, len(self.it.users)
        it.enrolled = self.course.start - rng.integers(1, 20 * DAY, size)
        late = rng.random(size) < 0.06
        it.enrolled[late] = self.course.start + rng.integers(8 * HOUR, 12 * DAY, int(late.sum()))
        left = np.zeros(size, np.int64)
        early = ~late & (rng.random(size) < 0.015)
        left[early] = it.enrolled[early] + (
            (self.course.start - it.enrolled[early]) * rng.random(int(early.sum()))
        ).astype(np.int64)
        for week in range(WEEKS - 1):
            logit = -5.15 - 0.95 * it.engagement[:, week] - 0.25 * it.ability + (0.5 if week in (1, 2, 3) else 0)
            gone = (left == 0) & (rng.random(size) < _sigmoid(logit))
            when = self.week0 + week * WEEK + rng.integers(0, 7, size) * DAY + rng.integers(8 * HOUR, 20 * HOUR, size)
            gone &= when > it.enrolled + DAY
            left[gone] = when[gone]
        back = (left > self.course.start) & (left < self.course.end - 5 * WEEK) & (rng.random(size) < 0.04)
        it.left = left
        it.back = np.where(back, left + rng.integers(3 * DAY, 9 * DAY, size), 0)

    def present(self, times: Ints) -> npt.NDArray[np.bool_]:
        """Whether each student is enrolled at a time of their own."""
        it = self.it
        return (times >= it.enrolled) & ((it.left == 0) | (times < it.left) | ((it.back > 0) & (times >= it.back)))

    # Modules

    def _modules(self) -> None:
        rng = self.rng
        counts = {kind: round(value) for kind, value in self.mix["modules"].items()}
        if self.mix["archetype"] != "inactive" and counts.get("assign", 0) + counts.get("quiz", 0) < 3:
            counts["assign"] = 3 - counts.get("quiz", 0)
        self.assessments: list[tuple[_Resource, int, float]] = []
        plan: list[tuple[int, str, int]] = []  # week, type, number
        for kind, count in counts.items():
            span = np.sort(rng.integers(0, WEEKS, count)) if kind in (*CONTENT, "label") else np.arange(count)
            if kind in ("assign", "quiz"):
                span = np.linspace(2, WEEKS - 2, count + 1)[1:].astype(int) if count > 1 else np.array([8])
            plan += [(int(week), kind, place) for place, week in enumerate(span, 1)]
        graded = sum(1 for _, kind, _ in plan if kind in ("assign", "quiz"))
        for week, kind, place in sorted(plan):
            self._module(kind, place, week, 60 / graded if graded else 0.0)

    def _module(self, kind: str, place: int, week: int, weight: float) -> None:
        """One module: there from the beginning, or added in its week; some are updated, hidden or removed later."""
        site, rng, course, teacher = self.site, self.rng, self.course, self.teacher
        added, first, last = course.created + 60 * (place + week), ALWAYS[0], ALWAYS[1]
        fate, values = "", dict[str, Any]()
        if kind in CONTENT:
            if week > 0 and rng.random() < 0.3:
                first = week
                added = self.week0 + week * WEEK + 6 * HOUR + int(rng.integers(0, HOUR))
            fate = str(rng.choice(["", "updated", "hidden", "removed"], p=[0.86, 0.05, 0.045, 0.045]))
        if kind == "assign":
            due = self.week0 + week * WEEK + 6 * DAY + 22 * HOUR
            values = {"duedate": due, "grade": 100, "completionsubmit": 1, "allowsubmissionsfromdate": due - 3 * WEEK}
        elif kind == "quiz":
            due = self.week0 + week * WEEK + 6 * DAY + 22 * HOUR
            values = {
                "timeopen": due - 2 * WEEK, "timeclose": due, "sumgrades": 10.0, "grade": 100.0, "attempts": 2,
                "preferredbehaviour": "deferredfeedback", "timecreated": added,
            }  # fmt: skip
        elif kind == "url":
            values = {"externalurl": f"https://example.org/{course.shortname}/{place}"}
        elif kind in ("book", "h5pactivity"):
            values = {"timecreated": added}
        elif kind == "scorm":
            values = {"version": "SCORM_1.2", "maxgrade": 100.0}
        change = max(week + int(rng.integers(1, 6)), first + 1)
        when = self.week0 + change * WEEK - int(rng.integers(10, 25)) * 60
        if change >= WEEKS:
            fate = ""
        if fate in ("hidden", "removed"):
            last = change - 1
        name = f"{kind.capitalize()} {place}"
        module = site.module(
            course, kind, name, section=week + 1 if kind != "forum" else 0, added=added, by=teacher,
            completion=2 if kind in ("assign", "quiz") else 0, visible=int(fate != "hidden"), stored=fate != "removed",
            **values,
        )  # fmt: skip
        if fate in ("updated", "hidden"):
            text = site.log.text(modulename=kind, instanceid=module.instance, name=name)
            site.log.add("module_updated", when, teacher, course=course.id, module=module.id, object=module.id, a=text)
        if fate == "removed":
            text = site.log.text(modulename=kind, instanceid=module.instance)
            site.log.add("module_deleted", when, teacher, course=course.id, module=module.id, object=module.id, a=text)
        resource = _Resource(module, kind, first, last, week, kind in ("assign", "quiz"))
        self.it.resources.append(resource)
        if kind == "resource" and fate != "removed":
            self._file(module, added)
        if kind == "book" and fate != "removed":
            site.add("book_chapters", bookid=module.instance, pagenum=[1, 2, 3], title=["One", "Two", "Three"],
                     content="", timecreated=added, timemodified=added)  # fmt: skip
        if kind in ("assign", "quiz"):
            site.grade_item(module, round(weight, 2), added, PASS_MARK)
            self.assessments.append((resource, due, weight))

    def _file(self, module: Module, added: int) -> None:
        """The file behind a resource."""
        name, context = f"{module.name.lower().replace(' ', '-')}.pdf", self.site.module_context(module)
        path = f"/{context}/mod_resource/content/0/{name}"
        self.site.add(
            "files", contenthash=_sha1(f"{self.course.shortname}{path}"), pathnamehash=_sha1(path), contextid=context,
            component="mod_resource", filearea="content", itemid=0, filepath="/", filename=name, userid=self.teacher,
            filesize=int(self.rng.integers(20_000, 5_000_000)), mimetype="application/pdf", timecreated=added,
            timemodified=added,
        )  # fmt: skip

    def _enrol(self) -> None:
        site, course, it, rng = self.site, self.course, self.it, self.rng
        created = np.array([course.created], np.int64)
        for place, teacher in enumerate(it.teachers):
            role = EDITINGTEACHER if place == 0 else TEACHER
            site.enrol(course, np.array([teacher]), role, created + 30, flags=logs.CLI)
        site.add("course_completion_criteria", course=course.id, criteriatype=6, gradepass=PASS_MARK)
        suspended = (rng.random(len(it.users)) < 0.008) & (it.left == 0)
        ids = site.enrol(course, it.users, STUDENT, it.enrolled, it.left, flags=logs.WS, suspended=suspended)
        site.log.add(
            "enrolment_updated", np.maximum(it.enrolled, course.start)[suspended] + 6 * WEEK, self.teacher,
            course=course.id, related=it.users[suspended], object=ids[suspended],
        )  # fmt: skip
        back = it.back > 0
        if back.any():
            site.enrol(course, it.users[back], STUDENT, it.back[back], flags=logs.WS)
        if len(it.users) > 1:
            halves = np.array_split(it.users[it.left == 0], 2)
            for name, members in zip(("Group A", "Group B"), halves, strict=True):
                number = site.add(
                    "groups", courseid=course.id, name=name, timecreated=course.created, timemodified=course.created
                )[0]
                if len(members):
                    site.add("groups_members", groupid=int(number), userid=members, timeadded=course.start)

    # Work

    def _assessments(self) -> Floats:
        """Submissions, attempts and grades; return each student's sum of weighted marks (0 to 60)."""
        it, rng = self.it, self.rng
        marks = np.zeros(len(it.users))
        for resource, due, weight in self.assessments:
            engagement = it.engagement[:, resource.week]
            size = len(it.users)
            chance = _sigmoid(1.5 + 1.15 * engagement + 0.35 * it.ability)
            delay = -rng.exponential(1.3 * DAY, size) * np.exp(0.25 * engagement)
            is_late = rng.random(size) < 0.1 * np.exp(-0.4 * engagement)
            times = due + np.where(is_late, rng.exponential(0.7 * DAY, size), np.maximum(delay, -12 * DAY)).astype(
                np.int64
            )
            done = (rng.random(size) < chance) & self.present(times)
            score = 63 + 8 * it.ability + 6 * engagement + self.mix["difficulty"] + rng.normal(0, 11, size)
            score = np.round(np.clip(score, 0, 100), 0)
            which = np.flatnonzero(done)
            which = which[np.argsort(times[which], kind="stable")]
            if resource.module.modname == "assign":
                marks += self._assignment(resource.module, due, which, times, score) * weight / 100
            else:
                marks += self._quiz(resource.module, due, which, times, score) * weight / 100
        return marks

    def _assignment(self, module: Module, due: int, which: Ints, times: Ints, score: Floats) -> Floats:
        site, it, rng = self.site, self.it, self.rng
        users, submitted = it.users[which], times[which]
        at = {"course": self.course.id, "module": module.id}
        ids = site.add(
            "assign_submission", assignment=module.instance, userid=users, timecreated=submitted,
            timemodified=submitted, status="submitted", latest=1,
        )  # fmt: skip
        site.log.add("assign_submitted", submitted, users, object=ids, **at)
        self._completions(module, users, submitted)
        marked = due + int(rng.integers(3, 11)) * DAY - 12 * HOUR  # the teacher marks them in one go, from 10:00 on
        graded = np.maximum(marked, (submitted // DAY + 1) * DAY + 10 * HOUR) + 150 * np.arange(len(which))
        there = self._present(which, graded)
        which, users, submitted, graded = which[there], users[there], submitted[there], graded[there]
        result = np.zeros(len(it.users))
        result[which] = score[which]
        if not len(which):
            return result
        raised = rng.random(len(which)) < 0.03
        before = np.where(raised, np.maximum(score[which] - 6, 0), np.nan)
        again = np.where(raised, graded + DAY, graded)
        ids = site.add(
            "assign_grades", assignment=module.instance, userid=users, timecreated=graded, timemodified=again,
            grader=self.teacher, grade=score[which],
        )  # fmt: skip
        site.log.add("assign_graded", graded, self.teacher, object=ids, related=users, **at)
        site.log.add("assign_grading", int(graded[0]) - 60, self.teacher, a=module.instance, **at)
        site.grades(
            module.item, self.course.id, users, score[which], submitted, again, it.left[which], "mod/assign",
            self.teacher, earlier=(before, graded),
        )  # fmt: skip
        return result

    def _present(self, which: Ints, times: Ints) -> npt.NDArray[np.bool_]:
        it = self.it
        left, back = it.left[which], it.back[which]
        return (left == 0) | (times < left) | ((back > 0) & (times >= back))

    def _quiz(self, module: Module, due: int, which: Ints, times: Ints, score: Floats) -> Floats:
        site, it, rng = self.site, self.it, self.rng
        course = self.course.id
        finish = np.minimum(times[which], due)
        first = np.clip(score[which] - np.where(rng.random(len(which)) < 0.5, 0, 8), 0, 100)
        twice = (first < score[which]) & (finish + 2 * HOUR < due)
        twice &= self._present(which, finish + 2 * HOUR)
        result = np.zeros(len(it.users))
        result[which] = np.where(twice, score[which], first)
        if not len(which):
            return result
        for attempt, chosen, ends, points in (
            (1, np.ones(len(which), bool), finish, first), (2, twice, finish + 2 * HOUR, score[which])
        ):  # fmt: skip
            users, end = it.users[which][chosen], ends[chosen]
            begin = end - rng.integers(600, 2700, len(users))
            begin = np.maximum(begin, it.enrolled[which][chosen])
            ids = site.new_ids("quiz_attempts", len(users))
            site.add(
                "quiz_attempts", id=ids, quiz=module.instance, userid=users, attempt=attempt, uniqueid=ids,
                layout="1,2,0,3,4,0,5,0", state="finished", timestart=begin, timefinish=end, timemodified=end,
                sumgrades=points[chosen] / 10,
            )  # fmt: skip
            at = {"course": course, "module": module.id, "object": ids, "related": users}
            site.log.add("quiz_started", begin, users, **at)
            site.log.add("quiz_attempt_viewed", begin + 1, users, a=module.instance, **at)
            site.log.add("quiz_submitted", end, users, a=users, b=module.instance, **at)
        users, graded = it.users[which], np.where(twice, finish + 2 * HOUR, finish)
        self._completions(module, users, finish)
        site.add("quiz_grades", quiz=module.instance, userid=users, grade=result[which], timemodified=graded)
        site.grades(
            module.item, course, users, result[which], graded, graded, it.left[which], "mod/quiz", users,
            earlier=(np.where(twice, first, np.nan), finish),
        )  # fmt: skip
        return result

    def _completions(self, module: Module, users: Ints, times: Ints) -> None:
        ids = self.site.add(
            "course_modules_completion", coursemoduleid=module.id, userid=users, completionstate=1, timemodified=times
        )
        self.site.log.add(
            "module_completion", times, users, course=self.course.id, module=module.id, object=ids, related=users,
            a=users, b=1,
        )  # fmt: skip

    def _forums(self) -> None:
        """One discussion a forum and week, begun by the teacher; students answer as they are engaged."""
        site, it, rng = self.site, self.it, self.rng
        forums = [resource for resource in it.resources if resource.module.modname == "forum"]
        rate = self.mix["posts"] / max(len(forums), 1)
        for resource in forums:
            module = resource.module
            at = {"course": self.course.id, "module": module.id}
            if rate == 0:
                continue
            begun = self.week0 + np.arange(WEEKS) * WEEK + 6 * HOUR + rng.integers(0, HOUR, WEEKS)
            resource.discussions = site.new_ids("forum_discussions", WEEKS)
            opening = site.new_ids("forum_posts", WEEKS)
            last = np.array(begun)
            for week in range(WEEKS):
                number = rng.poisson(rate * np.exp(0.7 * it.engagement[:, week]))
                who = np.repeat(np.arange(len(it.users)), number)
                when = begun[week] + HOUR + rng.integers(0, 6 * DAY, len(who))
                okay = self._present(who, when) & (when >= it.enrolled[who])
                who, when = who[okay], when[okay]
                order = np.argsort(when, kind="stable")
                who, when = who[order], when[order]
                if not len(who):
                    continue
                ids = site.add(
                    "forum_posts", discussion=int(resource.discussions[week]), parent=int(opening[week]),
                    userid=it.users[who], created=when, modified=when, subject=f"Re: Week {week + 1}",
                    message="<p>I think so too.</p>", messageformat=1, wordcount=4, charcount=14,
                )  # fmt: skip
                site.log.add(
                    "post_created",
                    when,
                    it.users[who],
                    object=ids,
                    a=int(resource.discussions[week]),
                    b=module.instance,
                    **at,
                )
                last[week] = when[-1]
            names = [f"Week {week + 1}" for week in range(WEEKS)]
            site.add(
                "forum_posts", id=opening, discussion=resource.discussions, parent=0, userid=self.teacher, created=begun,
                modified=begun, subject=names, message="<p>What do you think?</p>", messageformat=1, wordcount=4, charcount=16,
            )  # fmt: skip
            site.add(
                "forum_discussions", id=resource.discussions, course=self.course.id, forum=module.instance, name=names,
                firstpost=opening, userid=self.teacher, timemodified=last, usermodified=self.teacher,
            )  # fmt: skip
            site.log.add(
                "discussion_created", begun, self.teacher, object=resource.discussions, a=module.instance, **at
            )

    def _end(self, marks: Floats) -> None:
        """Examination, course total, completion."""
        site, it, rng, course = self.site, self.it, self.rng, self.course
        item = site.add(
            "grade_items", courseid=course.id, itemname="Examination", itemtype="manual", gradepass=PASS_MARK,
            aggregationcoef=40.0, sortorder=1000, timecreated=course.created, timemodified=course.created,
        )  # fmt: skip
        stays = np.flatnonzero((it.left == 0) | (it.back > 0))
        engagement = it.engagement[stays, -1]
        sits = rng.random(len(stays)) < _sigmoid(2.2 + 1.1 * engagement)
        exam = np.round(np.clip(60 + 9 * it.ability[stays] + 6 * engagement + rng.normal(0, 12, len(stays)), 0, 100))
        exam = np.where(sits, exam, 0.0)
        whole = 100 if self.assessments else 40
        total = np.round((marks[stays] + exam * 0.4) / whole * 100, 2)
        time = np.full(len(stays), course.end - 2 * DAY + 10 * HOUR) + 60 * np.arange(len(stays))
        left = np.zeros(len(stays), np.int64)
        users = it.users[stays]
        if sits.any():
            site.grades(
                int(item[0]), course.id, users[sits], exam[sits], time[sits] - 3 * DAY, time[sits], left[sits],
                "gradebook", self.teacher, overridden=True,
            )  # fmt: skip
        if len(stays):
            final = np.full(len(stays), course.end - HOUR)
            site.grades(
                course.item, course.id, users, total, left, final, left, "aggregation", ADMIN, overridden=True, actor=-1
            )
        passed = total >= PASS_MARK
        if passed.any():
            ids = site.add(
                "course_completions", userid=users[passed], course=course.id, timeenrolled=it.enrolled[stays][passed],
                timestarted=np.maximum(it.enrolled[stays][passed], course.start), timecompleted=course.end,
            )  # fmt: skip
            site.log.add(
                "course_completed", np.full(int(passed.sum()), course.end), users[passed], course=course.id, object=ids,
                related=users[passed], a=users[passed], flags=logs.CLI,
            )  # fmt: skip

    def _teaching(self) -> None:
        """What teachers look at: the course, its modules, the grader report; some hundreds of rows a term."""
        site, it, rng = self.site, self.it, self.rng
        at = {"course": self.course.id}
        for place, teacher in enumerate(it.teachers):
            size = int(rng.poisson(self.mix["staff"] * WEEKS / (1 + 2 * place)))
            times = self.week0 + rng.integers(0, 7 * WEEKS, size) * DAY + rng.integers(8 * HOUR, 19 * HOUR, size)
            kind = rng.random(size)
            who = int(teacher)
            site.log.add("user_loggedin", times[kind < 0.3] - 20, who, object=who, a=who)
            site.log.add("course_viewed", times[kind < 0.6], who, **at)
            site.log.add("grader_viewed", times[kind >= 0.9], who, **at)
            viewed = times[(kind >= 0.6) & (kind < 0.9)]
            shown = [
                r.module
                for r in it.resources
                if r.first == ALWAYS[0] and r.last == ALWAYS[1] and r.weight_type != "label"
            ]
            for module in shown[:1]:
                site.log.add(f"{module.modname}_viewed", viewed, who, module=module.id, object=module.instance, **at)


class _Views:
    """Page views of one course in one term: when, by whom, of what."""

    def __init__(self, item: _Class, seed: int) -> None:
        self.item = item
        self.rng = np.random.default_rng([seed, 14, item.number])
        self.week0 = item.course.end - WEEKS * WEEK

    @staticmethod
    def spans(item: _Class) -> tuple[Ints, Ints]:
        """Per student and week -2 to 16 from when to when they can be on the course page; equal when they can't."""
        week0 = item.course.end - WEEKS * WEEK
        begin = week0 + np.arange(-BEFORE, WEEKS + AFTER) * WEEK
        low = np.maximum(begin[None, :], item.enrolled[:, None])
        high = np.broadcast_to(begin + WEEK - 40 * 60, low.shape)
        back = item.back[:, None]
        away = (item.left[:, None] > 0) & ((back == 0) | (low < back))
        low, high = np.array(low), np.where(away, np.minimum(high, item.left[:, None]), high)
        returns = (back > 0) & (begin[None, :] <= back) & (back < begin[None, :] + WEEK - DAY)
        low, high = np.where(returns, back, low), np.where(returns, begin[None, :] + WEEK - 40 * 60, high)
        return low, np.maximum(low, high)

    @staticmethod
    def weights(item: _Class, seed: int) -> Floats:
        """Expected activity per student and week, any unit: engagement, season and noise, by the time enrolled."""
        rng = np.random.default_rng([seed, 13, item.number])
        engagement = np.concatenate(
            [
                np.repeat(item.engagement[:, :1], BEFORE, 1),
                item.engagement,
                np.repeat(item.engagement[:, -1:], AFTER, 1),
            ],
            1,
        )
        low, high = _Views.spans(item)
        noise = rng.gamma(1.6, 1 / 1.6, engagement.shape)
        return item.mix["scale"] * np.exp(0.75 * engagement) * SEASON * noise * (high - low) / WEEK

    def add(self, log: logs.Log, weights: Floats, count: int) -> tuple[Ints, Ints]:
        """Append `count` events to the log; return each student's last and first of them, 0 for none."""
        rng, item = self.rng, self.item
        newest, oldest = np.zeros(len(item.users), np.int64), np.zeros(len(item.users), np.int64)
        if count == 0:
            return newest, oldest
        flat = weights.ravel()
        events = rng.multinomial(count, flat / flat.sum())
        # Sessions: some six events each; every event of a cell (student, week) falls into one of its sessions.
        sessions = np.where(events > 0, 1 + rng.binomial(np.maximum(events - 1, 0), 0.14), 0)
        offsets = np.cumsum(sessions) - sessions
        chosen = np.repeat(offsets, events) + (rng.random(count) * np.repeat(sessions, events)).astype(np.int64)
        sizes = np.bincount(chosen, minlength=int(sessions.sum()))
        cell = np.repeat(np.arange(len(flat)), sessions)[sizes > 0]
        sizes = sizes[sizes > 0]
        begins = np.cumsum(sizes) - sizes
        place = np.arange(count) - np.repeat(begins, sizes)
        low, high = (part.ravel() for part in self.spans(item))
        start = self._session_times(cell, low, high)
        step = rng.integers(15, 110, len(sizes))
        time = np.repeat(start, sizes) + place * np.repeat(step, sizes)
        event_cell = np.repeat(cell, sizes)
        time = np.minimum(time, high[event_cell] - 1)
        student, week = event_cell // weights.shape[1], event_cell % weights.shape[1] - BEFORE
        self._append(log, time, student, week, place, np.repeat(sizes, sizes))
        np.maximum.at(newest, student, time)
        oldest[:] = 2**31
        np.minimum.at(oldest, student, time)
        return newest, oldest

    def _session_times(self, cell: Ints, low: Ints, high: Ints) -> Ints:
        """A time of day people work at, or, in a week someone enrols or leaves, any time of theirs."""
        rng, size = self.rng, len(cell)
        begin = self.week0 + (cell % (BEFORE + WEEKS + AFTER) - BEFORE) * WEEK
        day = rng.choice(7, size, p=DAYS / DAYS.sum())
        hour = rng.choice(24, size, p=HOURS / HOURS.sum())
        usual = begin + day * DAY + hour * HOUR + rng.integers(0, HOUR, size)
        anywhere = low[cell] + (rng.random(size) * (high[cell] - low[cell])).astype(np.int64)
        return np.where((usual >= low[cell]) & (usual < high[cell]), usual, anywhere)

    def _append(self, log: logs.Log, time: Ints, student: Ints, week: Ints, place: Ints, size: Ints) -> None:
        """Choose what each event is: a session begins with the login and the course page, then come its modules."""
        item, rng, count = self.item, self.rng, len(time)
        code = np.full(count, logs.CODES["course_viewed"], np.int16)
        module, target, a = (np.zeros(count, np.int32) for _ in range(3))
        user = item.users[student]
        login = (place == 0) & (size >= 4)
        code[login] = logs.CODES["user_loggedin"]
        target[login] = a[login] = user[login]
        grades = (place == 1) & (rng.random(count) < 0.06)
        code[grades] = logs.CODES["grades_viewed"]
        inside = np.flatnonzero(place >= np.where(size >= 4, 2, 1))
        inside = inside[np.argsort(week[inside], kind="stable")]
        edges = np.searchsorted(week[inside], np.arange(-BEFORE, WEEKS + AFTER + 1))
        resources = [resource for resource in item.resources if resource.weight_type != "label"]
        for number, current in enumerate(range(-BEFORE, WEEKS + AFTER)):
            rows = inside[edges[number] : edges[number + 1]]
            shares = self._shares(resources, current)
            if not len(rows) or shares.sum() == 0:
                continue
            chosen = rng.choice(len(resources), len(rows), p=shares / shares.sum())
            variant = rng.random(len(rows)) < 0.55
            codes, targets, values = self._variants(resources, current)
            code[rows] = codes[variant.astype(int), chosen]
            target[rows] = targets[variant.astype(int), chosen]
            a[rows] = values[variant.astype(int), chosen]
            module[rows] = np.array([resource.module.id for resource in resources])[chosen]
        flags = np.zeros(count, np.int8)
        draw = rng.random(count)
        flags[draw < 0.002] = logs.ANONYMOUS
        flags[(draw >= 0.002) & (draw < 0.003)] = logs.LOGIN_AS
        course = np.where(code == logs.CODES["user_loggedin"], 0, item.course.id)
        log.add_codes(code, time=time, user=user, course=course, module=module, object=target, a=a, flags=flags)

    def _shares(self, resources: list[_Resource], week: int) -> Floats:
        """How likely a view of this week goes to each resource."""
        activity = self.item.mix["activity"]
        shares = np.zeros(len(resources))
        for place, resource in enumerate(resources):
            if resource.first <= week <= resource.last:
                distance = abs(week - resource.week)
                if resource.due:
                    near = np.exp(-distance / 1.2) + 0.05 if week <= resource.week + 1 else 0.08
                else:
                    near = 1.0 if resource.weight_type == "forum" else np.exp(-distance / 2) + 0.12
                shares[place] = near
        for kind in {resource.weight_type for resource in resources}:
            mine = np.array([resource.weight_type == kind for resource in resources])
            total = shares[mine].sum()
            if total > 0:
                size = max(int(mine.sum()), 1)
                shares[mine] *= activity.get(kind, 0.02) / total * min(1.0, total / (0.3 * np.sqrt(size)) + 0.3)
        return shares

    def _variants(self, resources: list[_Resource], week: int) -> tuple[Any, Any, Any]:
        """Per variant (0, 1) and resource: the event's code, its object and its number `a`."""
        codes = np.zeros((2, len(resources)), np.int16)
        targets, values = np.zeros((2, len(resources)), np.int32), np.zeros((2, len(resources)), np.int32)
        for place, resource in enumerate(resources):
            kind, instance = resource.module.modname, resource.module.instance
            codes[:, place], targets[:, place] = logs.CODES[f"{kind}_viewed"], instance
            if kind == "assign":
                codes[1, place], targets[1, place], values[1, place] = logs.CODES["assign_status"], 0, instance
            if kind == "forum" and len(resource.discussions) and week >= 0:
                codes[1, place] = logs.CODES["discussion_viewed"]
                targets[1, place] = resource.discussions[min(week, WEEKS - 1)]
        return codes, targets, values
