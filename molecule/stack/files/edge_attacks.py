"""Attack edge as strangers, other sites' pages and analysts would, and do what it must go on to allow.

It runs on the host with Python's standard library alone and asks only the address it is given, one request after the other but
for a few seconds of wrong passwords. What may change nothing is compared before and after. In the variable EDGE_ATTACKS:

    {"url": "http://127.0.0.1:8080", "s3_url": "http://127.0.0.1:9080", "public_url": "http://127.0.0.1:8080",
     "passwords": {"admin": "...", "service": "...", "analyst": "..."}, "raw": ["quiz"], "only": ["other_sites"]}

`raw` are the tables of raw that the inventory gives to analysts, `only` names some of the attacks, where it is there.
The certificate of an address with https is not looked at, for that is another test's matter.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

Headers = dict[str, str] | Sequence[tuple[str, str]]

GIVEN: dict[str, Any] = json.loads(os.environ["EDGE_ATTACKS"])
URL, PUBLIC, S3 = urlsplit(GIVEN["url"]), urlsplit(GIVEN["public_url"]), urlsplit(GIVEN["s3_url"])
TLS = URL.scheme == "https"
ORIGIN = f"{URL.scheme}://{URL.netloc}"
FOREIGN = "A page of another site"
WRITING = "Write to the sandbox"
READING = "Analysts read"
PATIENCE = 60  # s, for an answer

found: list[str] = []
count = 0


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str


def expect(what: str, holds: bool, answer: object = "") -> None:
    """Note what does not hold."""
    global count
    count += 1
    if not holds:
        found.append(f"{what}: {str(answer)[:400]}")


def insecure(protocols: Iterable[str] = ()) -> ssl.SSLContext:
    """Return what does not look at certificates."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def connect(url: Any = URL, timeout: float = PATIENCE, protocols: Iterable[str] = ()) -> socket.socket:
    """Open a connection, with TLS where the address says so."""
    plain = socket.create_connection((url.hostname, url.port or (443 if url.scheme == "https" else 80)), timeout)
    return insecure(protocols).wrap_socket(plain, server_hostname=url.hostname) if url.scheme == "https" else plain


def sign(user: str, password: str | None = None) -> str:
    """Return the header of a user, with another password than the right one if there is one."""
    pair = f"{user}:{GIVEN['passwords'][user] if password is None else password}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def ask(
    method: str, target: str, user: str = "", headers: Headers = (), body: Any = None, host: str = "", url: Any = URL
) -> Answer:
    """Send a request exactly as it is given, which no library would."""
    pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
    connection = http.client.HTTPConnection(url.hostname, timeout=PATIENCE)
    connection.sock = connect(url)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", host or url.netloc)
    if user:
        connection.putheader("Authorization", sign(user))
    for name, value in pairs:
        connection.putheader(name, value)
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    if body is not None:
        if "content-type" not in [name.lower() for name, _ in pairs]:
            connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data)
    answer = connection.getresponse()
    merged: dict[str, str] = {}
    for name, value in answer.getheaders():
        merged[name.lower()] = f"{merged[name.lower()]}, {value}" if name.lower() in merged else value
    text = "" if answer.status == 101 else answer.read().decode("utf-8", "replace")
    connection.close()
    return Answer(answer.status, merged, text)


def upgrade(target: str, headers: Headers = (), host: str = "") -> Answer:
    """Ask for a WebSocket."""
    pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
    wanted = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    wanted["Sec-WebSocket-Key"] = base64.b64encode(b"0123456789abcdef").decode()
    return ask("GET", target, "admin", [*wanted.items(), *pairs], host=host)


