"""What an analyst must not get, tried with all that a notebook has.

Runs in the container `jupyterlab`; tells what was tried, and fails with what succeeded.

    sandbox_attacks.py attack   standard input: {"addresses": [["10.0.0.2", 5432], ...], "secrets": {"name": "value", ...}}
    sandbox_attacks.py trap     leave tables in the sandbox that lead whoever maintains it to files of the main catalog
    sandbox_attacks.py check    after the maintenance: is everything there as it was?
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import yaml
from pyarrow.fs import FileSelector, S3FileSystem
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import RESTError

TARGET = "curated.dim_course"  # small, and every demo has it
NAMES = ("stolen", "forged", "foreign", "staged", "moved", "trap", "trap_folder")
STATE = Path("/tmp/sandbox_attacks.json")
# Everything that is not the image's own, and what the image has of configuration
PLACES = ("/etc", "/home", "/opt/notebooks", "/opt/spark/conf", "/opt/spark/work", "/run", "/tmp")

CONFIGURATION = yaml.safe_load(Path(os.environ["PYICEBERG_HOME"], ".pyiceberg.yaml").read_text(encoding="utf-8"))[
    "catalog"
]
LAKE, SANDBOX = load_catalog("lakehouse"), load_catalog("sandbox")


class SucceededError(AssertionError):
    """Raised when an attack got what it wanted."""


def files() -> S3FileSystem:
    """Return the object store as the notebook's own key sees it."""
    store = urlsplit(CONFIGURATION["lakehouse"]["s3.endpoint"])
    return S3FileSystem(
        endpoint_override=store.netloc, scheme=store.scheme, region=CONFIGURATION["lakehouse"]["s3.region"]
    )


def place(uri: str) -> str:
    """Return a file's place as the file system wants it."""
    return uri.split("://", 1)[1]


def content() -> list[str]:
    """Return the files of the table that is attacked."""
    found = files().get_file_info(FileSelector(place(LAKE.load_table(TARGET).location()), recursive=True))
    return sorted(one.path for one in found if one.is_file)


