"""What people type stays in Moodle: a real site with a phrase planted in each of its texts, searched in all files of a lake.

The log is planted by what its events carry (`other`), with names of labels, keys nobody asked for, and PHP's own format.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mariadb import Server
from moodle_lakehouse import config
from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.curated import resource_history
from moodle_lakehouse.curated.courses import MODULE_CREATED, MODULE_DELETED, MODULE_UPDATED
from moodle_lakehouse.ingest import job as ingest_job
from moodle_lakehouse.ingest.moodle_tables import sql_text
from moodle_lakehouse.lake import table_names
from moodle_lakehouse.lake.table_names import quoted_name
from pyarrow import parquet
from pyspark.sql import SparkSession
from site_files import load_dump
from small_moodle import fill, insert, plans

# Every column whose text may be in the lake: what machines write, and names of courses, modules, sections and grade items.
KEPT = {
    "assign": "name attemptreopenmethod",
    "assign_submission": "status",
    "book": "name",
    "book_chapters": "title",
    "context": "path",
    "course": "fullname shortname format lang calendartype theme pdfexportfont",
    "course_categories": "name path theme",
    "course_completion_criteria": "module",
    "course_modules": "lang",
    "course_sections": "name sequence",
    "enrol": "enrol name cost currency",
    "files": "component filearea mimetype license",
    "folder": "name",
    "forum": "type name",
    "grade_grades": "aggregationstatus",
    "grade_grades_history": "source",
    "grade_items": "itemname itemtype itemmodule calculation",
    "grade_items_history": "source itemname itemtype itemmodule calculation",
    "groups_members": "component",
    "h5pactivity": "name",
    "logstore_standard_log": "eventname component action target objecttable origin",
    "modules": "name search",
    "page": "name",
    "quiz": "name overduehandling preferredbehaviour navmethod browsersecurity",
    "quiz_attempts": "layout state",
    "resource": "name",
    "role": "name shortname archetype",
    "role_assignments": "component",
    "scorm": "name scormtype version options",
    "url": "name",
    "user": "auth lang calendartype theme",
}
LOG = "`mdl_logstore_standard_log`"
PAGE_NAME = "the log's name of a page"
PHP_NAME = "the log's name of a page in PHP's format"
WIDTH = 2  # characters of a phrase: what is narrower holds a code of one letter


class Phrases:
    """Short texts that nothing else in the world holds, each told by what it was planted in."""

    def __init__(self) -> None:
        self.planted: dict[str, str] = {}

    def new(self, place: str) -> str:
        number = len(self.planted)
        phrase = "\ua66e" + chr(0xA000 + number)  # an eye with many lids, and a syllable of Yi: there are 1,165
        self.planted[phrase] = place
        return phrase

    def found_in(self, folder: Path) -> set[str]:
        texts = [text for file in folder.rglob("*") if file.is_file() for text in contents(file)]
        return {place for phrase, place in self.planted.items() if any(phrase.encode() in text for text in texts)}


def contents(file: Path) -> Iterator[bytes]:
    """A file as it lies on the disk (with the bounds in Parquet's footers), and what it holds compressed."""
    data = file.read_bytes()
    yield data
    if file.suffix == ".parquet":
        yield repr(parquet.read_table(file).to_pylist()).encode()
    elif file.suffix == ".avro":
        yield from avro_blocks(data)


def avro_blocks(data: bytes) -> Iterator[bytes]:
    """The blocks of an Avro file that its writer deflated, as Iceberg's does."""
    assert b"avro.codec\x0edeflate" in data
    sync = data[-16:]
    place = data.index(sync) + 16
    while place < len(data):
        _, place = varint(data, place)
        size, place = varint(data, place)
        yield zlib.decompress(data[place : place + size], wbits=-15)
        place += size + 16


def varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), place


def plant_columns(site: Server, phrases: Phrases) -> None:
    """Plant a phrase in every text column: in all rows, but where it is kept in the last one, as the site lives by those."""
    columns = site.query(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = DATABASE()"
        f" AND character_maximum_length >= {WIDTH} AND CONCAT(table_name, column_name) <> 'mdl_logstore_standard_logother'"
        " ORDER BY 1, 2"
    )
    tables: dict[str, list[str]] = {}
    for table, column in columns:
        tables.setdefault(table, []).append(column)
    with site.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = ''")  # rows without what they need, texts that are cut
        for table, names in tables.items():
            place, short = quoted_name(table), table.removeprefix("mdl_")
            kept = KEPT.get(short, "").split()
            if not site.value(f"SELECT COUNT(*) FROM {place}"):
                cursor.execute(f"INSERT INTO {place} () VALUES ()")
            for part, end in ((kept, " ORDER BY id DESC LIMIT 1"), ([c for c in names if c not in kept], "")):
                values = [f"{quoted_name(c)} = {sql_text(phrases.new(f'{short}.{c}'))}" for c in part]
                if values:
                    cursor.execute(f"UPDATE IGNORE {place} SET {', '.join(values)}{end}")