def state() -> dict[str, Any]:
    """Return what an attack could have changed."""
    return {
        "kernels": sorted(each["id"] for each in json.loads(ask("GET", "/jupyter/api/kernels", "admin").text)),
        "terminals": ask("GET", "/jupyter/api/terminals", "admin").text,
        "namespaces": ask("GET", "/catalog/v1/namespaces", "service").text,
        "tables": ask("GET", "/catalog/v1/namespaces/curated/tables", "service").text,
        "dim_course": ask("GET", "/catalog/v1/namespaces/curated/tables/dim_course", "service").text,
        "sandbox": ask("GET", "/sandbox/v1/namespaces", "service").text,
        "experiments": sorted(
            each["name"]
            for each in json.loads(
                ask("GET", "/mlflow/api/2.0/mlflow/experiments/search?max_results=1000", "admin").text
            ).get("experiments", [])
        ),
    }


def headers_of_pages() -> None:
    """Every answer of edge, its own errors included, tells the browser what the page may do."""
    pages = ["/", "/nothing", "/jupyter/lab", "/jupyter/api/contents", "/mlflow/", "/mlflow/health", "/spark/"]
    pages += ["/spark/proxy/app-that-ended/", "/spark-history/", "/catalog/v1/config", "/sandbox/v1/config", "/healthz"]
    for user in ("admin", ""):
        for page in pages:
            answer = ask("GET", page, user)
            policy = answer.headers.get("content-security-policy", "")
            expect(f"policy of {page} for {user}", "default-src '" in policy and "*" not in policy, answer)
            expect(
                f"frames of {page}", "frame-ancestors 'self'" in policy or "frame-ancestors 'none'" in policy, policy
            )
            expect(f"sniffing of {page}", answer.headers.get("x-content-type-options") == "nosniff", answer.headers)
            expect(f"old frames of {page}", answer.headers.get("x-frame-options") == "SAMEORIGIN", answer.headers)
            expect(f"referrer of {page}", answer.headers.get("referrer-policy") == "same-origin", answer.headers)
            wanted = "max-age=31536000" if TLS else None
            expect(f"transport of {page}", answer.headers.get("strict-transport-security") == wanted, answer.headers)
    stored = ask("GET", "/warehouse/", url=S3)
    expect("the policy of what is stored", "sandbox;" in stored.headers.get("content-security-policy", ""), stored)


