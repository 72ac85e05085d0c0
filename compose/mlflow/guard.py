"""Who gets into MLflow, and what for.

Edge signs people and programs in. It names the user in X-Lakehouse-User and shows by X-Lakehouse-Secret that it is edge:
whoever reaches this server past edge gets 401. MLflow's own app of users (basic-auth) decides what belongs to whom:
everybody reads everything, changes what is his own, and admins change anything. On top of that every route has a level
here, because MLflow's app admits users to more than this lakehouse offers, and has gaps: what no level names is refused.

    python guard.py   prints the routes that no level names, and levels that name no route; 1 where there are any
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask, Response
    from starlette.types import ASGIApp, Receive, Scope, Send
    from werkzeug.datastructures import Authorization

SECRET_FILE = "/run/secrets/mlflow_edge_secret"
HEADERS = b"x-lakehouse-"

# The users that edge names, and whether each is an admin of MLflow's: then MLflow asks nothing, and the level decides.
USERS = {"admin": True, "service": True, "analyst": False}

# What each level offers; routes are written without the static prefix and the interface's version.
READ, OWN, JOBS, ADMIN, NOBODY = "read", "own", "jobs", "admin", "nobody"
OFFERED = {"analyst": {READ, OWN}, "service": {READ, OWN, JOBS}, "admin": {READ, OWN, JOBS, ADMIN}}
WHO = {JOBS: "the user service or admin", ADMIN: "the user admin", NOBODY: "nobody: this lakehouse does not offer it"}

LEVELS = {
    # Changes nothing, and shows what everybody may see or what MLflow's app leaves of it.
    READ: """
        GET /
        GET /get-artifact
        GET POST /graphql
        GET /health
        GET /model-versions/get-artifact
        GET /static-files/<path:path>
        GET /version
        GET /mlflow-artifacts/artifacts
        GET /mlflow-artifacts/artifacts/<path:artifact_path>
        GET /mlflow/artifacts/list
        GET /mlflow/experiments/get
        GET /mlflow/experiments/get-by-name
        GET POST /mlflow/experiments/search
        POST /mlflow/experiments/search-datasets
        GET /mlflow/gateway-proxy
        GET /mlflow/get-online-trace-details
        GET /mlflow/get-trace-artifact
        GET /mlflow/logged-models/<model_id>
        GET /mlflow/logged-models/<model_id>/artifacts/directories
        GET /mlflow/logged-models/<model_id>/artifacts/files
        POST /mlflow/logged-models/search
        GET /mlflow/metrics/get-history
        GET /mlflow/metrics/get-history-bulk
        GET /mlflow/metrics/get-history-bulk-interval
        GET /mlflow/model-versions/get
        GET /mlflow/model-versions/get-download-uri
        GET /mlflow/model-versions/search
        GET /mlflow/registered-models/alias
        GET /mlflow/registered-models/get
        GET POST /mlflow/registered-models/get-latest-versions
        GET /mlflow/registered-models/search
        GET /mlflow/runs/get
        POST /mlflow/runs/search
        GET /mlflow/server-info
        GET POST /mlflow/ui-telemetry
        GET /mlflow/unified-traces
        GET /mlflow/users/current
        GET /mlflow/users/current/permissions
        GET /mlflow/users/get
        GET /mlflow/users/list
        GET /mlflow/users/permissions/get
        GET /mlflow/users/permissions/list
        GET /mlflow/users/roles/list
        GET /mlflow/workspaces
        GET /mlflow/workspaces/<workspace_name>
        GET /mlflow/traces
        GET /mlflow/traces/<request_id>/info
        GET /mlflow/traces/<trace_id>
        GET /mlflow/traces/<trace_id>/assessments/<assessment_id>
        GET /mlflow/traces/batchGet
        POST /mlflow/traces/batchGetInfos
        POST /mlflow/traces/calculate-filter-correlation
        GET /mlflow/traces/get
        POST /mlflow/traces/metrics
        POST /mlflow/traces/search
        GET /mlflow/datasets/<dataset_id>
        GET /mlflow/datasets/<dataset_id>/experiment-ids
        GET /mlflow/datasets/<dataset_id>/records
        GET POST /mlflow/datasets/search
        GET /mlflow/issues/<issue_id>
        POST /mlflow/issues/search
        GET /mlflow/label-schemas/get
        GET /mlflow/label-schemas/get-by-name
        GET /mlflow/label-schemas/list
        GET /mlflow/review-queues/get
        GET /mlflow/review-queues/get-by-name
        GET /mlflow/review-queues/items/list
        GET /mlflow/review-queues/list
        GET /mlflow/scorers/get
        GET /mlflow/scorers/list
        GET /mlflow/scorers/online-configs
        GET /mlflow/scorers/versions
    """,
    # Changes what MLflow's app knows as the user's own: whoever makes an experiment or a registered model owns it.
    OWN: """
        PUT DELETE /mlflow-artifacts/artifacts/<path:artifact_path>
        POST /mlflow/upload-artifact
        POST /mlflow/experiments/create
        POST /mlflow/experiments/delete
        POST /mlflow/experiments/delete-experiment-tag
        POST /mlflow/experiments/restore
        POST /mlflow/experiments/set-experiment-tag
        POST /mlflow/experiments/update
        POST /mlflow/logged-models
        PATCH DELETE /mlflow/logged-models/<model_id>
        POST /mlflow/logged-models/<model_id>/params
        PATCH /mlflow/logged-models/<model_id>/tags
        DELETE /mlflow/logged-models/<model_id>/tags/<tag_key>
        POST /mlflow/model-versions/create
        DELETE /mlflow/model-versions/delete
        DELETE /mlflow/model-versions/delete-tag
        POST /mlflow/model-versions/set-tag
        POST /mlflow/model-versions/transition-stage
        PATCH /mlflow/model-versions/update
        POST DELETE /mlflow/registered-models/alias
        POST /mlflow/registered-models/create
        DELETE /mlflow/registered-models/delete
        DELETE /mlflow/registered-models/delete-tag
        POST /mlflow/registered-models/rename
        POST /mlflow/registered-models/set-tag
        PATCH /mlflow/registered-models/update
        POST /mlflow/runs/create
        POST /mlflow/runs/delete
        POST /mlflow/runs/delete-tag
        POST /mlflow/runs/log-batch
        POST /mlflow/runs/log-inputs
        POST /mlflow/runs/log-metric
        POST /mlflow/runs/log-model
        POST /mlflow/runs/log-parameter
        POST /mlflow/runs/outputs
        POST /mlflow/runs/restore
        POST /mlflow/runs/set-tag
        POST /mlflow/runs/update
    """,
    # About language models. A trace with the number of another's trace is merged into it, so analysts make none.
    JOBS: """
        POST /mlflow/traces
        PATCH /mlflow/traces/<request_id>
        PATCH DELETE /mlflow/traces/<request_id>/tags
        PATCH DELETE /mlflow/traces/<trace_id>/tags
        POST /mlflow/traces/<trace_id>/assessments
        PATCH DELETE /mlflow/traces/<trace_id>/assessments/<assessment_id>
        POST /mlflow/traces/delete-traces
        POST /mlflow/traces/link-prompts
        POST /mlflow/traces/link-to-run
        DELETE /mlflow/datasets/<dataset_id>
        POST /mlflow/datasets/<dataset_id>/add-experiments
        POST DELETE /mlflow/datasets/<dataset_id>/records
        POST /mlflow/datasets/<dataset_id>/remove-experiments
        PATCH /mlflow/datasets/<dataset_id>/tags
        DELETE /mlflow/datasets/<dataset_id>/tags/<key>
        POST /mlflow/datasets/create
        POST /mlflow/issues
        PATCH /mlflow/issues/<issue_id>
        POST /mlflow/label-schemas/create
        DELETE /mlflow/label-schemas/delete
        PATCH /mlflow/label-schemas/update
        POST /mlflow/review-queues/create
        POST /mlflow/review-queues/delete
        POST /mlflow/review-queues/get-or-create-user
        POST /mlflow/review-queues/items/add
        POST /mlflow/review-queues/items/remove
        POST /mlflow/review-queues/items/set-status
        POST /mlflow/review-queues/update
        DELETE /mlflow/scorers/delete
        PUT /mlflow/scorers/online-config
        POST /mlflow/scorers/register
    """,
    # Users and their rights, and what makes the server call others.
    ADMIN: """
        POST /mlflow/users/create
        DELETE /mlflow/users/delete
        POST /mlflow/users/permissions/grant
        POST /mlflow/users/permissions/revoke
        PATCH /mlflow/users/update-admin
        GET /mlflow/roles/get
        GET /mlflow/roles/list
        GET /mlflow/roles/permissions/list
        GET /mlflow/roles/users/list
        POST /mlflow/roles/assign
        POST /mlflow/roles/create
        DELETE /mlflow/roles/delete
        POST /mlflow/roles/permissions/add
        DELETE /mlflow/roles/permissions/remove
        PATCH /mlflow/roles/permissions/update
        DELETE /mlflow/roles/unassign
        PATCH /mlflow/roles/update
        GET POST /mlflow/webhooks
        GET PATCH DELETE /mlflow/webhooks/<webhook_id>
        POST /mlflow/webhooks/<webhook_id>/test
        POST /mlflow/workspaces
        PATCH DELETE /mlflow/workspaces/<workspace_name>
    """,
    # Users have no passwords here, clients do not reach the store by signed links, and the server runs and asks no models.
    NOBODY: """
        GET /build/<path:filename>
        GET /signup
        POST /mlflow/users/create-ui
        PATCH /mlflow/users/update-password
        POST /mlflow-artifacts/mpu/abort/<path:artifact_path>
        POST /mlflow-artifacts/mpu/complete/<path:artifact_path>
        POST /mlflow-artifacts/mpu/create/<path:artifact_path>
        GET /mlflow-artifacts/presigned/<path:artifact_path>
        POST /mlflow/artifacts/presigned-download-url
        POST /mlflow/artifacts/presigned-upload-url
        POST /mlflow/runs/create-promptlab-run
        POST /mlflow/gateway-proxy
        POST /mlflow/demo/delete
        POST /mlflow/demo/generate
        POST /mlflow/gateway/budgets/create
        DELETE /mlflow/gateway/budgets/delete
        GET /mlflow/gateway/budgets/get
        GET /mlflow/gateway/budgets/list
        POST /mlflow/gateway/budgets/update
        GET /mlflow/gateway/budgets/windows
        POST /mlflow/gateway/endpoints/bindings/create
        DELETE /mlflow/gateway/endpoints/bindings/delete
        GET /mlflow/gateway/endpoints/bindings/list
        POST /mlflow/gateway/endpoints/create
        DELETE /mlflow/gateway/endpoints/delete
        DELETE /mlflow/gateway/endpoints/delete-tag
        GET /mlflow/gateway/endpoints/get
        GET /mlflow/gateway/endpoints/list
        POST /mlflow/gateway/endpoints/models/attach
        POST /mlflow/gateway/endpoints/models/detach
        POST /mlflow/gateway/endpoints/set-tag
        POST /mlflow/gateway/endpoints/update
        POST /mlflow/gateway/guardrails/add-to-endpoint
        POST /mlflow/gateway/guardrails/create
        DELETE /mlflow/gateway/guardrails/delete
        GET /mlflow/gateway/guardrails/get
        GET /mlflow/gateway/guardrails/list
        GET /mlflow/gateway/guardrails/list-for-endpoint
        DELETE /mlflow/gateway/guardrails/remove-from-endpoint
        PATCH /mlflow/gateway/guardrails/update-config
        POST /mlflow/gateway/model-definitions/create
        DELETE /mlflow/gateway/model-definitions/delete
        GET /mlflow/gateway/model-definitions/get
        GET /mlflow/gateway/model-definitions/list
        POST /mlflow/gateway/model-definitions/update
        GET /mlflow/gateway/provider-config
        GET /mlflow/gateway/secrets/config
        POST /mlflow/gateway/secrets/create
        DELETE /mlflow/gateway/secrets/delete
        GET /mlflow/gateway/secrets/get
        GET /mlflow/gateway/secrets/list
        POST /mlflow/gateway/secrets/update
        GET /mlflow/gateway/supported-models
        GET /mlflow/gateway/supported-providers
        POST /mlflow/genai/evaluate/invoke
        POST /mlflow/issues/invoke
        GET /mlflow/jobs/<job_id>
        PATCH /mlflow/jobs/cancel/<job_id>
        POST /mlflow/prompt-optimization/jobs
        GET DELETE /mlflow/prompt-optimization/jobs/<job_id>
        POST /mlflow/prompt-optimization/jobs/<job_id>/cancel
        GET POST /mlflow/prompt-optimization/jobs/search
        POST /mlflow/scorer/invoke
    """,
}

# Every field of /graphql reads. A new one is looked at before it is offered: one could change something.
GRAPHQL = {
    "mlflow_get_experiment",
    "mlflow_get_metric_history_bulk_interval",
    "mlflow_get_run",
    "mlflow_list_artifacts",
    "mlflow_search_datasets",
    "mlflow_search_model_versions",
    "mlflow_search_runs",
    "test",
    "testMutation",
}

# Where a model version's files may lie: in MLflow itself, which knows whose they are. Else a version would be a way to
# read the container's files, other buckets, and servers that this one can reach. (The last are a prompt's.)
SOURCES = r"^(models|runs|mlflow-artifacts):/(?!/)|^(dummy-source|prompt-template)$"

_user: ContextVar[str | None] = ContextVar("user", default=None)


def prefix() -> str:
    """Return the path below which the server's routes are."""
    return os.environ.get("_MLFLOW_STATIC_PREFIX", "").rstrip("/")


