"""MLflow in a notebook: its links lead a browser to its pages, and logging a model of Spark's starts no second Spark."""

from __future__ import annotations

import functools
import os
from typing import Any

from lakehouse_notebooks.imported import when_imported


def page() -> str | None:
    """Return the address of MLflow for browsers, if the stack's MLflow is the one in use."""
    import mlflow

    own = os.environ.get("MLFLOW_TRACKING_URI")
    public = os.environ.get("LAKEHOUSE_PUBLIC_URL")
    return f"{public}/mlflow" if public and own and mlflow.get_tracking_uri() == own else None


def _in_client(module: Any) -> None:
    before = module.get_workspace_url
    module.get_workspace_url = lambda: page() or before()


def _in_spark(module: Any) -> None:
    # MLflow would load the model in another process, with a JVM of its own, to see which packages it needs.
    save = module.save_model

    @functools.wraps(save)
    def saved(*args: Any, **kwargs: Any) -> Any:
        if not any(kwargs.get(name) for name in ("conda_env", "pip_requirements", "extra_pip_requirements")):
            kwargs["pip_requirements"] = module.get_default_pip_requirements()
        return save(*args, **kwargs)

    module.save_model = saved


def register(shell: Any) -> None:
    """Change MLflow when it is imported."""
    when_imported("mlflow.tracking._tracking_service.client", _in_client)
    when_imported("mlflow.spark", _in_spark)
