"""No image is ever fetched by its name: whoever holds the name in a public registry would run code here."""

from __future__ import annotations

import re

import pytest
from conftest import project_files
from runner import ROOT

# A command's words, as a shell, a list of YAML or a list of Python has them
GAP = r"""(?:\n\s*- |[\s"',\[\]\\])+"""
STARTS = re.compile(rf"\bdocker{GAP}(run|create|container{GAP}(?:run|create))\b(?!\s+(?:failed|of|option))")
NEVER = re.compile(rf"--pull(?:{GAP}|=)never\b")
MODULE = re.compile(r"(?m)^( *)(?:- )?community\.docker\.(docker_container|docker_compose_v2):\n((?:\1 +.*\n|\s*\n)*)")
SUFFIXES = (".yml", ".yaml", ".py", ".sh", ".j2", ".md", ".service", "Dockerfile")


def texts() -> list[tuple[str, str]]:
    paths = [
        path for path in project_files() if path.suffix in SUFFIXES or path.name == "Dockerfile" or not path.suffix
    ]
    read = [(str(path.relative_to(ROOT)), path.read_bytes().decode("utf-8", "replace")) for path in paths]
    return [(name, text) for name, text in read if name not in ("CHANGELOG.md", "tests/test_pull.py")]


def pulling(text: str) -> list[str]:
    """Return the commands and tasks of a file that would fetch a missing image."""
    found = []
    for match in STARTS.finditer(text):
        # Options come before the image: on this line and on those it goes on in.
        if not NEVER.search(text[match.start() : match.start() + 240]):
            found.append(text[match.start() :].splitlines()[0][:100])
    for match in MODULE.finditer(text):
        starts = not re.search(r"(?m)^\s+state: absent$", match[3])
        if starts and not re.search(r"(?m)^\s+pull: never$", match[3]):
            found.append(match[2])
    return found


@pytest.mark.parametrize(
    ("text", "pulls"),
    [
        ("docker run --rm --pull never image", 0),
        ("docker run --rm --pull=never image", 0),
        ("docker run --rm image", 1),
        ("argv: [docker, run, --rm, image]", 1),
        ('argv: [docker, run, --rm, --pull, never, "{{ image }}"]', 0),
        ('["docker", "run", "--rm", "image"]', 1),
        ("argv:\n  - docker\n  - run\n  - --rm\n  - image\n", 1),
        ("docker container create image", 1),
        ("docker compose run --rm jobs", 0),  # the Compose file says it for each service
        ("- community.docker.docker_container:\n    name: a\n    image: b\n", 1),
        ("- community.docker.docker_container:\n    name: a\n    image: b\n    pull: never\n", 0),
        ("- community.docker.docker_container:\n    name: a\n    state: absent\n", 0),
        ("  community.docker.docker_compose_v2:\n    project_src: a\n", 1),
    ],
)
def test_what_counts_as_pulling(text: str, pulls: int) -> None:
    assert len(pulling(text)) == pulls


def test_nothing_is_pulled() -> None:
    found = [f"{name}: {line}" for name, text in texts() for line in pulling(text)]
    assert not found, "--pull never is missing:\n" + "\n".join(found)


def test_every_service_says_so() -> None:
    text = (ROOT / "compose" / "docker-compose.yml.j2").read_text(encoding="utf-8")
    shared = text[text.index("x-service: &service") : text.index("\nservices:")]
    assert re.search(r"(?m)^  pull_policy: never\b", shared)
    assert "<<: *service" in text
    assert len(re.findall(r"\bpull_policy:", text)) == 1
    services = re.findall(r"(?m)^  ([a-z-]+):\n(?:    #.*\n)*\{\{ service\(", text)
    images = re.findall(r"(?m)^ +image:", text)
    assert len(images) == 1, "only the macro names images"
    assert len(services) >= 12
