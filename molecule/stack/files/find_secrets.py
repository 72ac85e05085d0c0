"""Searches a lakehouse's host for its secrets by value, wherever none of them may stand. Runs as root.

Standard input: a JSON document. secrets: name -> value; users: user name -> the name of its password;
events: the image whose Python reads Spark's event logs; job: the command over whose run processes are watched; table: the
text of docs/security.md, which says who holds what; uids: user name there -> user id.
Prints one line for each place where a secret was found, with the secret's name and how it was written, and one for each
place where what always stands there was not found either: nobody had looked.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

PROJECT = Path("/opt/lakehouse")
DOCKER = Path("/var/lib/docker")
# Decompresses Spark's event logs; a log that is still being written ends in the middle of a frame.
READ_EVENTS = """
import pathlib, shutil, sys, pyarrow
for path in sorted(pathlib.Path("/events").rglob("*")):
    if path.is_file() and not path.name.startswith("."):
        raw = pyarrow.OSFile(str(path))
        stream = pyarrow.CompressedInputStream(raw, "zstd") if ".zst" in path.name else raw
        try:
            while block := stream.read(1 << 20):
                sys.stdout.buffer.write(block)
        except OSError as error:
            print(path.name, error, file=sys.stderr)
"""
# Packages of the distribution and of the languages: no build step writes configuration there.
PACKAGES = (
    "usr/lib",
    "usr/share",
    "usr/bin",
    "usr/sbin",
    "lib",
    "opt/venv",
    "opt/spark/jars",
    "opt/spark/python",
    "opt/catalog",
)


def forms(names: dict[str, str], users: dict[str, str]) -> dict[bytes, str]:
    """Return every way in which a secret can be written, with its name."""
    found: dict[bytes, str] = {}

    def add(text: str, name: str, how: str) -> None:
        if len(text) >= 8 and "\n" not in text:
            found.setdefault(text.encode(), f"{name}{how}")

    for name, value in names.items():
        add(value, name, "")
        add(json.dumps(value)[1:-1], name, " (JSON)")
        add(json.dumps(value, ensure_ascii=False)[1:-1], name, " (JSON)")
        add(json.dumps(json.dumps(value))[3:-3], name, " (JSON in JSON)")
        add(quote(value, ""), name, " (URL)")
        add(quote_plus(value), name, " (form)")
        add(value.replace("$", "$$"), name, " (Compose)")
        add(value.replace("'", "'\"'\"'"), name, " (shell)")
        add(value.replace("'", "''"), name, " (SQL)")
        add(value.replace("\\", "\\\\"), name, " (properties)")
        add(value.replace("%", "%%"), name, " (INI)")
        add(base64.b64encode(value.encode()).decode().rstrip("="), name, " (base64)")
    for user, name in users.items():
        together = f"{user}:{names[name]}"
        add(base64.b64encode(together.encode()).decode().rstrip("="), name, f" (base64 of {user}:...)")
    return found


def run(*command: str, cwd: Path | None = None) -> bytes:
    """Return what a command prints; fail with what it says if it fails."""
    ended = subprocess.run(command, capture_output=True, cwd=cwd, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(command)[:200]}: {ended.stderr.decode(errors='replace')[-2000:]}")
    return ended.stdout


class Watch(threading.Thread):
    """Looks at the host's processes as often as it can: what they were called with, and what they have around them."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.arguments: set[bytes] = set()
        self.environments: set[tuple[int, bytes]] = set()
        self.done = threading.Event()

    def run(self) -> None:
        """Look until it is done."""
        while not self.done.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    self.arguments.add((process / "cmdline").read_bytes())
                    self.environments.add((process.stat().st_uid, (process / "environ").read_bytes()))
                except OSError:  # it has ended
                    continue


class Search:
    """Greps files for all forms of all secrets at once."""

    def __init__(self, needles: dict[bytes, str], folder: Path) -> None:
        self.needles = needles
        self.folder = folder
        self.file = folder / "needles"
        self.file.write_bytes(b"\n".join(needles) + b"\n")
        self.lines: list[str] = []

    def grep(self, paths: Iterable[Path], *options: str) -> Iterator[tuple[str, str]]:
        """Yield file and secret for each secret that stands in one of the paths."""
        command = ["grep", "--recursive", "--text", "--only-matching", "--with-filename", "--null", "--no-messages"]
        command += ["--fixed-strings", f"--file={self.file}", *options, "--", *map(str, paths)]
        out = subprocess.run(command, stdout=subprocess.PIPE, check=False, env={**os.environ, "LC_ALL": "C"}).stdout
        for line in sorted(set(out.splitlines())):
            file, _, needle = line.partition(b"\0")
            if needle in self.needles:
                yield file.decode(errors="replace"), self.needles[needle]

    def tell(self, place: str, found: Iterable[tuple[str, str]], with_file: bool = False) -> None:
        """Keep what was found for the end."""
        for file, secret in found:
            self.lines.append(f"{place}: {secret}" + (f" in {file}" if with_file else ""))

    def text(self, place: str, content: bytes, always: bytes) -> None:
        """Search what a command printed; `always` stands there whatever happens."""
        file = self.folder / "text"
        file.write_bytes(content)
        self.tell(place, self.grep([file]))
        if always not in content:
            self.lines.append(f"{place}: not looked at, for {always.decode()} is not there")

    def files(self, place: str, paths: Iterable[Path], always: str, *options: str) -> None:
        """Search files and folders; `always` stands in one of them whatever happens."""
        there = [path for path in paths if path.exists()]
        self.tell(place, self.grep(there, *options), with_file=True)
        command = [
            "grep",
            "--recursive",
            "--text",
            "--quiet",
            "--no-messages",
            "--fixed-strings",
            *options,
            "--",
            always,
        ]
        if subprocess.run([*command, *map(str, there)], check=False).returncode:
            self.lines.append(f"{place}: not looked at, for {always} is not there")


