"""What tests/examples.py finds on the pages, and that its list of what is not run is true."""

from __future__ import annotations

import re

import pytest
from examples import LEFT_OUT, PROMPT, SHOWS, UnknownLineError, commands, examples, read, scripts, to_run
from runner import ROOT

PAGE = """# Page

Run `./lakehouse status`, `docker ps` and `VERB`, not `docker` or `--scale`:

    docker compose ps   # all of them
    SELECT 1;

## Section

| command | what |
|---|---|
| `docker compose up -d --scale
spark-worker=N` | no row |
| `curl -u me https://ADDRESS/` | a form |

```python
import os

print(os.sep)
```

    lakehouse_schedule:
      - {name: often, command: ingest}
"""


def test_reader() -> None:
    found = list(read("page.md", PAGE))
    assert [(one.line, one.section, one.kind, one.text) for one in found] == [
        (3, "Page", "shell", "./lakehouse status"),
        (3, "Page", "shell", "docker ps"),
        (5, "Page", "shell", "docker compose ps"),
        (6, "Page", "sql", "SELECT 1"),
        (14, "Section", "shell", "curl -u me https://ADDRESS/"),
        (16, "Section", "python", "import os\n\nprint(os.sep)\n"),
    ]
    assert [one.text for one in to_run([*found, *found])] == [
        "docker ps",
        "docker compose ps",
        "SELECT 1",
        "import os\n\nprint(os.sep)\n",
    ]


@pytest.mark.parametrize(
    "block", ["    kubectl get pods\n", "```\nmake install\n```\n", "```sh\ndocker ps\nmake it so\n```\n"]
)
def test_a_line_that_is_nothing_known(block: str) -> None:
    with pytest.raises(UnknownLineError, match=r"page\.md:\d: '(kubectl|make) "):
        list(read("page.md", block))


def test_what_is_not_run_stands_on_a_page() -> None:
    there = {one.text for one in examples()}
    assert [text for text in LEFT_OUT if text not in there] == []


def test_what_must_be_shown_is_run() -> None:
    run = {command["text"] for command in commands()}
    assert [text for text in SHOWS if text not in run] == []


def test_checks_that_are_named_exist() -> None:
    paths = [path for reason in LEFT_OUT.values() for path in re.findall(r"(?:\w+/)+\w+\.\w+", reason)]
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_each_is_run_by_something() -> None:
    """Commands run on the deployed host, statements at its prompt, and Python outside of it, which is on one page."""
    run = to_run(examples())
    assert {one.page for one in run if one.kind == "python"} == {"docs/connect.md"}
    typed = "".join(command["typed"] for command in commands() if command["text"] == PROMPT)
    assert [one.text for one in run if one.kind == "sql" and f"{one.text};\n" not in typed] == []
    assert not [one for one in run if one.kind == "sql" and re.search(r"\{\w+\}", one.text)], (
        "the prompt of spark-sql knows no variables: write %sql before what is for a notebook"
    )
    assert not [one for one in run if one.text.startswith("./lakehouse")], (
        "these need the controller: put them on the list"
    )


def test_replaced_in_python() -> None:
    found = scripts("docs/connect.md", {"http://127.0.0.1:8080": "https://lake.test"})
    sections = ["PyIceberg", "DuckDB", "Tables of your own"]
    assert [script["where"] for script in found] == [f"docs/connect.md, {section}" for section in sections]
    assert all("https://lake.test/" in script["python"] and ":8080" not in script["python"] for script in found)


def test_packages_are_those_of_the_page() -> None:
    wanted = (ROOT / "molecule/stack/files/connect/requirements.in").read_text(encoding="utf-8").splitlines()
    named = {
        package
        for text, reason in LEFT_OUT.items()
        if reason.endswith("connect/requirements.in")
        for package in text.split()[2:]
    }
    assert named == {line for line in wanted if line and not line.startswith("#")}
