"""The tracking server in one process.

`mlflow server` prepares the database and then starts a second Python with the same 200 MB of libraries for the requests,
while it waits itself. Here it becomes that server: half the memory, half the start.
"""

import os
import sys
from typing import Any, NoReturn

# Routes are made while MLflow is imported; its command would set this for the second process only.
os.environ["_MLFLOW_STATIC_PREFIX"] = os.environ.get("MLFLOW_STATIC_PREFIX", "")

import mlflow.server
import uvicorn.main
from mlflow.cli import cli


def become(command: list[str], extra_env: dict[str, str], **_: Any) -> NoReturn:
    """Run what should be started: python -m uvicorn OPTIONS."""
    os.environ.update(extra_env)
    uvicorn.main.main(args=command[command.index("uvicorn") + 1 :], standalone_mode=False)
    sys.exit(0)


mlflow.server._exec_cmd = become
cli(["server", "--host", "0.0.0.0", "--port", "5000", *sys.argv[1:]])
