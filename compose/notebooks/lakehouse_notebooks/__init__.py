"""What every notebook of the lakehouse has without loading anything: an extension of IPython."""

from __future__ import annotations

from typing import Any


def load_ipython_extension(shell: Any) -> None:
    """Set up a kernel: its memory, %sql and %pip, and what Spark and MLflow do once they are imported."""
    from lakehouse_notebooks import frames, limits, mlflow, packages, readonly, spark, sql

    for module in (limits, packages, spark, frames, sql, mlflow, readonly):
        module.register(shell)
    shell.set_custom_exc((MemoryError, ConnectionRefusedError), show)


def show(shell: Any, kind: Any, error: Exception, trace: Any, tb_offset: int | None = None) -> None:
    """Show an error after which the kernel lacks what it needs to show it as usual: memory, or an answer of Spark's."""
    from lakehouse_notebooks import limits, spark

    if isinstance(error, MemoryError):
        limits.spare()
    elif spark.has_ended():
        shell._showtraceback(kind, error, [spark.forget()])
        return
    render = getattr(error, "_render_traceback_", None)
    lines = render() if render else shell.InteractiveTB.structured_traceback(kind, error, trace, tb_offset=tb_offset)
    shell._showtraceback(kind, error, lines)
