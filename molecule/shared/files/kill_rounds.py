"""Kill what an ingest needs while it runs, again and again, and see that nothing is lost or doubled.

kill_rounds.py ROUNDS [SEED], as root on a host of the whole lakehouse with the demo. In each round Moodle changes, an ingest
begins, and parts die at moments that the seed decides. However that ingest ends, it says what was wrong; the next one makes up
for it, and the lake equals Moodle. The database's password comes on standard input.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

PROJECT = "/opt/lakehouse"
DOOMED = "doomed"
EXECUTORS = (
    "for id in $(grep -l CoarseGrained[E]xecutorBackend /proc/[0-9]*/cmdline | cut -d / -f 3); do kill -KILL $id; done"
)
MAPS = "cat /dev/null $(grep -l CoarseGrained[E]xecutorBackend /proc/[0-9]*/cmdline | sed s/cmdline/maps/)"
PARTS = {
    "executor": ["docker", "exec", "lakehouse-spark-worker-1", "sh", "-c", EXECUTORS],
    "worker": ["docker", "restart", "-t", "0", "lakehouse-spark-worker-1"],
    "master": ["docker", "restart", "-t", "0", "spark-master"],
    "store": ["docker", "restart", "-t", "0", "minio"],
    "catalog": ["docker", "restart", "-t", "0", "rest"],
    "catalog's database": ["docker", "restart", "-t", "0", "postgres"],
    "edge": ["docker", "restart", "-t", "0", "edge"],
    "Moodle's database": ["docker", "restart", "-t", "0", "moodle-db"],
    "driver": ["docker", "kill", DOOMED],
}
# Seconds after the ingest's container began: Spark starts, tables are read, written, compared
STAGES = (0, 4, 8, 12, 16, 20)
CHANGE = """
SET @above = (SELECT MAX(id) FROM mdl_logstore_standard_log);
CREATE TEMPORARY TABLE more AS SELECT * FROM mdl_logstore_standard_log ORDER BY id LIMIT 5000;
UPDATE more SET id = id + @above;
INSERT INTO mdl_logstore_standard_log SELECT * FROM more;
UPDATE mdl_course SET timemodified = timemodified + 1, fullname = CONCAT(fullname, '.') WHERE id > 1;
DELETE FROM mdl_groups_members ORDER BY id LIMIT 3;
UPDATE mdl_grade_grades SET finalgrade = 1 + finalgrade % 7, timemodified = UNIX_TIMESTAMP() ORDER BY id LIMIT 50;
"""


def run(*command: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in the Compose project's folder; a failure ends the script with what it said."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, cwd=PROJECT, timeout=900)
    if check and done.returncode != 0:
        sys.exit(
            f"{' '.join(command)[:200]} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return done


def change_moodle(password: str) -> None:
    """Add rows to the log, change some of other tables and delete some."""
    login = 'MYSQL_PWD=$(cat) exec mariadb -h 127.0.0.1 -u moodle moodle -e "$0"'
    for _ in range(60):  # it may have been killed in the round before
        done = run("docker", "exec", "-i", "moodle-db", "sh", "-c", login, CHANGE, stdin=password, check=False)
        if done.returncode == 0 or "connect" not in done.stderr:
            break
        time.sleep(1)
    assert done.returncode == 0, done.stderr


def ingest_under_fire(plan: list[tuple[int, str]]) -> int:
    """Begin an ingest, kill the parts of the plan (seconds, part) and return how it ended."""
    run("docker", "compose", "run", "--detach", "--name", DOOMED, "--no-deps", "jobs", "ingest")
    began = time.monotonic()
    for seconds, part in plan:
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        run(*PARTS[part], check=False)
    status = int(run("docker", "wait", DOOMED).stdout)
    said = run("docker", "logs", DOOMED)
    run("docker", "rm", DOOMED)
    killed = any(part == "driver" for _, part in plan)
    assert status in (0, 1) or killed, f"it ended with {status}:\n{said.stderr[-3000:]}"
    assert "Traceback" not in said.stderr, said.stderr[-3000:]
    return status


def ingest(*, look: bool) -> None:
    """Run an ingest to its good end. look: see that an executor maps its classes, which are not read then."""
    command = ["docker", "compose", "run", "--rm", "-T", "--no-deps", "jobs", "ingest"]
    with subprocess.Popen(command, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        while look and running.poll() is None:
            maps = run("docker", "exec", "lakehouse-spark-worker-1", "sh", "-c", MAPS, check=False).stdout
            look = not maps
            # Java's own archive has the same name
            assert look or "pyspark/classes.jsa" in maps, maps
            time.sleep(1)
        said, _ = running.communicate()
    assert running.returncode == 0, said[-3000:]
    assert not look, "no executor ran on the first worker"


def verified() -> dict[str, int]:
    """Compare the lake with Moodle; return the rows that are missing, extra, changed and doubled."""
    found = run(
        "docker", "compose", "run", "--rm", "-T", "--no-deps", "jobs", "verify", "--format", "json", check=False
    )
    document = json.loads(found.stdout)
    differences = [one for table in document["tables"] for one in table["differences"]]
    assert document["equal"] == (not differences) == (found.returncode == 0), found.stderr
    return {kind: sum(one[kind] for one in differences) for kind in ("missing", "extra", "changed", "doubled")}


def main() -> None:
    """Run the rounds and print each."""
    rounds = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    rng, password = random.Random(seed), sys.stdin.read().strip()
    print(f"{rounds} rounds, seed {seed}", flush=True)
    # Every pair of a part and a stage comes once before any comes twice.
    pairs = [(stage, part) for part in PARTS for stage in STAGES]
    waiting: list[tuple[int, str]] = []
    for number in range(1, rounds + 1):
        if len(waiting) < 3:
            waiting += rng.sample(pairs, len(pairs))
        plan, waiting = sorted(waiting[:3]), waiting[3:]
        change_moodle(password)
        began = time.monotonic()
        status = ingest_under_fire(plan)
        ingest(look=number == 1)
        counts = verified()
        killed = ", ".join(f"{part} after {seconds} s" for seconds, part in plan)
        print(f"{number}: {killed}: ended with {status}; {counts}, {time.monotonic() - began:.0f} s", flush=True)
        if any(counts.values()):
            sys.exit(f"seed {seed}: the lake is not equal to Moodle")


if __name__ == "__main__":
    main()
