"""What an analyst and a stranger may not do to MLflow, tried through edge and past it; and what an analyst may.

    mlflow_attacks.py EDGE           as the user analyst, at edge's address
    mlflow_attacks.py --past PLACE   as a stranger, at MLflow's own host:port

LAKEHOUSE_PASSWORDS holds the passwords of admin, service and analyst (JSON).

The analyst's part makes an experiment, a run, a logged model and a registered model with an alias as the user service, whose state is read
before and after: an attack fails the test when it is answered as done, and when the state is another one afterwards. All
of it is removed again. Exit code 1 and a line for each attack that succeeded, or right that is missing.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import sys
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NONCE = str(time.time_ns())
API, AJAX = "/mlflow/api/2.0/mlflow", "/mlflow/ajax-api/2.0/mlflow"
PROXY = "/mlflow/api/2.0/mlflow-artifacts/artifacts"
RESERVED = "student_dropout"  # the jobs' experiment and model


@dataclass
class Client:
    """Somebody who asks a server; every question counts, and none is answered by a redirect."""

    address: str
    user: str = ""
    password: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: Any = None, headers: Any = ()) -> tuple[int, Any]:
        """Return status and answer, parsed where it is JSON; a body that is no text is sent as JSON."""
        sent = [(name, value) for name, value in self.headers.items()]
        if self.user:
            token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            sent.append(("Authorization", f"Basic {token}"))
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        sent += headers or [("Content-Type", "application/json")]
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in [*sent, ("Content-Length", str(len(data or b"")))]:
                connection.putheader(name, value)
            connection.endheaders(data)
            response = connection.getresponse()
            text = response.read()
        except TimeoutError:
            return 599, "no answer in 60 s"
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text.decode(errors="replace")

    def done(self, method: str, path: str, body: Any = None, headers: Any = ()) -> Any:
        """Ask what must be done, and return the answer."""
        status, answer = self.ask(method, path, body, headers)
        if status >= 300:
            raise SystemExit(f"{self.user}: {method} {path}: {status} {str(answer)[:300]}")
        return answer


def query(path: str, /, **values: str) -> str:
    """Return a path with a query."""
    return f"{path}?{urllib.parse.urlencode(values)}"


class Things:
    """An experiment with a run, a deleted run, an artifact and a logged model; a registered model with an alias."""

    def __init__(self, owner: Client, name: str) -> None:
        self.owner, self.name = owner, f"{name}-{NONCE}"
        create = owner.done
        self.experiment = create("POST", f"{API}/experiments/create", {"name": self.name})["experiment_id"]
        self.run, self.deleted = (
            create("POST", f"{API}/runs/create", {"experiment_id": self.experiment})["run"]["info"]["run_id"]
            for _ in range(2)
        )
        create("POST", f"{API}/runs/delete", {"run_id": self.deleted})
        self.artifact = f"{PROXY}/{self.experiment}/{self.run}/artifacts/note.txt"
        create("PUT", self.artifact, b"ours", [("Content-Type", "application/octet-stream")])
        logged = {"experiment_id": self.experiment, "name": "model", "source_run_id": self.run}
        model = create("POST", f"{API}/logged-models", logged)["model"]["info"]
        self.model, self.files = model["model_id"], model["artifact_uri"]
        create("PUT", f"{PROXY}/{self.experiment}/models/{self.model}/artifacts/MLmodel", b"ours")
        create("PATCH", f"{API}/logged-models/{self.model}", {"model_id": self.model, "status": 2})
        create("POST", f"{API}/registered-models/create", {"name": self.name})
        for _ in range(2):
            version = {"name": self.name, "source": f"models:/{self.model}", "model_id": self.model, "run_id": self.run}
            create("POST", f"{API}/model-versions/create", version)
        create("POST", f"{API}/registered-models/alias", {"name": self.name, "alias": "champion", "version": "1"})
        create("POST", f"{API}/runs/set-tag", {"run_id": self.run, "key": "tag", "value": "ours"})

    def state(self) -> str:
        """Return all that is known of them, as one text."""
        see = self.owner.ask
        answers = [
            see("GET", query(f"{API}/experiments/get", experiment_id=self.experiment)),
            *(see("GET", query(f"{API}/runs/get", run_id=run)) for run in (self.run, self.deleted)),
            see("GET", f"{API}/logged-models/{self.model}"),
            see("GET", query(f"{API}/registered-models/get", name=self.name)),
            see("GET", query(f"{API}/model-versions/search", filter=f"name='{self.name}'")),
            see("GET", query(f"{API}/registered-models/alias", name=self.name, alias="champion")),
            see("POST", f"{API}/runs/search", {"experiment_ids": [self.experiment], "run_view_type": "ALL"}),
            see("POST", f"{API}/logged-models/search", {"experiment_ids": [self.experiment]}),
            see("POST", "/mlflow/api/3.0/mlflow/traces/search", self.where()),
            see("GET", query(PROXY, path=self.experiment)),
            see("GET", query(PROXY, path=f"{self.experiment}/{self.run}/artifacts")),
            see("GET", self.artifact),
        ]
        return json.dumps(answers, indent=1, sort_keys=True)

    def where(self) -> dict[str, Any]:
        """Return the place of traces, as a search for them names it."""
        return {"locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": self.experiment}}]}

    def remove(self) -> None:
        """Remove them, as far as they are still there."""
        self.owner.ask("DELETE", f"{API}/registered-models/delete", {"name": self.name})
        self.owner.ask("POST", f"{API}/experiments/delete", {"experiment_id": self.experiment})


Attack = tuple[str, str, Any]


def on_others(own: Things, theirs: Things) -> Iterator[Attack]:
    """Yield what an owner may do, asked by another: method, path below the interface's version, body."""
    run, name, model, experiment = {"run_id": theirs.run}, theirs.name, theirs.model, theirs.experiment
    metric = {"key": "auc", "value": 1.0, "timestamp": 1, "step": 0}
    tag = {"key": "tag", "value": "mine"}
    yield from (
        ("POST", f"/registered-models/{verb}", {"name": name, **body})
        for verb, body in (
            ("alias", {"alias": "champion", "version": "2"}),
            ("set-tag", tag),
            ("rename", {"new_name": f"stolen-{NONCE}"}),
        )
    )
    yield "DELETE", "/registered-models/alias", {"name": name, "alias": "champion"}
    yield "DELETE", query("/registered-models/alias", name=name, alias="champion"), None
    yield "PATCH", "/registered-models/update", {"name": name, "description": "mine"}
    yield "DELETE", "/registered-models/delete", {"name": name}
    stage = {"stage": "Production", "archive_existing_versions": True}
    yield "POST", "/model-versions/transition-stage", {"name": name, "version": "2", **stage}
    yield "POST", "/model-versions/set-tag", {"name": name, "version": "1", **tag}
    yield "PATCH", "/model-versions/update", {"name": name, "version": "1", "description": "mine"}
    yield "DELETE", "/model-versions/delete", {"name": name, "version": "2"}
    yield "POST", "/model-versions/create", {"name": name, "source": f"models:/{own.model}", "model_id": own.model}
    yield "POST", "/runs/create", {"experiment_id": experiment}
    yield "POST", "/runs/update", {**run, "status": "FAILED"}
    yield "POST", "/runs/update", {"run_uuid": theirs.run, "status": "FAILED"}
    yield "POST", "/runs/update", {"run_id": own.run, "runId": theirs.run, "status": "FAILED"}
    yield "POST", "/runs/update", {"run_id": "", "run_uuid": theirs.run, "status": "FAILED"}
    yield "POST", query("/runs/update", run_id=own.run), {**run, "status": "FAILED"}
    yield "POST", "/runs/delete", run
    yield "POST", "/runs/restore", {"run_id": theirs.deleted}
    yield "POST", "/runs/set-tag", {**run, **tag}
    yield "POST", "/runs/delete-tag", {**run, "key": "tag"}
    yield "POST", "/runs/log-parameter", {**run, **tag}
    yield "POST", "/runs/log-metric", {**run, **metric}
    yield "POST", "/runs/log-metric", {"run_id": own.run, "model_id": model, **metric}
    yield "POST", "/runs/log-batch", {**run, "metrics": [metric], "params": [tag], "tags": [tag]}
    yield "POST", "/runs/log-batch", {"run_id": own.run, "metrics": [{**metric, "model_id": model}]}
    dataset = {"dataset": {"name": "d", "digest": "1", "source_type": "local", "source": "{}"}}
    yield "POST", "/runs/log-inputs", {**run, "datasets": [dataset]}
    yield "POST", "/runs/log-inputs", {"run_id": own.run, "models": [{"model_id": model}]}
    yield "POST", "/runs/outputs", {**run, "models": [{"model_id": own.model, "step": 0}]}
    yield "POST", "/runs/log-model", {**run, "model_json": json.dumps({"artifact_path": "model", "run_id": theirs.run})}
    yield (
        "POST",
        "/runs/create-promptlab-run",
        {"experiment_id": experiment, "prompt_template": "x", "model_route": "x"},
    )
    yield "POST", "/experiments/update", {"experiment_id": experiment, "new_name": f"stolen-{NONCE}"}
    yield "POST", "/experiments/delete", {"experiment_id": experiment}
    yield "POST", "/experiments/restore", {"experiment_id": experiment}
    yield "POST", "/experiments/set-experiment-tag", {"experiment_id": experiment, **tag}
    yield "POST", "/logged-models", {"experiment_id": experiment, "name": "mine"}
    yield "PATCH", f"/logged-models/{model}", {"model_id": model, "status": 3}
    yield "PATCH", f"/logged-models/{model}/tags", {"tags": [tag]}
    yield "POST", f"/logged-models/{model}/params", {"params": [tag]}
    for named in ("model_id", "modelId"):
        yield "PATCH", f"/logged-models/{own.model}", {named: model, "status": 3}
        yield "PATCH", f"/logged-models/{own.model}/tags", {named: model, "tags": [tag]}
    yield "DELETE", f"/logged-models/{model}", None
    yield "DELETE", f"/logged-models/{model}/tags/tag", None
    yield "POST", "/artifacts/presigned-upload-url", {**run, "path": "note.txt"}
    yield "POST", "/traces", {"experiment_id": experiment, "timestamp_ms": 1}
    yield "POST", "/traces/delete-traces", {"experiment_id": experiment, "max_timestamp_millis": 9999999999999}
    # A version of another's model would write a tag into it; and where a version's files lie is nobody's choice.
    for more in ({"model_id": model}, {"source": f"models:/{name}/1"}, {"run_id": theirs.run}):
        yield "POST", "/model-versions/create", {"name": own.name, "source": f"models:/{model}", **more}
    for source in ("file:///etc", "/etc", "s3://warehouse/raw", "http://postgres:5432/x", "mlflow-artifacts://x/1"):
        yield "POST", "/model-versions/create", {"name": own.name, "source": source}
    for place in (
        "file:///tmp/x",
        "/tmp/x",
        "s3://warehouse/x",
        "s3://mlflow/artifacts/1",
        f"mlflow-artifacts:/{experiment}",
    ):
        body = {"name": f"placed-{NONCE}-{place}", "artifact_location": place}
        yield "POST", "/experiments/create", body
        yield "POST", "/experiments/create", {"name": body["name"], "artifactLocation": place}
    # Whoever has a name before the jobs would own what they put there.
    yield "POST", "/experiments/create", {"name": RESERVED}
    yield "POST", "/experiments/update", {"experiment_id": own.experiment, "new_name": RESERVED}
    yield "POST", "/registered-models/create", {"name": RESERVED}
    yield "POST", "/registered-models/rename", {"name": own.name, "new_name": RESERVED}
    # Users and their rights are admin's, and whom the server calls.
    yield "POST", "/users/create", {"username": f"mallory-{NONCE}", "password": "0123456789abcdef"}
    yield "PATCH", "/users/update-admin", {"username": "analyst", "is_admin": True}
    yield "PATCH", "/users/update-password", {"username": "analyst", "password": "0123456789abcdef"}
    yield "DELETE", "/users/delete", {"username": "service"}
    yield "POST", "/webhooks", {"name": "w", "url": "https://example.org/", "events": [{"entity": 1, "action": 1}]}


