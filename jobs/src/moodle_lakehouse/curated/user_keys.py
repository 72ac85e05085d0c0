"""Make users' pseudonyms and keep whose they are: lakehouse.identity.user_key.

A pseudonym is made once for each id, here in the driver's Python, and joined from the table by whoever needs it: the key
reaches neither Spark nor an executor, so no plan, task or event log can hold it. No other table has both id and pseudonym,
and analysts cannot read this one. A row stays until its person is erased, since scores of earlier runs name people by it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import contracts, files, job_runs, snapshots, table_names, tables, writers

log = logging.getLogger(__name__)

PIECE = 100_000  # ids whose pseudonyms the driver holds as Python's objects at a time: some 20 MB
WHICH_KEY = "lakehouse.pseudonyms-key"  # recorded with the table's snapshots: tells keys apart


def pseudonym_of(key: bytes, userid: int) -> str:
    """Return 16 hex digits of the HMAC-SHA256 of a user's id under the key."""
    return hmac.digest(key, str(userid).encode(), hashlib.sha256).hex()[:16]


def update(spark: SparkSession, key: bytes, ids: DataFrame) -> DataFrame:
    """Give everybody a pseudonym who has none yet, and return everybody's: userid, user_key.

    ids: users' ids in one column userid.

    Raises:
        LakehouseError: the pseudonyms that are there were made with another key.
    """
    for attempt in (1, 2):
        loaded = _table(spark, key)
        known = spark.table(table_names.USER_KEY)
        new = ids.select("userid").distinct().join(known, how="left_anti", on="userid").toPandas()["userid"]
        if not len(new):
            break
        try:
            # Two jobs at once must not give somebody two rows: whoever commits second looks again.
            guard = writers.AppendGuard.of(loaded, "userid", -1)
            summary = {WHICH_KEY: _which(key)}
            writers.add_files(spark, guard, _writer(key, new), run_id=job_runs.run_id(), summary=summary)
            log.info("identity: %s new pseudonyms", f"{len(new):,}")
            break
        except Exception as error:
            if attempt == 2 or not writers.was_overtaken(error):
                raise
    return spark.table(table_names.USER_KEY)


def _table(spark: SparkSession, key: bytes) -> Any:
    """Return the loaded table, made when it is missing."""
    loaded = tables.load(spark, table_names.USER_KEY)
    if loaded is None:
        nobody = tables.local_rows(spark, [], contracts.schema(table_names.USER_KEY))
        summary = {WHICH_KEY: _which(key)}
        writers.append(nobody, table_names.USER_KEY, run_id=job_runs.run_id(), summary=summary)
        return tables.load(spark, table_names.USER_KEY)
    if snapshots.records(loaded).get(WHICH_KEY) != _which(key):
        raise LakehouseError(
            "The key of the pseudonyms is not the one that they were made with: the same people would get others, and"
            " nobody could find them in earlier scores to erase them",
            where=table_names.USER_KEY,
            remedy="put the old key back (vault_privacy_key); or begin anew: DROP TABLE"
            f" {table_names.USER_KEY} PURGE, DROP TABLE {table_names.STUDENT_RISK} PURGE, then run the pipeline",
        )
    return loaded


def _which(key: bytes) -> str:
    return hmac.digest(key, b"pseudonyms: which key", hashlib.sha256).hex()[:16]


def _writer(key: bytes, ids: Any) -> Callable[[writers.Files], list[str]]:
    """Return the function that writes the rows of ids to a file of the table, piece by piece."""
    import pyarrow as pa

    def write(target: writers.Files) -> list[str]:
        kinds = {"userid": pa.int64(), "user_key": pa.string()}
        schema = pa.schema([files.field(name, kind, target.field_ids[name]) for name, kind in kinds.items()])
        path = target.location(f"{secrets.token_hex(8)}.parquet")
        with files.parquet(path, schema, target.storage) as writer:
            for start in range(0, len(ids), PIECE):
                piece = [int(one) for one in ids[start : start + PIECE]]
                keys = [pseudonym_of(key, one) for one in piece]
                writer.write_table(pa.table([pa.array(piece, pa.int64()), pa.array(keys, pa.string())], schema))
        return [path]

    return write


@dataclass(frozen=True)
class Person:
    """Whose pseudonym it is. link: the address of the person's page in Moodle; None where no Moodle is known."""

    user_key: str
    userid: int
    link: str | None


def identify(spark: SparkSession, keys: Sequence[str], site: str | None) -> list[Person]:
    """Return who the people behind some pseudonyms are, in the order asked for; unknown ones are left out.

    site: Moodle's address (moodle.url).
    """
    known = tables.read(spark, table_names.USER_KEY)
    if known is None:
        raise LakehouseError(
            "The lake has no pseudonyms yet", where=table_names.USER_KEY, remedy="run ingest and curate first"
        )
    found = {row["user_key"]: int(row["userid"]) for row in known.where(F.col("user_key").isin(*keys)).collect()}
    return [Person(key, found[key], _link(site, found[key])) for key in dict.fromkeys(keys) if key in found]


def _link(site: str | None, userid: int) -> str | None:
    return None if site is None else f"{site.rstrip('/')}/user/profile.php?id={userid}"
