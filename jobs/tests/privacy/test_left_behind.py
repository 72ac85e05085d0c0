"""What jobs leave beside the lake (Spark's event logs, what they print, their rows of ops.job_run) names nobody and no secret."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from history_site import create
from mariadb import Server
from moodle_demo import schema
from moodle_lakehouse import config
from moodle_lakehouse.errors import LakehouseError, SourceError, reason
from moodle_lakehouse.ingest import jdbc_reader, mysql
from moodle_lakehouse.lake import session
from moodle_lakehouse.privacy import erasure
from pyarrow import parquet
from pyspark.sql import SparkSession
from site_files import config_document

# Numbers that hardly anything else has. Larger ones take long: an ingest tries all up to the greatest against the erased.
PEOPLE = (3918274, 3918275, 3918276, 3918277)
VICTIM = PEOPLE[1]
ALSO = (
    "enrol", "user_enrolments", "grade_items", "grade_grades", "grade_grades_history", "course_modules_completion",
    "quiz_attempts", "forum_posts", "user_lastaccess", "groups_members",
)  # fmt: skip

# Runs verbs and SQL in turn in one process, as the container does: what the JVM prints is captured with the rest.
RUNNER = """
import json, sys
import pymysql
from moodle_lakehouse import config
from moodle_lakehouse.cli import main
from moodle_lakehouse.ingest import read_plan

for step in json.load(sys.stdin):
    if "sql" in step:
        moodle = config.load().moodle
        with pymysql.connect(host=moodle.host, port=moodle.port, user=moodle.user, password=moodle.password(),
                             database=moodle.database, autocommit=True, ssl_disabled=True) as connection:
            connection.cursor().execute(step["sql"])
    else:
        read_plan.RANGE_ROWS = step.get("range_rows", 250_000)
        status = main.run(step["verb"])
        print("verb", *step["verb"][:1], status)
"""


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / name for name in ("conf", "events", "warehouse")}
    for place in made.values():
        place.mkdir()
    return made


def people_do_things(database: Server) -> None:
    site = create(database)
    for name in ALSO:
        database.query(schema.tables()[name].create("mdl_", keys=False))
    site.put("user", *({"id": one, "idnumber": f"N{one}"} for one in PEOPLE))
    site.put("enrol", {"id": 1, "enrol": "manual", "courseid": 2})
    site.put("user_enrolments", *({"enrolid": 1, "userid": one, "modifierid": VICTIM} for one in PEOPLE))
    site.put("context", {"id": 30, "contextlevel": 30, "instanceid": VICTIM})
    site.put("role_assignments", *({"roleid": 5, "contextid": 9, "userid": one} for one in PEOPLE))
    site.put("grade_items", {"id": 1, "courseid": 2, "itemtype": "course"})
    for table in ("grade_grades", "grade_grades_history"):
        site.put(table, *({"itemid": 1, "userid": one, "usermodified": VICTIM, "finalgrade": 1} for one in PEOPLE))
    site.put("course_modules_completion", *({"coursemoduleid": 10, "userid": one} for one in PEOPLE))
    site.put("quiz_attempts", *({"quiz": 11, "attempt": 1, "uniqueid": one, "userid": one} for one in PEOPLE))
    site.put("forum_posts", *({"discussion": 1, "userid": one, "privatereplyto": VICTIM} for one in PEOPLE))
    site.put("user_lastaccess", *({"courseid": 2, "userid": one, "timeaccess": 5} for one in PEOPLE))
    site.put("groups_members", *({"groupid": 1, "userid": one, "timeadded": 5} for one in PEOPLE))
    for one in PEOPLE:
        site.log(r"\core\event\course_module_viewed", 10, by=one)
        site.log(r"\core\event\user_enrolment_created", 10, by=VICTIM, enrol="manual")
        database.query(f"UPDATE mdl_logstore_standard_log SET relateduserid = {one} ORDER BY id DESC LIMIT 1")


def settings_of(database: Server, folder: Path) -> dict[str, str]:
    """Write the configuration and return its secrets, none of which is found by accident."""
    document: dict[str, Any] = config_document(folder)
    kept = {name: secrets.token_urlsafe(18) for name in ("key", "catalog", "mlflow")}
    for name, text in kept.items():
        (folder / name).write_text(text)
    (folder / "password").write_text(database.password)
    document["catalog"]["password_file"] = str(folder / "catalog")
    document["mlflow"]["password_file"] = str(folder / "mlflow")
    document["moodle"] |= {
        "host": database.host, "port": database.port, "user": database.user, "database": database.database,
        "columns": {"user": {"idnumber": "hash"}},
    }  # fmt: skip
    (folder / "jobs.yml").write_text(yaml.safe_dump(document))
    block = config.load(folder / "jobs.yml").privacy.hash_key().ljust(64, b"\0")
    pads = {f"hash key {pad:x}": bytes(b ^ pad for b in block).hex() for pad in (0x36, 0x5C)}
    return {**kept, **pads, "moodle": database.password}


def spark_defaults(places: dict[str, Path]) -> dict[str, str]:
    """Write Spark's configuration as deployed, but with the catalog in a folder; returns its secrets."""
    kept = {
        "spark.authenticate.secret": secrets.token_hex(16),
        "spark.sql.catalog.lakehouse.rest.auth.basic.password": secrets.token_urlsafe(18),
        "spark.sql.catalog.lakehouse.credential": f"id:{secrets.token_urlsafe(18)}",
        "spark.sql.catalog.lakehouse.s3.access-key-id": secrets.token_hex(10),
        "spark.sql.catalog.lakehouse.s3.secret-access-key": secrets.token_urlsafe(18),
    }
    catalog = "spark.sql.catalog.lakehouse"
    lines = {
        **kept,
        "spark.master": "local[2]",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.authenticate": "true",
        "spark.ui.port": "0",
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        catalog: "org.apache.iceberg.spark.SparkCatalog",
        f"{catalog}.type": "hadoop",
        f"{catalog}.warehouse": str(places["warehouse"]),
        f"{catalog}.cache-enabled": "false",
        "spark.sql.defaultCatalog": "lakehouse",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.ui.explainMode": "formatted",  # deployed: simple, which tells less
        "spark.sql.maxPlanStringLength": "1000000",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": f"file://{places['events']}",
        "spark.eventLog.compress": "true",
        **({"spark.jars": ",".join(session.test_jars())} if session.test_jars() else {}),
    }
    logging = Path(os.environ.get("SPARK_HOME", "/opt/spark")) / "conf" / "log4j2.properties"
    if logging.is_file():
        shutil.copy(logging, places["conf"])
    text = "".join(f"{name} {value}\n" for name, value in lines.items())
    (places["conf"] / "spark-defaults.conf").write_text(text)
    return kept


