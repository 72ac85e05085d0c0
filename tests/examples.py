"""The commands of README.md and docs/, with where they stand, and those that the scenario `stack` does not run.

Called by molecule/stack/tasks/examples.yml and connect.yml, it prints what they run as JSON.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a command or a statement begins with: in a block each line must be one, in a sentence or a table what has arguments is one.
PROGRAMS = (
    "./lakehouse",
    "ansible-playbook",
    "cd",
    "cp",
    "curl",
    "docker",
    "export",
    "journalctl",
    "lakehouse-firewall",
    "moodle-lakehouse",
    "openssl",
    "pip",
    "systemctl",
)
STATEMENTS = ("ALTER", "CALL", "CREATE", "DELETE", "DESCRIBE", "DROP", "GRANT", "INSERT", "SELECT", "SHOW", "UPDATE")
OTHER_LANGUAGES = ("mermaid", "yaml")
# What the reader replaces by something of their own
PLACEHOLDER = re.compile(r"\b(ADDRESS|HOST|INVENTORY|NAME|USER_KEY|VERB)\b|=N$|'\.\.\.'|192\.0\.2\.10")

JOBS = "docker compose run --rm -T jobs"
PROMPT = "docker exec -it spark-master spark-sql"  # into which the statements are typed
# What a command must print, as a regular expression
SHOWS = {
    "docker compose ps": r"spark-master .*\(healthy\)",
    "docker compose logs spark-worker | grep -i master": "Successfully registered with master",
    f"{JOBS} --help": r"\n  pipeline +\w",
    f"{JOBS} history --course C01-2025A --from 2025-09-01 --to 2025-12-01": r"[1-9]\d* added",
    f"{JOBS} evaluate --train-until 2025-03-01 --test-from 2025-03-01": r"\n  8 +[1-9][\d,]* +0\.\d+ +0\.\d+ ±0",
    f"{JOBS} erase-user --user-id 123": r"raw\.user +1 (.|\n)*nothing was changed",
    f"{JOBS} maintain --dry-run": "What maintain would do",
    f"{JOBS} maintain --table raw.course": "1 tables",
    f"{JOBS} verify --table course --table logstore_standard_log --format json": '"equal": true, "tables"',
}
# What is not run as it stands, and why; a path in a reason names the check that runs it, or the same with the scenario's names.
LEFT_OUT = {
    # Deployments, which are Molecule's here
    "./lakehouse up": "molecule/stack/converge.yml",
    "./lakehouse test": "this is it",
    "./lakehouse preflight": "molecule/stack/converge.yml begins with it; molecule/preflight/verify.yml",
    "./lakehouse images": "molecule/images/converge.yml",
    "./lakehouse status": "molecule/stack/tasks/verbs.yml",
    "./lakehouse status prod": "molecule/stack/tasks/verbs.yml, of the scenario's inventory",
    "./lakehouse run": "molecule/stack/tasks/verbs.yml",
    "./lakehouse run -e verb=pipeline": "molecule/stack/converge.yml has just run the pipeline; molecule/stack/tasks/verbs.yml",
    "./lakehouse destroy": "molecule/stack/tasks/destruction.yml",
    "cp -r inventories/prod inventories/mysite": "tests/test_playbooks.py, into a folder of its own",
    "./lakehouse secrets mysite --vault-password-file ~/.vault-password": "tests/test_playbooks.py",
    "./lakehouse up mysite --vault-password-file ~/.vault-password": "molecule/cluster/converge.yml",
    "ansible-playbook site.yml -i inventories/mysite": "molecule/cluster/converge.yml",
    # What the demo has not got
    "docker exec minio minio-setup heal": "one host has nothing to heal: molecule/object_store_distributed/verify.yml",
    "systemctl start lakehouse-job-nightly": "there is no such timer: molecule/stack/tasks/timers.yml",
    "journalctl --identifier lakehouse-job-nightly": "there is no such timer: molecule/stack/tasks/timers.yml",
    "journalctl --unit docker": "some hosts have no systemd; it shows the engine, which is not the project's",
    "openssl x509 -noout -fingerprint -sha256 -in lakehouse-ca.crt": "there is no TLS",
    f"{JOBS} evaluate --train-until 2025-03-01 --test-from 2025-03-01 --group-by gender": "there is no profile field: "
    "jobs/tests/dropout/test_evaluation.py",
    # What changes the number of services
    "docker volume rm lakehouse_minio": "the end of a move to another store: molecule/external_store/verify.yml does the move",
    "docker compose build": "a command of others; here it builds nothing",
    "docker compose down": "a command of others; molecule/stack/tasks/destruction.yml",
    "docker compose up -d --scale spark-worker=3": "molecule/stack/tasks/scaling.yml",
    # What takes minutes, or changes what later checks count
    f"{JOBS} bench ingest --rows 1000000": "molecule/stack/tasks/verbs.yml, with fewer rows",
    f"{JOBS} verify": "molecule/stack/tasks/faults.yml",
    f"{JOBS} ingest --same-site": "jobs/tests/ingest/test_job.py",
    f"{JOBS} evaluate --leave-one-course-out --weeks 4,8 --format json": "a training a course: jobs/tests/dropout/test_evaluation.py",
    f"{JOBS} erase-user --user-id 123 --yes": "jobs/tests/privacy/test_erasure.py",
    "ALTER TABLE lakehouse.curated.fact_event CREATE TAG audit": "fails the second time",
    "ALTER TABLE raw.logstore_standard_log ADD PARTITION FIELD truncate(1000000, id)": "fails the second time",
    # Clients elsewhere, which get their packages from a locked list and the scenario's password
    "pip install pyiceberg pyarrow pandas": "molecule/stack/files/connect/requirements.in",
    "pip install duckdb==1.5.5 pandas": "molecule/stack/files/connect/requirements.in",
    "pip install duckdb-extensions==1.5.5 duckdb-extension-httpfs==1.5.5 duckdb-extension-avro==1.5.5 "
    "duckdb-extension-iceberg==1.5.5": "molecule/stack/files/connect/requirements.in",
    "pip install pytz": "the page's Python does not need it",
    "export LAKEHOUSE_PASSWORD=password LAKEHOUSE_S3_KEY=analyst LAKEHOUSE_S3_SECRET=password": "molecule/stack/tasks/connect.yml",
    'curl -u "analyst:$LAKEHOUSE_PASSWORD" http://127.0.0.1:8080/catalog/v1/config': "a bare Debian has no curl: "
    "molecule/stack/tasks/access.yml",
}


@dataclass(frozen=True)
class Example:
    """A command, a statement, or a block of Python, and the page, line and section where it stands."""

    page: str
    line: int
    section: str
    kind: str  # shell, sql or python
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"

    @property
    def is_left_out(self) -> bool:
        return self.text in LEFT_OUT or (self.kind != "python" and bool(PLACEHOLDER.search(self.text)))


class UnknownLineError(ValueError):
    """A line of a block is neither a command nor a statement nor part of an inventory."""


def kind_of(text: str) -> str | None:
    """Tell what can be done with a line or with code in a sentence; None: nothing."""
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    if first in PROGRAMS:
        return "shell"
    return "sql" if first in STATEMENTS else None


def is_inventory(content: str) -> bool:
    try:
        return isinstance(yaml.safe_load(content), dict)
    except yaml.YAMLError:
        return False


def read(page: str, content: str) -> Iterator[Example]:
    """Find the examples of a page."""
    section, previous = "", ""
    for token in MarkdownIt("commonmark").enable("table").parse(content):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "inline":
            if previous == "heading_open":
                section = token.content
            for child in token.children or []:
                kind = kind_of(child.content)
                if child.type == "code_inline" and kind and " " in child.content:
                    yield Example(page, line, section, kind, child.content.rstrip(";"))
        elif token.type in ("fence", "code_block"):
            language = token.info.strip()
            if language == "python":
                yield Example(page, line, section, "python", token.content)
            elif language not in OTHER_LANGUAGES and not is_inventory(token.content):
                yield from read_lines(page, line + (token.type == "fence"), section, token.content)
        previous = token.type


def read_lines(page: str, number: int, section: str, content: str) -> Iterator[Example]:
    """Find the examples of a block, whose first line has this number; comments and a statement's end are left away."""
    for line, text in enumerate(content.splitlines(), number):
        kind = kind_of(text)
        if kind:
            yield Example(page, line, section, kind, re.sub(r"(;|\s+#\s.*)$", "", text.rstrip()))
        elif text.strip():
            raise UnknownLineError(
                f"{page}:{line}: {text!r} begins with no program and no statement that tests/examples.py knows: "
                "add it there, or name the block's language"
            )


