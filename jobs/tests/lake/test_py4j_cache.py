"""Java is asked once for each name."""

from __future__ import annotations

from typing import Any

import pytest
from py4j import protocol
from pyspark.sql import SparkSession
from pyspark.sql import functions as F


@pytest.fixture
def asked(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions for names from now on."""
    found: list[str] = []
    client: Any = spark._jvm._gateway_client
    send = client.send_command

    def listen(command: str, *arguments: Any, **options: Any) -> Any:
        if command.startswith(protocol.REFLECTION_COMMAND_NAME):
            found.append(command)
        return send(command, *arguments, **options)

    monkeypatch.setattr(client, "send_command", listen)
    return found


def test_names_are_asked_for_once(spark: SparkSession, asked: list[str]) -> None:
    jvm: Any = spark._jvm

    def mention() -> None:
        F.col("a").isin(1, 2)
        assert jvm.java.lang.Math.max(1, 2) == 2
        assert jvm.java.util.ArrayList().size() == 0

    mention()
    asked.clear()
    mention()
    assert asked == []


def test_values_are_asked_for_each_time(spark: SparkSession, asked: list[str]) -> None:
    jvm: Any = spark._jvm
    assert jvm.java.lang.Integer.MAX_VALUE == 2**31 - 1
    asked.clear()
    assert jvm.java.lang.Integer.MAX_VALUE == 2**31 - 1
    assert len(asked) == 1
    with pytest.raises(protocol.Py4JError):
        jvm.java.lang.Integer.NO_SUCH_VALUE  # noqa: B018
