"""%pip and %conda say how a package gets here. The command pip of the terminal does the same."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any


class PackageError(Exception):
    """Raised instead of installing anything."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def message(arguments: list[str]) -> str:
    """Return what the command pip says about these arguments."""
    return subprocess.run(["pip", *arguments], capture_output=True, text=True, check=False).stderr.strip()


def refuse(line: str) -> None:
    """Stop the cell."""
    raise PackageError(message(shlex.split(line)))


def register(shell: Any) -> None:
    """Take the place of IPython's own commands."""
    for name in ("pip", "conda", "mamba", "micromamba", "uv"):
        shell.register_magic_function(refuse, "line", name)
