"""Read and write tables' files with pyarrow, on the object store or on a disk."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import fs


# Not parsed as a URL: the name of a table is part of it as it is, and may hold what means something there (#, ?).
_PATH = re.compile(r"(?:([a-z0-9]+):)?(?://([^/]*))?(.*)", re.DOTALL)


def settings(loaded: Any) -> dict[str, str]:
    """Return the settings of S3 by which a loaded (Java) table reads its files, for whoever opens them elsewhere."""
    return {k: v for k, v in dict(loaded.io().properties()).items() if k.startswith(("s3.", "client."))}


def place(path: str, properties: Mapping[str, str]) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path, and the path in it. properties: as settings() gives them."""
    from pyarrow import fs

    scheme, host, inside = _PATH.fullmatch(path).groups("")  # type: ignore[union-attr]
    if scheme in ("", "file"):
        return fs.LocalFileSystem(), inside
    endpoint = urlsplit(properties.get("s3.endpoint", ""))
    options: dict[str, Any] = {
        "region": properties.get("client.region"),
        "endpoint_override": endpoint.netloc,
        "scheme": endpoint.scheme,
        "access_key": properties.get("s3.access-key-id"),
        "secret_key": properties.get("s3.secret-access-key"),
        "session_token": properties.get("s3.session-token"),
        "tls_ca_file_path": os.environ.get("SSL_CERT_FILE"),
    }
    return fs.S3FileSystem(**{k: v for k, v in options.items() if v}), host + inside


def files_below(path: str, properties: Mapping[str, str]) -> list[str]:
    """Return every file below a folder, with the folder's own prefix; none where there is no such folder."""
    from pyarrow import fs

    system, inside = place(path, properties)
    found = system.get_file_info(fs.FileSelector(inside, allow_not_found=True, recursive=True))
    start = path.rstrip("/")
    return sorted(start + info.path[len(inside.rstrip("/")) :] for info in found if info.is_file)


def field(name: str, kind: pa.DataType, field_id: int) -> pa.Field:
    """Return a column of a file with the id by which Iceberg knows it."""
    import pyarrow as pa

    return pa.field(name, kind, metadata={"PARQUET:field_id": str(field_id)})


@contextlib.contextmanager
def parquet(path: str, schema: pa.Schema, properties: Mapping[str, str]) -> Iterator[Any]:
    """Open a pyarrow.parquet.ParquetWriter of a new file; schema of fields as field() makes them.

    Text has dictionaries and no bounds, numbers have bounds and no dictionaries. Both for both takes a quarter more
    time and a tenth more space: ids and times hardly repeat, and the bounds of text are the same in every file of a log.
    """
    import pyarrow as pa
    from pyarrow import fs
    from pyarrow.parquet import ParquetWriter

    text = [one.name for one in schema if pa.types.is_string(one.type)]
    numbers = [one.name for one in schema if not pa.types.is_string(one.type)]
    options = {
        "compression": "zstd",
        "use_dictionary": text,
        "write_statistics": numbers,
        "store_decimal_as_integer": True,
    }
    system, inside = place(path, properties)
    if isinstance(system, fs.LocalFileSystem):
        system.create_dir(os.path.dirname(inside))
    with system.open_output_stream(inside) as stream, ParquetWriter(stream, schema, **options) as writer:
        yield writer
