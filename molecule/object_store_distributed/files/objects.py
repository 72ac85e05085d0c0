"""A client of the object store: whatever it writes can be computed, so that whatever it reads can be compared.

objects.py http://HOST:9000 ACTION ...       as AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY
    write PREFIX GENERATION                  write the objects below PREFIX
    read PREFIX GENERATION                   compare them with what that writes
    delete PREFIX                            delete them
    absent PREFIX                            ask for each of them
    list                                     list everything
    ask BUCKET CODE                          ask for an object that is not there, and get that answer

Prints JSON: {"keys": [...]} or {"objects": N, "wrong": {key: why}, "slowest": seconds}; exit status 1 when something is wrong.
"""

import io
import json
import random
import sys
import time
from collections.abc import Callable, Iterator

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

BUCKET = "warehouse"
# Kept in their metadata, in one part, in one part of several blocks, in several parts
SIZES = {"tiny": 1, "small": 50_000, "middle": 400_000, "large": 3_000_000, "parts": 12_000_000}
PARTS = TransferConfig(multipart_threshold=8 * 2**20, multipart_chunksize=5 * 2**20, max_concurrency=2)

endpoint, action, *arguments = sys.argv[1:]
# Retries are what any client of S3 does.
store = boto3.client(
    "s3",
    endpoint_url=endpoint,
    region_name="us-east-1",
    config=Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "max_attempts": 5}),
)


def keys(prefix: str) -> Iterator[tuple[str, int]]:
    """Yield the names and sizes of the objects below a prefix."""
    for name, size in SIZES.items():
        for number in range(3):
            yield f"{prefix}/{name}/{number}", size


def content(key: str, size: int, generation: str) -> bytes:
    """Return the bytes of an object, which follow from its name and generation."""
    return random.Random(f"{key} {generation}").randbytes(size)


def code(bucket: str, key: str) -> str:
    """Return what the store says to a request for an object."""
    try:
        store.get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "there"


def write(key: str, size: int, generation: str) -> str:
    """Write an object; return no fault."""
    store.upload_fileobj(io.BytesIO(content(key, size, generation)), BUCKET, key, Config=PARTS)
    return ""


def read(key: str, size: int, generation: str) -> str:
    """Return what is wrong with an object's bytes; empty: nothing."""
    found = store.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return "" if found == content(key, size, generation) else f"{len(found)} bytes that were never written"


def delete(key: str, size: int) -> str:
    """Delete an object; return no fault."""
    store.delete_object(Bucket=BUCKET, Key=key)
    return ""


def absent(key: str, size: int) -> str:
    """Return what the store says of an object that must be gone; empty: it is gone."""
    found = code(BUCKET, key)
    return "" if found == "NoSuchKey" else found


def each(prefix: str, *generation: str) -> dict[str, object]:
    """Do it to each object, whatever happens to the others."""
    actions: dict[str, Callable[..., str]] = {"write": write, "read": read, "delete": delete, "absent": absent}
    wrong, slowest, objects = {}, 0.0, 0
    for key, size in keys(prefix):
        began = time.monotonic()
        try:
            problem = actions[action](key, size, *generation)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        objects, slowest = objects + 1, max(slowest, time.monotonic() - began)
        if problem:
            wrong[key] = problem
    return {"objects": objects, "wrong": wrong, "slowest": round(slowest, 1)}


if action == "list":
    pages = store.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    result: dict[str, object] = {"keys": sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))}
elif action == "ask":
    bucket, expected = arguments
    found = code(bucket, "nothing")
    result = {"objects": 1, "wrong": {bucket: found} if found != expected else {}}
else:
    result = each(*arguments)
json.dump(result, sys.stdout)
sys.exit(1 if result.get("wrong") else 0)
