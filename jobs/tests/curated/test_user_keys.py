"""Pseudonyms: made once, kept in one table, and their key stays in the driver's Python."""

from __future__ import annotations

import hashlib
import hmac
import json
import mmap
import secrets
from pathlib import Path
from typing import Any

import pytest
import yaml
from moodle_lakehouse import config
from moodle_lakehouse.cli import main
from moodle_lakehouse.curated import job as curated_job
from moodle_lakehouse.curated import user_keys
from moodle_lakehouse.dropout import features
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import contracts, session, snapshots, table_names, tables, writers
from pyspark.sql import SparkSession
from raw_rows import event, kept, raw
from site_files import config_document

KEY = b"secret"
STUDENT, TEACHER = 77_000_001, 77_000_002  # numbers that nothing else in these tables has


def ids(spark: SparkSession, *numbers: int) -> Any:
    return tables.local_rows(spark, [(number,) for number in numbers], "userid bigint")


def test_pseudonym_is_a_keyed_hash() -> None:
    expected = hmac.new(KEY, b"7", hashlib.sha256).hexdigest()[:16]
    assert user_keys.pseudonym_of(KEY, 7) == expected
    assert user_keys.pseudonym_of(b"another", 7) != expected


def test_only_new_people_get_a_pseudonym(lake: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_keys, "PIECE", 2)
    found = user_keys.update(lake, KEY, ids(lake, 2, 3, 3, 5))
    assert {tuple(row) for row in found.collect()} == {(n, user_keys.pseudonym_of(KEY, n)) for n in (2, 3, 5)}
    assert found.columns == list(contracts.names(table_names.USER_KEY))
    written = snapshots.snapshot_id(tables.load(lake, table_names.USER_KEY))
    user_keys.update(lake, KEY, ids(lake, 2, 5))
    assert snapshots.snapshot_id(tables.load(lake, table_names.USER_KEY)) == written, "nobody is new"
    user_keys.update(lake, KEY, ids(lake, 7))
    assert kept(lake) == {n: user_keys.pseudonym_of(KEY, n) for n in (2, 3, 5, 7)}, "3 stays, whom Moodle no longer has"