def on_others_v3(own: Things, theirs: Things) -> Iterator[Attack]:
    """Yield the same for what has version 3 of the interface."""
    trace = {
        "trace_id": f"tr-{NONCE}",
        "trace_location": theirs.where()["locations"][0],
        "request_time": "2026-01-01T00:00:00Z",
        "state": "OK",
    }
    yield "POST", "/mlflow/traces", {"trace": {"trace_info": trace}}
    yield "POST", "/mlflow/datasets/create", {"name": f"d-{NONCE}", "experiment_ids": [theirs.experiment]}
    yield (
        "POST",
        "/mlflow/scorers/register",
        {"experiment_id": theirs.experiment, "name": "s", "serialized_scorer": "{}"},
    )
    yield "POST", "/mlflow/issues", {"experiment_id": theirs.experiment, "name": "i", "description": "d"}
    yield "POST", "/mlflow/label-schemas/create", {"experiment_id": theirs.experiment, "name": "l"}
    yield "POST", "/mlflow/review-queues/create", {"experiment_id": theirs.experiment, "name": "q"}
    yield (
        "POST",
        "/mlflow/gateway/secrets/create",
        {"secret_name": f"s-{NONCE}", "secret_value": {"a": "b"}, "provider": "x"},
    )
    yield "POST", "/mlflow/demo/generate", {}
    yield "POST", "/mlflow/scorer/invoke", {"experiment_id": theirs.experiment, "trace_ids": []}
    yield "POST", "/mlflow/issues/invoke", {"experiment_id": theirs.experiment}
    yield "POST", "/mlflow/prompt-optimization/jobs", {"experiment_id": theirs.experiment}
    yield "POST", "/jobs/", {"job_name": "x", "params": {}}
    grant = {"resource_type": "registered_model", "resource_id": theirs.name, "permission": "MANAGE"}
    yield "POST", "/mlflow/users/permissions/grant", {"username": "analyst", **grant}
    yield "POST", "/mlflow/roles/create", {"name": f"r-{NONCE}", "workspace": "default"}


