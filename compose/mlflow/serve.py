"""The tracking server in one process, with its users behind edge (guard.py), and its pages as this server is used.

`mlflow server` prepares the database and then starts a second Python with the same 200 MB of libraries for the requests,
while it waits itself. Here it becomes that server: half the memory, half the start. Further processes (MLFLOW_WORKERS)
import this file, so that they answer the same.
"""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import guard

# Routes are made while MLflow is imported; its command would set this for the second process only.
os.environ["_MLFLOW_STATIC_PREFIX"] = os.environ.get("MLFLOW_STATIC_PREFIX", "")

import mlflow.server
import uvicorn.main
from flask import Response
from mlflow.cli import cli
from mlflow.server import app

HEAD = Path(__file__).with_name("head.html").read_text()
USERS_APP = "mlflow.server.auth:create_app"


def page() -> Response:
    """Answer with MLflow's page, which has HEAD before its own scripts."""
    html = Path(str(app.static_folder), "index.html").read_text()
    return Response(html.replace("<script", f"{HEAD}<script", 1), headers={"Cache-Control": "no-cache"})


def become(command: list[str], extra_env: dict[str, str], **_: Any) -> NoReturn:
    """Run what should be started, python -m uvicorn OPTIONS, with MLflow's app of users behind the door."""
    os.environ.update(extra_env)
    if command[-1] != USERS_APP:
        sys.exit(f"mlflow: {command[-1]} would be served, and not {USERS_APP}, which knows users")
    guard.register_users()  # here, once, and not in each of several processes
    uvicorn.main.main(args=[*command[command.index("uvicorn") + 1 : -1], "guard:create"], standalone_mode=False)
    sys.exit(0)


app.view_functions["serve"] = page
mlflow.server._exec_cmd = become
if __name__ == "__main__":
    guard.read_secret()
    guard.settings(os.environ["MLFLOW_BACKEND_STORE_URI"])
    cli(["server", "--host", "0.0.0.0", "--port", "5000", "--app-name", "basic-auth", *sys.argv[1:]])
