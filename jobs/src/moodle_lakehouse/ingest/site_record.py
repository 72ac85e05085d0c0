"""Record which Moodle a lake is of (lakehouse.ops.moodle_site), and refuse to copy another one into it.

Rows of two sites would replace each other under the same ids. So the identity is compared before a table is written.
"""

from __future__ import annotations

import dataclasses
import datetime as dt

from pyspark.sql import SparkSession

from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.ingest.source_sql import SiteIdentity
from moodle_lakehouse.lake import contracts, job_runs, table_names, tables, writers


def check(spark: SparkSession, identity: SiteIdentity, *, endpoint: str, same_site: bool = False) -> None:
    """Record the identity of the first site and what becomes known of it later; raise LakehouseError for another site.

    endpoint: of the source, for the message; same_site: take the identity for a new one of the same site.
    """
    recorded = tables.read(spark, table_names.MOODLE_SITE)
    newest = None if recorded is None else recorded.orderBy("recorded_at", ascending=False).first()
    names = [field.name for field in dataclasses.fields(SiteIdentity)]
    known = SiteIdentity(**dict.fromkeys(names)) if newest is None else SiteIdentity(**{n: newest[n] for n in names})
    different = known.differences(identity)
    if different and not same_site:
        raise LakehouseError(
            f"This is another Moodle than the one that the lake is of: another {', '.join(different)}; nothing was written",
            where=f"{endpoint} to {table_names.MOODLE_SITE}",
            remedy="check the database's name and prefix in the inventory; another site needs a lake of its own"
            " (./lakehouse destroy empties this one). If it is the same site under a new identity, run"
            " ingest --same-site once",
        )
    now = {n: getattr(identity, n) if getattr(identity, n) is not None else getattr(known, n) for n in names}
    if SiteIdentity(**now) != known:
        row = (dt.datetime.now(dt.UTC), *now.values(), job_runs.run_id())
        schema = contracts.schema(table_names.MOODLE_SITE)
        writers.append_rows(spark, [row], schema, table_names.MOODLE_SITE, run_id=job_runs.run_id())
