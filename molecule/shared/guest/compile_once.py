"""Lets Python keep what it compiles from zip files.

Ansible sends every task as a zip, whose modules Python compiles anew each time, and twice: to name them and to run them. In a
VM that lives for minutes and sees hundreds of tasks this is a quarter of what a task costs.
"""

import _imp
import marshal
import os
import zipimport
from types import CodeType

FOLDER = "/var/cache/compile_once"
compile_source = zipimport._compile_source  # type: ignore[attr-defined]


def load_or_compile(path: str, source: bytes) -> CodeType:
    """Return the compiled form of a source file, from the cache where it is there."""
    kept = f"{FOLDER}/{_imp.source_hash(0, source).hex()}"
    try:
        with open(kept, "rb") as file:
            return marshal.loads(file.read())
    except FileNotFoundError:
        code = compile_source(path, source)
    written = f"{kept}.{os.getpid()}"
    with open(written, "wb") as file:
        file.write(marshal.dumps(code))
    os.replace(written, kept)
    return code


zipimport._compile_source = load_or_compile  # type: ignore[attr-defined]