def event_logs(folder: Path) -> list[str]:
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        with pa.input_stream(str(file), compression="zstd") as stream:
            found.append(stream.read().decode())
    return found


def test_nobody_and_no_secret_is_left_behind(database: Server, tmp_path: Path, places: dict[str, Path]) -> None:
    people_do_things(database)
    hidden = settings_of(database, tmp_path) | spark_defaults(places)
    touch = f"UPDATE mdl_user SET timemodified = timemodified + 1, lang = 'de' WHERE id = {PEOPLE[2]}"
    steps: list[dict[str, Any]] = [
        # What curate leaves: tests/curated/test_user_keys.py
        {"verb": ["ingest"], "range_rows": 3}, {"sql": touch}, {"verb": ["verify"]},
        {"verb": ["erase-user", "--user-id", str(VICTIM), "--yes"]}, {"verb": ["ingest"]},
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYSPARK_GATEWAY", "PYSPARK_SUBMIT"))}
    environment |= {
        "SPARK_CONF_DIR": str(places["conf"]),
        "LAKEHOUSE_CONFIG": str(tmp_path / "jobs.yml"),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(steps),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    ended = re.findall(r"^verb (\S+) (\d)$", done.stdout, re.MULTILINE)
    verbs = [step["verb"][0] for step in steps if "verb" in step]
    assert [verb for verb, _ in ended] == verbs, done.stderr[-3000:]
    assert [verb for verb, status in ended if status != "0"] == ["verify"], done.stderr[-3000:]  # it differs

    logs = event_logs(places["events"])
    assert len(logs) == len(verbs) - verbs.count("erase-user")
    assert any("JDBCRelation((SELECT" in text for text in logs)
    runs = [
        parquet.read_table(file).to_pylist() for file in (places["warehouse"] / "ops" / "job_run").rglob("*.parquet")
    ]
    texts = {"stdout": done.stdout, "stderr": done.stderr, "ops.job_run": repr(runs)}
    texts |= {
        f"event log {number} of {re.search('moodle-lakehouse [a-z-]+', text)}": text for number, text in enumerate(logs)
    }
    assert {verb for of_file in runs for row in of_file for verb in [row["job"]]} >= set(verbs)
    ids = {str(one): str(one) for one in PEOPLE}
    ids |= {f"the hash of {one}": hashlib.sha256(str(one).encode()).hexdigest() for one in PEOPLE}
    words = {what: re.compile(rf"(?<![0-9]){re.escape(word)}(?![0-9])") for what, word in {**ids, **hidden}.items()}
    found = {(place, what) for place, text in texts.items() for what, word in words.items() if word.search(text)}
    assert found == set()


def test_messages_of_the_source_quote_no_values(spark: SparkSession, database: Server, moodle: config.Config) -> None:
    wrong = f"SELECT CAST(5 AS UNSIGNED) - {VICTIM} AS id"
    with pytest.raises(SourceError) as told, mysql.connect(moodle.moodle) as cursor:
        cursor.execute(wrong)
    assert "out of range" in str(told.value)
    assert str(VICTIM) not in str(told.value)
    with pytest.raises(Exception, match="out of range") as failed:  # Spark's own
        jdbc_reader.read_query(spark, moodle.moodle, wrong, "id DECIMAL(20,0)", []).collect()
    assert str(VICTIM) in str(failed.value)
    assert "out of range" in reason(failed.value)
    assert str(VICTIM) not in reason(failed.value)
    with pytest.raises(SourceError, match="mdl_nothing"), mysql.connect(moodle.moodle) as cursor:
        cursor.execute("SELECT 1 FROM mdl_nothing")  # names are told


def test_failures_of_an_erasure_do_not_name_the_erased(spark: SparkSession) -> None:
    def fail(error: str) -> None:
        with erasure.without_ids([VICTIM, 7]):
            spark.sql(f"SELECT raise_error('{error}')").collect()

    with pytest.raises(LakehouseError, match=r"userid \.\.\. and \.\.\. of 77") as caught:
        fail(f"userid {VICTIM} and 7 of 77")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("raised", [LakehouseError, KeyboardInterrupt])
def test_failures_that_name_nobody_stay_what_they_are(raised: Callable[[str], BaseException]) -> None:
    with pytest.raises(BaseException, match="something else") as caught, erasure.without_ids([VICTIM]):
        raise raised("something else")
    assert type(caught.value) is raised
