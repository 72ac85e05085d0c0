"""Tags, the plan of a build and the search for package sources."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import load_module
from runner import ROOT

UIDS = yaml.safe_load((ROOT / "playbooks/group_vars/all/uids.yml").read_text())["lakehouse_uids"]
# Who is built from whom, by what an engine would have to build again.
CHILDREN = {
    "base": {"*"},
    "python": {"python", "jre", "spark", "jobs", "jobs-test", "notebooks", "catalog", "mlflow"},
    "jre": {"jre", "spark", "jobs", "jobs-test", "notebooks", "catalog"},
    "spark": {"spark", "jobs", "jobs-test", "notebooks"},
    "jobs": {"jobs", "jobs-test", "notebooks"},
    "minio": {"minio"},
    "edge": {"edge"},
    "moodle-db": {"moodle-db", "moodle-db-trixie"},
}


lookup = load_module("plugins/lookup/image_tags.py")
bake = load_module("roles/images/library/image_bake.py")
sources = load_module("roles/images/library/image_sources.py")


PLACES = {"SOURCES": "/s.tar", "CA_BUNDLE": "/ca.crt", "CAS": "/cas", "ROOTFS": "docker-image://rootfs:1"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what tags are computed from."""
    ignore = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in ("compose", "jobs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    recipe = tmp_path / lookup.ROOTFS_RECIPE
    recipe.parent.mkdir(parents=True)
    shutil.copy(ROOT / lookup.ROOTFS_RECIPE, recipe)
    shutil.copy(ROOT / "VERSION", tmp_path)
    return tmp_path


def tags(
    root: Path,
    uids: dict[str, int] = UIDS,
    cas: tuple[str, ...] = (),
    refresh: str = "",
    packages: tuple[str, ...] = (),
) -> dict[str, str]:
    result: dict[str, str] = lookup.tags(root, lookup.site_variables(uids, refresh, list(packages)), list(cas))
    return result


def targets(root: Path) -> dict[str, Any]:
    result: dict[str, Any] = lookup.targets(root, lookup.site_variables(UIDS, "", []), PLACES)
    return result


def edit(root: Path, *path: str, value: Any) -> None:
    """Set the value at a path of keys of the checkout's compose/images.yml; ... as value removes the key."""
    file = root / lookup.FILE
    content = yaml.safe_load(file.read_text())
    part = content
    for key in path[:-1]:
        part = part[key]
    if value is ...:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    file.write_text(yaml.safe_dump(content))


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_every_image_has_a_tag(checkout: Path) -> None:
    found = tags(checkout)
    assert set(found) == set(yaml.safe_load((ROOT / lookup.FILE).read_text())["images"])
    assert all(re.fullmatch(rf"lakehouse/{name}:[0-9a-f]{{12}}", tag) for name, tag in found.items())


def test_a_tag_does_not_depend_on_the_place(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(checkout, other)
    assert tags(checkout) == tags(other)


@pytest.mark.parametrize("name", CHILDREN)
def test_a_changed_image_changes_what_is_made_from_it(checkout: Path, name: str) -> None:
    before = tags(checkout)
    file = checkout / "compose" / name / "Dockerfile"
    file.write_text(file.read_text() + "# changed\n")
    expected = set(before) if CHILDREN[name] == {"*"} else CHILDREN[name]
    assert changed(before, tags(checkout)) == expected


def test_the_package_changes_its_images_only(checkout: Path) -> None:
    before = tags(checkout)
    (checkout / "jobs/src/moodle_lakehouse/new.py").write_text("")
    assert changed(before, tags(checkout)) == CHILDREN["jobs"]


def test_what_no_image_is_made_from_changes_nothing(checkout: Path) -> None:
    before = tags(checkout)
    (checkout / "jobs/tests").mkdir(exist_ok=True)
    for name in ("jobs/tests/test_new.py", "compose/edge/New.j2", "compose/spark/README.md", "compose/new.j2"):
        (checkout / name).write_text("new")
    (checkout / "jobs/src/moodle_lakehouse/__pycache__").mkdir(exist_ok=True)
    (checkout / "jobs/src/moodle_lakehouse/__pycache__/x.pyc").write_text("new")
    assert tags(checkout) == before


def test_a_version_changes_the_images_that_use_it(checkout: Path) -> None:
    before = tags(checkout)
    edit(checkout, "versions", "GO_VERSION", value="1.25")
    assert changed(before, tags(checkout)) == {"minio", "versitygw"}


def test_order_comments_and_what_is_built_by_default_change_nothing(checkout: Path) -> None:
    before = tags(checkout)
    edit(checkout, "images", "jobs-test", "default", value=True)  # writes all of it anew: sorted, without comments
    assert tags(checkout) == before


@pytest.mark.parametrize(("key", "value"), [("secret", ["id=other,src=${SOURCES}"]), ("args", {"COMMON": "1"})])
def test_a_changed_common_setting_changes_every_tag(checkout: Path, key: str, value: Any) -> None:
    before = tags(checkout)
    edit(checkout, "common", key, value=value)
    assert changed(before, tags(checkout)) == set(before)


def test_the_projects_version_is_a_label_and_no_input(checkout: Path) -> None:
    before = tags(checkout)
    (checkout / "VERSION").write_text("9.8.7\n")
    assert tags(checkout) == before
    labels = [target["labels"] for target in targets(checkout).values()]
    assert labels == [{"org.opencontainers.image.version": "9.8.7"}] * len(labels)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("extra",), {}, "exactly these sections: versions, common, images, stages"),
        (("stages",), ..., "exactly these sections"),
        (("images",), [], "images must be a mapping"),
        (("images", "edge"), "edge", r"images\.edge must be a mapping of: context, contexts"),
        (("images", "edge", "contxt"), "edge", r"images\.edge has the unknown key 'contxt'\. Known are: context"),
        (("stages", "uv", "default"), True, r"stages\.uv has the unknown key 'default'"),
        (("common", "tags"), ["x"], r"common has the unknown key 'tags'"),
        (("images", "edge", "context"), ..., r"images\.edge lacks the key 'context'"),
        (("images", "edge", "default"), "no", r"images\.edge\.default must be true or false, not 'no'"),
        (("images", "edge", "secret"), "id=sources", r"images\.edge\.secret must be a list of texts"),
        (("images", "edge", "args"), {"UID": 10004}, r"images\.edge\.args must be a mapping of texts, not .*Quote numbers"),
        (("versions", "GO_VERSION"), 1.24, r"versions\.GO_VERSION must be a text, not 1\.24\. Quote numbers"),
        (("images", "edge", "contexts"), {"base": "target:bose"}, r"edge is built from the unknown target:bose\. Known are: base"),
        (("images", "edge", "context"), "egde", "edge is built from egde, which is no folder in"),
        (("images", "edge", "args"), {"UID": "${UID_EGDE}"}, r"edge names the unknown variable UID_EGDE\. Known are: CAS"),
        (("images", "base", "contexts"), {"base": "target:edge"}, "these are built from each other: .*edge"),
        (("stages", "edge"), {"context": "edge"}, "edge is an image and a stage"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(checkout: Path, path: tuple[str, ...], value: Any, message: str) -> None:
    edit(checkout, *path, value=value)
    with pytest.raises(lookup.AnsibleLookupError, match=f"compose/images.yml.*{message}"):
        tags(checkout)


def test_targets_have_values_for_all_variables(checkout: Path) -> None:
    found = targets(checkout)
    assert "${" not in str(found)
    assert found["base"]["contexts"] == {"rootfs": PLACES["ROOTFS"], "cas": PLACES["CAS"]}
    assert found["edge"]["args"] == {"UID": str(UIDS["edge"])}
    assert found["edge"]["secret"] == ["id=sources,src=/s.tar"]
    with pytest.raises(lookup.AnsibleLookupError, match="needs places of CA_BUNDLE, ROOTFS, SOURCES"):
        lookup.targets(checkout, lookup.site_variables(UIDS, "", []), {"CAS": "/cas"})


def test_what_is_built_when_nothing_is_asked_for(checkout: Path) -> None:
    services = yaml.safe_load((ROOT / "playbooks/group_vars/all/services.yml").read_text())["lakehouse_service_images"]
    assert set(lookup.load(checkout).default) == set(services.values())


def test_a_sites_packages_change_the_notebooks_only(checkout: Path) -> None:
    before = tags(checkout)
    assert changed(before, tags(checkout, packages=("polars", "geopandas>=1.1,<2"))) == {"notebooks"}
    assert tags(checkout, packages=("b", "a")) == tags(checkout, packages=("a", "b"))


@pytest.mark.parametrize("package", ["two words", "--index-url=x", "numpy==", "", {"polars": "1.0"}])
def test_what_is_no_package_is_refused(package: Any) -> None:
    with pytest.raises(lookup.AnsibleLookupError, match=r"lakehouse_notebook_packages: .* is no package to install"):
        lookup.requirements([package])


def test_certificates_ids_and_refresh(checkout: Path, tmp_path: Path) -> None:
    before = tags(checkout)
    (tmp_path / "cas").mkdir()
    (tmp_path / "cas/site.crt").write_text("a certificate\n")
    assert changed(before, tags(checkout, cas=(str(tmp_path / "cas"),))) == set(before)
    assert changed(before, tags(checkout, refresh="2026-12-01")) == set(before)
    assert changed(before, tags(checkout, UIDS | {"edge": 12345})) == {"edge"}
    assert tags(checkout, cas=("/does/not/exist",)) == before


DEFINITION: dict[str, Any] = {
    "base": {"contexts": {"cas": "/cas"}},
    "tool": {"contexts": {"base": "target:base"}},
    "spark": {"contexts": {"base": "target:base", "tool": "target:tool"}},
    "jobs": {"contexts": {"spark": "target:spark", "tool": "target:tool"}},
}
TAGS = {name: f"lakehouse/{name}:1" for name in ("base", "spark", "jobs")}


def test_plan_builds_all_on_an_empty_engine() -> None:
    plan = bake.plan(DEFINITION, ["jobs"], TAGS, set())
    assert set(plan) == {"jobs", "spark", "tool", "base"}
    assert plan["base"]["contexts"] == {"cas": "/cas"}
    assert plan["jobs"]["tags"] == ["lakehouse/jobs:1"]
    assert "tags" not in plan["tool"]


def test_plan_uses_the_images_that_exist() -> None:
    plan = bake.plan(DEFINITION, ["jobs"], TAGS, {"lakehouse/base:1", "lakehouse/spark:1"})
    assert set(plan) == {"jobs", "tool"}
    assert plan["jobs"]["contexts"] == {"spark": "docker-image://lakehouse/spark:1", "tool": "target:tool"}
    assert plan["tool"]["contexts"] == {"base": "docker-image://lakehouse/base:1"}


def test_bake_evaluates_nothing_that_a_site_says() -> None:
    said = {"args": {"PACKAGES": "x @ https://me:${TOKEN}@a.example/x"}, "secret": ["%{if}"]}
    assert bake.literal(said) == {"args": {"PACKAGES": "x @ https://me:$${TOKEN}@a.example/x"}, "secret": ["%%{if}"]}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://127.0.0.1:3142", True),
        ("http://localhost:8080/simple", True),
        ("[::1]:3128", True),
        ("http://mirror.example.org/debian", False),
        ("direct", False),
        ("10.0.0.1:3128", False),
    ],
)
def test_loopback(address: str, expected: bool) -> None:
    assert sources.is_loopback(address) is expected