def on_files(own: Things, theirs: Things) -> Iterator[Attack]:
    """Yield writes to others' artifacts: method, whole path, body."""
    for proxy in (PROXY, PROXY.replace("/api/", "/ajax-api/")):
        for path in (
            f"{theirs.experiment}/{theirs.run}/artifacts/note.txt",
            f"{theirs.experiment}/models/{theirs.model}/artifacts/MLmodel",
            f"{own.experiment}/../{theirs.experiment}/{theirs.run}/artifacts/note.txt",
            f"{own.experiment}/%2e%2e/{theirs.experiment}/{theirs.run}/artifacts/note.txt",
            f"{own.experiment}/%252e%252e/{theirs.experiment}/{theirs.run}/artifacts/note.txt",
            f"{own.experiment}%2F..%2F{theirs.experiment}/{theirs.run}/artifacts/note.txt",
            f"/{theirs.experiment}/{theirs.run}/artifacts/note.txt",
            "".join(f"%25{ord(digit):02x}" for digit in theirs.experiment) + f"/{theirs.run}/artifacts/note.txt",
            f"workspaces/x/{own.experiment}/note.txt",
            "note.txt",
        ):
            yield "PUT", f"{proxy}/{path}", b"mine"
        yield "DELETE", f"{proxy}/{theirs.experiment}/{theirs.run}/artifacts/note.txt", None
        yield "DELETE", f"{proxy}/{theirs.experiment}", None
        create = proxy.replace("/artifacts", "/mpu/create", 1).replace(
            "mlflow-mpu/create", "mlflow-artifacts/mpu/create"
        )
        yield "POST", f"{create}/{theirs.experiment}/x", {"path": "x", "num_parts": 1}
    upload = query(f"{AJAX}/upload-artifact", run_uuid=theirs.run, path="note.txt")
    yield "POST", upload, b"mine"
    yield "POST", query(f"{AJAX}/upload-artifact", run_id=own.run, run_uuid=theirs.run, path="note.txt"), b"mine"
    # Reading: what lies outside the artifacts.
    for path in ("../../../../etc/passwd", "/etc/passwd", "..%2f..%2f..%2fetc%2fpasswd"):
        yield "GET", query("/mlflow/get-artifact", run_uuid=own.run, path=path), None


