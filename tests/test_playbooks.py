"""Playbooks that need no host: secrets, on a copy of inventories/prod."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from conftest import ROOT

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
    assert all(len(secret) >= 24 for secret in made)
    assert len(set(made)) == len(made)
    assert {name: after[name] for name, value in before.items() if value} == {k: v for k, v in before.items() if v}
    assert not any(secret in first.stdout + first.stderr for secret in made)

    second = run(*command, *password)
    assert second.returncode == 0, second.stdout
    assert "changed=0" in second.stdout
    assert vault.read_bytes() == encrypted
