"""The synthetic university: what is asked for, what Moodle would keep, and a risk that can be learnt but not read off."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from moodle_demo import log, synthetic
from moodle_demo.errors import UsageError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

WEEK = 7 * 86400
PARAMETERS = synthetic.Parameters(seed=5, courses=18, students=400, log_rows=90_000)
ARGUMENTS = ("--dataset", "synthetic", "--seed", "5", "--courses", "18", "--students", "400", "--log-rows", "90000")
LOG = "mdl_logstore_standard_log"


@pytest.fixture(scope="module")
def site(module_database, loader) -> Any:
    loader(module_database, *ARGUMENTS)
    return module_database


def made(parameters: synthetic.Parameters) -> dict[str, list[pa.Table]]:
    university = synthetic.Synthetic(parameters)
    university.build()
    return {name: list(batches) for name, batches in university.tables()}


def test_sizes_are_exact_and_seeds_repeat() -> None:
    small = synthetic.Parameters(seed=2, courses=4, students=40, log_rows=10_000)
    first, again = made(small), made(small)
    assert sum(part.num_rows for part in first["logstore_standard_log"]) == 10_000
    assert sum(part.num_rows for part in first["course"]) == 4 + 1
    assert {name: [part.to_pydict() for part in parts] for name, parts in first.items()} == {
        name: [part.to_pydict() for part in parts] for name, parts in again.items()
    }
    other = made(synthetic.Parameters(seed=3, courses=4, students=40, log_rows=10_000))
    assert other["logstore_standard_log"][0]["timecreated"] != first["logstore_standard_log"][0]["timecreated"]


def test_more_log_rows_are_more_page_views_only() -> None:
    few = made(synthetic.Parameters(courses=4, students=40, log_rows=10_000))
    many = made(synthetic.Parameters(courses=4, students=40, log_rows=30_000))
    assert sum(part.num_rows for part in many["logstore_standard_log"]) == 30_000
    for table in (
        "assign_submission",
        "quiz_attempts",
        "grade_grades_history",
        "course_completions",
        "user_enrolments",
    ):
        assert pa.concat_tables(few[table]).equals(pa.concat_tables(many[table])), table


def test_too_few_log_rows_are_refused_before_anything() -> None:
    with pytest.raises(UsageError, match=r"--log-rows 5000.*at least \d+"):
        made(synthetic.Parameters(students=400, courses=18, log_rows=5000))


def test_log_rows_are_in_order_of_time_and_in_their_contexts(site) -> None:
    assert site.query(f"SELECT COUNT(*), MIN(id), MAX(id) FROM {LOG}") == [(90_000, 1, 90_000)]
    backwards = f"SELECT COUNT(*) FROM {LOG} a JOIN {LOG} b ON b.id = a.id + 1 WHERE b.timecreated < a.timecreated AND b.origin IS NOT NULL"
    assert site.value(f"{backwards} AND a.origin IS NOT NULL") == 0
    lost = site.query(
        f"SELECT DISTINCT l.contextlevel, l.contextinstanceid FROM {LOG} l LEFT JOIN mdl_context x ON x.id = l.contextid AND"
        " x.contextlevel = l.contextlevel AND x.instanceid = l.contextinstanceid WHERE x.id IS NULL"
    )
    deleted = site.query(rf"SELECT 70, objectid FROM {LOG} WHERE eventname = '\\core\\event\\course_module_deleted'")
    assert set(lost) == set(deleted)
    assert site.value(f"SELECT COUNT(*) FROM {LOG} WHERE NOT JSON_VALID(other) OR other IS NULL") == 0


def test_terms_have_fixed_dates(site) -> None:
    starts = sorted({row[0] for row in site.query("SELECT startdate FROM mdl_course WHERE id > 1")})
    ends = {row[0] for row in site.query("SELECT enddate FROM mdl_course WHERE id > 1")}
    firsts = [1727654400, 1740960000, 1759104000]  # 30 September 2024, 3 March and 29 September 2025
    assert {min(firsts, key=lambda first: abs(first - start)) for start in starts} == set(firsts)
    assert all(start - max(first for first in firsts if first <= start) in (0, WEEK) for start in starts)
    assert ends == {first + 16 * WEEK for first in firsts}


def test_who_leaves_is_gone_as_in_moodle(site) -> None:
    left = site.query(
        "SELECT l.relateduserid, l.courseid, MAX(l.timecreated) FROM mdl_logstore_standard_log l"
        r" WHERE l.eventname = '\\core\\event\\user_enrolment_deleted' GROUP BY 1, 2"
    )
    assert len(left) > 100
    here = set(
        site.query("SELECT ue.userid, e.courseid FROM mdl_user_enrolments ue JOIN mdl_enrol e ON e.id = ue.enrolid")
    )
    back = [row for row in left if row[:2] in here]
    assert 0 < len(back) < len(left) / 5
    gone = {row[:2]: row[2] for row in left if row[:2] not in here}
    assert not gone.keys() & set(site.query("SELECT userid, courseid FROM mdl_user_lastaccess"))
    assert not gone.keys() & set(site.query("SELECT userid, course FROM mdl_course_completions"))
    grades = "SELECT g.userid, i.courseid FROM mdl_grade_grades g JOIN mdl_grade_items i ON i.id = g.itemid"
    assert not gone.keys() & set(site.query(grades))
    history = "SELECT h.userid, i.courseid FROM mdl_grade_grades_history h JOIN mdl_grade_items i ON i.id = h.itemid"
    assert gone.keys() & set(site.query(f"{history} WHERE h.action = 1"))
    acts = site.query(
        f"SELECT userid, courseid, MAX(timecreated) FROM {LOG} WHERE origin = 'web' AND courseid > 1 GROUP BY 1, 2"
    )
    assert [row for row in acts if row[2] >= gone.get(row[:2], 1 << 40)] == []


def test_only_those_who_pass_complete(site) -> None:
    total = (
        "SELECT g.userid, i.courseid FROM mdl_grade_grades g JOIN mdl_grade_items i ON i.id = g.itemid AND i.itemtype = 'course'"
        f" WHERE g.finalgrade >= {synthetic.PASS_MARK}"
    )
    done = set(site.query("SELECT userid, course FROM mdl_course_completions WHERE timecompleted IS NOT NULL"))
    assert done == set(site.query(total))
    late = "SELECT COUNT(*) FROM mdl_course_completions cc JOIN mdl_course c ON c.id = cc.course WHERE cc.timecompleted <> c.enddate"
    assert site.value(late) == 0
    enrolments = site.value(
        rf"SELECT COUNT(DISTINCT relateduserid, courseid) FROM {LOG} WHERE eventname = '\\core\\event\\user_enrolment_created'"
    )
    assert 0.4 < len(done) / enrolments < 0.7


def test_grades_follow_submissions_and_their_history_tells_all(site) -> None:
    """The last state in the history of every grade is what grade_grades holds."""
    last = (
        "SELECT h.oldid, h.action, h.finalgrade FROM mdl_grade_grades_history h JOIN (SELECT oldid, MAX(id) id FROM"
        " mdl_grade_grades_history GROUP BY oldid) m ON m.id = h.id"
    )
    states = site.query(last)
    alive = {row[0]: row[2] for row in states if row[1] != 3}
    assert alive == dict(site.query("SELECT id, finalgrade FROM mdl_grade_grades"))
    assert {row[1] for row in states} == {1, 2, 3}
    early = (
        "SELECT COUNT(*) FROM mdl_grade_grades g JOIN mdl_grade_items i ON i.id = g.itemid AND i.itemmodule = 'assign'"
        " LEFT JOIN mdl_assign_submission s ON s.assignment = i.iteminstance AND s.userid = g.userid"
        " WHERE s.id IS NULL OR g.timecreated <> s.timecreated OR g.timemodified < s.timecreated"
    )
    assert site.value(early) == 0
    best = (
        "SELECT COUNT(*) FROM mdl_quiz_grades q LEFT JOIN (SELECT quiz, userid, MAX(sumgrades) * 10 best FROM mdl_quiz_attempts"
        " GROUP BY 1, 2) a ON a.quiz = q.quiz AND a.userid = q.userid WHERE a.best IS NULL OR ABS(a.best - q.grade) > 0.01"
    )
    assert site.value(best) == 0


def test_resources_come_and_go_during_the_term(site) -> None:
    deleted = dict(
        site.query(rf"SELECT objectid, timecreated FROM {LOG} WHERE eventname = '\\core\\event\\course_module_deleted'")
    )
    assert deleted
    there = {row[0] for row in site.query("SELECT id FROM mdl_course_modules")}
    assert not there & set(deleted)
    created = {
        row[0]
        for row in site.query(rf"SELECT objectid FROM {LOG} WHERE eventname = '\\core\\event\\course_module_created'")
    }
    assert created == there | set(deleted)
    during = (
        "SELECT COUNT(*) FROM mdl_course_modules cm JOIN mdl_course c ON c.id = cm.course WHERE cm.added > c.startdate"
    )
    assert site.value(during) > 10
    assert site.value("SELECT COUNT(*) FROM mdl_course_modules WHERE visible = 0") > 0
    too_early = (
        f"SELECT COUNT(*) FROM {LOG} l JOIN mdl_course_modules cm ON l.contextlevel = 70 AND cm.id = l.contextinstanceid"
        " WHERE l.timecreated < cm.added AND l.origin IS NOT NULL"
    )
    assert site.value(too_early) == 0
    last = dict(site.query(f"SELECT contextinstanceid, MAX(timecreated) FROM {LOG} WHERE contextlevel = 70 GROUP BY 1"))
    assert [module for module, time in deleted.items() if last[module] > time] == []


def test_a_reader_finds_what_it_must_leave_out(site) -> None:
    counts = {
        "anonymous = 1": 30,
        "realuserid IS NOT NULL": 20,
        "origin IS NULL": 90,
        "userid = 0": 30,
        "userid = 1": 10,
        "userid = -1": 500,
        "origin = 'cli'": 400,
        "origin = 'ws'": 500,
    }
    for condition, least in counts.items():
        assert least <= site.value(f"SELECT COUNT(*) FROM {LOG} WHERE {condition}") < 9000, condition
    restored = f"FROM {LOG} WHERE origin IS NULL"
    newer = f"SELECT COUNT(*) FROM {LOG} WHERE id < (SELECT MIN(id) {restored}) AND timecreated > (SELECT MAX(timecreated) {restored})"
    assert site.value(newer) > 1000
    assert (
        site.value(
            "SELECT COUNT(*) FROM mdl_user WHERE deleted = 1 AND idnumber = '' AND email REGEXP '^[0-9a-f]{32}$'"
        )
        > 0
    )
    assert site.value("SELECT COUNT(*) FROM mdl_user_enrolments WHERE status = 1") > 0


def test_archetypes_show_in_the_activity_but_not_sharply(site) -> None:
    kinds = dict(site.query("SELECT id, idnumber FROM mdl_course WHERE id > 1"))
    assert {re.fullmatch(r"archetype-(\w+)", kind)[1] for kind in kinds.values()} >= {
        "inactive",
        "content",
        "evaluative",
    }
    rows = site.query(
        f"SELECT courseid, component, COUNT(*) FROM {LOG} WHERE courseid > 1 AND userid > 2 GROUP BY 1, 2"
    )
    share: dict[tuple[int, str], float] = {(course, component): count for course, component, count in rows}

    def mean(kind: str, components: list[str]) -> float:
        chosen = [course for course, name in kinds.items() if name == f"archetype-{kind}"]
        whole = [
            sum(count for (owner, name), count in share.items() if owner == course and name.startswith("mod_"))
            for course in chosen
        ]
        part = [sum(share.get((course, name), 0) for name in components) for course in chosen]
        return float(np.mean(np.array(part) / np.maximum(whole, 1)))

    assert mean("content", ["mod_resource", "mod_page", "mod_url"]) > 1.5 * mean(
        "evaluative", ["mod_resource", "mod_page", "mod_url"]
    )
    assert mean("evaluative", ["mod_assign", "mod_quiz"]) > 1.5 * mean("content", ["mod_assign", "mod_quiz"])
    active = site.query(
        f"SELECT c.idnumber = 'archetype-inactive', COUNT(*) / COUNT(DISTINCT l.userid) FROM {LOG} l JOIN mdl_course c ON"
        " c.id = l.courseid AND c.id > 1 WHERE l.component LIKE 'mod%' GROUP BY 1"
    )
    assert float(dict(active)[1]) < float(dict(active)[0]) / 3


def test_risk_can_be_learnt_but_not_read_off() -> None:
    """A plain model of the first half term's activity, trained on two terms and tested on the third: AUC 0.75 to 0.88."""
    parameters = synthetic.Parameters(courses=30, students=1500, log_rows=400_000)
    university = synthetic.Synthetic(parameters)
    university.build()
    events = pa.concat_tables(
        part.select(["userid", "courseid", "timecreated", "action"]) for name, batches in university.tables() for part in batches
        if name == "logstore_standard_log"
    )  # fmt: skip
    done = {
        (user, course)
        for user, course, action in zip(
            *(events[name].to_pylist() for name in ("userid", "courseid", "action")), strict=True
        )
        if action == "completed"
    }
    width = 10_000
    who = events["userid"].to_numpy() * width + events["courseid"].to_numpy()
    time = events["timecreated"].to_numpy()
    wrote = np.isin(np.array(events["action"].to_pylist()), ["submitted", "created"])
    features, labels, terms = [], [], []
    for term, classes in enumerate(university.classes):
        for item in classes:
            begin, cut = item.course.end - 16 * WEEK, item.course.end - 8 * WEEK
            known = (time < cut) & (who % width == item.course.id)
            columns = []
            for low, high in ((-9, 2), (2, 4), (4, 6), (6, 7), (7, 8)):
                mask = known & (time >= begin + low * WEEK) & (time < begin + high * WEEK)
                columns.append(_count(who[mask], item.users * width + item.course.id))
            columns.append(_count(who[known & wrote], item.users * width + item.course.id))
            table = np.log1p(np.column_stack(columns))
            there = (item.enrolled < cut) & ((item.left == 0) | (item.left >= cut) | (item.back > 0))
            features.append((table - table.mean(axis=0))[there])
            labels.append(np.array([(user, item.course.id) not in done for user in item.users])[there])
            terms.append(np.full(int(there.sum()), term))
    x, y, t = (np.concatenate(parts) for parts in (features, labels, terms))
    model = LogisticRegression(max_iter=1000).fit(x[t < 2], y[t < 2])
    auc = roc_auc_score(y[t == 2], model.predict_proba(x[t == 2])[:, 1])
    assert 0.75 < auc < 0.88
    assert 0.25 < y[t == 2].mean() < 0.5