def test_credentials_are_not_shown() -> None:
    shown = sources.without_credentials("https://me:secret@a.example/simple https://you:more@b.example/x")
    assert shown == "https://***@a.example/simple https://***@b.example/x"


def test_the_archive_of_sources_is_the_same_for_the_same_sources() -> None:
    files = {"env": "A=1\n", "apt.conf": ""}
    first, second = sources.archive(files), sources.archive(dict(reversed(files.items())))
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert tar.getnames() == ["apt.conf", "env"]


def test_a_cloud_images_list_of_mirrors(tmp_path: Path) -> None:
    listing = tmp_path / "debian.list"
    listing.write_text("# mirrors\nhttps://mirror.example.org/debian\tpriority:1\nhttps://second.example.org/debian\n")
    assert sources.Sources.plain(f"mirror+file:{listing}") == "https://mirror.example.org/debian"
    assert sources.Sources.plain("file:/srv/mirror") == ""
    assert sources.Sources.plain("http://mirror.example.org/debian") == "http://mirror.example.org/debian"


class FakeModule:
    """Answers as pip and Go do; no program is run."""

    def __init__(self, answers: dict[str, str], **params: str) -> None:
        self.answers, self.params = answers, {"pypi_index": "", "maven_mirror": "", "go_proxy": ""} | params

    def get_bin_path(self, name: str, **_: Any) -> str | None:
        return name if name in self.answers else None

    def run_command(self, argv: list[str], **_: Any) -> tuple[int, str, str]:
        program = "pip" if "pip" in argv else argv[0]
        return (0, self.answers[program], "") if program in self.answers else (1, "", "No module named pip")


