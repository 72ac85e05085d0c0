"""Every table that the jobs write has the columns that its contract declares."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_lake import AS_OF, follows_contract, settings_in, small_site
from moodle_lakehouse.clustering import job as clustering_job
from moodle_lakehouse.config import Config
from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.dropout import features
from moodle_lakehouse.ingest import moodle_tables, suppression_list
from moodle_lakehouse.lake import contracts, job_runs, table_names, writers
from pyspark.sql import SparkSession
from raw_rows import event, raw


def test_every_table_has_a_contract_and_a_key_of_its_columns() -> None:
    names = {value for value in vars(table_names).values() if isinstance(value, str) and value.startswith("lakehouse.")}
    assert names == contracts.CONTRACTS.keys()
    for contract in contracts.CONTRACTS.values():
        columns = [column.name for column in contract.columns]
        assert len(set(columns)) == len(columns), contract.table
        assert set(contract.key) <= set(columns), contract.table


def test_people_are_declared_in_every_contract() -> None:
    for contract in contracts.CONTRACTS.values():
        for column in contract.columns:
            if column.name in ("userid", "user_key"):
                assert column.person is contracts.Person.SUBJECT, contract.table


def test_raw_columns_are_known_to_the_catalogue() -> None:
    known = moodle_tables.load().tables
    for table, columns in contracts.RAW_COLUMNS.items():
        declared = known[table].numbers | {c.name for c in known[table].person}
        for name, kind in (column.split(" ", 1) for column in columns.replace("(10,5)", "").split(", ")):
            assert kind not in ("int", "bigint") or name in declared, f"{table}.{name}"


def test_curate_writes_what_its_contracts_declare(lake: SparkSession, settings: Config) -> None:
    for table in contracts.RAW_COLUMNS:
        rows = [event(1, r"\core\event\course_viewed", 1_700_000_000, userid=3, courseid=2)]
        writers.replace(
            raw(lake, table, *(rows if table == curated_job.LOG else [])), table_names.raw(table), run_id="a"
        )
    curated_job.run(lake, settings)
    for table in (*table_names.CURATED, table_names.DATA_QUALITY, table_names.JOB_RUN):
        follows_contract(lake, table)


def test_features_and_clusters_are_what_their_contracts_declare(lake: SparkSession, tmp_path: Path) -> None:
    site = small_site(students=5)
    site.write(lake)
    settings = settings_in(tmp_path)
    features.run(lake, settings, AS_OF)
    clustering_job.run(lake, settings, AS_OF)
    for table in (table_names.ENROLMENT_WEEK, table_names.COURSE_CLUSTER):
        follows_contract(lake, table)


def test_suppression_list_is_what_its_contract_declares(lake: SparkSession) -> None:
    suppression_list.remember(lake, b"key", [7])
    follows_contract(lake, table_names.ERASED_USER)


def test_another_column_is_no_table_of_the_contract(lake: SparkSession) -> None:
    with job_runs.job(lake, "features"):
        pass
    lake.sql(f"ALTER TABLE {table_names.JOB_RUN} ADD COLUMN more int")
    with pytest.raises(AssertionError):
        follows_contract(lake, table_names.JOB_RUN)
