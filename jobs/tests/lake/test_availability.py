"""A part that is away is named and waited for: real servers that stop and start."""

from __future__ import annotations

import logging
import socket
import threading
import time

import pytest
from away import free_port, served
from moodle_lakehouse.errors import LakehouseError
from moodle_lakehouse.lake import availability
from moodle_lakehouse.lake.availability import AwayError, Part, Watch
from pyspark.sql import SparkSession


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def parts(port: int) -> list[Part]:
    settings = {"type": "rest", "uri": f"http://127.0.0.1:{port}/catalog", "s3.endpoint": f"http://127.0.0.1:{port}"}
    return availability.parts_of(settings.get)


def test_refusals_are_answers_and_failures_are_none(
    port: int, parts: list[Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [part.name for part in parts] == ["The catalog", "The object store"]
    with served(port):
        assert [part.ask() for part in parts] == [None, None]
    with served(port, 502):
        assert parts[0].ask() == "it answers with status 502"
    assert parts[1].ask() == "the connection is refused"
    monkeypatch.setattr(availability, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", port)):  # a paused container: the kernel accepts, and nobody answers
        assert parts[1].ask() == "no answer within 0.2 s"
    assert availability.parts_of({"type": "hadoop", "warehouse": "/tmp"}.get) == []


def test_part_that_is_away_is_named_and_waited_for(
    port: int, parts: list[Part], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(availability, "CHECK_SECONDS", 0.1)
    caplog.set_level(logging.WARNING)
    with served(port) as server, Watch(parts[1:]) as watch:
        assert not watch.wait(time.monotonic())
        assert not caplog.messages
        server.shutdown()
        server.server_close()
        began = time.monotonic()
        while not caplog.messages:
            assert time.monotonic() - began < 5
            time.sleep(0.05)
        assert "The object store does not answer: the connection is refused" in caplog.messages[0]
        assert f"where:  http://127.0.0.1:{port}" in caplog.messages[0]
        assert "remedy: see that it runs (docker compose ps, docker compose logs minio)" in caplog.messages[0]
        waited: list[bool] = []
        waiter = threading.Thread(target=lambda: waited.append(watch.wait(began)))
        waiter.start()
        time.sleep(0.3)
        assert not waited
        with served(port):
            waiter.join(timeout=5)
            assert waited == [True]
            assert "answers again" in caplog.messages[1]
            assert watch.wait(began)  # who fails a little later does so because of that
            assert not watch.wait(time.monotonic())


def test_part_that_stays_away_ends_the_run(parts: list[Part], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(availability, "WAIT_SECONDS", 0.5)
    ended = threading.Event()
    with Watch(parts[:1], ended.set) as watch:
        with pytest.raises(AwayError, match=r"The catalog does not answer: the connection is refused \(for 0 s\)"):
            watch.wait(time.monotonic())
        assert ended.is_set()
        assert watch.gave_up is not None


def test_error_of_a_part_that_is_away_gets_its_name(parts: list[Part]) -> None:
    with pytest.raises(AwayError, match="The catalog does not answer"), Watch(parts):
        raise RuntimeError("Connect to somewhere failed")
    with pytest.raises(LakehouseError, match="known"), Watch(parts):
        raise LakehouseError("known")
    with pytest.raises(RuntimeError, match="a mistake"), Watch(()):
        raise RuntimeError("a mistake")


def test_a_run_without_an_executor_is_told(spark: SparkSession) -> None:
    """In one process there is none besides the driver; while nothing runs none is needed."""
    assert availability.of_lake(spark) == []
    assert availability.no_executor(spark) is None
    slow = spark.range(1).selectExpr("java_method('java.lang.Thread', 'sleep', 4000L)")
    running = threading.Thread(target=slow.collect)
    running.start()
    told = []
    while running.is_alive():
        told.append(availability.no_executor(spark))
        time.sleep(0.1)
    assert "it gives this run no executor" in told
    assert availability.no_executor(spark) is None
