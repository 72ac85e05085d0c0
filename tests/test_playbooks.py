"""What needs no host: the playbook of the secrets, on a copy of inventories/prod, and endpoints that follow from the groups."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from runner import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "inventories" / "prod", tmp_path / "prod")
    (tmp_path / "password").write_text("open sesame\n")
    return tmp_path / "prod"


def test_secrets_fills_what_is_empty_and_encrypts(inventory: Path, run: Run) -> None:
    vault = inventory / "group_vars" / "lakehouse" / "vault.yml"
    before = yaml.safe_load(vault.read_text())
    command = ["ansible-playbook", "playbooks/secrets.yml", "-i", inventory]
    password = ["--vault-password-file", inventory.parent / "password"]

    unprotected = run(*command)
    assert unprotected.returncode != 0, "without a vault password there is nothing to encrypt with"
    assert yaml.safe_load(vault.read_text()) == before

    first = run(*command, *password)
    assert first.returncode == 0, first.stdout
    encrypted = vault.read_bytes()
    assert encrypted.startswith(b"$ANSIBLE_VAULT")
    after = yaml.safe_load(VaultLib([("default", VaultSecret(b"open sesame"))]).decrypt(encrypted))
    assert after.keys() == before.keys()
    made = [after[name] for name, value in before.items() if not value]
    assert made
    assert all(len(secret) >= 20 for secret in made)
    assert len(set(made)) == len(made)
    assert {name: after[name] for name, value in before.items() if value} == {k: v for k, v in before.items() if v}
    assert not any(secret in first.stdout + first.stderr for secret in made)

    second = run(*command, *password)
    assert second.returncode == 0, second.stdout
    assert "changed=0" in second.stdout
    assert vault.read_bytes() == encrypted


def test_secrets_adds_what_an_older_inventory_lacks(inventory: Path, run: Run) -> None:
    """As an inventory of 0.1.0, encrypted: its comments, its order and its values stay, and what is new has values that fit."""
    vault = inventory / "group_vars" / "lakehouse" / "vault.yml"
    template = yaml.safe_load(vault.read_text())
    old = (
        "---\n# Kept in the safe.\nvault_admin_password: 'it''s \"old\" #1'  # the rector's\n"
        "vault_service_password: Iu7Ohngo\nvault_analyst_password: Aip4aequ\nvault_minio_root_password: Xoh3eiph\n"
        "vault_minio_catalog_secret: Eesh8ohp\nvault_minio_spark_secret: Ohch9aih\nvault_minio_mlflow_secret: Quee4eiz\n"
        "vault_postgres_password: Zei7aequ\nvault_postgres_catalog_password: Ieph2yoh\nvault_postgres_mlflow_password: Ohf5aing\n"
        "\n# The key of 2024\nvault_privacy_key: ' kept '\nvault_jupyter_token: Aef6aegh\nvault_moodle_password: !unsafe 'a{{b'\n"
        "vault_own: mine"
    )
    secret = [("default", VaultSecret(b"open sesame"))]
    vault.write_bytes(VaultLib(secret).encrypt(old, secret[0][1]))
    # Defined elsewhere: a second value here would be a trap.
    (inventory / "group_vars" / "lakehouse" / "more.yml").write_text("vault_spark_secret: Elsewhere7\n")
    command = ["ansible-playbook", "playbooks/secrets.yml", "-i", inventory]
    password = ["--vault-password-file", inventory.parent / "password"]

    looked = run(*command, *password, "--check")
    assert "changed=1" in looked.stdout, looked.stdout
    assert VaultLib(secret).decrypt(vault.read_bytes()).decode() == old

    done = run(*command, *password)
    assert done.returncode == 0, done.stdout
    text = VaultLib(secret).decrypt(vault.read_bytes()).decode()
    assert text.startswith(f"{old}\n\n# Added by ./lakehouse secrets of version ")
    added = yaml.safe_load(text.removeprefix(old))
    had = set(re.findall(r"(?m)^vault_\w+", old)) | {"vault_spark_secret"}
    assert set(added) == {name for name, value in template.items() if not value} - had
    assert {"vault_minio_root_user", "vault_minio_analyst_key", "vault_mlflow_edge_secret"} <= set(added)
    assert len(set(added.values())) == len(added)
    rules = yaml.safe_load((ROOT / "playbooks/group_vars/all/secrets.yml").read_text())["preflight_secret_rules"]
    lengths = {name: next(rule["make"] for rule in rules if re.fullmatch(rule["names"], name)) for name in added}
    assert {name: len(value) for name, value in added.items()} == lengths
    assert {lengths["vault_minio_spark_key"], lengths["vault_minio_root_user"]} == {20}
    assert lengths["vault_minio_sandbox_secret"] == 40
    assert not any(value in done.stdout + done.stderr for value in added.values())

    again = run(*command, *password)
    assert "changed=0" in again.stdout
    assert VaultLib(secret).decrypt(vault.read_bytes()).decode() == text


@pytest.mark.parametrize(("stores", "expected"), [(4, [1, 2, 3, 4, 1]), (1, [1, 1])])
def test_whom_clients_of_the_object_store_ask(run: Run, tmp_path: Path, stores: int, expected: list[int]) -> None:
    """A host of the store asks itself, any other the first; a site's own balancer outranks that."""
    hosts = {f"h{number}": {"lakehouse_address": f"192.0.2.{number}"} for number in range(1, stores + 2)}
    groups: dict[str, Any] = {
        "object_store": {"hosts": {host: {} for host in list(hosts)[:stores]}},
        "spark_master": {"hosts": {f"h{stores + 1}": {}}},
    }
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "children": {"lakehouse": {"children": groups}}}}))
    shown = "msg={{ inventory_hostname }}={{ lakehouse_s3_endpoint }}"
    command = ["ansible", "lakehouse", "-i", inventory, "--playbook-dir", "playbooks", "-m", "debug", "-a", shown]
    asked = dict(re.findall(r"(h\d+)=(\S+?)['\"]?$", run(*command).stdout, re.MULTILINE))
    assert asked == {host: f"http://192.0.2.{n}:9000" for host, n in zip(hosts, expected, strict=True)}

    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "lakehouse.yml").write_text("lakehouse_minio_endpoint: http://balancer:9000\n")
    asked = dict(re.findall(r"(h\d+)=(\S+?)['\"]?$", run(*command).stdout, re.MULTILINE))
    assert asked == dict.fromkeys(hosts, "http://balancer:9000")