def examples() -> list[Example]:
    return [one for page in PAGES for one in read(str(page.relative_to(ROOT)), page.read_text(encoding="utf-8"))]


def to_run(found: list[Example]) -> list[Example]:
    """Return the examples that are run: each text once."""
    first: dict[str, Example] = {}
    for one in found:
        first.setdefault(one.text, one)
    return [one for one in first.values() if not one.is_left_out]


def commands() -> list[dict[str, str]]:
    """Return what is run on the deployed host, with what each must show; statements are typed at the prompt."""
    run = [one for one in to_run(examples()) if one.kind != "python"]
    statements = [one.text for one in run if one.kind == "sql"]
    return [
        {
            "where": f"{one.page}:{one.line}",
            "text": one.text,
            "shows": SHOWS.get(one.text, ""),
            "typed": "".join(f"{statement};\n" for statement in statements) if one.text == PROMPT else "",
        }
        for one in run
        if one.kind == "shell"
    ]


def scripts(page: str, replace: dict[str, str]) -> list[dict[str, str]]:
    """Return the Python of each section of a page as one script, with what the page says that a site replaces."""
    found: dict[str, str] = {}
    for one in to_run(examples()):
        if one.page == page and one.kind == "python":
            found[one.section] = found.get(one.section, "") + one.text + "\n"
    for section in found:
        for old, new in replace.items():
            found[section] = found[section].replace(old, new)
    return [{"where": f"{page}, {section}", "python": text} for section, text in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python-of", metavar="PAGE", help="the Python of this page instead of commands")
    parser.add_argument("--replace", nargs=2, action="append", default=[], metavar=("OLD", "NEW"))
    options = parser.parse_args()
    print(json.dumps(scripts(options.python_of, dict(options.replace)) if options.python_of else commands(), indent=1))


if __name__ == "__main__":
    main()
