"""The rules of the house that no linter knows: interfaces of roles, coverage by scenarios, nothing foreign in the files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import load_module, project_files
from runner import ROOT

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if (path / "tasks").is_dir())
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
# Roles that are proved in the scenario of another: what jobs do needs the whole stack.
SHARED_SCENARIOS = {"jobs": "stack"}
SCENARIOS = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))


class Loader(yaml.SafeLoader):
    """Reads Ansible's own tags as plain values."""


Loader.add_multi_constructor("!", lambda loader, _, node: loader.construct_scalar(node))  # type: ignore[no-untyped-call]


def load(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader) or {}


@pytest.mark.parametrize("role", ROLES)
def test_specs_equal_defaults(role: str) -> None:
    directory = ROOT / "roles" / role
    specs = load(directory / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    with_default = {name: spec["default"] for name, spec in specs.items() if "default" in spec}
    assert with_default == load(directory / "defaults" / "main.yml")
    required = {name for name, spec in specs.items() if "default" not in spec}
    assert all(specs[name].get("required") for name in required), f"neither required nor with a default: {required}"


@pytest.mark.parametrize("role", ROLES)
def test_variables_carry_the_roles_name(role: str) -> None:
    names = load(ROOT / "roles" / role / "defaults" / "main.yml")
    assert [name for name in names if not name.startswith(f"{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_readme_names_the_role_and_links_to_its_inputs(role: str) -> None:
    """An input is described in argument_specs.yml alone: no table in the README, no comment in the defaults."""
    directory = ROOT / "roles" / role
    text = (directory / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {role}\n")
    assert "(meta/argument_specs.yml)" in text
    assert re.findall(rf"(?m)^\| `{role}_.*", text) == []
    defaults = (directory / "defaults" / "main.yml").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^#.*", defaults) == ["# What each is for: ../meta/argument_specs.yml"]


def scenario_text(scenario: str) -> str:
    """Return a scenario's playbooks and every playbook that they import, by whatever way."""
    texts, queue, seen = [], sorted((ROOT / "molecule" / scenario).rglob("*.yml")), set()
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        texts.append(path.read_text(encoding="utf-8"))
        queue += [ROOT / "playbooks" / f"{name}.yml" for name in PLAYBOOKS if f"/{name}.yml" in texts[-1]]
        names = re.findall(r"import_playbook:\s*(\S+)", texts[-1])
        queue += [found for name in names if (found := (path.parent / name).resolve()).is_file()]
    return "\n".join(texts)


@pytest.mark.parametrize("role", ROLES)
def test_the_role_has_its_scenario(role: str) -> None:
    scenario = SHARED_SCENARIOS.get(role, role)
    assert scenario in SCENARIOS, f"no scenario molecule/{scenario}"
    use = re.compile(rf"(role|name):\s*{role}$", re.MULTILINE)
    assert use.search(scenario_text(scenario)), f"molecule/{scenario} does not apply the role {role}"


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_something_runs_the_playbook(playbook: str) -> None:
    texts = [scenario_text(name) for name in SCENARIOS]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py") if path != Path(__file__)]
    assert any(f"{playbook}.yml" in text for text in texts), f"no scenario and no test runs playbooks/{playbook}.yml"


def test_collections_are_the_installed_ones() -> None:
    """Every collection in use stands in requirements.yml, in the version that requirements.txt brings."""
    wanted = {entry["name"]: entry["version"] for entry in load(ROOT / "requirements.yml")["collections"]}
    files = [
        path for path in project_files(".yml") if path.relative_to(ROOT).parts[0] in ("roles", "playbooks", "molecule")
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    used = set(re.findall(r"\b((?:community|ansible)\.(?!builtin)[a-z]+)\.[a-z_0-9]+\b", text)) - {"ansible.cfg"}
    assert used <= set(wanted), "in use, but not in requirements.yml"
    import ansible_collections  # type: ignore[import-not-found]

    installed = {}
    for name in wanted:
        folders = [Path(place, *name.split(".")) for place in ansible_collections.__path__]
        manifest = next(folder / "MANIFEST.json" for folder in folders if (folder / "MANIFEST.json").is_file())
        installed[name] = load(manifest)["collection_info"]["version"]
    assert installed == wanted


# Where packages come from is the host's business. Each dot is escaped, so that this file names none of them.
REGISTRIES = re.compile(
    r"""(deb|security|ftp|snapshot|archive|cdn-fastly|httpredir)\.debian\.(org|net)
    |pypi\.(org|python\.org)|files\.pythonhosted\.org
    |repo\d?\.maven\.(org|apache\.org)|central\.sonatype
    |(proxy|sum)\.golang\.org|registry\.npmjs\.org|(static\.)?crates\.io
    |(registry-1|index|auth)\.docker\.io|(hub|download)\.docker\.com|quay\.io|(ghcr|gcr)\.io|mcr\.microsoft\.com
    |galaxy\.ansible\.com|repo\.anaconda\.com|github\.com/\S+/releases/download""",
    re.VERBOSE,
)


def test_no_registry_is_named() -> None:
    named = []
    for path in project_files():
        text = path.read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if REGISTRIES.search(line):
                named.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not named, "\n".join(named)


def test_versions_are_pinned() -> None:
    """Nothing is `latest`, and nothing that is locked lacks its hash."""
    files = [path for path in project_files() if path.name.startswith(("Dockerfile", "docker-compose", "images.yml"))]
    loose = [str(path) for path in files if re.search(r"(?m)^[^#\n]*:latest\b", path.read_text(encoding="utf-8"))]
    for path in project_files(".txt"):
        if path.name.startswith("requirements"):
            blocks = re.split(r"\n(?=[^\s#])", path.read_text(encoding="utf-8"))
            loose += [f"{path}: {block.split()[0]}" for block in blocks if "==" in block and "--hash=" not in block]
    assert not loose


def test_the_projects_version_stands_in_one_file() -> None:
    """VERSION holds it, CHANGELOG.md begins with it, and nothing else calls it its version."""
    version = (ROOT / "VERSION").read_text(encoding="utf-8")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", version)
    number = re.escape(version.strip())
    assert re.search(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[1] == version.strip()  # type: ignore[index]
    said = re.compile(rf"version\W{{1,6}}v?{number}(?![\d.]*\d)", re.IGNORECASE)
    files = [
        path for path in project_files() if path.name not in ("CHANGELOG.md", "requirements.txt", "requirements.yml")
    ]
    assert [str(path) for path in files if said.search(path.read_bytes().decode("utf-8", "replace"))] == []


@pytest.mark.parametrize("deployed", ["1.2.3", ""])
def test_the_jobs_call_the_deployed_version_theirs(monkeypatch: pytest.MonkeyPatch, deployed: str) -> None:
    monkeypatch.setenv("LAKEHOUSE_VERSION", deployed)
    package = load_module("jobs/src/moodle_lakehouse/__init__.py")
    assert package.__version__ == (deployed or "unknown (not deployed)")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenarios_share_their_vms(scenario: str) -> None:
    """A scenario's molecule.yml says only what differs, and its hosts are VMs of the shared create.yml."""
    directory = ROOT / "molecule" / scenario
    assert "vms" in load(directory / "inventory" / "hosts.yml")
    assert not (directory / "create.yml").exists()
    assert not (directory / "destroy.yml").exists()
    assert (directory / "verify.yml").exists(), "a scenario verifies behaviour"


def test_floors_fit_into_8_gib_and_stand_in_the_docs() -> None:
    """All services of one host fit into 8192 MiB, and docs/operations.md tells the same numbers as the table."""
    table = load(ROOT / "playbooks/group_vars/all/memory.yml")["lakehouse_memory_table"]
    floors = {name: row["floor"] for name, row in table.items()}
    # These are on hosts that have not everything. 192 MiB are the portal's.
    everywhere = sum(floor for name, floor in floors.items() if not name.startswith("notebooks-"))
    assert everywhere <= 8192 - 192
    docs = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| ([a-z-]+)[^|]* \| (\d+)[^|]* \| (\d+) \|$", docs)
    assert {name: (int(floor), int(share)) for name, floor, share in rows} == {
        name: (floors[name], row["share"]) for name, row in table.items()
    }
    assert f"| sum | {everywhere} of 8192;" in docs