def test_two_jobs_at_once_give_nobody_two_rows(lake: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    user_keys.update(lake, KEY, ids(lake, 2))
    real, came_first = writers.add_files, []

    def overtaken(*args: Any, **kwargs: Any) -> None:
        if not came_first:
            came_first.append(True)
            user_keys.update(lake, KEY, ids(lake, 3, 4))
        real(*args, **kwargs)

    monkeypatch.setattr(writers, "add_files", overtaken)
    user_keys.update(lake, KEY, ids(lake, 3, 4, 5))
    assert came_first
    assert set(kept(lake)) == {2, 3, 4, 5}


def test_another_key_is_refused(lake: SparkSession) -> None:
    user_keys.update(lake, KEY, ids(lake, 2))
    with pytest.raises(LakehouseError, match="not the one that they were made with") as caught:
        user_keys.update(lake, b"another", ids(lake, 3))
    assert "vault_privacy_key" in str(caught.value)
    assert set(kept(lake)) == {2}


def site(lake: SparkSession) -> None:
    """The raw tables of a course with a student and a teacher in it."""
    made: dict[str, list[dict[str, Any]]] = {
        "user": [{"id": STUDENT, "deleted": 0, "timecreated": 5}, {"id": TEACHER, "deleted": 0, "timecreated": 5}],
        "course": [{"id": 1}, {"id": 2, "shortname": "A", "startdate": 100, "enddate": 9_000_000, "visible": 1}],
        "context": [{"id": 3, "contextlevel": 50, "instanceid": 2, "path": "/1/3"}],
        "role": [{"id": 5, "archetype": "student"}, {"id": 3, "archetype": "editingteacher"}],
        "role_assignments": [
            {"roleid": 5, "contextid": 3, "userid": STUDENT, "timemodified": 50},
            {"roleid": 3, "contextid": 3, "userid": TEACHER, "timemodified": 50},
        ],
        "enrol": [{"id": 1, "courseid": 2}],
        "user_enrolments": [{"id": 1, "enrolid": 1, "userid": STUDENT, "status": 0, "timestart": 0, "timecreated": 60}],
        "logstore_standard_log": [
            event(n, r"\core\event\course_viewed", 1000 + n, userid=who, courseid=2, crud="r", edulevel=2, action="viewed")
            for n, who in enumerate((STUDENT, TEACHER, STUDENT))
        ],
    }  # fmt: skip
    for table in contracts.RAW_COLUMNS:
        writers.replace(raw(lake, table, *made.get(table, [])), table_names.raw(table), run_id="a")


def test_identify_tells_who_it_is(
    lake: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document: dict[str, Any] = config_document(tmp_path)
    (tmp_path / "jobs.yml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("LAKEHOUSE_CONFIG", str(tmp_path / "jobs.yml"))
    monkeypatch.setattr(session, "create", lambda *_, **__: lake)
    monkeypatch.setattr(SparkSession, "stop", lambda _: None)
    assert main.run(["identify", "0" * 16]) == 1
    assert "no pseudonyms yet" in capsys.readouterr().err
    key = config.parse(document, "test").privacy.key()
    user_keys.update(lake, key, ids(lake, 2, 3))
    two, three = (user_keys.pseudonym_of(key, n) for n in (2, 3))
    assert main.run(["identify", three.upper(), two, three]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{three}  3  http://localhost/moodle/user/profile.php?id=3",
        f"{two}  2  http://localhost/moodle/user/profile.php?id=2",
    ]
    assert main.run(["identify", two, "0" * 16, "--format", "json"]) == 1, "one of them is nobody's"
    captured = capsys.readouterr()
    assert [row["userid"] for row in json.loads(captured.out)] == [2]
    assert f"Nobody has the pseudonym {'0' * 16}" in captured.err
    document["moodle"]["url"] = None
    (tmp_path / "jobs.yml").write_text(yaml.safe_dump(document))
    assert main.run(["identify", two]) == 0
    assert capsys.readouterr().out.split() == [two, "2"]


@pytest.mark.parametrize("given", ["7", "anna", "0" * 15, "0" * 17, "' OR 1=1 --000000"])
def test_what_is_no_pseudonym_is_refused_before_spark_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    (tmp_path / "jobs.yml").write_text(yaml.safe_dump(config_document(tmp_path)))
    monkeypatch.setenv("LAKEHOUSE_CONFIG", str(tmp_path / "jobs.yml"))
    monkeypatch.delattr(session, "create")
    assert main.run(["identify", given]) == 2
    assert "16 hex digits" in capsys.readouterr().err


def heap(spark: SparkSession, file: Path) -> None:
    """Write all that Spark's process holds, garbage included: here it is driver and executor in one."""
    jvm: Any = spark._jvm
    invoke, class_of = jvm.java.lang.invoke, jvm.java.lang.Class.forName
    types = [class_of(f"{name};") for name in ("[Ljava.lang.Object", "[Ljava.lang.String")]
    kind = invoke.MethodType.methodType(class_of("java.lang.Object"), class_of("javax.management.ObjectName"))
    kind = kind.appendParameterTypes(jvm.java.util.ArrayList([class_of("java.lang.String"), *types]))
    # The server's own class is none of Java's public ones: it is called by its interface.
    call = invoke.MethodHandles.publicLookup().findVirtual(class_of("javax.management.MBeanServer"), "invoke", kind)
    gateway: Any = spark.sparkContext._gateway
    values, signature = gateway.new_array(jvm.java.lang.Object, 2), gateway.new_array(jvm.java.lang.String, 2)
    values[0], values[1] = str(file), False
    signature[0], signature[1] = "java.lang.String", "boolean"
    arguments = jvm.java.util.ArrayList()
    for one in (
        jvm.java.lang.management.ManagementFactory.getPlatformMBeanServer(),
        jvm.javax.management.ObjectName("com.sun.management:type=HotSpotDiagnostic"), "dumpHeap", values, signature,
    ):  # fmt: skip
        arguments.add(one)
    call.invokeWithArguments(arguments)


class EventLog:
    """Spark's own log of all that it does from now on, as the stack has it on."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        jvm: Any = spark._jvm
        self._context: Any = spark.sparkContext._jsc.sc()
        self._folder = folder
        conf = (
            self._context.getConf()
            .clone()
            .set("spark.eventLog.compress", "false")
            .set("spark.eventLog.enabled", "true")
        )
        none = jvm.scala.Option.empty()
        self._listener = jvm.org.apache.spark.scheduler.EventLoggingListener(
            f"test-{secrets.token_hex(4)}", none, jvm.java.net.URI(folder.as_uri()), conf
        )
        self._listener.start()
        self._context.addSparkListener(self._listener)

    def text(self) -> str:
        """End the log and return it."""
        self._context.listenerBus().waitUntilEmpty()
        self._context.removeSparkListener(self._listener)
        self._listener.stop()
        return "\n".join(file.read_text(errors="replace") for file in self._folder.rglob("*") if file.is_file())


def test_key_never_leaves_the_driver(lake: SparkSession, tmp_path: Path) -> None:
    """Neither Spark's process, with every plan, broadcast and task in it, nor its event log ever holds the key."""
    document: dict[str, Any] = config_document(tmp_path)
    key, marker = secrets.token_hex(16), secrets.token_hex(16)
    (tmp_path / "key").write_text(key)
    settings = config.parse(document, "test")
    site(lake)
    lake.conf.set("lakehouse.marker", marker)
    (tmp_path / "events").mkdir()
    log = EventLog(lake, tmp_path / "events")
    curated_job.run(lake, settings)
    features.run(lake, settings, None)
    logged = log.text()
    assert kept(lake)[STUDENT] == user_keys.pseudonym_of(key.encode(), STUDENT)
    assert lake.table(table_names.ENROLMENT_WEEK).count() > 0
    written = [lake.table(name) for name in (*table_names.CURATED, table_names.ENROLMENT_WEEK)]
    assert not [df for df in written if "userid" in df.columns]

    forbidden = [key, key.encode().hex(), settings.privacy.hash_key().hex()]
    assert "SparkListenerTaskEnd" in logged
    assert "fact_event" in logged
    assert not [word for word in (*forbidden, "hmac", str(STUDENT), str(TEACHER)) if word.lower() in logged.lower()]
    heap(lake, tmp_path / "spark.hprof")
    with (tmp_path / "spark.hprof").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        assert memory.find(marker.encode()) >= 0, "this is where it would be found"
        assert not [word for word in forbidden if memory.find(word.encode()) >= 0]
        assert memory.find(settings.privacy.hash_key()) < 0
    (tmp_path / "spark.hprof").unlink()
    lake.conf.unset("lakehouse.marker")
