"""The log store: the events the demo writes, kept compactly, put in time order and rendered as Moodle's rows.

An event takes some 35 bytes until it is written, so ten million fit into memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]

SYSTEM, USER, COURSE, MODULE = 10, 30, 50, 70  # Moodle's context levels

# Flags of one event.
ANONYMOUS, LOGIN_AS, CLI, RESTORED, WS, CLICKS = 1, 2, 4, 8, 16, 32
RESTORED_BY = 180 * 86400  # seconds by which history brought by a course restore is older than its place in the log

# `other` is JSON text; these stand for the two integers kept with an event.
# {a} {b}: the integers; {b/100}: the second as a decimal with two digits; @: the text number a of the log.
# An event with the flag CLICKS stands for a clicks.
NULL = "null"


@dataclass(frozen=True)
class Event:
    """One kind of event as Moodle writes it; `other` is the template of its JSON."""

    eventname: str
    objecttable: str | None
    crud: str
    edulevel: int
    contextlevel: int
    other: str = NULL

    @property
    def component(self) -> str:
        """The plugin, the first part of the event's name."""
        return self.eventname.split("\\")[1]

    @property
    def action(self) -> str:
        """The verb, the last word of the event's name."""
        return self._name[1]

    @property
    def target(self) -> str:
        """What was acted upon, the event's name without its verb."""
        return self._name[0]

    @property
    def _name(self) -> tuple[str, str]:
        name = self.eventname.rsplit("\\", 1)[1].replace("loggedin", "_loggedin")
        target, _, action = name.replace("__", "_").rpartition("_")
        return target, action


def _viewed(module: str) -> Event:
    other = {"feedback": '{"anonymous":"2"}', "glossary": '{"mode":""}'}.get(module, NULL)
    return Event(f"\\mod_{module}\\event\\course_module_viewed", module, "r", 2, MODULE, other)


