"""Remove people from every layer of the lake, and prove it.

1. The ids are recorded as keyed hashes, so that no later ingest brings these people back (ingest.suppression_list).
2. Rows about them go, columns that merely mention them become null: raw tables by what the catalogue of Moodle's tables
   declares, the jobs' own by their contracts, anybody else's, the sandbox's included, by userid and user_key. Each table in
   at most two commits, which carry on what jobs recorded in its snapshots.
3. Older snapshots of every table that names them expire, and the files with them. Leftover files go.
4. Every file is read (file_scan): the result is what is found then, not what was meant.
5. Whole numbers of raw tables that nobody declared are counted where they hold an id: possibly a person. They stay.

Moodle comes first: whoever is active there goes on there, only the lake leaves the person out.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from moodle_lakehouse.config import Config
from moodle_lakehouse.curated import raw_tables, user_keys
from moodle_lakehouse.errors import LakehouseError, bullet_list, reason
from moodle_lakehouse.ingest import moodle_tables, mysql, suppression_list
from moodle_lakehouse.ingest.moodle_tables import Catalogue, MoodleTable, PersonColumn, person_columns
from moodle_lakehouse.lake import (
    contracts,
    files,
    job_runs,
    snapshots,
    staging,
    table_names,
    tables,
    worker_pool,
    writers,
)
from moodle_lakehouse.lake.contracts import Contract, Person
from moodle_lakehouse.lake.table_names import literal, quoted_name
from moodle_lakehouse.privacy import file_scan
from moodle_lakehouse.privacy.file_scan import CURRENT, LEFTOVER, People, Scan

LEFTOVER_HOURS = 24  # younger files that no snapshot reaches may belong to a job that is at work
WORKERS = 4


@dataclass(frozen=True)
class PossiblePerson:
    """A whole-number column of a raw table that nobody declared, and in how many of its rows it equals one of the ids."""

    table: str
    column: str
    rows: int


@dataclass(frozen=True)
class TableErasure:
    """What was done to one table. snapshots: how many expired; files: how many leftovers were deleted."""

    table: str
    deleted: int
    cleared: int
    snapshots: int
    files: int


@dataclass(frozen=True)
class Erasure:
    """The scan before, what was done, and the scan after. Nothing was done where tables is empty.

    active: how many of the people Moodle still has as active users, by the lake's copy. possible: columns to be declared.
    """

    before: Scan
    tables: tuple[TableErasure, ...]
    after: Scan | None
    active: int
    possible: tuple[PossiblePerson, ...] = ()


def people(config: Config, ids: Sequence[int]) -> People:
    """Return everything by which the lake may know the users of these ids."""
    key, hash_key = config.privacy.key(), config.privacy.hash_key()
    return People(
        tuple(sorted(set(ids))),
        tuple(hmac.digest(hash_key, str(i).encode(), hashlib.sha256).hex() for i in ids),
        tuple(user_keys.pseudonym_of(key, i) for i in ids),
    )


def look(spark: SparkSession, config: Config, ids: Sequence[int]) -> Erasure:
    """Find where the lake names people; nothing is changed."""
    with without_ids(ids):
        tables.ensure_namespaces(spark)
        before = file_scan.scan(spark, people(config, ids), rules(spark, config))
        return Erasure(before, (), None, _active(spark, ids), possible_people(spark, config, ids))


def run(spark: SparkSession, config: Config, ids: Sequence[int]) -> Erasure:
    """Erase people; check() says whether every file is free of them. No ingest runs meanwhile: it would bring them back."""
    reserved = mysql.reserved(config.moodle, config.catalog.uri)
    with reserved, job_runs.job(spark, "erase-user") as job, without_ids(ids):
        who, active = people(config, ids), _active(spark, ids)
        tables.ensure_namespaces(spark)
        staging.clear(spark)  # an ingest that was killed may have left rows there
        suppression_list.remember(spark, config.privacy.key(), ids)
        known = rules(spark, config)
        before = file_scan.scan(spark, who, known)
        done = _erase_all(spark, who, before, known)
        after = file_scan.scan(spark, who, known)
        job.detail.update(
            people=len(who.ids), tables={t.table: [t.deleted, t.cleared] for t in done}, files=after.files
        )
        possible = possible_people(spark, config, ids)
        job.detail["possible"] = {f"{one.table}.{one.column}": one.rows for one in possible}
        return Erasure(before, tuple(done), after, active, possible)


@contextmanager
def without_ids(ids: Sequence[int]) -> Iterator[None]:
    """Leave the ids out of what is raised, which may quote a statement: it is printed, and kept in ops.job_run."""
    try:
        yield
    except Exception as error:
        told = str(error) if isinstance(error, LakehouseError) else reason(error)
        hidden = re.sub(rf"\b({'|'.join(str(i) for i in ids)})\b", "...", told)
        if hidden == told and isinstance(error, LakehouseError):
            raise
        raise LakehouseError(hidden) from None


def rules(spark: SparkSession, config: Config) -> dict[str, tuple[PersonColumn, ...]]:
    """Return the declared columns of people of each table in the catalog, and of each in the sandbox.

    Tables that are not the jobs' are among them.
    """
    catalogue, raw = moodle_tables.load(), table_names.raw("")
    strangers = (*catalogue.extra.person, PersonColumn("user_key"))

    def declared(name: str) -> tuple[PersonColumn, ...]:
        if name.startswith(raw):
            return _raw_table(catalogue, config, name).person
        contract = contracts.CONTRACTS.get(name)
        return strangers if contract is None else _contract_rules(contract)

    names = sorted(f"{table_names.CATALOG}.{name}" for name in tables.table_locations(spark))
    known = {name: declared(name) for name in names if name != table_names.ERASED_USER}
    if config.sandbox is not None:
        unreadable: dict[str, str] = {}  # the scan, which cannot read them either, reports them
        found = tables.table_locations(spark, table_names.SANDBOX, unreadable)
        known |= {f"{table_names.SANDBOX}.{name}": strangers for name in sorted({*found, *unreadable})}
    return known


def _raw_table(catalogue: Catalogue, config: Config, name: str) -> MoodleTable:
    own, attributes = table_names.parts(name)[-1], config.analytics.enrolment_attributes
    numbers = attributes.columns if attributes and attributes.table == own else ()
    return catalogue.table(own, {**dict.fromkeys(numbers, "number"), **config.moodle.columns.get(own, {})})


def _contract_rules(contract: Contract) -> tuple[PersonColumn, ...]:
    return tuple(
        PersonColumn(c.name, mentioned=c.person is not Person.SUBJECT, is_log_text=c.person is Person.IN_TEXT)
        for c in contract.columns
        if c.person is not Person.NONE
    )


def possible_people(spark: SparkSession, config: Config, ids: Sequence[int]) -> tuple[PossiblePerson, ...]:
    """Return the undeclared whole numbers of raw tables that equal one of the ids in some row, of the current snapshots."""
    catalogue, found = moodle_tables.load(), []
    for own in tables.names_in(spark, table_names.full_name(table_names.CATALOG, "raw")):
        name = table_names.raw(own)
        df, known = spark.table(table_names.quoted(name)), _raw_table(catalogue, config, name)
        declared = {*known.numbers, *(c.name for c in known.person)}
        unknown = [f.name for f in df.schema.fields if _is_whole(f.dataType) and f.name not in declared]
        if unknown:
            counts = df.agg(*[F.count_if(F.col(quoted_name(c)).isin(*ids)).alias(c) for c in unknown]).first()
            found += [PossiblePerson(name, c, counts[c]) for c in unknown if counts is not None and counts[c]]
    return tuple(found)


def _is_whole(kind: T.DataType) -> bool:
    return isinstance(kind, (T.IntegerType, T.LongType)) or (isinstance(kind, T.DecimalType) and kind.scale == 0)


def check(result: Erasure) -> None:
    """Refuse a result in which a file still names somebody, or may."""
    if result.after is not None and result.after.unread:
        raise LakehouseError(
            f"{len(result.after.unread)} tables or files of the sandbox cannot be searched, since they are no Parquet or not its own:\n"
            + bullet_list(f"{table}: {file}" for table, file in result.after.unread[:20]),
            remedy="have the tables written as Parquet (write.format.default) or drop them; then run erase-user again",
        )
    if result.after is None or not result.after.traces:
        return
    left = [f"{t.table}: {t.file} ({t.reached}: {_counts(t.rows)})" for t in result.after.traces]
    raise LakehouseError(
        f"{len(left)} files still name the erased:\n" + bullet_list(left[:20]),
        remedy="older: a tag or branch keeps the snapshot, drop it; leftover: the file is younger than"
        f" {LEFTOVER_HOURS} hours and may belong to a running job; then run erase-user again",
    )


def _active(spark: SparkSession, ids: Sequence[int]) -> int:
    users = tables.read(spark, table_names.raw("user"))
    if users is None:
        return 0
    return (
        raw_tables.shaped(spark, users, "id bigint, deleted int")
        .where(F.col("id").isin(*ids) & (F.coalesce("deleted", F.lit(0)) == 0))
        .count()
    )


# One table


def _erase_all(
    spark: SparkSession, who: People, before: Scan, known: Mapping[str, tuple[PersonColumn, ...]]
) -> list[TableErasure]:
    affected = sorted({trace.table for trace in before.traces})
    work = {
        table: partial(_erase, spark, table, known[table], who, [t for t in before.traces if t.table == table])
        for table in affected
    }
    done, failures = worker_pool.each(spark, work, workers=WORKERS, name="erase")
    if failures:
        raise LakehouseError(
            f"{len(failures)} of {len(affected)} tables could not be freed of the erased:\n" + bullet_list(failures),
            remedy="see that no other job runs, then run erase-user again: it goes on from there",
        )
    return done


def _erase(
    spark: SparkSession, table: str, known: Sequence[PersonColumn], who: People, found: Sequence[file_scan.Trace]
) -> TableErasure:
    deleted, cleared, place = 0, 0, table_names.quoted(table)
    if any(trace.reached == CURRENT for trace in found):
        columns = {f.name: f.dataType for f in spark.table(place).schema.fields}
        named = person_columns(known, _candidates(columns))
        rows = [_condition(rule, columns, who, table) for rule in named if not rule.mentioned]
        mentions = {rule.name: _condition(rule, columns, who, table) for rule in named if rule.mentioned}
        if rows:
            deleted = _change(spark, table, f"DELETE FROM {place} WHERE {' OR '.join(rows)}")
        if mentions:
            values = ", ".join(
                f"{quoted_name(rule.name)} = CASE WHEN {mentions[rule.name]} THEN {_cleared(rule, who)} ELSE {quoted_name(rule.name)} END"
                for rule in named
                if rule.mentioned
            )
            named_somewhere = " OR ".join(mentions.values())
            cleared = spark.table(place).where(named_somewhere).count()
            if cleared:
                _change(spark, table, f"UPDATE {place} SET {values} WHERE {named_somewhere}")
    snapshots = _expire(spark, table)
    return TableErasure(table, deleted, cleared, snapshots, _delete_leftovers(spark, table, found))


def _candidates(columns: Mapping[str, T.DataType]) -> list[str]:
    kinds = (T.IntegerType, T.LongType, T.DecimalType, T.StringType)
    return [name for name, kind in columns.items() if isinstance(kind, kinds)]


def _condition(rule: PersonColumn, columns: Mapping[str, T.DataType], who: People, table: str) -> str:
    if rule.is_log_text:
        return f"{quoted_name(rule.name)} RLIKE {literal(who.log_pattern)}"
    if not isinstance(columns[rule.name], T.StringType):
        return rule.condition([str(i) for i in who.ids])
    words = who.hashes if table.startswith(table_names.raw("")) else who.pseudonyms
    return rule.condition([literal(word) for word in words])


def _cleared(rule: PersonColumn, who: People) -> str:
    return (
        f"regexp_replace({quoted_name(rule.name)}, {literal(who.log_pattern)}, '$1 erased')"
        if rule.is_log_text
        else "NULL"
    )


def _change(spark: SparkSession, table: str, statement: str) -> int:
    """Run a statement that carries on what jobs recorded in the snapshots; returns by how many rows the table shrank."""
    loaded = tables.load(spark, table)
    rows = tables.rows_of(loaded)
    writers.change(spark, statement, run_id=job_runs.run_id(), summary=snapshots.records(loaded))
    return rows - tables.row_count(spark, table)


def _expire(spark: SparkSession, table: str) -> int:
    """Expire every snapshot but the current one and what tags and branches keep; returns how many."""
    loaded = tables.load(spark, table)
    if loaded.currentSnapshot() is None:
        return 0
    records = snapshots.records(loaded)
    if records != snapshots.records_of(loaded.currentSnapshot()):  # they are in a snapshot that expires
        nothing = tables.local_rows(spark, [], spark.table(table_names.quoted(table)).schema)
        writers.append(nothing, table, run_id=job_runs.run_id(), summary=records)
        loaded = tables.load(spark, table)
    number = sum(1 for _ in loaded.snapshots())
    snapshots.expire(spark, loaded, older_than=int(time.time() * 1000) + 1000, keep=1)
    return number - sum(1 for _ in tables.load(spark, table).snapshots())


def _delete_leftovers(spark: SparkSession, table: str, found: Sequence[file_scan.Trace]) -> int:
    """Delete files that name the erased, that no snapshot reaches and that no running job can be writing."""
    loaded = tables.load(spark, table)
    properties: dict[str, str] = files.settings(loaded)
    oldest = time.time() - LEFTOVER_HOURS * 3600
    number = 0
    for trace in found:
        if trace.reached != LEFTOVER:
            continue
        system, inside = files.place(trace.file, properties)
        info: Any = system.get_file_info(inside)
        if info.is_file and info.mtime.timestamp() < oldest:
            loaded.io().deleteFile(trace.file)
            number += 1
    return number


def _counts(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{number} by {column}" for column, number in rows.items())