def disguised(own: Things, theirs: Things) -> Iterator[tuple[str, str, Any, list[tuple[str, str]]]]:
    """Yield one forbidden write in many spellings."""
    body = {"name": theirs.name, "alias": "champion", "version": "2"}
    kind = ("Content-Type", "application/json")
    alias = "/mlflow/api/2.0/mlflow/registered-models/alias"
    for path in (
        "/mlflow/api/2.0/mlflow/registered-models/%61lias",
        "/mlflow/api/2.0/mlflow/registered-models/alias/",
        "/mlflow//api/2.0/mlflow/registered-models/alias",
        "/mlflow/./api/2.0/mlflow/registered-models/alias",
        "/mlflow/x/../api/2.0/mlflow/registered-models/alias",
        "/mlflow/static-files/..%2fapi/2.0/mlflow/registered-models/alias",
        "/mlflow/health/../api/2.0/mlflow/registered-models/alias",
        "/mlflow/API/2.0/mlflow/registered-models/alias",
        "/mlflow/api/2.0/mlflow/registered-models/alias%00",
        "/mlflow/api/2.0/mlflow/registered-models/alias;x=/mlflow/server-info",
        "/api/2.0/mlflow/registered-models/alias",
    ):
        yield "POST", path, body, [kind]
    for header in ("X-Lakehouse-User", "X_Lakehouse_User", "x-lakehouse_user", "Remote-User", "X-Forwarded-User"):
        yield "POST", alias, body, [kind, (header, "admin")]
        yield "POST", alias, body, [kind, (header, "service"), (header, "admin")]
    yield "POST", alias, body, [kind, ("X-HTTP-Method-Override", "GET")]
    yield "POST", alias, body, [kind, ("X-Original-URL", "/mlflow/health"), ("X-Forwarded-Prefix", "/mlflow/health")]
    yield "POST", alias, json.dumps(json.dumps(body)).encode(), [kind]
    yield "POST", alias, body, [("Content-Type", "text/plain")]
    yield "POST", alias, urllib.parse.urlencode(body).encode(), [("Content-Type", "application/x-www-form-urlencoded")]
    # The right to what the query names, the deed on what the body names.
    for path, more in (
        ("registered-models/alias", {"alias": "champion"}),
        ("registered-models/delete", {}),
        ("registered-models/delete-tag", {"key": "tag"}),
        ("model-versions/delete", {"version": "2"}),
        ("model-versions/delete-tag", {"version": "1", "key": "tag"}),
    ):
        named = query(f"{API}/{path}", **{"name": own.name, **more})
        for form in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
            yield "DELETE", named, {"name": theirs.name, **more}, [("Content-Type", form)]
        yield "DELETE", named, {"name": theirs.name, **more}, [("X-Nothing", "no type")]
        yield "DELETE", named, {"name": theirs.name, **more}, [kind]
    yield "GET", query(alias, **body), None, [kind, ("X-HTTP-Method", "POST")]