def named(rule: str) -> str:
    """Return a rule of the app's as LEVELS writes it."""
    return re.sub(r"^/(?:ajax-)?api/\d\.\d/?(?=[^/])", "/", re.sub(f"^{re.escape(prefix())}(?=/)", "", rule))


def levels() -> dict[tuple[str, str], str]:
    """Return the level of each method and route."""
    return {
        (method, words[-1]): level
        for level, routes in LEVELS.items()
        for words in map(str.split, routes.strip().splitlines())
        for method in words[:-1]
    }


def read_secret() -> bytes:
    """Read what edge shows with each request; one that no header can carry is a wrong configuration (exit code 2)."""
    path = Path(os.environ.get("MLFLOW_EDGE_SECRET_FILE", SECRET_FILE))
    try:
        secret = path.read_text().rstrip("\n")
    except (OSError, UnicodeError) as error:
        print(f"mlflow: the secret that edge shows, {path}, cannot be read: {error}", file=sys.stderr)
        sys.exit(2)
    if not secret or secret != secret.strip() or not secret.isprintable():
        message = f"{path} is empty, has space at an end or control characters: no header can carry it"
        print(f"mlflow: {message}", file=sys.stderr)
        sys.exit(2)
    return secret.encode()


def authorize() -> Authorization | Response:
    """Answer MLflow's app who asks: whom the door let in (the setting authorization_function)."""
    from flask import jsonify
    from werkzeug.datastructures import Authorization

    user = _user.get()
    if user is None:
        answer = jsonify(error_code="UNAUTHENTICATED", message="MLflow answers edge alone.")
        answer.status_code = 401
        return answer
    return Authorization("basic", {"username": user, "password": ""})