def other_sites() -> None:
    """Another site's page cannot act, whichever way its browser tells where the request comes from."""
    port = (URL.port or 80) + 1
    foreign: list[Headers] = [
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": f"{URL.scheme}://{URL.hostname}:{port}"},
        {"Origin": f"{ORIGIN}.elsewhere.example"},
        {"Origin": f"http://x@{URL.netloc}"},
        {"Origin": f"http://elsewhere.example/://{URL.netloc}"},
        [("Origin", ORIGIN), ("Origin", "http://elsewhere.example")],
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "document"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ]
    form = b'{"name": "attack", "namespace": ["attack"], "x": "'
    acts = [
        ("POST", "/jupyter/api/kernels"),
        ("POST", "/jupyter/api/terminals"),
        ("PUT", "/jupyter/api/contents/attack.txt"),
        ("GET", "/jupyter/api/contents"),
        ("POST", "/catalog/v1/namespaces"),
        ("DELETE", "/catalog/v1/namespaces/attack/tables/attack"),
        ("POST", "/sandbox/v1/namespaces"),
        ("POST", "/mlflow/api/2.0/mlflow/experiments/create"),
        ("POST", "/mlflow/ajax-api/2.0/mlflow/experiments/create"),
        ("POST", "/mlflow/graphql"),
        ("POST", "/spark/app/kill/"),
        ("GET", "/spark/proxy/app-1/jobs/job/kill/?id=0"),
        ("GET", "/jupyter/spark-4040/stages/stage/kill/?id=0"),
        ("OPTIONS", "/mlflow/api/2.0/mlflow/experiments/create"),
        ("OPTIONS", "/catalog/v1/namespaces"),
    ]
    for headers in foreign:
        for method, target in acts:
            body = form if method in ("POST", "PUT") else None
            kind = [*(headers.items() if isinstance(headers, dict) else headers), ("Content-Type", "text/plain")]
            answer = ask(method, target, "admin", kind, body)
            expect(f"{method} {target} from {headers}", answer.status == 403 and FOREIGN in answer.text, answer)
            expect(f"{method} {target} gives no leave", "access-control-allow-origin" not in answer.headers, answer)
        for target in (
            "/jupyter/api/events/subscribe",
            "/jupyter/api/kernels/0/channels",
            "/jupyter/terminals/websocket/1",
        ):
            answer = upgrade(target, headers)
            expect(f"WebSocket {target} from {headers}", answer.status == 403 and FOREIGN in answer.text, answer)
    # A link to a page, but not to what acts or to data
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for target in ("/", "/jupyter/lab", "/mlflow/", "/spark/", "/spark-history/"):
        answer = ask("GET", target, "admin", link)
        expect(f"a link to {target}", answer.status == 200, answer)
    for target in ("/catalog/v1/config", "/jupyter/api/contents", "/spark/proxy/app-1/jobs/job/kill/?id=0"):
        answer = ask("GET", target, "admin", link)
        expect(f"a link to {target}", answer.status == 403, answer)
    refused = ask("POST", "/jupyter/lab", "admin", {"Origin": "null"})
    expect("a refusal is a page", "To the portal" in refused.text and FOREIGN in refused.text, refused)
    # Its own pages
    search = ("POST", "/mlflow/ajax-api/2.0/mlflow/experiments/search", "admin")
    own: list[Headers] = [{}, {"Origin": ORIGIN}, {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}]
    own.append({"Sec-Fetch-Site": "none"})
    for headers in own:
        answer = ask(*search, headers, {"max_results": 1})
        expect(f"MLflow's own page with {headers}", answer.status == 200, answer)
        answer = upgrade("/jupyter/api/events/subscribe", headers)
        expect(f"Jupyter's own page with {headers}", answer.status == 101, answer)
    # Behind another proxy, which asks for edge by another name
    public = f"{PUBLIC.scheme}://{PUBLIC.netloc}"
    inner = URL.netloc if TLS else "edge.internal:8080"
    answer = ask(*search, {"Origin": public}, {"max_results": 1}, host=inner)
    expect("MLflow behind a proxy", answer.status == 200, answer)
    answer = upgrade("/jupyter/api/events/subscribe", {"Origin": public}, inner)
    expect("Jupyter behind a proxy", answer.status == 101, answer)


def protocols() -> None:
    """HTTP/2 is not spoken, neither where it is offered nor where somebody begins with it."""
    for url in (URL, S3):
        if url.scheme == "https":
            with connect(url, protocols=["h2", "http/1.1"]) as offered:
                expect(f"{url.netloc} chooses HTTP/1", offered.selected_alpn_protocol() == "http/1.1")  # type: ignore[attr-defined]
        with connect(url) as begun:
            begun.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            first = begun.recv(9)
            expect(f"{url.netloc} does not begin HTTP/2", first[3:4] != b"\x04" and first[:5] in (b"", b"HTTP/"), first)
        asked = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
        answer = ask("GET", "/healthz", headers=asked, url=url)
        expect(f"{url.netloc} does not change to HTTP/2", answer.status != 101, answer)


def passwords() -> None:
    """A name that edge does not know costs it no more than one that it knows, wherever it is tried."""

    def cost(user: str, target: str, more: Headers = ()) -> float:
        taken = []
        for number in range(5):
            began = time.monotonic()
            tried = [*more, ("Authorization", sign(user, f"wrong {time.time()} {number}"))]
            answer = ask("GET", target, headers=tried)
            taken.append(time.monotonic() - began)
            expect(f"{user} with a wrong password at {target}", answer.status == 401, answer)
            expect(f"{user} is asked again at {target}", "basic" in answer.headers.get("www-authenticate", "").lower())
        return statistics.median(taken)

    known = cost("admin", "/")
    strangers = [("nobody", "/"), ("nobody", "/catalog/v1/config"), ("nobody", "/mlflow/"), ("service", "/jupyter/lab")]
    strangers += [
        ("analyst", "/spark/"),
        ("administrator", "/"),
        ("admi", "/"),
        ("", "/"),
        ("x" * 5000, "/sandbox/v1/config"),
    ]
    for user, target in strangers:
        taken = cost(user, target)
        expect(
            f"{user[:20]} at {target} costs no more than admin", taken <= known * 1.2, f"{taken:.3f} s, {known:.3f} s"
        )
    hidden = [("Authorization", sign("nobody", str(time.time())))]
    taken = cost("admin", "/", hidden)
    expect("a second header costs no more", taken <= known * 1.2, f"{taken:.3f} s, {known:.3f} s")
    for scheme in ("bearer", "Basic", "basic ", "BASIC"):
        answer = ask("GET", "/", headers={"Authorization": f"{scheme} x"})
        expect(f"the scheme {scheme}", answer.status == 401, answer)
    answer = ask("GET", "/", headers={"Authorization": sign("admin").replace("Basic", "bAsIc")})
    expect("the scheme in other letters", answer.status == 200, answer)


