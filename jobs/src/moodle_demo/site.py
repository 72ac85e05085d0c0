"""A Moodle site in the making: its tables' rows with their ids and contexts, and the log beside them.

Rows are kept column-wise and only with the columns that differ from Moodle's defaults.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moodle_demo import log as logs
from moodle_demo import schema

Ints = npt.NDArray[np.int64]
GUEST, ADMIN = 1, 2
MANAGER, EDITINGTEACHER, TEACHER, STUDENT = 1, 3, 4, 5
SITE_COURSE = 1
_ROLES = ("manager", "coursecreator", "editingteacher", "teacher", "student", "guest", "user", "frontpage")
MODULES = (
    "assign", "bigbluebuttonbn", "book", "chat", "choice", "data", "feedback", "folder", "forum", "glossary",
    "h5pactivity", "imscp", "label", "lesson", "lti", "page", "quiz", "resource", "scorm", "survey", "url", "wiki",
    "workshop",
)  # fmt: skip
BATCH = 100_000

# Parts kept until the end: users (id, username, first name, last name, idnumber, created), and the history of grades
# (action, time, id of the grade, source, by whom, columns of the grade, which of the rows).
_Users = tuple[Ints, list[str], list[str], list[str], list[str], Ints]
_History = tuple[int, Ints, Ints, str, Ints, dict[str, Any], npt.NDArray[np.bool_]]


@dataclass
class Course:
    """A course under construction: its ids, its sections (number -> course module ids), its life in epoch seconds."""

    id: int
    shortname: str
    context: int
    enrol: int
    category: int
    created: int
    start: int
    end: int
    item: int  # the grade item of its total
    sections: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    section_ids: dict[int, int] = field(default_factory=dict)


@dataclass
class Module:
    """A course module: ids of itself, its instance and its context."""

    id: int
    course: int
    modname: str
    instance: int
    name: str
    item: int = 0  # its grade item, 0 when it isn't graded


class Site:
    """Every table's rows but the log's, which `log` holds."""

    def __init__(self, created: int) -> None:
        self.created = created
        self.log = logs.Log()
        self._rows: dict[str, list[pa.Table]] = defaultdict(list)
        self._single: dict[str, list[dict[str, Any]]] = defaultdict(list)  # rows that came alone
        self._next: dict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
        self._contexts: dict[int, dict[int, int]] = defaultdict(dict)
        self._users: list[_Users] = []
        self._history: list[_History] = []
        self._base()

    # Rows and ids

    def add(self, table: str, **columns: Any) -> Ints:
        """Append rows to a table; scalars stand for every row; ids follow on unless given. Return the ids."""
        size = max((len(value) for value in columns.values() if _is_column(value)), default=1)
        ids = columns.pop("id", None)
        if ids is None:
            ids = self.new_ids(table, size)
        if size == 1 and all(not _is_column(value) or len(value) == 1 for value in columns.values()):
            row = {name: _only(value) if _is_column(value) else value for name, value in columns.items()}
            self._single[table].append({"id": int(ids[0]), **row})
            return np.asarray(ids)
        arrays = {"id": pa.array(ids)}
        for name, value in columns.items():
            array = pa.array(value) if _is_column(value) else pa.repeat(pa.scalar(value), size)
            if len(array) != size:
                raise ValueError(f"{table}.{name}: {len(array)} values for {size} rows")
            arrays[name] = array
        self._rows[table].append(pa.table(arrays))
        return np.asarray(ids)

    def new_ids(self, table: str, size: int) -> Ints:
        """Take the next ids of a table, for rows that may never be stored."""
        return np.fromiter(itertools.islice(self._next[table], size), np.int64, size)

    def tables(self) -> Iterator[tuple[str, list[pa.Table]]]:
        """Every table that has rows, each as Arrow tables of equal columns in the order of their ids."""
        for name in schema.tables():
            parts = self._rows.pop(name, [])
            kinds: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
            for row in self._single.pop(name, []):
                kinds[tuple(row)].append(row)
            parts += [pa.Table.from_pylist(rows) for rows in kinds.values()]
            if parts:
                table = pa.concat_tables(parts, promote_options="permissive")
                table = table.sort_by("id")
                yield name, [table.slice(start, BATCH) for start in range(0, table.num_rows, BATCH)]

    def contexts(self) -> logs.Contexts:
        """Context ids by course, course module and user, for the log."""
        arrays = []
        for level in (logs.COURSE, logs.MODULE, logs.USER):
            known = self._contexts[level]
            array = np.ones(max(known, default=0) + 1, np.int64)
            array[list(known)] = list(known.values())
            arrays.append(array)
        return logs.Contexts(*arrays)

    def _context(self, level: int, instances: Sequence[int] | Ints, parents: Sequence[str], depth: int) -> Ints:
        """One context per instance under its parent's path."""
        ids = self.new_ids("context", len(instances))
        paths = [f"{parent}/{number}" for parent, number in zip(parents, ids, strict=True)]
        self.add("context", id=ids, contextlevel=level, instanceid=instances, path=paths, depth=depth)
        self._contexts[level].update(zip(map(int, instances), map(int, ids), strict=True))
        return ids

    # What every site has

    def _base(self) -> None:
        created = self.created
        self._context(logs.SYSTEM, [0], [""], 1)
        self.add("role", name="", shortname=_ROLES, archetype=_ROLES, sortorder=range(1, len(_ROLES) + 1))
        self.add("modules", name=MODULES)
        self.add(
            "course", id=self.new_ids("course", 1), category=0, sortorder=1, fullname="Demo site", shortname="demo",
            format="site", timecreated=created, timemodified=created, cacherev=created,
        )  # fmt: skip
        self._context(logs.COURSE, [SITE_COURSE], ["/1"], 2)
        self.users(["guest", "admin"], ["Guest", "Admin"], ["user", "User"], ["", ""], created)

    def category(self, name: str, idnumber: str = "") -> int:
        """Add a course category of the top level."""
        number = int(self.new_ids("course_categories", 1)[0])
        self.add(
            "course_categories", id=[number], name=name, idnumber=idnumber, sortorder=number * 10000, depth=1,
            path=f"/{number}", timemodified=self.created,
        )  # fmt: skip
        self._context(40, [number], ["/1"], 2)
        return number

    def users(
        self,
        usernames: Sequence[str],
        first: Sequence[str],
        last: Sequence[str],
        idnumbers: Sequence[str],
        created: int | Ints,
        ids: Ints | None = None,
    ) -> Ints:
        """Reserve users with their contexts; return their ids. Their rows are added by `store_users`."""
        ids = self.new_ids("user", len(usernames)) if ids is None else ids
        self._context(logs.USER, ids, ["/1"] * len(ids), 2)
        created = np.broadcast_to(np.asarray(created, np.int64), len(ids))
        self._users.append((ids, list(usernames), list(first), list(last), list(idnumbers), created))
        real = ids > ADMIN
        self.log.add("user_created", created[real], ADMIN, object=ids[real], related=ids[real], flags=logs.CLI)
        return ids

    def store_users(self, first_access: Ints, last_access: Ints, deleted: dict[int, int] | None = None) -> None:
        """Add the rows of every user; the arrays are indexed by user id, epoch seconds, 0 for never.

        `deleted` has the time of deletion of deleted users, whose rows stay, scrambled as Moodle does.
        """
        deleted = deleted or {}
        for ids, usernames, first, last, idnumbers, created in self._users:
            emails = [f"{name}@example.org" for name in usernames]
            modified = np.array(created)
            for place, number in enumerate(ids.tolist()):
                if number in deleted:
                    modified[place] = deleted[number]
                    usernames[place] = f"{emails[place]}.{deleted[number]}"
                    emails[place] = hashlib.md5(emails[place].encode(), usedforsecurity=False).hexdigest()
                    idnumbers[place] = ""
            self.add(
                "user", id=ids, confirmed=1, mnethostid=1, username=usernames, firstname=first, lastname=last,
                idnumber=idnumbers, email=emails, deleted=np.isin(ids, list(deleted)).astype(np.int8),
                firstaccess=first_access[ids], lastaccess=last_access[ids], lastlogin=last_access[ids],
                currentlogin=last_access[ids],
                lastip=[_dotted(value) if value else "" for value in address(ids)],
                timecreated=created, timemodified=modified,
            )  # fmt: skip

    # Courses and what is in them

    def course(
        self, shortname: str, fullname: str, category: int, created: int, start: int, end: int, idnumber: str = ""
    ) -> Course:
        """Add a course with its context, its manual enrolment instance and the log's event of its creation."""
        number = int(self.new_ids("course", 1)[0])
        self.add(
            "course", id=[number], category=category, sortorder=category * 10000 + number, fullname=fullname,
            shortname=shortname, idnumber=idnumber, summary="", startdate=start, enddate=end, timecreated=created,
            timemodified=created, cacherev=created, enablecompletion=1,
        )  # fmt: skip
        context = int(self._context(logs.COURSE, [number], [f"/1/{self._contexts[40][category]}"], 3)[0])
        enrol = int(
            self.add(
                "enrol", enrol="manual", courseid=number, roleid=STUDENT, expirythreshold=86400, timecreated=created,
                timemodified=created,
            )[0]
        )  # fmt: skip
        item = int(
            self.add(
                "grade_items", courseid=number, itemtype="course", iteminstance=number, sortorder=1,
                timecreated=created, timemodified=created,
            )[0]
        )  # fmt: skip
        text = self.log.text(shortname=shortname, fullname=fullname)
        self.log.add("course_created", created, ADMIN, course=number, object=number, a=text)
        return Course(number, shortname, context, enrol, category, created, start, end, item)

    def module(
        self,
        course: Course,
        modname: str,
        name: str,
        *,
        section: int,
        added: int,
        by: int,
        completion: int = 0,
        visible: int = 1,
        availability: str | None = None,
        idnumber: str = "",
        stored: bool = True,
        **instance: Any,
    ) -> Module:
        """Add an activity or resource with its course module, context and the event of its creation.

        `stored=False`: it was there once, and only the log remembers it. Modules whose own table is not among those of
        schema.yml have a course module only.
        """
        number = int(self.new_ids("course_modules", 1)[0])
        made = int(self.new_ids(modname, 1)[0])
        if stored:
            if modname in schema.tables():
                self.add(modname, id=[made], course=course.id, name=name, timemodified=added, **instance)
            path = f"/1/{self._contexts[40][course.category]}/{course.context}"
            self._context(logs.MODULE, [number], [path], 4)
            if section not in course.section_ids:
                course.section_ids[section] = int(self.new_ids("course_sections", 1)[0])
            course.sections[section].append(number)
            self.add(
                "course_modules", id=[number], course=course.id, module=MODULES.index(modname) + 1, instance=made,
                section=course.section_ids[section], added=added, visible=visible, visibleold=visible,
                completion=completion, availability=availability, idnumber=idnumber,
            )  # fmt: skip
        else:
            self._contexts[logs.MODULE][number] = int(self.new_ids("context", 1)[0])
        text = self.log.text(modulename=modname, instanceid=made, name=name)
        self.log.add("module_created", added, by, course=course.id, module=number, object=number, a=text)
        return Module(number, course.id, modname, made, name)

    def module_context(self, module: Module) -> int:
        """The id of a course module's context."""
        return self._contexts[logs.MODULE][module.id]

    def finish_course(self, course: Course) -> None:
        """Add the sections of a course, each with the sequence of its modules."""
        for section, modules in sorted(course.sections.items()):
            self.add(
                "course_sections", id=[course.section_ids[section]], course=course.id, section=section, summary="",
                summaryformat=1, sequence=",".join(map(str, modules)), timemodified=course.created,
            )  # fmt: skip

    def grade_item(self, module: Module, weight: float, created: int, gradepass: float = 40) -> int:
        """Add the grade item of an activity, 0 to 100; `weight` goes to aggregationcoef."""
        module.item = int(
            self.add(
                "grade_items", courseid=module.course, itemname=module.name, itemtype="mod", itemmodule=module.modname,
                iteminstance=module.instance, itemnumber=0, grademax=100.0, gradepass=float(gradepass),
                aggregationcoef=float(weight), sortorder=module.id, timecreated=created, timemodified=created,
            )[0]
        )  # fmt: skip
        return module.item

    # People in courses

    def enrol(
        self, course: Course, users: Ints, role: int, time: Ints, left: Ints | None = None, by: int = ADMIN,
        flags: int = 0, suspended: npt.NDArray[np.bool_] | None = None,
    ) -> Ints:  # fmt: skip
        """Enrol users with a role, and unenrol those whose `left` (epoch seconds) is not 0; return the enrolments' ids.

        As in Moodle an unenrolment deletes the rows of user_enrolments and role_assignments; the log keeps the row.
        """
        time = np.asarray(time, np.int64)
        left = np.zeros(len(users), np.int64) if left is None else left
        enrolments, roles = (self.new_ids(table, len(users)) for table in ("user_enrolments", "role_assignments"))
        stay = left == 0
        self.add(
            "user_enrolments", id=enrolments[stay], enrolid=course.enrol, userid=users[stay], timestart=time[stay],
            timeend=0, modifierid=by, timecreated=time[stay], timemodified=time[stay],
            status=0 if suspended is None else suspended[stay].astype(np.int8),
        )  # fmt: skip
        self.add(
            "role_assignments", id=roles[stay], roleid=role, contextid=course.context, userid=users[stay],
            timemodified=time[stay], modifierid=by,
        )  # fmt: skip
        at = {"course": course.id, "related": users, "flags": flags}
        self.log.add("enrolled", time, by, object=enrolments, **at)
        self.log.add("role_assigned", time, by, object=role, a=roles, **at)
        for i in np.flatnonzero(~stay):
            row = {
                "id": enrolments[i], "status": 0, "enrolid": course.enrol, "userid": users[i], "timestart": time[i],
                "timeend": 0, "modifierid": by, "timecreated": time[i], "timemodified": time[i], "courseid": course.id,
            }  # fmt: skip
            texts = {**{key: str(value) for key, value in row.items()}, "enrol": "manual", "lastenrol": True}
            text = self.log.text(userenrolment=texts, enrol="manual")
            self.log.add(
                "unenrolled", left[i], by, course=course.id, related=users[i], object=enrolments[i], a=text, flags=flags
            )
        gone = {"course": course.id, "related": users[~stay], "flags": flags}
        self.log.add("role_unassigned", left[~stay], by, object=role, a=roles[~stay], **gone)
        return enrolments

    def grades(
        self, item: int, course: int, users: Ints, grade: npt.NDArray[np.float64], submitted: Ints, graded: Ints,
        left: Ints, source: str, by: int | Ints, overridden: bool = False, actor: int | None = None,
        earlier: tuple[npt.NDArray[np.float64], Ints] | None = None,
    ) -> None:  # fmt: skip
        """Grades of one item with their history and events.

        `grade` 0 to 100, NaN for none yet; `submitted` 0 when there was no submission; `left` 0 or the unenrolment,
        which deletes the grades given until then and leaves them in grade_grades_history only, as Moodle does.
        `by` graded, `actor` (by default the same) acts in the log. `earlier`: a grade (NaN: none) that stood before,
        and since when.
        """
        ids = self.new_ids("grade_grades", len(users))
        by = np.broadcast_to(np.asarray(by, np.int64), len(users))
        given = ~np.isnan(grade)
        known = np.where(given, graded, submitted)
        gone = (left > 0) & (known <= left)
        value = pa.array(np.where(given, grade, 0.0), mask=~given)
        override = np.where(given, graded, 0) if overridden else np.zeros(len(users), np.int64)
        now: dict[str, Any] = {
            "itemid": np.full(len(users), item), "userid": users, "rawgrade": _empty(value) if overridden else value,
            "finalgrade": value, "usermodified": by, "overridden": override,
        }  # fmt: skip
        keep = pa.array(~gone)
        self.add(
            "grade_grades", id=ids[~gone], **{name: pa.array(column).filter(keep) for name, column in now.items()},
            timecreated=pa.array(submitted, mask=submitted == 0).filter(keep),
            timemodified=pa.array(graded, mask=~given).filter(keep),
            aggregationstatus=np.where(given, "used", "novalue")[~gone],
        )  # fmt: skip
        before = np.zeros(len(users), bool)
        if earlier is not None:
            before = ~np.isnan(earlier[0])
            old = pa.array(np.where(before, earlier[0], 0.0), mask=~before)
            was = {**now, "rawgrade": old, "finalgrade": old}
            self._history.append((1, earlier[1], ids, source, by, was, before))
        self._history.append((1, known, ids, source, by, now, ~before))
        self._history.append((2, known, ids, source, by, now, before))
        self._history.append((3, left, ids, "userdelete", np.full(len(users), ADMIN), now, gone))
        actors = by if actor is None else np.full(len(users), actor)
        hundredths = np.round(np.where(given, grade, 0) * 100).astype(np.int64)
        if earlier is not None:
            first = np.round(np.where(before, earlier[0], 0) * 100).astype(np.int64)
            self._graded("user_graded", earlier[1], actors, course, item, ids, users, first, before)
        self._graded("user_graded", graded, actors, course, item, ids, users, hundredths, given)
        admin = np.full(len(users), ADMIN)
        self._graded("grade_deleted", left, admin, course, item, ids, users, hundredths, gone & given)

    def _graded(
        self, event: str, time: Ints, by: Ints, course: int, item: int, ids: Ints, users: Ints, hundredths: Ints,
        mask: npt.NDArray[np.bool_],
    ) -> None:  # fmt: skip
        self.log.add(
            event,
            time[mask],
            by[mask],
            course=course,
            object=ids[mask],
            related=users[mask],
            a=item,
            b=hundredths[mask],
        )

    def finish_history(self) -> None:
        """Store grade_grades_history in the order of time."""
        parts = []
        for action, time, ids, source, by, now, mask in self._history:
            keep = pa.array(mask)
            parts.append(
                pa.table(
                    {
                        "action": np.full(int(mask.sum()), action), "oldid": ids[mask],
                        "source": [source] * int(mask.sum()), "timemodified": time[mask], "loggeduser": by[mask],
                        **{name: pa.array(column).filter(keep) for name, column in now.items()},
                    }
                )
            )  # fmt: skip
        if parts:
            table = pa.concat_tables(parts, promote_options="permissive")
            table = table.take(pa.array(np.argsort(table["timemodified"].to_numpy(), kind="stable")))
            self.add("grade_grades_history", **{name: table[name] for name in table.column_names})
        self._history.clear()


def address(users: Ints) -> Ints:
    """The IPv4 address (32 bits) a user always comes from, in 10.0.0.0/8."""
    users = np.asarray(users, np.int64)
    return np.where(users > 0, (10 << 24) + (np.abs(users) * 2654435761 % (1 << 24)), 0)


def _dotted(value: int) -> str:
    return ".".join(str(int(value) >> shift & 255) for shift in (24, 16, 8, 0))


def _empty(values: pa.Array) -> pa.Array:
    return pa.nulls(len(values), values.type)


def _only(values: Any) -> Any:
    return values[0].as_py() if isinstance(values, (pa.Array, pa.ChunkedArray)) else values[0]


def _is_column(value: Any) -> bool:
    return isinstance(value, (np.ndarray, list, tuple, range, pa.Array, pa.ChunkedArray))
