"""SQL holds names through a quoting function alone: whoever writes a new statement quotes, or says here why there is no need."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import moodle_lakehouse

PACKAGE = Path(moodle_lakehouse.__file__).parent
# Words of SQL, which stand in capitals in this package, anywhere in an f-string.
WORDS = re.compile(
    r"\b(SELECT|WITH|INSERT|DELETE|UPDATE|MERGE|CREATE|ALTER|DROP|CALL|SHOW|FROM|WHERE|CASE|WHEN|THEN|AS|AND|OR|IN|IS|BETWEEN"
    r"|RLIKE|DIV|NULL|CAST|CONVERT|CONCAT\w*|IFNULL|LENGTH|LEAST|MIN|MAX|SUM|COUNT|SHA2|HEX|UNHEX|JSON_\w+)\b"
)
# Methods whose first argument is SQL, as an f-string of any words.
METHODS = {"sql", "execute", "expr", "where", "filter", "selectExpr"}
QUOTING = {"quoted", "quoted_name", "literal", "sql_text", "private_number", "full_name"}

# What else statements are made of, by module: SQL that these modules made themselves of quoted names, numbers, constants.
MADE = {
    "curated/migration.py": {"USERID"},
    "curated/resource_history.py": {"column", "modules", "values"},
    "curated/user_keys.py": {"table_names.USER_KEY", "table_names.STUDENT_RISK"},  # a remedy to be typed
    "ingest/arrow_reader.py": {"name", "first", "high", "task.condition", "column.sql"},
    "ingest/benchmark.py": {"key", "low", "high", "rows - 1"},
    "ingest/hashed_columns.py": {
        "plan.where(condition)", "value", "salt", "keyed", "column.hashed", "_stand_in('v', salt)",
    },
    # of TablePlan.select and verify; a column named c0, c1, ...
    "ingest/jdbc_reader.py": {"key", "low", "high", "ranges[0][0]", "ranges[-1][1]"},
    "ingest/moodle_tables.py": {
        "expressions", "self.where(condition)", "both", "c.sql", "sql", "name", "wanted", "fields", "events",
        "' '.join(from_json)", "' '.join(from_php)", "php", "rest", "text", "begin", "length", "_php_text(rest)",
        "_php_word(_after_php_key(column, named_by))",
        "module", "texts", "column", "json", "source", "value", "', '.join(values)", "', '.join(parts)", "named", "inner",
        "outer", "sql if spark_type == 'BINARY' else f'CONVERT({sql} USING utf8mb4)'", "literal", "named_by", "'.'.join(here)",  # the last three of the catalogue, which is checked for them
    },
    "ingest/row_checksum.py": {
        "text", "sql", "column.sql", "row_hash", "_EMPTY", "SUMMED_DIGITS", "_sql_cell(c, _is_short(c, plan))",
        "', '.join((f'IFNULL({_sql_cell(c, _is_short(c, plan))}, {_EMPTY})' for c in plan.columns))",
    },
    "ingest/schema_evolution.py": {"new.simpleString()"},  # one of the types of lake_type
    "ingest/source_sql.py": {
        "plan.where(condition)", "', '.join(parts)", "' + '.join(lengths)", "part", "c.sql",
        "row_checksum.sql_total('h')", "row_checksum.sql_hash(plan)", "rest",  # the last a constant of site_identity
    },
    "ingest/suppression_list.py": {"', '.join(values)", "column.sql", "gone", "table_names.ERASED_USER"},
    "ingest/table_sync.py": {"recent", "guard.watermark"},
    "ingest/verify.py": {
        "key", "row_hash", "self.plan.where()", "self.base", "self.width", "low", "high", "inside",
    },
    "lake/maintenance.py": {"older_than", "str(self.dry_run).lower()"},
    "lake/writers.py": {
        "new", "view", "' AND '.join(matches)", "OPERATION", "DELETE", "', '.join(columns)", "bounds[0]", "bounds[1]",
        "', '.join((f't.{c} = s.{c}' for c in columns))", "', '.join((f's.{c}' for c in columns))",
    },
    "privacy/erasure.py": {
        "place", "' OR '.join(rows)", "values", "named_somewhere", "mentions[rule.name]", "_cleared(rule, who)",
    },
}  # fmt: skip


def statements(tree: ast.AST) -> Iterator[ast.JoinedStr]:
    """The f-strings that are SQL, by their words or by what they are given to."""
    given = {
        id(call.args[0])
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in METHODS
        and call.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            words = " ".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
            if id(node) in given or WORDS.search(words):
                yield node


def unquoted(tree: ast.AST) -> Iterator[str]:
    """What the statements hold that no quoting function made."""
    for statement in statements(tree):
        for part in statement.values:
            if isinstance(part, ast.FormattedValue):
                call = part.value
                name = getattr(call.func, "attr", getattr(call.func, "id", "")) if isinstance(call, ast.Call) else ""
                if name not in QUOTING:
                    yield ast.unparse(call)


def test_names_reach_sql_through_a_quoting_function() -> None:
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        held = set(unquoted(ast.parse(file.read_text(encoding="utf-8"))))
        if held:
            found[str(file.relative_to(PACKAGE))] = held
    new = {name: more for name, held in found.items() if (more := held - MADE.get(name, set()))}
    assert not new, "quote it, or list it above with the reason"
    gone = {name: less for name, made in MADE.items() if (less := made - found.get(name, set()))}
    assert not gone, "no longer there: remove it above"


def test_statements_are_recognised() -> None:
    code = """
spark.sql(f"SHOW TABLES IN {place}")
df.where(f"{name} > 1")
text = f"DELETE FROM {quoted(table)} WHERE {condition}"
other = f"the table {name}"
"""
    assert set(unquoted(ast.parse(code))) == {"place", "name", "condition"}