class Trial:
    """Collects what went wrong."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.count = 0

    def refused(self, client: Client, method: str, path: str, body: Any = None, headers: Any = ()) -> Any:
        """Expect a refusal."""
        self.count += 1
        status, answer = client.ask(method, path, body, headers)
        if not 300 <= status < 500:
            self.problems.append(f"{client.user or 'nobody'}: {method} {path} {str(body)[:200]} {headers}: {status}")
        return answer

    def holds(self, what: str, fact: bool) -> None:
        """Expect a fact."""
        self.count += 1
        if not fact:
            self.problems.append(what)


def graphql(trial: Trial, analyst: Client, theirs: Things) -> None:
    """Ask /graphql to read, which it does, and to write, which it cannot."""
    run = f'(input: {{runId: "{theirs.run}"}}) {{ run {{ info {{ runId }} }} }}'
    read = f"query {{ mlflowGetRun{run} }}"
    answer = analyst.done("POST", "/mlflow/graphql", {"query": read})
    trial.holds(f"/graphql does not read: {answer}", theirs.run in json.dumps(answer))
    for name in ("DeleteRun", "UpdateRun", "SetTag", "SetRegisteredModelAlias", "DeleteExperiment"):
        write = f"mutation {{ mlflow{name}{run} }}"
        status, answer = analyst.ask("POST", "/mlflow/graphql", {"query": write})
        trial.holds(f"/graphql {name}: {status} {answer}", status >= 400 or bool(answer.get("errors")))


def strangers(trial: Trial, place: str, guess: str) -> None:
    """Ask MLflow past edge: without the secret, with a wrong one, with edge's own credentials."""
    client = Client(place)
    status, _ = client.ask("GET", "/mlflow/health")
    trial.holds(f"the health check is answered {status}", status == 200)
    create = {"name": f"stranger-{NONCE}"}
    for headers in (
        [],
        [("X-Lakehouse-User", "admin")],
        [("X-Lakehouse-User", "admin"), ("X-Lakehouse-Secret", "")],
        [("X-Lakehouse-User", "admin"), ("X-Lakehouse-Secret", guess)],
        [("X_Lakehouse_User", "admin"), ("X_Lakehouse_Secret", guess)],
        [("Authorization", "Basic " + base64.b64encode(f"admin:{guess}".encode()).decode())],
    ):
        for method, path, body in (
            ("GET", "/mlflow/", None),
            ("GET", "/mlflow/health/", None),
            ("GET", "/mlflow/static-files/index.html", None),
            ("GET", "/mlflow/version", None),
            ("GET", f"{API}/experiments/search?max_results=1", None),
            ("POST", f"{API}/experiments/create", create),
            ("POST", f"{AJAX}/experiments/create", create),
            ("POST", "/api/2.0/mlflow/experiments/create", create),
            ("PUT", f"{PROXY}/0/x", b"mine"),
            ("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/x", b"mine"),
            ("POST", "/mlflow/graphql", {"query": '{ test(inputString: "x") { output } }'}),
            ("POST", "/mlflow/v1/traces", b"{}"),
            ("GET", "/mlflow/api/3.0/mlflow/server-info", None),
            ("POST", f"{API}/users/create", {"username": "mallory", "password": "0123456789abcdef"}),
        ):
            trial.count += 1
            status, answer = client.ask(method, path, body, [("Content-Type", "application/json"), *headers])
            if status != 401:
                trial.problems.append(
                    f"past edge, {[name for name, _ in headers]}: {method} {path}: {status} {str(answer)[:100]}"
                )


