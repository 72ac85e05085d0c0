"""The catalogue is consistent, and what leaves a site is what it allows."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.ingest import moodle_tables
from moodle_lakehouse.ingest.moodle_tables import SourceColumn
from moodle_lakehouse.lake import table_names

NO_COLUMNS: dict[str, list[str]] = {"subject": [], "mentioned": [], "numbers": []}

# Text that is or may be about a person: none of it may be kept by default.
PERSONAL = re.compile(
    r"(username|password|idnumber|firstname|lastname|email|phone|address|city|country|institution|department|ip|lastip"
    r"|secret|description|intro|summary|content|message|subject|feedback|information|useranswer|filename|filepath"
    r"|author|enrolmentkey|externalurl|customchar\d|customtext\d|value|availability|moodlenetprofile)\Z"
)


def column(name: str, column_type: str = "bigint(10)") -> SourceColumn:
    precision, scale = (
        (int(p) for p in re.findall(r"\d+", column_type)) if column_type.startswith("decimal") else (None, None)
    )
    return SourceColumn(name, column_type.split("(")[0].split(" ")[0], column_type, precision, scale)


def planned(source: dict[str, list[SourceColumn]], **options: Any) -> moodle_tables.SourcePlan:
    options = {"prefix": "mdl_", "privacy": "pseudonymise", **options}
    return moodle_tables.plan(moodle_tables.load(), source, **options)


def test_catalogue_holds_moodles_tables_and_keeps_nothing_personal() -> None:
    known = moodle_tables.load()
    assert len(known.tables) == 56  # Moodle's 48, three of custom profile fields, five of groups, dates and grades
    for table in known.tables.values():
        kept = {name for name in table.keep if PERSONAL.match(name)}
        assert kept == set(), table.name


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"strategy": "copy"}, "tables.a.strategy: 'copy'; use 'append', 'merge'"),
        ({"strategy": "merge"}, "tables.a: strategy merge needs a cursor"),
        ({"key": []}, "tables.a.key: List should have at least 1 item"),
        ({"full_every": "daily"}, "tables.a.full_every: text found where a number belongs"),
        ({"keys": ["id"]}, "tables.a.keys: unknown key"),
        ({"text": {"keep": ["x"], "drop": ["x"]}}, "tables.a: column x has two policies"),
        ({"text": {"hide": ["x"]}}, "tables.a.text.hide: unknown key"),
        ({"text": {"reduce": {"x": "half"}}}, "tables.a.text.reduce.x: use json or profile_fields"),
        ({"text": {"reduce": {"x": {"json": {"e": ["a')"]}}}}}, "tables.a.text.reduce.x: use json or profile_fields"),
        ({"person": {"x": {"y": "it's"}}}, "tables.a.person.x: use subject, mentioned or one column and its value"),
        ({"person": {"x": "drop"}}, "tables.a.person.x: use subject, mentioned or one column and its value"),
        ({"person": {"x": "subject"}, "numbers": ["x"]}, "tables.a: column x has two declarations"),
    ],
)
def test_wrong_catalogue_is_refused(change: dict[str, Any], expected: str) -> None:
    entry = {"key": ["id"], "strategy": "snapshot", **change}
    rule = {"key": ["id"], "strategy": "snapshot"}
    document = {"columns": NO_COLUMNS, "module_instance": rule, "extra": rule, "tables": {"a": entry}}
    with pytest.raises(LakehouseError, match=expected):
        moodle_tables.parse(document)


def test_all_faults_of_a_catalogue_are_told_at_once() -> None:
    rule = {"key": ["id"], "strategy": "snapshot"}
    with pytest.raises(LakehouseError) as caught:
        moodle_tables.parse(
            {"columns": NO_COLUMNS, "extra": rule, "tables": {"a": {**rule, "key": []}, "B-": rule}, "more": 1}
        )
    for fault in ("tables.a.key:", "tables.B-", "module_instance: missing", "more: unknown key"):
        assert fault in str(caught.value)


def test_personal_columns_of_users_never_leave_the_source() -> None:
    names = ["username", "email", "lastname", "lastip", "auth"]
    source = {"mdl_user": [column("id"), column("deleted", "tinyint(1)"), *[column(n, "varchar(100)") for n in names]]}
    (user,) = planned(source).tables
    assert [c.name for c in user.columns] == ["id", "deleted", "auth"]
    assert user.dropped == ("username", "email", "lastname", "lastip")
    assert user.select() == "SELECT `id`, `deleted`, `auth` FROM `mdl_user`"
    (kept,) = planned(source, privacy="keep").tables
    assert [c.name for c in kept.columns] == ["id", "deleted", *names]


def test_inventory_decides_before_the_catalogue() -> None:
    names = ["username", "email", "auth", "lang"]
    source = {"mdl_user": [column("id"), column("deleted", "tinyint(1)"), *[column(n, "varchar(100)") for n in names]]}
    decided = {"user": {"username": "hash", "auth": "drop", "deleted": "drop", "email": "keep", "gone": "drop"}}
    (user,) = planned(source, columns=decided, hash_key=b"k").tables
    assert [c.name for c in user.columns] == ["id", "username", "email", "lang"]
    assert user.reduced == ("username",)
    assert user.notes == ("gone has a rule in the inventory (drop), but the table has no such column",)
    (kept,) = planned(source, privacy="keep", columns=decided, hash_key=b"k").tables
    assert [c.name for c in kept.columns] == ["id", "username", "email", "lang"]
    assert kept.reduced == ("username",)


def test_inventory_declares_people_and_numbers() -> None:
    source = {"mdl_local_x": [column("id"), column("userid"), column("coach"), column("owner"), column("memberid")]}
    decided = {"local_x": {"coach": "mentioned", "owner": "subject", "memberid": "number"}}
    (plan,) = planned(source, extra_tables=["local_x"], columns=decided).tables
    assert {(c.name, c.mentioned) for c in plan.person} == {("userid", False), ("coach", True), ("owner", False)}
    assert [c.name for c in plan.columns] == ["id", "userid", "coach", "owner", "memberid"]


def test_unknown_numbers_are_carried_and_unknown_text_is_dropped_and_told() -> None:
    source = {"mdl_role": [column("id"), column("newnumber", "int(9)"), column("newtext", "longtext")]}
    (role,) = planned(source).tables
    assert [c.name for c in role.columns] == ["id", "newnumber"]
    assert role.notes == ("newtext is text that the catalogue does not know; left out",)


def test_missing_and_unlisted_tables_are_told() -> None:
    plan = planned({"mdl_role": [column("id")], "mdl_config": [column("id")], "other": [column("id")]})
    assert [t.table.name for t in plan.tables] == ["role"]
    assert "user" in plan.missing
    assert "role" not in plan.missing
    assert plan.missing_columns == tuple(f"role.{name}" for name in ("archetype", "name", "shortname"))
    assert plan.unlisted == ("config",)


def test_other_prefix_and_modules_and_plugins() -> None:
    source = {
        "m_wiki": [column("id"), column("name", "varchar(255)"), column("intro", "longtext")],
        "m_local_x": [
            column("id"),
            column("userid"),
            column("credits", "int(9)"),
            column("note", "text"),
            column("code", "varchar(9)"),
        ],
    }
    plan = planned(
        source, prefix="m_", modules=["wiki", "chat"], extra_tables=["local_x"], columns={"local_x": {"code": "keep"}}
    )
    wiki, plugin = sorted(plan.tables, key=lambda t: t.table.name, reverse=True)
    assert wiki.select() == "SELECT `id`, `name` FROM `m_wiki`"
    assert plugin.select() == "SELECT `id`, `userid`, `credits`, `code` FROM `m_local_x`"
    assert wiki.notes == plugin.notes == ()
    assert "chat" not in plan.missing  # a module without a table of its own is no news


@pytest.mark.parametrize("module", table_names.NAMED_BY_TEXT)
def test_modules_that_are_named_by_their_text_have_no_name(module: str) -> None:
    columns = [column("id"), column("name", "varchar(255)"), column("intro", "longtext")]
    (plan,) = planned({f"mdl_{module}": columns}, modules=[module]).tables
    assert plan.select() == f"SELECT `id` FROM `mdl_{module}`"
    assert plan.dropped == ("name", "intro")


def test_table_of_which_nothing_may_be_read_is_left_out() -> None:
    plan = planned({"mdl_page": [column("content", "longtext")]})
    assert plan.tables == ()
    assert plan.notes == ("page: nothing of it may be read under the privacy mode pseudonymise; left out",)


@pytest.mark.parametrize(
    ("column_type", "sql", "lake"),
    [
        ("tinyint(1)", "`c`", "INT"),
        ("mediumint(6)", "`c`", "INT"),
        ("int(10) unsigned", "`c`", "BIGINT"),
        ("bigint(20)", "`c`", "BIGINT"),
        ("bigint(20) unsigned", "`c`", "DECIMAL(20,0)"),
        ("decimal(10,5)", "`c`", "DECIMAL(10,5)"),
        ("decimal(65,30)", "CAST(`c` AS CHAR)", "STRING"),
        ("double", "`c` + 0e0", "DOUBLE"),
        ("float", "`c` + 0e0", "FLOAT"),
        ("longtext", "`c`", "STRING"),
        ("longblob", "`c`", "BINARY"),
        ("datetime", "CAST(`c` AS CHAR)", "STRING"),
        ("enum('a')", "CAST(`c` AS CHAR)", "STRING"),
        ("bit(8)", "CAST(`c` AS UNSIGNED)", "DECIMAL(20,0)"),
        ("geometry", None, ""),
    ],
)
def test_types_are_exact(column_type: str, sql: str | None, lake: str) -> None:
    assert moodle_tables.lake_type(column("c", column_type)) == (sql, lake)


def test_reduction_of_the_logs_json_names_events_and_keys_only() -> None:
    source = {"mdl_logstore_standard_log": [column("id"), column("eventname", "varchar(255)"), column("other", "text")]}
    (log,) = planned(source).tables
    assert log.reduced == ("other",)
    sql = next(c.sql for c in log.columns if c.name == "other")
    event = rb"\core\event\user_enrolment_deleted".hex()
    assert f"X'{event}'" in sql
    assert "'timestart', JSON_EXTRACT(`other`, '$.userenrolment.timestart')" in sql
    assert "username" not in sql


def test_profile_values_are_null_but_for_configured_fields() -> None:
    source = {"mdl_user_info_data": [column("id"), column("fieldid"), column("data", "longtext")]}
    assert planned(source).tables[0].columns[-1].sql == "CAST(NULL AS CHAR)"
    sql = planned(source, profile_fields=["gender"]).tables[0].columns[-1].sql
    assert sql == (
        "CASE WHEN `fieldid` IN (SELECT id FROM `mdl_user_info_field` WHERE shortname IN (_utf8mb4 X'67656e646572'))"
        " THEN `data` END"
    )


def test_id_column_needs_one_whole_number() -> None:
    (plan,) = planned({"mdl_role": [column("id")]}).tables
    assert plan.id_column == "id"
    (plan,) = planned({"mdl_role": [column("id", "bigint(20) unsigned"), column("n")]}).tables
    assert plan.id_column is None


def test_cursor_needs_a_key_that_the_source_guarantees() -> None:
    known = [SourceColumn("id", "bigint", "bigint(10)", primary=True), column("timemodified")]
    (grades,) = planned({"mdl_quiz_grades": known}).tables
    assert (grades.key, grades.cursor) == (("id",), "timemodified")
    (loose,) = planned({"mdl_quiz_grades": [column("id"), column("timemodified")]}).tables
    assert (loose.key, loose.cursor) == ((), None)
    (lacking,) = planned({"mdl_quiz_grades": known[:1]}).tables
    assert (lacking.key, lacking.cursor) == (("id",), None)
    (course,) = planned({"mdl_course": known}).tables  # strategy snapshot: its cursor is not trusted
    assert (course.key, course.cursor) == (("id",), None)


def test_catalogue_file_is_plain_data() -> None:
    text = (moodle_tables.importlib.resources.files("moodle_lakehouse.ingest") / "moodle_tables.yml").read_text()
    assert set(yaml.safe_load(text)) == {"columns", "module_instance", "extra", "tables"}