def flood() -> None:
    """Whoever is signed in is answered while others try passwords, though later."""
    ends = time.monotonic() + 8
    tries = []

    def guess(number: int) -> None:
        while time.monotonic() < ends:
            tries.append(ask("GET", "/", headers={"Authorization": sign("admin", f"{number} {time.time()}")}).status)

    guessing = [threading.Thread(target=guess, args=(number,)) for number in range(8)]
    for each in guessing:
        each.start()
    taken = []
    while time.monotonic() < ends:
        began = time.monotonic()
        for target, user in (("/healthz", ""), ("/", "admin"), ("/catalog/v1/config", "service")):
            answer = ask("GET", target, user)
            expect(f"{target} while passwords are tried", answer.status == 200, answer)
        taken.append((time.monotonic() - began) / 3)
    for each in guessing:
        each.join()
    expect("wrong passwords are refused", set(tries) == {401}, set(tries))
    expect("the signed-in are answered", statistics.median(taken) < 5, taken)
    print(
        f"{len(tries)} wrong passwords in 8 s; the signed-in waited {statistics.median(taken):.3f} s, at most {max(taken):.3f} s"
    )


def catalog_reads() -> None:
    """The analyst reads what is the analyst's."""
    permitted = [
        "config",
        "config?warehouse=lake",
        "namespaces",
        "namespaces?pageToken=&pageSize=10",
        "namespaces?parent=marts",
    ]
    for namespace in ("curated", "features", "marts"):
        permitted += [
            f"namespaces/{namespace}",
            f"namespaces/{namespace}/tables",
            f"namespaces/{namespace}/tables?pageToken=",
        ]
    permitted += [
        "namespaces/curated/views",
        "namespaces/curated/tables/dim_course",
        "namespaces/marts/tables/student_risk",
    ]
    permitted += [
        "namespaces/curated/tables/dim_course?snapshots=all",
        "namespaces/curated/tables/dim_course?snapshots=refs",
    ]
    permitted += [f"namespaces/raw/tables/{table}" for table in GIVEN["raw"]]
    delegation = {"X-Iceberg-Access-Delegation": "vended-credentials"}
    for target in permitted:
        answer = ask("GET", f"/catalog/v1/{target}", "analyst", delegation)
        expect(f"the analyst reads {target}", answer.status == 200, answer)
        for secret in ("secret-access-key", *GIVEN["passwords"].values()):
            expect(f"{target} holds no secret", len(secret) < 12 or secret not in answer.text, answer)
    for target in ("namespaces/curated", "namespaces/curated/tables/dim_course"):
        answer = ask("HEAD", f"/catalog/v1/{target}", "analyst")
        expect(f"the analyst asks for {target}", answer.status in (200, 204), answer)
    answer = ask(
        "POST",
        "/catalog/v1/namespaces/curated/tables/dim_course/metrics",
        "analyst",
        body={"report-type": "scan-report"},
    )
    expect("a report of a query is taken", answer.status == 204, answer)
    for target in ("parquet/tables/numbers.parquet", "parquet", "view/tables/of-the-session"):
        answer = ask("GET", f"/catalog/v1/namespaces/{target}", "analyst")
        expect(f"there is no {target}", answer.status == 404 and "NoSuchTable" in answer.text, answer)
    for user in ("admin", "service", "analyst"):
        answer = ask("GET", "/sandbox/v1/config", user)
        expect(f"{user} comes to the sandbox", answer.status == 200, answer)
    for namespace in ("attack", "att%C3%A4ck", "o%27x", "a%60b", "a%20b"):
        answer = ask("GET", f"/sandbox/v1/namespaces/{namespace}", "analyst")
        expect(f"the sandbox answers for {namespace}", answer.status == 404 and "NoSuch" in answer.text, answer)


