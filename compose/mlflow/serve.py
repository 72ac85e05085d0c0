"""The tracking server in one process, and its pages as this server is used.

`mlflow server` prepares the database and then starts a second Python with the same 200 MB of libraries for the requests,
while it waits itself. Here it becomes that server: half the memory, half the start. Further processes (MLFLOW_WORKERS)
import this file, so that they answer the same.
"""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

# Routes are made while MLflow is imported; its command would set this for the second process only.
os.environ["_MLFLOW_STATIC_PREFIX"] = os.environ.get("MLFLOW_STATIC_PREFIX", "")

import mlflow.server
import uvicorn.main
from flask import Response, jsonify
from mlflow.cli import cli
from mlflow.server import app
from mlflow.server.handlers import _get_ajax_path

HEAD = Path(__file__).with_name("head.html").read_text()


def page() -> Response:
    """Answer with MLflow's page, which has HEAD before its own scripts."""
    html = Path(str(app.static_folder), "index.html").read_text()
    return Response(html.replace("<script", f"{HEAD}<script", 1), headers={"Cache-Control": "no-cache"})


def user() -> Response:
    """Answer each page's question who is signed in: edge knows, MLflow has no users of its own."""
    return jsonify(user=None, is_basic_auth=False)


def become(command: list[str], extra_env: dict[str, str], **_: Any) -> NoReturn:
    """Run what should be started: python -m uvicorn OPTIONS."""
    os.environ.update(extra_env)
    uvicorn.main.main(args=command[command.index("uvicorn") + 1 :], standalone_mode=False)
    sys.exit(0)


app.view_functions["serve"] = page
app.add_url_rule(_get_ajax_path("/mlflow/users/current"), "user", user)
mlflow.server._exec_cmd = become
if __name__ == "__main__":
    cli(["server", "--host", "0.0.0.0", "--port", "5000", *sys.argv[1:]])