PIP = """:env:.index-url='https://env.example/simple'
global.extra-index-url='https://a.example/simple\\nhttps://b.example/simple'
global.index-url='https://global.example/simple'
install.trusted-host='a.example'
global.trusted-host='b.example'
"""


def test_what_pip_and_go_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOPROXY", "GOINSECURE", "GOPRIVATE", "GONOPROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOPRIVATE", "mine.example")
    go = '{"GOPROXY": "https://go.example,direct", "GOPRIVATE": "other.example", "GOINSECURE": ""}'
    found = sources.Sources(FakeModule({"pip": PIP, "go": go}))
    assert found.python() == {
        "PIP_INDEX_URL": "https://env.example/simple",
        "UV_DEFAULT_INDEX": "https://env.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://a.example/simple https://b.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "PIP_TRUSTED_HOST": "a.example",
        "UV_INSECURE_HOST": "a.example",
    }
    assert found.go() == {"GOPROXY": "https://go.example,direct", "GOPRIVATE": "mine.example"}


def test_variables_rank_before_what_the_host_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOPROXY", "GOINSECURE", "GOPRIVATE", "GONOPROXY"):
        monkeypatch.delenv(name, raising=False)
    said = {
        "pypi_index": "https://x.example/simple",
        "go_proxy": "https://y.example",
        "maven_mirror": "https://z.example",
    }
    for answers in ({}, {"pip": PIP, "go": '{"GOPROXY": "direct"}'}):
        found = sources.Sources(FakeModule(answers, **said))
        assert found.python()["PIP_INDEX_URL"] == "https://x.example/simple"
        assert found.go() == {"GOPROXY": "https://y.example"}
        assert found.maven() == {"MAVEN_MIRROR": "https://z.example/"}


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "compose").glob("*/jars.txt")))
def test_jar_lists_hold_a_sum_for_every_jar(path: str) -> None:
    lines = [line for line in (ROOT / path).read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[0-9a-f]{64}  [^:\s]+:[^:\s]+:[^:\s]+(:[^:\s]+)?", line)] == []
    assert len({line.split()[1] for line in lines}) == len(lines)


def test_requirements_hold_hashes() -> None:
    for path in (ROOT / "compose").glob("*/requirements*.txt"):
        pins = re.findall(r"^[A-Za-z][^\s=]*==.*(?:\n {4}--hash=\S+(?: \\)?)+", path.read_text(), re.MULTILINE)
        names = re.findall(r"^[A-Za-z]\S*==", path.read_text(), re.MULTILINE)
        assert len(pins) == len(names) > 0, f"{path.relative_to(ROOT)} has requirements without a hash"


def test_health_check_program(tmp_path: Path) -> None:
    """http-ok is the only health check of most images: what it accepts must be right."""
    import http.server
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.strip("/") or 200))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    program = ROOT / "compose/base/http-ok"
    codes = {
        path: subprocess.run([program, url + path], check=False).returncode for path in ("", "/302", "/404", "/500")
    }
    server.shutdown()
    server.server_close()
    assert codes == {"": 0, "/302": 0, "/404": 1, "/500": 1}
    assert subprocess.run([program, url], check=False, capture_output=True).returncode == 1
    assert subprocess.run([program, "https://127.0.0.1"], check=False, capture_output=True).returncode == 2