def catalog_bypasses() -> None:
    """No spelling of an address brings the analyst to another table."""
    hidden = "raw/tables/course"
    targets = [
        f"/catalog/v1/namespaces/{each}"
        for each in ("raw/tables/course", "ops/tables/job_run", "identity/tables/user_key")
    ]
    targets += [
        "/catalog/v1/namespaces/ops",
        "/catalog/v1/namespaces/identity/tables",
        "/catalog/v1/namespaces/default/tables",
    ]
    tails = [
        "%72aw/tables/course", "%2572aw/tables/course", "RAW/tables/course", f"{hidden}/", f"{hidden}?snapshots=all", f"{hidden}#x",
        f"curated/../{hidden}", f"curated/%2e%2e/{hidden}", f"curated/.%2E/{hidden}", f"curated/..%2f{hidden}", f"./{hidden}",
        f"curated%2f..%2f{hidden}", f"curated/%252e%252e/{hidden}", f"curated/..%252f{hidden}", f"curated/..;/{hidden}",
        f"curated;/../{hidden}", "raw;x=1/tables/course", f"curated\\..\\{hidden}", f"curated/..%5c{hidden}", f"/{hidden}",
        "raw//tables/course", "raw/tables//course", "curated%1Fraw/tables/course", "%1Fraw/tables/course", "raw%1F/tables/course",
        "raw%1f%1f/tables/course", "curated%00/../raw/tables/course", "curated.raw/tables/course", "raw%20/tables/course",
        "raw+/tables/course", "raw/tables/cours%65", "curated/tables/..%2f..%2fraw%2ftables%2fcourse", "%c0%aeraw/tables/course",
        "curated/tables/dim_course/../../../raw/tables/course", "curated/tables/dim_course?namespace=raw&table=course",
        "curated/tables/dim_course?table=student_risk", "curated/tables/dim_course?snapshots=all&namespace=raw", "raw/views/course",
        "curated/tables/dim_course/credentials", "curated/tables/dim_course/plan", "curated/tables/dim_course/plan/1",
        "curated/tables/dim_course/tasks", "curated/tables/dim_course/", "curated/functions", "raw/tables", "raw/views",
    ]  # fmt: skip
    targets += [f"/catalog/v1/namespaces/{tail}" for tail in tails]
    targets += [
        f"/catalog/v1//namespaces/{hidden}", f"/catalog//v1/namespaces/{hidden}", f"//catalog/v1/namespaces/{hidden}",
        f"/CATALOG/v1/namespaces/{hidden}", f"/Catalog/v1/namespaces/{hidden}", f"/catalog/V1/namespaces/{hidden}",
        f"/%63atalog/v1/namespaces/{hidden}", f"/catalog%2fv1/namespaces/{hidden}", f"/catalog/v1/%6eamespaces/{hidden}",
        f"/catalog/./v1/namespaces/{hidden}", f"/catalog/v1/prefix/namespaces/{hidden}", f"/catalog/v2/namespaces/{hidden}",
        f"/sandbox/../catalog/v1/namespaces/{hidden}", f"/sandbox/%2e%2e/catalog/v1/namespaces/{hidden}",
        f"/sandbox/..%2fcatalog/v1/namespaces/{hidden}", f"/mlflow/../catalog/v1/namespaces/{hidden}",
        f"/healthz/../catalog/v1/namespaces/{hidden}", f"{ORIGIN}/catalog/v1/namespaces/{hidden}",
        f"/catalog/v1/config/../namespaces/{hidden}", f"/catalog/v1/config?/../namespaces/{hidden}", "/catalog/", "/catalog/metrics",
    ]  # fmt: skip
    for target in targets:
        for method in ("GET", "HEAD", "POST", "DELETE"):
            answer = ask(method, target, "analyst", body={} if method == "POST" else None)
            # A name that no namespace has is unknown to edge itself, which asks nobody.
            own = answer.status == 404 and (method == "HEAD" or "There is no such table or namespace." in answer.text)
            denied = (answer.status in (400, 403) or own) and "metadata-location" not in answer.text
            expect(f"the analyst's {method} {target}", denied, answer)
    # Names of another address in a header
    for name in ("X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Path", "X-Forwarded-Prefix"):
        answer = ask(
            "GET", "/catalog/v1/namespaces/curated/tables/dim_course", "analyst", {name: f"/v1/namespaces/{hidden}"}
        )
        place = json.loads(answer.text).get("metadata", {}).get("location", "") if answer.status == 200 else ""
        expect(f"the header {name}", "/curated/" in place, answer)