class Door:
    """The outermost layer: lets in what edge sends, for a user whom MLflow knows.

    FastAPI's own routes (language models, jobs, traces of OpenTelemetry, artifacts without the static prefix) are
    closed, for MLflow's app of users sees them late or never; all others are Flask's, where `check` stands.
    """

    def __init__(self, app: Any, secret: bytes) -> None:
        from starlette.routing import Mount

        self.app: ASGIApp = app
        self.secret = secret
        self.native = [route for route in app.routes if not isinstance(route, Mount)]
        self.health = f"{prefix()}/health"
        # What the pages ask for each time: how the server is set up, and that there is no assistant.
        pages = ("server-info", "assistant/config", "assistant/providers")
        self.open = {f"{prefix()}/{kind}/3.0/mlflow/{page}" for kind in ("api", "ajax-api") for page in pages}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the health check, refuse, or go on with the user known."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] == self.health):
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        user = self.identify(scope["headers"])
        if user is None:
            return await self.refuse(401, "UNAUTHENTICATED", "MLflow answers edge alone.", scope, receive, send)
        if not scope["path"].startswith(f"{prefix()}/"):
            return await self.refuse(404, "ENDPOINT_NOT_FOUND", f"All is below {prefix()}/.", scope, receive, send)
        if (scope["path"] not in self.open or scope["method"] != "GET") and self.is_native(scope):
            message = f"{scope['path']} is for {WHO[NOBODY]}."
            return await self.refuse(403, "PERMISSION_DENIED", message, scope, receive, send)
        # WSGI makes one of "-" and "_": nothing that looks like edge's headers goes on.
        headers = [item for item in scope["headers"] if not item[0].replace(b"_", b"-").startswith(HEADERS)]
        token = _user.set(user)
        try:
            return await self.app({**scope, "headers": headers}, receive, send)
        finally:
            _user.reset(token)

    def identify(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        """Return the user whom edge names; None where it is not edge who asks, or a header comes twice."""
        shown = [value for name, value in headers if name == HEADERS + b"secret"]
        users = [value for name, value in headers if name == HEADERS + b"user"]
        if len(shown) != 1 or not hmac.compare_digest(shown[0], self.secret) or len(users) != 1:
            return None
        user = users[0].decode("latin-1")
        return user if user in USERS else None

    def is_native(self, scope: Scope) -> bool:
        """Tell whether FastAPI itself answers, and not the Flask app below it."""
        from starlette.routing import Match

        return any(route.matches(scope)[0] is not Match.NONE for route in self.native)

    @staticmethod
    async def refuse(status: int, code: str, message: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with an error as MLflow's clients read it."""
        from starlette.responses import JSONResponse

        await JSONResponse({"error_code": code, "message": message}, status)(scope, receive, send)


def denied(reason: str) -> Response:
    """Return a refusal as MLflow's clients read it."""
    from flask import jsonify

    answer = jsonify(error_code="PERMISSION_DENIED", message=reason)
    answer.status_code = 403
    return answer


def check() -> Response | None:
    """Refuse a request whose route is not offered to the user, or that asks for what nobody may choose."""
    from flask import request
    from mlflow.server.handlers import catch_mlflow_exception

    user = _user.get()
    if request.url_rule is None or user is None:
        return None  # there is no such route; or MLflow's app asks for authorize()
    route = named(request.url_rule.rule)
    level = _levels.get(("GET" if request.method == "HEAD" else request.method, route))
    if level is None and user != "admin":
        return denied(f"{request.method} {route} is refused: this lakehouse has not looked at it yet.")
    if level is not None and level not in OFFERED[user]:
        return denied(f"{request.method} {route} is for {WHO[level]}.")
    if level == OWN and not USERS[user] and route not in FILES and ambiguous():
        return denied("What is asked for stands once: in the path, and in a JSON body without a query beside it.")
    asks = ASKS.get(route)
    reason = catch_mlflow_exception(asks)(user) if asks and level == OWN else None
    return denied(reason) if isinstance(reason, str) else reason


def ambiguous() -> bool:
    """Tell whether MLflow could ask for the right to one thing and change another.

    It looks for the thing in the body if that says that it is JSON, and else in the query; the deed reads the body as JSON
    whatever it says. So did a DELETE of the owner's model, as text, delete the model that the text named.
    """
    from flask import request

    if not request.get_data():
        return False
    body = request.get_json(silent=True) if request.mimetype == "application/json" else None
    if not isinstance(body, dict) or request.args:
        return True
    said = {key.replace("_", "").lower(): value for key, value in body.items()}
    path = {key.replace("_", ""): value for key, value in (request.view_args or {}).items()}
    return any(said.get(key, value) != value for key, value in path.items())


def _new_name(user: str, name: str) -> str | None:
    # Whoever had a name before the jobs would own what they put there: their runs, and the alias of the model that scores.
    reserved = os.environ.get("MLFLOW_RESERVED_NAMES", "").split(",")
    if not USERS[user] and name.strip() in reserved:
        return f"The name {name!r} belongs to the lakehouse's jobs. Take another."
    return None


def _create_experiment(user: str) -> str | None:
    from mlflow.protos.service_pb2 import CreateExperiment
    from mlflow.server.handlers import _get_request_message

    message = _get_request_message(CreateExperiment())
    if message.artifact_location:
        return "artifact_location cannot be chosen: MLflow keeps the artifacts of all experiments in its own bucket."
    return _new_name(user, message.name)


def _rename_experiment(user: str) -> str | None:
    from mlflow.protos.service_pb2 import UpdateExperiment
    from mlflow.server.handlers import _get_request_message

    return _new_name(user, _get_request_message(UpdateExperiment()).new_name)


def _create_model(user: str) -> str | None:
    from mlflow.protos.model_registry_pb2 import CreateRegisteredModel
    from mlflow.server.handlers import _get_request_message

    return _new_name(user, _get_request_message(CreateRegisteredModel()).name)


def _rename_model(user: str) -> str | None:
    from mlflow.protos.model_registry_pb2 import RenameRegisteredModel
    from mlflow.server.handlers import _get_request_message

    return _new_name(user, _get_request_message(RenameRegisteredModel()).new_name)


def _create_version(user: str) -> str | None:
    """Refuse a version of another's model or run: MLflow asks for the right to read it only, and then writes a tag into it."""
    from mlflow.protos.model_registry_pb2 import CreateModelVersion
    from mlflow.server import auth
    from mlflow.server.handlers import _get_request_message
    from mlflow.store.artifact.utils.models import _parse_model_uri
    from mlflow.utils.uri import is_models_uri

    if USERS[user]:
        return None
    message = _get_request_message(CreateModelVersion())
    models, own = {message.model_id} - {""}, True
    if is_models_uri(message.source):
        source = _parse_model_uri(message.source)
        models |= {source.model_id} - {None}
        own = not source.name or auth._get_registered_model_or_prompt_permission(source.name).can_update
    own = own and (not message.run_id or auth._authorize_run_id(message.run_id, "update"))
    if own and all(auth._authorize_logged_model_id(model, "update") for model in models):
        return None
    return "A version is made of a model and a run of one's own. Load the other's model, and log it in an experiment of yours."


def _artifact(user: str) -> str | None:
    """Refuse a path outside all experiments: whose is it."""
    from flask import request
    from mlflow.utils.uri import validate_path_is_safe

    path = validate_path_is_safe((request.view_args or {})["artifact_path"])
    return None if USERS[user] or re.match(r"\d+(/|$)", path) else "Artifacts are written below an experiment's number."


def _upload(_: str) -> str | None:
    """Refuse a run under two names: MLflow asks for the right to one, and writes into the other."""
    from flask import request

    return "Name the run by run_uuid alone." if "run_id" in request.args else None


ASKS: dict[str, Callable[[str], str | None]] = {
    "/mlflow/experiments/create": _create_experiment,
    "/mlflow/experiments/update": _rename_experiment,
    "/mlflow/registered-models/create": _create_model,
    "/mlflow/registered-models/rename": _rename_model,
    "/mlflow/model-versions/create": _create_version,
    "/mlflow-artifacts/artifacts/<path:artifact_path>": _artifact,
    "/mlflow/upload-artifact": _upload,
}
FILES = {"/mlflow-artifacts/artifacts/<path:artifact_path>", "/mlflow/upload-artifact"}  # bodies that are a file
_levels = levels()


def confine(destination: str) -> None:
    """Let the server open artifacts in its own place only, whatever a record of an older release or a tag says.

    MLflow would open what a record names: a file of the container, an address, a bucket that its key happens to read.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
    from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories
    from mlflow.utils.uri import get_uri_scheme

    registry = get_registered_artifact_repositories()
    scheme, root = get_uri_scheme(destination), destination.rstrip("/")
    make = registry[scheme]

    def inside(artifact_uri: str, *args: Any, **kwargs: Any) -> Any:
        if not f"{artifact_uri}/".startswith(f"{root}/") or ".." in artifact_uri.split("/"):
            raise MlflowException(f"{artifact_uri} is not in {root}.", error_code=PERMISSION_DENIED)
        return make(artifact_uri, *args, **kwargs)

    kept = {name: registry[name] for name in ("models", "runs", "mlflow-artifacts")}
    registry.clear()
    registry.update(kept, **{scheme: inside})


def settings(database: str, folder: str = "/tmp") -> None:
    """Say to MLflow's app of users, before it is imported, where they are and who tells it who asks."""
    path = Path(folder, "basic_auth.ini")
    text = (
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {database}\nadmin_username = admin\n"
        "authorization_function = guard:authorize\n"
    )
    path.write_text(text.replace("%", "%%"))
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(path)
    # Its first start wants a password for admin, and a key for a form that is refused here: both are known to nobody.
    os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"] = secrets.token_urlsafe(32)
    os.environ.setdefault("MLFLOW_FLASK_SERVER_SECRET_KEY", secrets.token_urlsafe(32))
    os.environ["MLFLOW_BASIC_AUTH_FAIL_CLOSED"] = "true"
    os.environ["MLFLOW_SERVER_ENABLE_GRAPHQL_AUTH"] = "true"
    os.environ["MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX"] = SOURCES


def register_users() -> None:
    """Make the users whom edge names, each with a password that nobody knows: MLflow never asks for one."""
    from mlflow.server.auth import store

    for user, is_admin in USERS.items():
        if not store.has_user(user):
            store.create_user(user, secrets.token_urlsafe(32), is_admin=is_admin)
        elif store.get_user(user).is_admin != is_admin:
            store.update_user(user, is_admin=is_admin)


def guarded(app: Flask) -> Door:
    """Make MLflow's app with users, and put checks and door before it."""
    from mlflow.server import auth

    app.before_request(check)  # before those of MLflow's
    auth.make_forbidden_response = lambda: denied(
        "This belongs to another user. Make an experiment (mlflow.set_experiment) or a registered model of your own."
    )
    made = auth.create_app(app)
    confine(os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"])
    return Door(made, read_secret())


def create() -> Door:
    """Make the application that the server runs (uvicorn's factory)."""
    from mlflow.server import app

    return guarded(app)


def unknown() -> Iterator[str]:
    """Say what this file and MLflow's routes do not know of each other."""
    os.environ["_MLFLOW_STATIC_PREFIX"] = "/mlflow"
    with tempfile.TemporaryDirectory() as folder:
        settings(f"sqlite:///{folder}/users.db", folder)
        from mlflow.server import app, auth
        from mlflow.server.graphql.graphql_schema_extensions import Mutation, Query

        auth.create_app(app)
    routes = {
        (method, named(rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    for method, route in sorted(routes - _levels.keys()):
        yield f"{method} {route} has no level"
    for method, route in sorted(_levels.keys() - routes):
        yield f"{method} {route} is no route"
    for field in sorted({*Query._meta.fields, *Mutation._meta.fields} ^ GRAPHQL):
        yield f"{field} of /graphql is not what GRAPHQL says"


if __name__ == "__main__":
    problems = list(unknown())
    print("\n".join(problems) or "guard: every route of MLflow has a level")
    sys.exit(bool(problems))