def ask(catalog: str, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """Send a request as it stands, as no client would: the path is not put in order."""
    settings = CONFIGURATION[catalog]
    address = urlsplit(settings["uri"])
    user = settings["auth"]["basic"]
    proof = base64.b64encode(f"{user['username']}:{user['password']}".encode()).decode()
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.netloc, timeout=60)
    headers = {"Authorization": f"Basic {proof}", "Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode("utf-8", "replace")


def refused(what: str, action: Callable[[], Any], kind: type[Exception] = RESTError) -> None:
    """Fail when the action succeeds, or fails for another reason."""
    try:
        action()
    except kind as error:
        if kind is OSError and "ACCESS_DENIED" not in str(error):
            raise
        print(f"refused: {what}: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
    else:
        raise SucceededError(what)


def answers(what: str, statuses: tuple[int, ...], catalog: str, method: str, path: str, body: Any = None) -> None:
    """Fail when the answer is another than one of these."""
    status, text = ask(catalog, method, path, body)
    if status not in statuses:
        raise SucceededError(f"{what}: {method} {path}: {status} {text[:300]}")
    print(f"refused: {what}: {status}")


def drop(name: str) -> None:
    """Drop a table of the sandbox with its files, as the server does it: it may say that it cannot have all of them."""
    status, text = ask("sandbox", "DELETE", f"/sandbox/v1/namespaces/default/tables/{name}?purgeRequested=true")
    assert status in (200, 204, 404) or "Status Code: 403" in text, f"{name}: {status} {text[:300]}"
    assert not SANDBOX.table_exists(f"default.{name}"), name


def move_to(location: str) -> dict[str, Any]:
    """Return the request that gives a table another location."""
    return {"requirements": [], "updates": [{"action": "set-location", "location": location}]}


def registering() -> None:
    """A foreign table is not registered; one forged from its metadata is dropped without what belongs to the other."""
    foreign = LAKE.load_table(TARGET)
    refused("registering a foreign table", lambda: SANDBOX.register_table("default.stolen", foreign.metadata_location))
    drop("stolen")
    forged = (
        f"{SANDBOX.load_namespace_properties('default').get('location', 's3://sandbox/default')}/forged.metadata.json"
    )
    with files().open_output_stream(place(forged)) as stream:
        stream.write(json.dumps(json.loads(foreign.metadata.model_dump_json())).encode())
    SANDBOX.register_table("default.forged", forged)
    drop("forged")
    files().delete_file(place(forged))


def creating_elsewhere() -> None:
    """Tables, their metadata and namespaces stay in the bucket of the sandbox."""
    foreign = LAKE.load_table(TARGET)
    schema = pa.schema([pa.field("a", pa.int64())])
    inside = f"{foreign.location()}/stolen"
    for location in (foreign.location(), inside):
        refused(f"a table at {location}", partial(SANDBOX.create_table, "default.foreign", schema, location=location))
        drop("foreign")

    def staged() -> None:
        with SANDBOX.create_table_transaction("default.staged", schema, location=inside) as transaction:
            transaction.set_properties(a="b")

    refused("a table at a foreign location, in two steps", staged)
    drop("staged")
    SANDBOX.create_table("default.moved", schema)

    def metadata() -> None:
        with SANDBOX.load_table("default.moved").transaction() as transaction:
            transaction.set_properties({"write.metadata.path": f"{foreign.location()}/metadata"})

    path = "/sandbox/v1/namespaces/default/tables/moved"
    answers("moving a table to a foreign location", (403, 500), "sandbox", "POST", path, move_to(inside))
    refused("metadata at a foreign location", metadata)
    drop("moved")

    # The location of a namespace says nothing about its tables.
    SANDBOX.create_namespace("elsewhere", {"location": foreign.location()})
    made = SANDBOX.create_table("elsewhere.elsewhere", schema).location()
    SANDBOX.purge_table("elsewhere.elsewhere")
    SANDBOX.drop_namespace("elsewhere")
    if place(made).split("/")[0] == place(foreign.location()).split("/")[0]:
        raise SucceededError(f"a namespace at a foreign location: {made}")
    print("refused: a namespace at a foreign location")


def naming_in_bodies() -> None:
    """What names tables in its body finds those of its own catalog, and the main one takes nothing."""
    namespace, name = TARGET.split(".")
    table = {"namespace": [namespace], "name": name}
    rename = {"source": table, "destination": {"namespace": [namespace], "name": "stolen"}}
    away = {"source": table, "destination": {"namespace": ["default"], "name": "stolen"}}
    change = {"action": "set-properties", "updates": {"stolen": "yes"}}
    commit = {"table-changes": [{"identifier": table, "requirements": [], "updates": [change]}]}
    for body in (rename, away):
        answers("renaming", (403,), "lakehouse", "POST", "/catalog/v1/tables/rename", body)
        answers("renaming by the sandbox", (404,), "sandbox", "POST", "/sandbox/v1/tables/rename", body)
    answers("a transaction", (403,), "lakehouse", "POST", "/catalog/v1/transactions/commit", commit)
    answers("a transaction by the sandbox", (404,), "sandbox", "POST", "/sandbox/v1/transactions/commit", commit)
    update = {"requirements": [], "updates": [change]}
    path = f"/namespaces/{namespace}/tables/{name}"
    answers("a change", (403,), "lakehouse", "POST", f"/catalog/v1{path}", update)
    answers("dropping", (403,), "lakehouse", "DELETE", f"/catalog/v1{path}?purgeRequested=true")
    answers("a change by the sandbox", (404,), "sandbox", "POST", f"/sandbox/v1{path}", update)
    answers("dropping by the sandbox", (404,), "sandbox", "DELETE", f"/sandbox/v1{path}?purgeRequested=true")
    assert "stolen" not in LAKE.load_table(TARGET).properties


def naming_otherwise() -> None:
    """A path that is written otherwise leads to nothing that the plain one does not lead to."""
    plain = ("raw", "ops", "identity")
    disguises: list[Callable[[str], str]] = [
        lambda name: name,
        lambda name: f"%{ord(name[0]):02x}{name[1:]}",
        lambda name: f"%25{ord(name[0]):02x}{name[1:]}",
        lambda name: "".join(f"%{ord(letter):02X}" for letter in name),
        lambda name: f"curated/../{name}",
        lambda name: f"curated/%2e%2e/{name}",
        lambda name: f"curated/..%2f{name}",
        lambda name: f"curated%2f..%2f{name}",
        lambda name: f"./{name}",
        lambda name: f"/{name}",
        lambda name: f"{name}%20",
        lambda name: f"{name};curated",
        lambda name: name.upper(),
    ]
    for name in plain:
        for disguise in disguises:
            for end in ("", "/tables", "/tables/user", "/tables/user_key", "/tables/job_run"):
                path = f"/catalog/v1/namespaces/{disguise(name)}{end}"
                status, text = ask("lakehouse", "GET", path)
                if status == 200:
                    raise SucceededError(f"GET {path}: {text[:200]}")
        print(f"refused: {name} in {len(disguises)} disguises")
    for path in (
        "/sandbox/../catalog/v1/namespaces/{}/tables/{}",
        "/sandbox/%2e%2e/catalog/v1/namespaces/{}/tables/{}",
        "/sandbox/..%2fcatalog/v1/namespaces/{}/tables/{}",
        "/sandbox//../catalog/v1/namespaces/{}/tables/{}",
        "/%63atalog/v1/namespaces/{}/tables/{}",
        "/catalog/%76%31/namespaces/{}/tables/{}",
        "//catalog/v1/namespaces/{}/tables/{}",
    ):
        for method, body in (("DELETE", None), ("POST", {"requirements": [], "updates": []})):
            status, text = ask("sandbox", method, path.format(*TARGET.split(".")), body)
            if status < 400:
                raise SucceededError(f"{method} {path}: {status} {text[:200]}")
    print("refused: changes by the paths of others")


def asking_the_store() -> None:
    """The key reads what analysts may read, and writes and deletes in the sandbox alone."""
    store = files()
    victim = place(LAKE.load_table(TARGET).metadata_location)
    bucket, folder = victim.split("/")[0], victim.rsplit("/", 1)[0]

    def write(path: str) -> None:
        with store.open_output_stream(path) as stream:
            stream.write(b"x")

    refused("writing beside a table", lambda: write(f"{folder}/stolen"), OSError)
    refused("writing over a table's metadata", lambda: write(victim), OSError)
    refused("deleting a table's metadata", lambda: store.delete_file(victim), OSError)
    refused("moving a table's metadata", lambda: store.move(victim, "sandbox/stolen"), OSError)
    refused("copying into a table", lambda: store.copy_file(victim, f"{folder}/stolen"), OSError)
    for name in ("raw", "ops", "identity"):
        refused(f"listing {name}", partial(store.get_file_info, FileSelector(f"{bucket}/{name}")), OSError)
    for other in (bucket, "mlflow"):
        refused(f"listing the bucket {other}", partial(store.get_file_info, FileSelector(other)), OSError)
    refused(
        "a bucket",
        lambda: S3FileSystem(
            endpoint_override=urlsplit(CONFIGURATION["lakehouse"]["s3.endpoint"]).netloc,
            scheme=urlsplit(CONFIGURATION["lakehouse"]["s3.endpoint"]).scheme,
            allow_bucket_creation=True,
        ).create_dir("stolen"),
        OSError,
    )
    write("sandbox/default/written")
    for made in ("sandbox/default/written", "sandbox/stolen"):  # moving began with a copy
        store.delete_file(made)


def connecting(addresses: list[tuple[str, int]]) -> None:
    """Nothing but edge and the object store answers, by name or by address."""
    reached = []
    for host, port in addresses:
        try:
            socket.create_connection((host, port), 2).close()
            reached.append(f"{host}:{port}")
        except OSError:
            pass
    if reached:
        raise SucceededError(f"connections to {', '.join(reached)}")
    print(f"refused: connections to {len(addresses)} addresses")


def readable() -> Iterator[tuple[str, bytes]]:
    """Yield what this user can read and the image has not brought, what processes were given included."""
    for top in PLACES:
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and os.access(path, os.R_OK):
                    with open(path, "rb") as stream:
                        yield path, stream.read(64 * 1024 * 1024)
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("environ", "cmdline"):
            try:
                yield f"{process}/{name}", (process / name).read_bytes()
            except OSError:
                continue


def looking_for(secrets: dict[str, str]) -> None:
    """No file and no process holds a secret that is not the analysts', as it is or as files escape it."""
    assert secrets, "there is nothing to look for"
    forms = {
        name: {form.encode() for form in (value, json.dumps(value)[1:-1], value.replace("\\", "\\\\"))}
        for name, value in secrets.items()
    }
    count, found = 0, set()
    for path, text in readable():
        count += 1
        found |= {f"{name} in {path}" for name, wanted in forms.items() if any(form in text for form in wanted)}
    assert count > 20, f"only {count} files were read"
    if found:
        raise SucceededError("; ".join(sorted(found)))
    print(f"refused: {len(secrets)} secrets in {count} files")


def attack() -> None:
    """Try everything; the table that is attacked stays as it was."""
    given = json.load(sys.stdin)
    for name in NAMES:
        drop(name)  # of a run that was interrupted
    if SANDBOX.namespace_exists("elsewhere"):
        for identifier in SANDBOX.list_tables("elsewhere"):
            SANDBOX.drop_table(identifier)
        SANDBOX.drop_namespace("elsewhere")
    before, rows = content(), LAKE.load_table(TARGET).scan().to_arrow()
    assert before
    assert len(rows)
    failed = []
    attacks: list[Callable[[], None]] = [
        registering,
        creating_elsewhere,
        naming_in_bodies,
        naming_otherwise,
        asking_the_store,
        lambda: connecting([(host, int(port)) for host, port in given["addresses"]]),
        lambda: looking_for(given["secrets"]),
    ]
    for one in attacks:
        started = time.monotonic()
        try:
            one()
        except SucceededError as error:
            failed.append(f"SUCCEEDED: {error}")
        except Exception:
            failed.append(traceback.format_exc())
        print(f"{time.monotonic() - started:.1f} s", flush=True)
    if content() != before:
        failed.append(f"the files of {TARGET} have changed")
    if LAKE.load_table(TARGET).scan().to_arrow() != rows:
        failed.append(f"the rows of {TARGET} have changed")
    sys.exit("\n".join(failed) if failed else 0)


def trap() -> None:
    """Leave two tables: one whose expired snapshot holds a foreign file, and one that would be written to a foreign folder."""
    foreign = LAKE.load_table(TARGET)
    STATE.write_text(json.dumps(content()), encoding="utf-8")
    for name in NAMES:
        drop(name)
    table = SANDBOX.create_table("default.trap", foreign.schema())
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        for task in foreign.scan().plan_files():
            append.append_data_file(task.file)
    table.delete()
    assert len(table.scan().to_arrow()) == 0
    assert len(table.snapshots()) == 2, table.snapshots()

    table = SANDBOX.create_table("default.trap_folder", foreign.schema())
    rows = foreign.scan().to_arrow()
    for _ in range(2):
        table.append(rows)
    with table.transaction() as transaction:
        transaction.set_properties({"write.metadata.path": f"{table.location()}/metadata"})
    path = "/sandbox/v1/namespaces/default/tables/trap_folder"
    status, text = ask("sandbox", "POST", path, move_to(foreign.location()))
    assert status == 200, text
    assert SANDBOX.load_table("default.trap_folder").location() == foreign.location()


def check() -> None:
    """Fail when the maintenance of the sandbox took a file of the main catalog, or left one there."""
    before, now = json.loads(STATE.read_text(encoding="utf-8")), content()
    for name in ("trap", "trap_folder"):
        drop(name)
    assert content() == now, "dropping them took files"
    if before != now:
        raise SucceededError(f"deleted: {sorted(set(before) - set(now))}, added: {sorted(set(now) - set(before))}")
    assert len(LAKE.load_table(TARGET).scan().to_arrow())


if __name__ == "__main__":
    {"attack": attack, "trap": trap, "check": check}[sys.argv[1]]()