def catalog_writes() -> None:
    """The analyst writes nothing to the main catalog, and is told where to."""
    place = json.loads(ask("GET", "/catalog/v1/namespaces/curated/tables/dim_course", "service").text)[
        "metadata-location"
    ]
    table = {"namespace": ["curated"], "name": "dim_course"}
    schema = {"type": "struct", "schema-id": 0, "fields": [{"id": 1, "name": "x", "type": "long", "required": False}]}
    commit = {"requirements": [], "updates": [{"action": "set-properties", "updates": {"attack": "1"}}]}
    renamed = {"source": table, "destination": {"namespace": ["curated"], "name": "attack"}}
    at_place = {"name": "attack", "schema": schema, "location": place.split("/metadata/")[0]}
    writes = [
        ("POST", "namespaces", {"namespace": ["attack"]}),
        ("POST", "namespaces/curated/properties", {"updates": {"attack": "1"}}),
        ("DELETE", "namespaces/features", None),
        ("POST", "namespaces/marts/tables", {"name": "attack", "schema": schema}),
        ("POST", "namespaces/marts/tables", at_place),
        ("POST", "namespaces/marts/register", {"name": "attack", "metadata-location": place}),
        ("POST", "namespaces/sandbox/register", {"name": "attack", "metadata-location": place}),
        ("POST", "namespaces/curated/tables/dim_course", commit),
        ("DELETE", "namespaces/curated/tables/dim_course?purgeRequested=true", None),
        ("POST", "tables/rename", renamed),
        ("POST", "transactions/commit", {"table-changes": [{"identifier": table, **commit}]}),
        ("POST", "namespaces/marts/views", {"name": "attack"}),
        ("POST", "views/rename", renamed),
        ("POST", "namespaces/curated/tables/dim_course/plan", {}),
        ("POST", "namespaces/curated/tables/dim_course/tasks", {}),
        ("POST", "aws/s3/sign", {"uri": place}),
        ("POST", "oauth/tokens", {"grant_type": "client_credentials"}),
        ("PUT", "namespaces/curated/tables/dim_course", commit),
        ("PATCH", "namespaces/curated/tables/dim_course", commit),
        ("OPTIONS", "namespaces", None),
        ("TRACE", "namespaces", None),
        ("get", "namespaces", None),
        ("POST", "namespaces/curated/tables/dim_course/metrics/", {}),
        ("POST", "tables/rename?/namespaces/a/tables/b/metrics", renamed),
        ("DELETE", "namespaces/curated/tables/dim_course/metrics", None),
    ]
    for method, target, body in writes:
        answer = ask(method, f"/catalog/v1/{target}", "analyst", body=body)
        told = answer.status == 403 and WRITING in json.loads(answer.text)["error"]["message"]
        expect(f"the analyst's {method} {target}", told, answer)
    told = json.loads(ask("GET", "/catalog/v1/namespaces/ops/tables/job_run", "analyst").text)["error"]
    expect("another table's refusal", READING in told["message"] and told["type"] == "ForbiddenException", told)
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        ask("GET", "/catalog/v1/namespaces/curated/tables/dim_course", "analyst", {name: "DELETE"})
    # The sandbox is a catalog of its own, whose key opens its own bucket only.
    for method, target, body in (
        ("POST", "namespaces/default/register", {"name": "attack", "metadata-location": place}),
        ("POST", "namespaces/default/tables", at_place),
        ("POST", "tables/rename", renamed),
        ("POST", "transactions/commit", {"table-changes": [{"identifier": table, **commit}]}),
        ("DELETE", "namespaces/curated/tables/dim_course?purgeRequested=true", None),
    ):
        answer = ask(method, f"/sandbox/v1/{target}", "analyst", body=body)
        expect(f"the sandbox's {method} {target}", answer.status >= 400, answer)