def analysts(trial: Trial, edge: str, passwords: dict[str, str]) -> None:
    """Do what an analyst may, and try what nobody but the owner or admin may."""
    admin, service, analyst = (Client(edge, user, passwords[user]) for user in ("admin", "service", "analyst"))

    # What an analyst may: all of this is done, or the script ends here.
    own, theirs = Things(analyst, "own"), Things(service, "theirs")
    try:
        before = theirs.state()
        for path in (
            query(f"{API}/runs/get", run_id=theirs.run),
            query(f"{API}/registered-models/get", name=theirs.name),
            query(f"{API}/model-versions/get-download-uri", name=theirs.name, version="1"),
            theirs.artifact,
            query("/mlflow/get-artifact", run_uuid=theirs.run, path="note.txt"),
            f"{AJAX}/users/current",
        ):
            analyst.done("GET", path)
        own_steps: tuple[Attack, ...] = (
            ("POST", "/registered-models/alias", {"name": own.name, "alias": "champion", "version": "2"}),
            ("POST", "/runs/log-metric", {"run_id": own.run, "key": "auc", "value": 1, "timestamp": 1}),
            ("POST", "/runs/restore", {"run_id": own.deleted}),
            ("POST", "/experiments/set-experiment-tag", {"experiment_id": own.experiment, "key": "a", "value": "b"}),
            ("POST", "/runs/search", {"experiment_ids": [own.experiment, theirs.experiment]}),
            ("POST", "/logged-models", {"experiment_id": own.experiment, "name": "of", "source_run_id": theirs.run}),
        )
        for method, path, body in own_steps:
            analyst.done(method, f"{API}{path}", body)
        analyst.done("DELETE", own.artifact)
        _, known = admin.ask("GET", f"{API}/users/list")
        names = {user["username"]: user["is_admin"] for user in known["users"]} if isinstance(known, dict) else known
        wanted = {"admin": True, "service": True, "analyst": False}
        trial.holds(f"MLflow's users are {names}", isinstance(names, dict) and wanted.items() <= names.items())

        # What an analyst may not.
        for method, path, body in on_others(own, theirs):
            for root in (API, AJAX):
                trial.refused(analyst, method, f"{root}{path}", body)
        for method, path, body in on_others_v3(own, theirs):
            for root in ("/mlflow/api/3.0", "/mlflow/ajax-api/3.0"):
                trial.refused(analyst, method, f"{root}{path}", body)
        for method, path, body in on_files(own, theirs):
            trial.refused(
                analyst, method, path, body, [("Content-Type", "text/plain")] if isinstance(body, bytes) else ()
            )
        for method, path, body, headers in disguised(own, theirs):
            status, _ = analyst.ask(method, path, body, headers)
            trial.count += 1
            if method != "GET" and not 300 <= status < 500:
                trial.problems.append(f"disguised: {method} {path} {headers}: {status}")
        spans = [("Content-Type", "application/json"), ("X-Mlflow-Experiment-Id", theirs.experiment)]
        trial.refused(analyst, "POST", "/mlflow/v1/traces", b'{"resourceSpans": []}', spans)
        graphql(trial, analyst, theirs)
        trial.holds("what the analyst attacked is another now", theirs.state() == before)

        # What nobody may choose, and what the jobs need not.
        for client in (admin, service):
            placed = {"name": f"placed-{client.user}-{NONCE}", "artifact_location": "s3://warehouse/x"}
            trial.refused(client, "POST", f"{API}/experiments/create", placed)
            version = {"name": theirs.name, "source": "s3://warehouse/raw"}
            trial.refused(client, "POST", f"{API}/model-versions/create", version)
        trial.refused(service, "POST", f"{API}/users/create", {"username": "mallory", "password": "0123456789abcdef"})
        trial.refused(service, "DELETE", f"{API}/users/delete", {"username": "analyst"})
        trial.refused(service, "POST", f"{API}/webhooks", {"name": "w", "url": "https://example.org/", "events": []})
        answer = trial.refused(analyst, "POST", f"{API}/registered-models/create", {"name": RESERVED})
        trial.holds(f"a reserved name is refused by {answer}", "belongs to the lakehouse" in str(answer))
        trial.refused(Client(edge), "GET", f"{API}/experiments/search?max_results=1")
    finally:
        own.remove()
        theirs.remove()


def main() -> int:
    """Try what the arguments say."""
    trial, passwords = Trial(), json.loads(os.environ["LAKEHOUSE_PASSWORDS"])
    if sys.argv[1] == "--past":
        strangers(trial, sys.argv[2], passwords["admin"])
    else:
        analysts(trial, urllib.parse.urlsplit(sys.argv[1]).netloc, passwords)
    print("\n".join(trial.problems))
    print(f"{trial.count} attempts and facts, {len(trial.problems)} of them wrong")
    return 1 if trial.problems else 0


if __name__ == "__main__":
    sys.exit(main())
