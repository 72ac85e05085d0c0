"""Errors a person reads: what was wrong, where, and what to do. The exit code comes with the class."""

from __future__ import annotations

from collections.abc import Iterable


class LakehouseError(Exception):
    """A job failed for a reason that can be told. Exit code 1."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where:  {self.where}")
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)


class ConfigError(LakehouseError):
    """Bad usage or configuration: nothing was tried. Exit code 2."""

    exit_code = 2


class SourceError(LakehouseError):
    """Moodle's database cannot be used as asked: unreachable, refused, or not a Moodle. passing: waiting may help."""

    def __init__(
        self, what: str, *, where: str | None = None, remedy: str | None = None, passing: bool = False
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.passing = passing


def bullet_list(lines: Iterable[str]) -> str:
    """Several findings in one message, one a line."""
    return "\n".join(f"  - {line}" for line in lines)


def reason(error: BaseException) -> str:
    """The line of a Spark or Java error that says why."""
    lines = [line.strip().lstrip(": ") for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith("An error occurred while calling")]
    causes = [line.split("Caused by:", 1)[1].strip() for line in lines if "Caused by:" in line]
    return (causes[-1:] or lines or [type(error).__name__])[0][:500]