def paths() -> None:
    """What one door admits brings nobody through another one."""
    for door in ("/catalog", "/sandbox", "/mlflow"):
        for way in (
            "/../",
            "/%2e%2e/",
            "/..%2f",
            "/%2e%2e%2f",
            "/..%5c",
            "/x/../../",
            "/..;/",
            "%2f..%2f",
            "/%252e%252e/",
        ):
            for page in ("jupyter/api/kernels", "spark/", "spark-history/api/v1/applications", "index.html"):
                for user in ("analyst", "service"):
                    answer = ask("GET", f"{door}{way}{page}", user)
                    expect(f"{user} at {door}{way}{page}", answer.status in (400, 401, 403, 404), answer)
    for target in (
        "/jupyter/lab",
        "//jupyter/lab",
        "/JUPYTER/lab",
        "/%6aupyter/lab",
        "/spark/",
        "/SPARK/",
        "/index.html",
        "/error.html",
    ):
        for user in ("", "analyst", "service"):
            answer = ask("GET", target, user)
            expect(f"{user or 'nobody'} at {target}", answer.status in (400, 401), answer)
    for start in ("/healthz", "/portal.css", "/favicon.svg", "/ca.crt", "", "/x"):
        for way in ("/../", "/..%2f", "/%2e%2e/", "/.%2e/", "/..%5c", "/", "%2f..%2f", "/../../../"):
            for page in ("root.key", "run/secrets/edge_snippets", "etc/passwd", "jupyter/api/kernels", "index.html"):
                answer = ask("GET", f"{start}{way}{page}")
                expect(f"nobody at {start}{way}{page}", answer.status in (400, 401), answer)
    for target in (
        "/../../run/secrets/edge_snippets",
        "/..%2f..%2frun/secrets/edge_snippets",
        "/%2e%2e/%2e%2e/etc/passwd",
    ):
        answer = ask("GET", target, "admin")
        expect(f"admin at {target}", answer.status == 400, answer)
    # MLflow's files
    for user in ("admin", "analyst"):
        for base in ("/mlflow/api/2.0/mlflow-artifacts/artifacts/", "/mlflow/ajax-api/2.0/mlflow-artifacts/artifacts/"):
            for way in (
                "../../../etc/passwd",
                "..%2f..%2fetc%2fpasswd",
                "%2e%2e/%2e%2e/etc/passwd",
                "%252e%252e%252fetc",
                "/etc/passwd",
            ):
                answer = ask("GET", base + way, user)
                expect(f"{user} at {base}{way}", 400 <= answer.status < 500, answer)
        for way in ("..", "../../", "/etc", "%2e%2e", "%252e%252e"):
            answer = ask("GET", f"/mlflow/api/2.0/mlflow-artifacts/artifacts?path={way}", user)
            expect(f"{user} lists {way}", 400 <= answer.status < 500, answer)
    # Spark's pages show and do not act.
    for method, target in (
        ("POST", "/spark/app/kill/"),
        ("POST", "/spark/"),
        ("DELETE", "/spark-history/"),
        ("GET", "/spark/workers/kill/"),
    ):
        answer = ask(method, target, "admin")
        expect(f"{method} {target}", answer.status == 403, answer)
    expect("nothing like it is MLflow's", ask("GET", "/mlflow/health", "admin").status == 200)