EVENTS: dict[str, Event] = {
    "user_created": Event(r"\core\event\user_created", "user", "c", 0, USER),
    "user_deleted": Event(r"\core\event\user_deleted", "user", "d", 0, USER, "@"),
    "user_loggedin": Event(
        r"\core\event\user_loggedin", "user", "r", 0, SYSTEM, '{"username":"user{a}","extrauserinfo":[]}'
    ),
    "dashboard_viewed": Event(r"\core\event\dashboard_viewed", None, "r", 0, USER),
    "login_failed": Event(
        r"\core\event\user_login_failed", None, "r", 0, SYSTEM, '{"username":"somebody{a}","reason":1}'
    ),
    "notification_sent": Event(r"\core\event\notification_sent", "notifications", "c", 0, SYSTEM, '{"courseid":"{a}"}'),
    "course_created": Event(r"\core\event\course_created", "course", "c", 1, COURSE, "@"),
    "course_updated": Event(r"\core\event\course_updated", "course", "u", 1, COURSE, "@"),
    "course_viewed": Event(r"\core\event\course_viewed", None, "r", 2, COURSE),
    "course_completed": Event(
        r"\core\event\course_completed", "course_completions", "u", 2, COURSE, '{"relateduserid":"{a}"}'
    ),
    "module_created": Event(r"\core\event\course_module_created", "course_modules", "c", 1, MODULE, "@"),
    "module_updated": Event(r"\core\event\course_module_updated", "course_modules", "u", 1, MODULE, "@"),
    "module_deleted": Event(r"\core\event\course_module_deleted", "course_modules", "d", 1, MODULE, "@"),
    "module_completion": Event(
        r"\core\event\course_module_completion_updated",
        "course_modules_completion",
        "u",
        2,
        MODULE,
        '{"relateduserid":"{a}","overrideby":null,"completionstate":{b}}',
    ),
    "enrolled": Event(r"\core\event\user_enrolment_created", "user_enrolments", "c", 0, COURSE, '{"enrol":"manual"}'),
    "enrolment_updated": Event(
        r"\core\event\user_enrolment_updated", "user_enrolments", "u", 0, COURSE, '{"enrol":"manual"}'
    ),
    "unenrolled": Event(r"\core\event\user_enrolment_deleted", "user_enrolments", "d", 0, COURSE, "@"),
    "role_assigned": Event(
        r"\core\event\role_assigned", "role", "c", 0, COURSE, '{"id":{a},"component":"","itemid":0}'
    ),
    "role_unassigned": Event(
        r"\core\event\role_unassigned", "role", "d", 0, COURSE, '{"id":"{a}","component":"","itemid":"0"}'
    ),
    "user_graded": Event(
        r"\core\event\user_graded",
        "grade_grades",
        "u",
        1,
        COURSE,
        '{"itemid":"{a}","overridden":false,"finalgrade":{b/100}}',
    ),
    "grade_deleted": Event(
        r"\core\event\grade_deleted",
        "grade_grades",
        "d",
        1,
        COURSE,
        '{"itemid":"{a}","overridden":false,"finalgrade":{b/100}}',
    ),
    "assign_submitted": Event(
        r"\mod_assign\event\assessable_submitted", "assign_submission", "u", 2, MODULE, '{"submission_editable":true}'
    ),
    "assign_graded": Event(r"\mod_assign\event\submission_graded", "assign_grades", "u", 1, MODULE),
    "assign_status": Event(r"\mod_assign\event\submission_status_viewed", None, "r", 0, MODULE, '{"assignid":"{a}"}'),
    "assign_grading": Event(r"\mod_assign\event\grading_table_viewed", None, "r", 1, MODULE, '{"assignid":"{a}"}'),
    "quiz_started": Event(r"\mod_quiz\event\attempt_started", "quiz_attempts", "c", 2, MODULE),
    "quiz_attempt_viewed": Event(
        r"\mod_quiz\event\attempt_viewed", "quiz_attempts", "r", 2, MODULE, '{"quizid":"{a}","page":"0"}'
    ),
    "quiz_submitted": Event(
        r"\mod_quiz\event\attempt_submitted",
        "quiz_attempts",
        "u",
        2,
        MODULE,
        '{"submitterid":"{a}","quizid":"{b}","studentisonline":true}',
    ),
    "quiz_reviewed": Event(r"\mod_quiz\event\attempt_reviewed", "quiz_attempts", "r", 2, MODULE, '{"quizid":"{a}"}'),
    "quiz_report": Event(
        r"\mod_quiz\event\report_viewed", None, "r", 1, MODULE, '{"quizid":"{a}","reportname":"overview"}'
    ),
    "discussion_viewed": Event(r"\mod_forum\event\discussion_viewed", "forum_discussions", "r", 2, MODULE),
    "discussion_created": Event(
        r"\mod_forum\event\discussion_created", "forum_discussions", "c", 2, MODULE, '{"forumid":{a}}'
    ),
    "post_created": Event(
        r"\mod_forum\event\post_created",
        "forum_posts",
        "c",
        2,
        MODULE,
        '{"discussionid":{a},"forumid":{b},"forumtype":"general"}',
    ),
    "grades_viewed": Event(r"\gradereport_user\event\grade_report_viewed", None, "r", 2, COURSE),
    "grader_viewed": Event(r"\gradereport_grader\event\grade_report_viewed", None, "r", 1, COURSE),
    **{
        f"{module}_viewed": _viewed(module)
        for module in (
            "assign",
            "bigbluebuttonbn",
            "book",
            "data",
            "feedback",
            "folder",
            "forum",
            "glossary",
            "h5pactivity",
            "lesson",
            "lti",
            "page",
            "quiz",
            "resource",
            "scorm",
            "url",
            "wiki",
        )
    },
}
CODES = {name: code for code, name in enumerate(EVENTS)}
_KINDS = list(EVENTS.values())

