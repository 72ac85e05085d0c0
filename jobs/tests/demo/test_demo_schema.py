"""The schema against a real Moodle's, which wrote the dump."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moodle_demo import schema

COLUMNS = (
    "SELECT table_name, ordinal_position, column_name, column_type, is_nullable, column_default, extra"
    " FROM information_schema.columns WHERE table_schema = DATABASE()"
)
KEYS = (
    "SELECT table_name, non_unique, index_name, GROUP_CONCAT(column_name ORDER BY seq_in_index)"
    " FROM information_schema.statistics WHERE table_schema = DATABASE() GROUP BY 1, 2, 3"
)


def _pick(row: tuple[Any, ...], places: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(row[place] for place in places)


def test_columns_and_keys_equal_a_real_sites(server, load, test_data: Path) -> None:
    with server.temporary() as real, server.temporary() as ours:
        load(real, "--dataset", "dump", "--dump", str(test_data / "moodle-4.3" / "before.sql.gz"))
        real.query("DROP TABLE lakehouse_demo_load")
        for name in list(schema.tables())[: schema.MOODLE_TABLES]:
            ours.query(schema.tables()[name].create("mdl_"))
        assert len(real.query("SHOW TABLES")) == schema.MOODLE_TABLES
        assert set(ours.query(COLUMNS)) == set(real.query(COLUMNS))
        # Of two keys whose names are shortened to the same, which is the second depends on the order of their making.
        for part in ((0, 1, 3), (0, 2)):
            assert {_pick(row, part) for row in ours.query(KEYS)} == {_pick(row, part) for row in real.query(KEYS)}


def test_prefix_reaches_every_name(database) -> None:
    tables = schema.tables()
    for name in tables:
        database.query(tables[name].create("m2_"))
    assert {row[0] for row in database.query("SHOW TABLES")} == {f"m2_{name}" for name in tables}
    keys = {row[2] for row in database.query(KEYS)}
    assert all(key == "PRIMARY" or key.startswith("m2_") for key in keys)


def test_keys_added_later_are_the_same(database) -> None:
    log = schema.tables()["logstore_standard_log"]
    database.query(log.create("a_"))
    database.query(log.create("b_", keys=False))
    assert len(database.query("SHOW KEYS FROM b_logstore_standard_log")) == 1
    database.query(log.add_keys("b_"))

    def keys(prefix: str) -> set[tuple[object, ...]]:
        rows = database.query(f"SHOW KEYS FROM {prefix}logstore_standard_log")
        return {(row[1], str(row[2]).removeprefix(prefix), row[3], row[4]) for row in rows}

    assert keys("a_") == keys("b_")
