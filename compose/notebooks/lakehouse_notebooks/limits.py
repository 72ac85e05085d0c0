"""The memory of a kernel: a limit of its own, so that too much is an error in a cell and not the end of the kernel.

All notebooks share the container's memory, and what goes beyond it is killed without a word. So a kernel may take what the
others leave: Jupyter's server, Spark's JVMs with the whole of their heaps, other kernels, and files in memory. Spark's JVM, a
child of the kernel, lifts the limit for itself in spark-env.sh.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
# The heap of Spark's JVM in MiB, set by the stack. Without it there is no limit.
VARIABLE = "LAKEHOUSE_SPARK_MB"
# What a JVM takes beside its heap, as measured: as a rule, and while it hands much over. Where both it and the kernel grow to their
# most, it is the JVM that the system ends (spark-env.sh), and the cell says so.
_BESIDE_HEAP = 130 * MIB
_BESIDE_FULL_HEAP = 330 * MIB
_SPARE = 32 * MIB
# Of malloc.h. Large pieces get memory of their own, which goes back to the system with them, and threads share the rest.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


class NoRoomError(MemoryError):
    """Raised instead of starting a Spark that the container would have no memory for."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def register(shell: Any) -> None:
    """Limit this process from now on."""
    if _container() is None:
        return
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own reserves much more than it uses
    library = ctypes.CDLL(None)
    library.mallopt(_M_MMAP_THRESHOLD, 256 * 1024)
    library.mallopt(_M_ARENA_MAX, 2)
    apply()
    shell.events.register("pre_run_cell", lambda info: apply())


def apply(fetching: bool = False) -> None:
    """Set the limit: a lower one while Spark hands over what it has.

    The system counts what is reserved, so what is not used, such as threads' stacks, comes on top. That changes, so it is done
    before each cell. One that fills its variables to the brim leaves the next enough to empty them.
    """
    limit = allowed(fetching)
    if limit is None:
        return
    ctypes.CDLL(None).malloc_trim(0)
    numbers = _numbers(Path("/proc/self"))
    reserved, used = numbers["VmData"], numbers["RssAnon"]
    _set(min(max(limit, used + _SPARE), limit + 2 * _SPARE) + max(0, reserved - used))


def allowed(fetching: bool = False) -> int | None:
    """Return what this process may take in bytes, if there is a limit."""
    container = _container()
    if container is None:
        return None
    java = _heap() + (_BESIDE_FULL_HEAP if fetching else _BESIDE_HEAP)
    in_files = sum(shutil.disk_usage(place).used for place in ("/tmp", Path.home()))
    return max(0, container - sum(_others(java)) - in_files - _SPARE)


def spare() -> None:
    """Raise the limit by what it takes to show that it was reached."""
    soft = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if soft != resource.RLIM_INFINITY:
        _set(soft + _SPARE)


def check_room() -> None:
    """Raise an error when Spark would need more memory than other notebooks have left."""
    limit = allowed()
    if limit is None:
        return
    left, needed = limit - _numbers(Path("/proc/self"))["RssAnon"], _heap() + _BESIDE_HEAP
    if left < needed:
        raise NoRoomError(
            f"Spark needs {needed // MIB:,} MiB, and {max(left, 0) // MIB:,} MiB of those that all notebooks share are left. Another "
            "notebook holds its variables and its Spark: end this there with spark.stop(), or shut that notebook's kernel down "
            "(Running Terminals and Kernels, at the left). More memory: lakehouse_memory_mb of the inventory, or a larger host."
        )


def _others(java: int) -> Iterator[int]:
    own = str(os.getpid())
    for process in Path("/proc").glob("[0-9]*"):
        if process.name != own:
            numbers, name = _numbers(process), _name(process)
            if numbers:
                used = numbers.get("RssAnon", 0)
                yield max(used, java) if name == "java" else used


def _name(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "comm").read_text(encoding="utf-8").strip()
    return ""


def _numbers(process: Path) -> dict[str, int]:
    """Return the sizes in a process's status in bytes; none for one that has ended."""
    try:
        lines = (process / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in fields}


def _heap() -> int:
    return int(os.environ.get(VARIABLE, "0")) * MIB


def _container() -> int | None:
    """Return the container's memory in bytes: of the second version of control groups, or of the first."""
    if VARIABLE not in os.environ:
        return None
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int((Path("/sys/fs/cgroup") / name).read_text(encoding="ascii"))
    return None


def _set(limit: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