_FIELDS = {
    "time": np.int32,
    "user": np.int32,
    "course": np.int32,
    "module": np.int32,
    "object": np.int32,
    "related": np.int32,
    "a": np.int32,
    "b": np.int32,
    "flags": np.int8,
}


@dataclass(frozen=True)
class Contexts:
    """Context ids by course id, course module id and user id, each an array indexed by that id."""

    course: Ints
    module: Ints
    user: Ints


class Log:
    """Events of one stretch of time, appended in any order."""

    def __init__(self) -> None:
        self._chunks: list[dict[str, npt.NDArray[Any]]] = []
        self.texts: list[str] = []
        self.rows = 0

    def add(self, event: str, time: Any, user: Any, **fields: Any) -> None:
        """Append events of one kind; scalars stand for every event.

        `time` in epoch seconds, `user` who acted; course, module (course module id), object, related (the affected
        user), a, b (integers of `other`) and flags default to 0, which the table shows as NULL where it may.
        """
        time = np.atleast_1d(np.asarray(time))
        values = {"time": time, "user": user, **fields}
        size = len(time)
        if size == 0:
            return
        chunk: dict[str, npt.NDArray[Any]] = {"event": np.full(size, CODES[event], np.int16)}
        for name, kind in _FIELDS.items():
            value = np.asarray(values.pop(name, 0), kind)
            chunk[name] = np.full(size, value, kind) if value.ndim == 0 else value
            if len(chunk[name]) != size:
                raise ValueError(f"{event}: {name} has {len(chunk[name])} values for {size} events")
        if values:
            raise KeyError(f"{event}: unknown {sorted(values)}")
        self._chunks.append(chunk)
        self.rows += size

    def add_codes(self, codes: npt.NDArray[np.int16], **fields: npt.NDArray[Any]) -> None:
        """Append events of mixed kinds, given by their codes; fields as in `add`, arrays all."""
        size = len(codes)
        chunk: dict[str, npt.NDArray[Any]] = {"event": codes}
        for name, kind in _FIELDS.items():
            value = fields.get(name)
            chunk[name] = np.zeros(size, kind) if value is None else value.astype(kind, copy=False)
        self._chunks.append(chunk)
        self.rows += size

    def text(self, **values: Any) -> int:
        """Keep the JSON of an event whose `other` is a text of its own; return its number, the event's `a`."""
        self.texts.append(json.dumps(values, separators=(",", ":")))
        return len(self.texts) - 1

    def seal(self) -> dict[str, npt.NDArray[Any]]:
        """All events as one array a field, freeing the parts on the way."""
        names = ["event", *_FIELDS]
        return {name: np.concatenate([chunk.pop(name) for chunk in self._chunks]) for name in names}


def render(
    log: Log, contexts: Contexts, first_id: int, address: Callable[[Ints], Ints], batch: int = 200_000
) -> Iterator[pa.Table]:
    """The log in order of time as Arrow tables with logstore_standard_log's columns, ids from `first_id` on.

    `address` gives the IPv4 address of users as 32-bit numbers.
    """
    if not log.rows:
        return
    events = log.seal()
    order = np.argsort(events["time"], kind="stable")
    kinds = _kind_columns()
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        rows = {name: values[part] for name, values in events.items()}
        yield _table(rows, kinds, contexts, log.texts, first_id + start, address)


def _kind_columns() -> dict[str, pa.Array]:
    """Per column that depends on the kind of event alone, its value by event code."""
    return {
        "eventname": pa.array([kind.eventname for kind in _KINDS]),
        "component": pa.array([kind.component for kind in _KINDS]),
        "action": pa.array([kind.action for kind in _KINDS]),
        "target": pa.array([kind.target for kind in _KINDS]),
        "objecttable": pa.array([kind.objecttable for kind in _KINDS]),
        "crud": pa.array([kind.crud for kind in _KINDS]),
        "edulevel": pa.array([kind.edulevel for kind in _KINDS]),
        "contextlevel": pa.array([kind.contextlevel for kind in _KINDS]),
    }