@pytest.mark.parametrize(
    ("known", "shown", "hidden"),
    [
        ({"__jobs_pipeline": {"stdout": "Curated tables\n\nAs of 2025 (run 1)\n\nMost at risk\n"}}, "As of 2025 (run 1)\n\nMost at risk", "Curated"),
        ({"__jobs_pipeline": {"stdout": "Told in another way\n"}}, "Told in another way", "No results"),
        ({"__jobs_pipeline": {"skipped": True}, "__jobs_report": {"stdout": "Most at risk\n"}}, "Most at risk", "No results"),
        ({}, "No results yet: ./lakehouse run local -e verb=pipeline", "As of"),
    ],
)  # fmt: skip
def test_summary_shows_the_report(run: Run, known: dict[str, Any], shown: str, hidden: str) -> None:
    """That of the pipeline, without its tables, where it has just run; else the one that was made for it."""
    summary = "msg={{ lookup('ansible.builtin.template', 'summary.txt.j2') }}"
    command = ["ansible", "spark_master", "-i", "inventories/local", "--playbook-dir", "playbooks", "-m", "debug"]
    told = run(*command, "-a", summary, "-e", json.dumps(known)).stdout
    lines = re.sub(r"^ +", "", told, flags=re.MULTILINE)
    assert shown in lines, told
    assert hidden not in lines