def plant_events(site: Server, phrases: Phrases) -> None:
    created, updated = sql_text(MODULE_CREATED), sql_text(MODULE_UPDATED)
    deleted = sql_text(r"\core\event\user_enrolment_deleted")

    def text(place: str) -> str:
        return sql_text(phrases.new(place))

    labels = f"eventname IN ({created}, {updated}) AND JSON_VALUE(other, '$.modulename') = 'label'"
    assert site.value(f"SELECT COUNT(*) FROM {LOG} WHERE {labels}")
    site.query(f"UPDATE {LOG} SET other = JSON_SET(other, '$.name', {text('the name of a label')}) WHERE {labels}")
    page = "JSON_VALUE(other, '$.modulename') = 'page'"
    site.query(
        f"UPDATE {LOG} SET other = JSON_SET(other, '$.name', {text(PAGE_NAME)}, '$.intro', {text('another key')})"
        f" WHERE eventname IN ({created}, {updated}) AND {page}"
    )
    site.query(
        f"UPDATE {LOG} SET other = JSON_SET(other, '$.userenrolment.customtext', {text('a key inside')}) WHERE eventname = {deleted}"
    )
    assert site.value(f"SELECT COUNT(*) FROM {LOG} WHERE eventname = {deleted} AND other LIKE '%customtext%'")
    for place, other in (
        ("a name of no module", '{{"name": "{}"}}'),
        (PHP_NAME, 'a:2:{{s:10:"modulename";s:4:"page";s:4:"name";s:6:"{}";}}'),
        ("a label's name in PHP's format", 'a:2:{{s:10:"modulename";s:5:"label";s:4:"name";s:6:"{}";}}'),
        ("another key in PHP's format", 'a:2:{{s:10:"modulename";s:4:"page";s:5:"intro";s:6:"{}";}}'),
        ("a name without a module in PHP's format", 'a:1:{{s:4:"name";s:6:"{}";}}'),
        ("a text", "{}"),
    ):
        phrase = phrases.new(place)
        site.query(
            f"INSERT INTO {LOG} (eventname, component, action, target, crud, edulevel, contextid, contextlevel, contextinstanceid,"
            f" userid, timecreated, other) SELECT eventname, component, action, target, crud, edulevel, contextid, contextlevel,"
            f" contextinstanceid, userid, timecreated, {sql_text(other.format(phrase))} FROM {LOG} WHERE eventname = {updated} LIMIT 1"
        )
    other = text("other events")
    site.query(
        f"UPDATE {LOG} SET other = JSON_OBJECT('name', {other}, 'modulename', 'page')"
        f" WHERE eventname NOT IN ({created}, {updated}, {deleted}) AND eventname NOT LIKE '%enrolment%' ORDER BY id LIMIT 50"
    )


def php(value: Any) -> str:
    """A value as PHP's serialize() writes it."""
    if isinstance(value, dict):
        return f"a:{len(value)}:{{{''.join(php(part) for pair in value.items() for part in pair)}}}"
    if value is None:
        return "N;"
    return f"i:{value};" if isinstance(value, int) else f's:{len(value.encode())}:"{value}";'


def test_json_and_php_say_the_same(database: Server, moodle: config.Config) -> None:
    """Case F: sites that keep no JSON, and restored rows, have PHP's format in `other`."""
    row = {"id": "7", "status": 0, "timestart": "1758672000", "timeend": None, "enrol": "manual", "lastenrol": "1"}
    told: list[tuple[str, dict[str, Any]]] = [
        (r"\core\event\user_enrolment_deleted", {"userenrolment": row, "enrol": "manual"}),
        (MODULE_DELETED, {"modulename": "quiz", "instanceid": "9"}),
        (MODULE_CREATED, {"modulename": "quiz", "instanceid": 9, "name": 'Prüfung "1"; s:4:"name";s:1:"x";'}),
        (MODULE_UPDATED, {"modulename": "label", "instanceid": 9, "name": "secret"}),
        (r"\core\event\course_viewed", {"name": "secret"}),
    ]
    fill(database, moodle)
    for name, other in told:
        for text in (json.dumps(other), php(other)):
            insert(
                database,
                "INSERT INTO mdl_logstore_standard_log (eventname, other) VALUES (%s, %s)",
                [(name, text)],
            )
    found = [
        row for (row,) in database.query(f"SELECT other FROM ({plans(moodle)['logstore_standard_log'].select()}) t")
    ]

    def values(text: str | None) -> Any:
        return None if text is None else json.loads(text, parse_int=str)

    as_json, as_php = [values(text) for text in found[::2]], [values(text) for text in found[1::2]]
    assert as_json == as_php
    assert as_php[0]["userenrolment"]["timestart"] == "1758672000"
    assert as_php[1] == {"modulename": "quiz", "instanceid": "9"}
    assert as_php[2]["name"].startswith('Prüfung "1"')
    assert as_php[3] == {"modulename": "label", "instanceid": "9", "name": None}
    assert as_php[4] is None


def test_no_text_but_what_is_kept_reaches_a_file(
    lake: SparkSession, database: Server, moodle: config.Config, test_data: Path
) -> None:
    load_dump(database, test_data / "moodle-4.3" / "after.sql.gz")
    phrases = Phrases()
    plant_columns(database, phrases)
    plant_events(database, phrases)
    ingest_job.run(lake, moodle)
    curated_job.run(lake, moodle)
    resource_history.run(lake)
    renamed = sql_text(phrases.new("the new name of a label"))
    database.query(f"UPDATE mdl_label SET name = {renamed}, timemodified = timemodified + 1")
    ingest_job.run(lake, moodle)
    resource_history.run(lake)
    warehouse = Path(str(lake.conf.get(f"spark.sql.catalog.{table_names.CATALOG}.warehouse")))
    kept = {f"{table}.{column}" for table, columns in KEPT.items() for column in columns.split()}
    assert phrases.found_in(warehouse) == {*kept, PAGE_NAME, PHP_NAME}
    labels = lake.table(table_names.DIM_RESOURCE).where("modname = 'label'").collect()
    assert labels
    assert {row["name"] for row in labels} == {None}