class Slow:
    """Clients that begin and do not go on, beside one that may take its time."""

    def __init__(self) -> None:
        self.half = []
        for start in (b"GET / HTTP/1.1\r\nHost: " + URL.netloc.encode(), b"GET / HT", b""):
            sock = connect(timeout=40)
            sock.sendall(start)
            self.half.append(sock)
        self.began = time.monotonic()
        self.socket = connect(timeout=40)
        key = base64.b64encode(b"0123456789abcdef").decode()
        asked = [
            "GET /jupyter/api/events/subscribe HTTP/1.1", f"Host: {URL.netloc}", f"Authorization: {sign('admin')}",
            "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}",
        ]  # fmt: skip
        self.socket.sendall(("\r\n".join(asked) + "\r\n\r\n").encode())
        expect("a WebSocket opens", b" 101 " in self.socket.recv(4096))
        # A body that comes in parts, over a longer time than a header may take
        self.slow_status = 0
        self.sender = threading.Thread(target=self.send_slowly)
        self.sender.start()

    def send_slowly(self) -> None:
        """Send a body in parts."""
        body = b'{"max_results": 1}'
        with connect(timeout=60) as sock:
            head = f"POST /mlflow/ajax-api/2.0/mlflow/experiments/search HTTP/1.1\r\nHost: {URL.netloc}\r\n"
            head += f"Authorization: {sign('admin')}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.sendall(head.encode())
            for part in (body[:6], body[6:12], body[12:]):
                time.sleep(5)
                sock.sendall(part)
            self.slow_status = int(sock.recv(4096).split()[1])

    def check(self) -> None:
        """Expect the first ones to be gone and the other ones to be served."""
        self.sender.join()
        expect("a body may take its time", self.slow_status == 200, self.slow_status)
        time.sleep(max(0, self.began + 15 - time.monotonic()))
        for number, sock in enumerate(self.half):
            sock.settimeout(1)
            try:
                rest = sock.recv(4096)
            except TimeoutError:
                expect(f"half a header ends ({number})", False, "still open after 15 s")
            except OSError:
                expect(f"half a header ends ({number})", True)
            else:
                expect(f"half a header ends ({number})", rest == b"" or b" 408 " in rest or b" 400 " in rest, rest)
            sock.close()
        # A ping of the WebSocket is answered, beside the events that it tells.
        self.socket.sendall(bytes([0x89, 0x80, 1, 2, 3, 4]))
        self.socket.settimeout(20)
        heard = b""
        try:
            while b"\x8a\x00" not in heard and (more := self.socket.recv(4096)):
                heard += more
        except OSError as error:
            heard += repr(error).encode()
        expect("a WebSocket lives on", b"\x8a\x00" in heard, heard)
        self.socket.close()


def main() -> int:
    """Attack, print what got through and say by the exit code whether anything did."""
    before = state()
    slow = Slow()
    attacks: list[Callable[[], None]] = [
        headers_of_pages,
        other_sites,
        protocols,
        catalog_reads,
        catalog_bypasses,
        catalog_writes,
    ]
    attacks += [paths, passwords, slow.check, flood]
    for attack in attacks:
        if attack.__name__ not in GIVEN.get("only", [attack.__name__]):
            continue
        began, at_first = time.monotonic(), count
        try:
            attack()
        except Exception as error:  # the rest is tried all the same
            expect(f"{attack.__name__} comes to its end", False, repr(error))
        print(f"{attack.__name__}: {count - at_first} in {time.monotonic() - began:.1f} s")
    after = state()
    for name, value in before.items():
        expect(f"{name} are what they were", after[name] == value, after[name])
    print(f"{count} expectations, {len(found)} not met")
    for each in found:
        print(f"  {each}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
