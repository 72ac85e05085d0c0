"""The jobs' own tests, inside the image that the jobs run in, beside a real MariaDB."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner import ROOT, Runner

# Real records for the tests that want them; those tests say that they were skipped when the folder is missing.
DATA = Path(os.environ.get("LAKEHOUSE_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()
NAME = f"lakehouse-jobs-test-{os.getpid()}"
PASSWORD = "only-for-tests"
# The servers' names on the network, and their images: the stack's own, which is read by all tests, and one of another version
DATABASES = {"db": "moodle-db", "db-next": "moodle-db-trixie"}
# Each with a conftest of its own, hence one run each. A process of its own Spark for each of the two cores of a small
# machine; a file's tests stay together, for they share what it makes once.
SUITES = {"lakehouse": ["--ignore=tests/demo", "--numprocesses=2", "--dist=loadfile"], "demo": ["tests/demo"]}


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


# An authority (ca.pem) and its certificate for the database's name (server.pem, server.key)
CERTIFICATES = """set -e; cd /tls
request() { openssl req -x509 -newkey rsa:2048 -nodes -days 2 "$@"; }
request -subj '/CN=authority of the tests' -keyout ca.key -out ca.pem
request -subj /CN=db -addext subjectAltName=DNS:db -addext basicConstraints=critical,CA:FALSE \\
    -CA ca.pem -CAkey ca.key -keyout server.key -out server.pem
chmod 0444 *"""


@pytest.fixture(scope="module")
def tls(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the database's certificates, made by the openssl of its image."""
    folder = tmp_path_factory.mktemp("tls")
    folder.chmod(0o755)
    command = ["run", "--rm", "--user=root", f"--volume={folder}:/tls", "--entrypoint=sh", images["moodle-db"]]
    made = docker(*command, "-c", CERTIFICATES)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
def databases(images: dict[str, str], tls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """MariaDBs in memory on a network of their own, named as the jobs' tests want them; nothing stays, come what may."""
    password = tmp_path_factory.mktemp("secrets") / "password"
    password.write_text(PASSWORD)
    password.chmod(0o444)
    secret = f"--volume={password}:/run/secrets"
    environment = {
        "MARIADB_DATABASE": "moodle",
        "MARIADB_USER": "moodle",
        "MARIADB_PASSWORD_FILE": "/run/secrets/password",
        "MARIADB_ROOT_PASSWORD_FILE": "/run/secrets/root",
    }
    try:
        docker("network", "create", NAME)
        for name, image in DATABASES.items():
            started = docker(
                *("run", "--detach", "--name", f"{NAME}-{name}", "--network", NAME, "--network-alias", name),
                *("--tmpfs", "/var/lib/mysql:uid=10007", f"{secret}/password:ro", f"{secret}/root:ro"),
                *(f"--env={variable}={value}" for variable, value in environment.items()),
                f"--volume={tls}:/tls:ro",
                images[image],
                *("--ssl-cert=/tls/server.pem", "--ssl-key=/tls/server.key", "--ssl-ca=/tls/ca.pem"),
            )
            assert started.returncode == 0, started.stderr
        for name in DATABASES:
            for _ in range(120):
                if docker("exec", f"{NAME}-{name}", "mariadb-admin", "ping").returncode == 0:
                    break
                time.sleep(0.5)
            else:
                pytest.fail(docker("logs", f"{NAME}-{name}").stderr)
        yield [f"{name}:3306:root:{PASSWORD}" for name in DATABASES]
    finally:
        docker("rm", "--force", "--volumes", NAME, *(f"{NAME}-{name}" for name in DATABASES))
        docker("network", "rm", NAME)


@pytest.mark.engine
@pytest.mark.usefixtures("engine", "aside")
@pytest.mark.parametrize("suite", SUITES)
def test_jobs(suite: str, images: dict[str, str], databases: list[str], tls: Path, runner: Runner) -> None:
    options = [f"--volume={ROOT / 'jobs'}:/jobs:ro", "--workdir=/jobs", f"--env=LAKEHOUSE_TEST_MYSQL={databases[0]}"]
    options += [f"--env=LAKEHOUSE_TEST_MYSQL_OTHERS={' '.join(databases[1:])}"]
    options += [f"--volume={tls / 'ca.pem'}:/tls/ca.pem:ro", "--env=LAKEHOUSE_TEST_MYSQL_CA=/tls/ca.pem"]
    if DATA.is_dir():
        options += [f"--volume={DATA}:/data:ro", "--env=LAKEHOUSE_TEST_DATA=/data"]
    command = [
        "docker",
        "run",
        "--rm",
        "--pull=never",
        f"--name={NAME}",
        f"--network={NAME}",
        *options,
        images["jobs-test"],
    ]
    command += [
        "env",
        "--unset=LAKEHOUSE_CONFIG",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-ra",
        "--durations=10",
        "--color=no",
        *SUITES[suite],
    ]
    output = runner(f"jobs-{suite}", command, timeout=3600, milestones=r"\[ *\d+%\]|^(FAILED|ERROR|SKIPPED)|^=+ .* in ")
    summary = output.splitlines()[-1]
    assert "passed" in summary, summary
    assert "failed" not in summary, summary
