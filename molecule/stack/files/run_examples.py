"""Run examples of the documentation as they stand: a JSON list by standard input, commands in /opt/lakehouse, and say what failed.

Each is {where, text, shows, typed}, a command with the pattern of what it must show and, for one that asks a terminal, what is typed
into it; or {where, python}, a script. Commands of two lanes run at the same time.
"""

import concurrent.futures
import json
import re
import subprocess
import sys
import time

LANES = 2
TIMEOUT = 300


def run(example: dict[str, str]) -> tuple[bool, str]:
    """Run one and return whether it went well, with a line for the log or all that it said."""
    began = time.monotonic()
    typed = example.get("typed", "")
    if "python" in example:
        command = [sys.executable, "-c", example["python"]]
    elif typed:
        command = ["script", "--quiet", "--return", "--command", example["text"], "/dev/null"]
    else:
        command = ["bash", "-o", "pipefail", "-c", example["text"]]
    try:
        done = subprocess.run(
            command,
            cwd=None if "python" in example else "/opt/lakehouse",
            input=typed + "exit;\n" if typed else "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
        output, code = done.stdout, str(done.returncode)
    except subprocess.TimeoutExpired as late:
        output, code = (late.stdout or b"").decode(errors="replace"), f"none after {TIMEOUT} s"
    answered, statements = output.count("Time taken: "), typed.count("\n")
    well = code == "0" and re.search(example.get("shows", ""), output) and (not typed or answered == statements)
    title = f"{example['where']}: {example.get('text', 'Python')}"
    seconds = f"{time.monotonic() - began:5.1f} s"
    if well:
        return True, f"{seconds}  {title}"
    wanted = f", must show {example['shows']!r}" if example.get("shows") else ""
    wanted += f", {answered} of {statements} statements were answered" if typed else ""
    return False, f"{seconds}  {title}\n  FAILED: exit code {code}{wanted}\n" + "\n".join(output.splitlines()[-60:])


def main() -> int:
    """Run the command."""
    examples = json.load(sys.stdin)
    if not examples:
        print("there is nothing to run")
        return 1
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(LANES) as lanes:
        results = list(lanes.map(run, examples))
    for _, text in sorted(results, key=lambda result: not result[0]):
        print(text)
    failed = sum(not well for well, _ in results)
    print(f"{len(results)} examples in {time.monotonic() - began:.0f} s, {failed} failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