def layers() -> Iterator[Path]:
    """Yield what images and containers hold beside packages: folders and files of each of Docker's layers."""

    def below(folder: Path, prefix: str) -> Iterator[Path]:
        for entry in os.scandir(folder):
            name = f"{prefix}{entry.name}"
            if name in PACKAGES or entry.is_symlink():
                continue
            if entry.is_dir() and any(package.startswith(f"{name}/") for package in PACKAGES):
                yield from below(Path(entry.path), f"{name}/")
            elif entry.is_dir() or entry.is_file():
                yield Path(entry.path)

    for layer in (DOCKER / "overlay2").glob("*/diff"):
        yield from below(layer, "")


def holders(needles: dict[bytes, str]) -> dict[int, set[str]]:
    """Return user id -> names of the secrets in the files that this user alone may read."""
    held: dict[int, set[str]] = {}
    for path in (PROJECT / "secrets").iterdir():
        content = path.read_bytes()
        names = {name.split()[0] for needle, name in needles.items() if needle in content}
        held.setdefault(path.stat().st_uid, set()).update(names)
    return held


def documented(table: str, uids: dict[str, int]) -> dict[str, set[int]]:
    """Return secret -> user ids of who holds it, from the rows `| secrets | what they open | holders |` of a document."""
    told: dict[str, set[int]] = {}
    for names, who in re.findall(r"(?m)^\| (`vault_[^|]*) \|[^|]*\| ([^|]*) \|$", table):
        users = {uids[word] for word in re.findall(r"\w+", who) if word != "people"}
        told |= dict.fromkeys(re.findall(r"vault_\w+", names), users)
    return told


def main() -> None:
    """Search everywhere and print what was found."""
    given: dict[str, Any] = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(dir="/run", prefix="find-secrets-") as folder:
        search = Search(forms(given["secrets"], given["users"]), Path(folder))

        watch = Watch()
        watch.start()
        began = time.monotonic()
        printed = run(*given["job"], cwd=PROJECT)
        watch.done.set()
        watch.join()
        search.text("a job's output", printed, given["job_says"].encode())
        arguments = b"\n".join(watch.arguments)
        search.text("arguments of processes", arguments, b"org.apache.spark.executor.CoarseGrainedExecutorBackend")
        # Spark hands its secret to executors that way, and nobody but the owner can look.
        held = holders(search.needles)
        for uid, environment in sorted(watch.environments):
            for needle, secret in search.needles.items():
                if needle in environment and secret.split()[0] not in held.get(uid, set()):
                    search.lines.append(f"environment of a process of user {uid}: {secret}")
        if not any(b"SPARK_HOME" in environment for _, environment in watch.environments):
            search.lines.append("environments of processes: not looked at, for SPARK_HOME is not there")

        # What the documentation says of who holds which secret is so. Some have no use here.
        told = documented(given["table"], given["uids"])
        for name in given["secrets"]:
            found = {uid for uid, names in held.items() if name in names}
            if found and found != told.get(name, set()):
                search.lines.append(
                    f"docs/security.md: {name} is held by the users {sorted(found)}, not {sorted(told.get(name, set()))}"
                )
        if sum(map(len, held.values())) < len(told) // 2:
            search.lines.append(f"docs/security.md: not compared, for {PROJECT}/secrets holds few secrets")

        containers = run("docker", "ps", "--all", "--quiet").decode().split()
        images = run("docker", "images", "--quiet", "--filter", "reference=lakehouse/*").decode().split()
        search.text("docker inspect", run("docker", "inspect", *containers, *images), b"lakehouse.config_hash")
        history = b"".join(run("docker", "history", "--no-trunc", image) for image in sorted(set(images)))
        search.text("docker history", history, b"COPY")
        search.files("Compose's files", [PROJECT], "x-service: &service", "--exclude-dir=secrets")
        search.files("containers' logs", [DOCKER / "containers"], "com.docker.compose.service")
        search.files("images", layers(), "root:x:0:0:")
        search.text("journal", run("journalctl", "--no-pager", "--output=export"), b"Started docker.service")
        search.files(
            "the host's files",
            [
                Path(path)
                for path in ("/etc", "/home", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var/log", "/var/tmp")
            ],
            "root:x:0:0:",
            f"--exclude-dir={Path(folder).name}",
            "--devices=skip",
            "--exclude-dir=journal",
        )
        events = run(
            *(
                "docker",
                "run",
                "--rm",
                "--pull",
                "never",
                "--network",
                "none",
                "--user",
                "0:0",
                "--entrypoint",
                "python",
            ),
            *("--volume", "lakehouse_spark-events:/events:ro", given["events"], "-c", READ_EVENTS),
        )
        search.text("Spark's event logs", events, b"SparkListenerEnvironmentUpdate")
        # Databases of the catalogs (properties of namespaces) and of MLflow (parameters, tags), and their files (properties and
        # snapshots of tables, artifacts). What MinIO knows of its own users is its own.
        dump = run("docker", "exec", "postgres", "pg_dumpall")
        search.text("PostgreSQL", dump, b"student_dropout")
        search.files(
            "the object store", [DOCKER / "volumes/lakehouse_minio"], '"format-version"', "--exclude-dir=.minio.sys"
        )
        search.files("notebooks", [DOCKER / "volumes/lakehouse_notebooks"], '"nbformat"')
        print("\n".join(search.lines))
        print(f"{len(search.needles)} forms, {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
