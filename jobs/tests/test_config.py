"""The configuration is complete and right, or every fault of it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from moodle_lakehouse import config
from moodle_lakehouse.errors import ConfigError


def test_complete_document_is_typed(document: dict[str, Any]) -> None:
    document["analytics"]["profile_fields"] = ["gender"]
    document["analytics"]["enrolment_attributes"] = {"table": "local_x", "columns": ["credits"]}
    settings = config.parse(document, "jobs.yml")
    assert settings.moodle.port == 3306
    assert settings.moodle.password() == "password"
    assert settings.analytics.profile_fields == ["gender"]
    assert settings.analytics.enrolment_attributes == config.EnrolmentAttributes(table="local_x", columns=["credits"])
    assert settings.analytics.demographics is False


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("moodle", "port", "3306", "moodle.port: text found where a whole number belongs"),
        ("moodle", "port", True, "moodle.port: true or false found"),
        ("moodle", "port", 0, "moodle.port: 0; at least 1"),
        ("moodle", "port", 65536, "moodle.port: 65536; at most 65535"),
        ("moodle", "prefix", "mdl`", "moodle.prefix: 'mdl`'; letters, digits and _ only"),
        ("moodle", "columns", {"user": {"idnumber": "blur"}}, "moodle.columns.user.idnumber: 'blur'; use 'keep'"),
        ("moodle", "columns", {"user": ["idnumber"]}, "moodle.columns.user: a list found where a mapping belongs"),
        ("moodle", "max_connections", 0, "moodle.max_connections: 0; at least 1"),
        ("moodle", "hosts", "x", "moodle.hosts: unknown key; known here: columns, database, "),
        ("privacy", "mode", "none", "privacy.mode: 'none'; use 'pseudonymise' or 'keep'"),
        ("analytics", "as_of", "yesterday", "analytics.as_of: 'yesterday'"),
        ("analytics", "label", "x", "analytics.label"),
        ("analytics", "course_code", "^(.+", "is no regular expression: missing )"),
        ("analytics", "course_code", "^.+-", "analytics.course_code: no group"),
        ("analytics", "profile_fields", "gender", "analytics.profile_fields: text found where a list belongs"),
        ("analytics", "enrolment_attributes", {"table": "x"}, "analytics.enrolment_attributes.columns: missing"),
        ("analytics", "enrolment_attributes", {"table": "a;b", "columns": []}, "attributes.table: 'a;b' is no name"),
        ("spark", "cores_max", "two", "spark.cores_max"),
    ],
)
def test_fault_is_named_with_file_and_key(
    document: dict[str, Any], section: str, key: str, value: object, expected: str
) -> None:
    document[section][key] = value
    with pytest.raises(ConfigError, match=r"jobs\.yml") as caught:
        config.parse(document, "jobs.yml")
    assert expected in str(caught.value)
    assert "remedy" in str(caught.value)
    assert caught.value.exit_code == 2


def test_sandbox_is_optional(document: dict[str, Any]) -> None:
    assert config.parse(document | {"sandbox": None}, "jobs.yml").sandbox is None
    with_one = config.parse(document | {"sandbox": {"uri": "http://edge:8080/sandbox"}}, "jobs.yml")
    assert with_one.sandbox == config.SandboxConfig(uri="http://edge:8080/sandbox")
    assert config.parse(document, "jobs.yml").sandbox is None
    with pytest.raises(ConfigError, match=r"sandbox\.url: unknown key; known here: uri"):
        config.parse(document | {"sandbox": {"uri": "x", "url": "y"}}, "jobs.yml")


def test_data_without_a_site_behind_them_have_no_url(document: dict[str, Any]) -> None:
    document["moodle"]["url"] = None
    assert config.parse(document, "jobs.yml").moodle.url is None


def test_every_fault_is_reported_at_once(document: dict[str, Any]) -> None:
    del document["moodle"]["host"]
    document["surplus"] = 1
    document["analytics"]["champion"] = {"auc": 1}
    document["mlflow"] = None
    with pytest.raises(ConfigError) as caught:
        config.parse(document, "jobs.yml")
    for expected in (
        "moodle.host: missing",
        "surplus: unknown key; known here: analytics, catalog, mlflow, moodle, privacy, sandbox, spark",
        "analytics.champion.auc: unknown key; known here: auc_over_baselines",
        "mlflow: nothing found where a mapping belongs",
    ):
        assert expected in str(caught.value)


def test_bare_date_of_yaml_is_text(document: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "jobs.yml"
    file.write_text(yaml.safe_dump(document).replace("as_of: now", "as_of: 2014-02-01"))
    assert config.load(file).analytics.as_of == "2014-02-01"


def test_file_is_found_by_the_environment(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "elsewhere.yml"
    file.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("LAKEHOUSE_CONFIG", str(file))
    assert config.load().moodle.database == "moodle"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: [", b"", b"- 1"])
def test_unreadable_content_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "jobs.yml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"jobs\.yml"):
        config.load(file)


def test_secret_says_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.read_secret(str(tmp_path / "none"), "the key")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        config.read_secret(str(tmp_path / "empty"), "the key")


def test_whole_numbers_are_numbers(document: dict[str, Any]) -> None:
    document["analytics"] = {
        "label": "withdrawal",
        "as_of": "now",
        "champion": {"auc_over_champion": 0, "brier_over_baselines": -0.01},
    }
    rules = config.parse(document, "jobs.yml").analytics.champion
    assert (rules.auc_over_champion, rules.brier_over_baselines, rules.auc_over_baselines) == (0.0, -0.01, 0.0)
