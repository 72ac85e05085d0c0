"""Try who can do what: every pair of user and bucket, every folder, and keys that nobody should have.

The argument is the store's host and port. Standard input has JSON: user -> [access key, secret].
Prints JSON: what was tried -> "kept" (or "read" and "listed"), the reason of a refusal, or another error's text.
"""

import json
import sys
from collections.abc import Callable
from functools import partial

from pyarrow.fs import FileSelector, S3FileSystem

REFUSALS = ("ACCESS_DENIED", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID")
ENDPOINT = sys.argv[1]
BUCKETS = ("warehouse", "mlflow", "sandbox")
FOLDERS = (
    "curated",
    "features",
    "marts",
    "raw/quiz",
    "raw/quiz_attempts",
    "raw/user",
    "identity/user_key",
    "curatedness",
)


def store(key: str, secret: str) -> S3FileSystem:
    """Return a client."""
    return S3FileSystem(
        access_key=key, secret_key=secret, endpoint_override=ENDPOINT, scheme="http", region="us-east-1"
    )


def tried(action: Callable[[], str]) -> str:
    """Return what an action returns, or why it was refused."""
    try:
        return action()
    except OSError as error:
        # A request for a file's size has no body, so its refusal has no code.
        codes = (*REFUSALS, "HTTP status 403")
        return next((code for code in codes if code in str(error)), str(error))


def write(client: S3FileSystem, path: str) -> str:
    """Write a file and return what is read back."""
    with client.open_output_stream(path) as stream:
        stream.write(b"kept")
    with client.open_input_stream(path) as stream:
        return str(stream.read().decode())


def read(client: S3FileSystem, path: str) -> str:
    """Read a file."""
    with client.open_input_stream(path) as stream:
        return "read" if stream.read() == b"kept" else "something else"


def listed(client: S3FileSystem, folder: str) -> str:
    """List a folder."""
    return "listed" if client.get_file_info(FileSelector(folder)) else "empty"


keys = json.load(sys.stdin)
clients = {user: store(*key) for user, key in keys.items()}
tries = {
    f"{user} {bucket}": partial(write, client, f"{bucket}/check/{user}")
    for user, client in clients.items()
    for bucket in BUCKETS
}
for folder in FOLDERS:
    tries[f"spark {folder}"] = partial(write, clients["spark"], f"warehouse/{folder}/file")
    tries[f"analyst reads {folder}"] = partial(read, clients["analyst"], f"warehouse/{folder}/file")
    tries[f"analyst lists {folder}"] = partial(listed, clients["analyst"], f"warehouse/{folder}")
    tries[f"analyst writes {folder}"] = partial(write, clients["analyst"], f"warehouse/{folder}/own")
tries["analyst lists all"] = partial(listed, clients["analyst"], "warehouse")
tries["wrong secret"] = partial(write, store(keys["spark"][0], "wrong-secret"), "warehouse/check/wrong")
# What an access key was before it was a secret
for user, (_, secret) in keys.items():
    tries[f"{user} by name"] = partial(write, store(user, secret), "warehouse/check/name")
json.dump({name: tried(attempt) for name, attempt in tries.items()}, sys.stdout)