def _count(values: Any, keys: Any) -> Any:
    unique, counts = np.unique(values, return_counts=True)
    place = np.minimum(np.searchsorted(unique, keys), len(unique) - 1)
    return np.where(unique[place] == keys, counts[place], 0)


def test_events_are_written_as_a_real_moodle_writes_them(test_data: Path) -> None:
    """Component, action, target, table, crud, level and the keys of `other`, against the dumps' own rows."""
    pattern = re.compile(
        r"^\((\d+),'((?:[^'\\]|\\.|'')*)','(\w+)','(\w+)','(\w+)',(?:'(\w+)'|NULL),(?:-?\d+|NULL),'(\w)',(\d),\d+,(\d+),"
    )
    real: dict[str, set[tuple[Any, ...]]] = {}
    for name in ("before", "after"):
        with gzip.open(test_data / "moodle-4.3" / f"{name}.sql.gz", "rt") as stream:
            inside = False
            for line in stream:
                inside = line.startswith("INSERT INTO `mdl_logstore_standard_log`") or (inside and line.startswith("("))
                if inside and (found := pattern.match(line)):
                    other = re.search(
                        r",(?:'((?:[^'\\]|\\.|'')*)'|NULL),\d+,(?:'\w+'|NULL),(?:'[^']*'|NULL),(?:\d+|NULL)\)[,;]$",
                        line.rstrip(),
                    )
                    assert other is not None, line
                    text = (other[1] or "null").replace('\\"', '"').replace("\\\\", "\\").replace("\\'", "'")
                    keys = json.loads(text)
                    key = found[2].replace("\\\\", "\\")
                    real.setdefault(key, set()).add(
                        (*found.groups()[2:], frozenset(keys) if isinstance(keys, dict) else None)
                    )
    assert len(real) > 70
    compared = 0
    for name, event in log.EVENTS.items():
        if event.eventname not in real:
            continue
        ours = (
            event.component,
            event.action,
            event.target,
            event.objecttable,
            event.crud,
            str(event.edulevel),
            str(event.contextlevel),
        )
        assert ours in {row[:7] for row in real[event.eventname]}, name
        if event.other != "@":
            text = event.other.replace("{b/100}", "0").replace("{a}", "0").replace("{b}", "0")
            keys = json.loads(text)
            assert (frozenset(keys) if isinstance(keys, dict) else None) in {row[7] for row in real[event.eventname]}, (
                name
            )
        compared += 1
    assert compared >= 35