def _table(
    rows: dict[str, npt.NDArray[Any]],
    kinds: dict[str, pa.Array],
    contexts: Contexts,
    texts: list[str],
    first_id: int,
    address: Callable[[Ints], Ints],
) -> pa.Table:
    code, flags = pa.array(rows["event"]), rows["flags"]
    level = kinds["contextlevel"].take(code).to_numpy()
    users = np.where(rows["related"] > 0, rows["related"], rows["user"])
    instance = np.select(
        [level == COURSE, level == MODULE, level == USER], [rows["course"], rows["module"], users], default=0
    )
    context = np.ones(len(instance), np.int64)
    for kind, table in ((COURSE, contexts.course), (MODULE, contexts.module), (USER, contexts.user)):
        mask = level == kind
        context[mask] = table[instance[mask]]
    restored = (flags & RESTORED) > 0
    origin = np.select([restored, (flags & CLI) > 0, (flags & WS) > 0], [0, 2, 3], default=1)
    scripted = (origin != 1) | (rows["user"] <= 0)
    object_id = np.where(restored & (rows["object"] > 0), -31337, rows["object"])
    columns: dict[str, Any] = {
        "id": np.arange(first_id, first_id + len(instance)),
        **{name: values.take(code) for name, values in kinds.items() if name not in ("edulevel", "contextlevel")},
        "objectid": pa.array(object_id, mask=object_id == 0),
        "edulevel": kinds["edulevel"].take(code),
        "contextid": context,
        "contextlevel": level,
        "contextinstanceid": instance,
        "userid": rows["user"],
        "courseid": rows["course"],
        "relateduserid": pa.array(rows["related"], mask=rows["related"] == 0),
        "anonymous": (flags & ANONYMOUS).astype(np.int8),
        "other": _other(rows, texts),
        "timecreated": rows["time"] - np.where(restored, RESTORED_BY, 0),
        "origin": pa.array([None, "web", "cli", "ws"]).take(pa.array(origin)),
        "ip": pc.if_else(pa.array(scripted), pa.scalar(None, pa.string()), _dotted(address(rows["user"]))),
        "realuserid": pa.array(np.full(len(instance), 2), mask=(flags & LOGIN_AS) == 0),
    }
    return pa.table(columns)


def _dotted(addresses: Ints) -> pa.Array:
    parts = [pc.cast(pa.array((addresses >> shift) & 255), pa.string()) for shift in (24, 16, 8, 0)]
    return pc.binary_join_element_wise(*parts, ".")


def _other(rows: dict[str, npt.NDArray[Any]], texts: list[str]) -> pa.Array:
    """The JSON of every event, kind by kind."""
    result = np.full(len(rows["event"]), NULL, object)
    for code in np.unique(rows["event"]):
        template = _KINDS[code].other
        where = np.flatnonzero(rows["event"] == code)
        if template == "@":
            result[where] = [texts[number] for number in rows["a"][where]]
        elif template != NULL:
            result[where] = _fill(template, rows["a"][where], rows["b"][where])
    where = np.flatnonzero(rows["flags"] & CLICKS)
    if len(where):
        result[where] = _fill('{"clicks":{a}}', rows["a"][where], rows["b"][where])
    return pa.array(result, pa.string())


def _fill(template: str, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if "{a}" not in template and "{b" not in template:
        return np.full(len(a), template, object)
    fraction = "{b/100}" in template
    pieces = template.replace("{b/100}", "\0b\0").replace("{a}", "\0a\0").replace("{b}", "\0b\0").split("\0")
    values = {"a": pc.cast(pa.array(a), pa.string())}
    if fraction:
        values["b"] = pa.array([f"{value / 100:g}" for value in b])
    else:
        values["b"] = pc.cast(pa.array(b), pa.string())
    parts: list[Any] = [values.get(piece, piece) for piece in pieces]
    return pc.binary_join_element_wise(*parts, "").to_numpy(zero_copy_only=False)
