"""What pages of other sites can do with the browser of somebody who is signed in, and pages of this one with other sites."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import URL, Watch, settled
from playwright.sync_api import BrowserContext, Page, expect

# What another site's page tries: each request brings the browser's password along.
ACT = """
async (url) => {
  const post = (path, body) => fetch(url + path, {
    method: "POST", mode: "no-cors", credentials: "include", body, headers: {"Content-Type": "text/plain"},
  }).catch(() => null);
  const socket = (path) => new Promise((resolve) => {
    const made = new WebSocket(url.replace("http", "ws") + path);
    made.onopen = () => resolve(path + " opened");
    made.onerror = () => resolve("");
  });
  const element = (name, path) => new Promise((resolve) => {
    const made = document.createElement(name);
    made.onload = made.onerror = resolve;
    made.src = url + path;
    document.body.append(made);
  });
  await post("/jupyter/api/kernels", "{}");
  await post("/jupyter/api/terminals", "{}");
  await post("/catalog/v1/namespaces", '{"namespace": ["attack"]}');
  await post("/mlflow/api/2.0/mlflow/experiments/create", '{"name": "attack"}');
  await post("/mlflow/ajax-api/2.0/mlflow/experiments/create", '{"name": "attack"}');
  await post("/mlflow/graphql", "{}");
  await post("/spark/app/kill/", "id=app-1&terminate=true");
  await element("img", "/spark/proxy/app-1/jobs/job/kill/?id=0");
  await element("script", "/jupyter/api/contents");
  await element("iframe", "/jupyter/lab");
  await element("iframe", "/mlflow/");
  const opened = [];
  for (const path of ["/jupyter/api/events/subscribe", "/jupyter/api/kernels/0/channels", "/jupyter/terminals/websocket/1"])
    opened.push(await socket(path));
  return opened.filter(Boolean);
}
"""
PAGE = f"""
<!doctype html><html lang="en"><meta charset="utf-8"><title>Another site</title><link rel="icon" href="data:,">
<body><a href="{URL}/">The portal</a> <a href="{URL}/mlflow/">The experiments</a>
<form method="post" action="{URL}/jupyter/api/kernels" enctype="text/plain"><button name="{{}}">Kernels</button></form>
<form method="post" action="{URL}/jupyter/lab"><button>Lab</button></form>
</body></html>
"""


class OtherSite(http.server.ThreadingHTTPServer):
    """A site of its own port, which remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def address(self, name: str) -> str:
        return f"http://{name}:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: OtherSite

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, *_: Any) -> None:
        """Keep the suite's output to itself."""


@pytest.fixture
def other_site() -> Iterator[OtherSite]:
    with OtherSite() as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site
        site.shutdown()


def state(context: BrowserContext) -> list[Any]:
    """Return what another site's page could have made."""
    paths = [
        "/jupyter/api/terminals",
        "/catalog/v1/namespaces",
        "/mlflow/api/2.0/mlflow/experiments/search?max_results=1000",
    ]
    kernels = json.loads(context.request.get(f"{URL}/jupyter/api/kernels").text())
    return [sorted(each["id"] for each in kernels), *(context.request.get(URL + path).text() for path in paths)]


# To the browser this name is another site, and the same address with another port the same site but another origin.
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_another_sites_page(
    page: Page, context: BrowserContext, watch: Watch, other_site: OtherSite, name: str
) -> None:
    watch.allow(r"response 403 ")
    watch.allow(r"console .* WebSocket connection to .* Unexpected response code: 403$")
    watch.allow(r"failed \w+ .* net::ERR_BLOCKED_BY_RESPONSE")
    watch.allow(r"console .* violates the following Content Security Policy directive: \"frame-ancestors 'none'\"")
    page.goto(URL)
    settled(page)
    before = state(context)

    page.goto(other_site.address(name))
    # The browser hides from Playwright what it hides from that page: its protocol has the answers as they came.
    sent: dict[str, str] = {}
    answers: dict[str, int] = {}
    network = context.new_cdp_session(page)
    network.on("Network.requestWillBeSent", lambda it: sent.update({it["requestId"]: it["request"]["url"]}))
    network.on("Network.responseReceivedExtraInfo", lambda it: answers.update({it["requestId"]: it["statusCode"]}))
    network.send("Network.enable")
    assert page.evaluate(ACT, URL) == []
    tried = {
        address.removeprefix(URL): answers.get(number) for number, address in sent.items() if address.startswith(URL)
    }
    assert len(tried) >= 9, tried
    assert set(tried.values()) == {403}, tried
    assert [frame.url for frame in page.frames if frame.url.startswith(URL)] == []

    for button in ("Kernels", "Lab"):
        page.goto(other_site.address(name))
        with page.expect_navigation() as gone:
            page.get_by_role("button", name=button).click()
        assert gone.value
        assert gone.value.status == 403
    expect(page.get_by_role("heading", level=1)).to_have_text("This is refused")
    assert state(context) == before

    # A link to a page is followed.
    for link, title in (("The portal", "Moodle Lakehouse"), ("The experiments", "MLflow")):
        page.goto(other_site.address(name))
        page.get_by_role("link", name=link).click()
        expect(page).to_have_title(title)
        settled(page)


@pytest.mark.parametrize("path", ["/", "/nothing", "/jupyter/lab", "/mlflow/", "/spark/", "/spark-history/"])
def test_pages_reach_nothing_else(page: Page, watch: Watch, other_site: OtherSite, path: str) -> None:
    """What a script within a page of ours finds out it cannot send away."""
    elsewhere = other_site.address("localhost")
    watch.allow(r"response 404 GET .*/nothing$")
    watch.allow(rf"console .*{elsewhere}/.* violates the following Content Security Policy")
    watch.allow(rf"failed \w+ {elsewhere}/.* csp$")
    watch.allow(rf"console .*(Fetch API cannot load|Connecting to|Refused to connect to) '?{elsewhere}")
    page.goto(f"{URL}{path}")
    settled(page)
    sent = page.evaluate(
        """async (elsewhere) => {
          const image = new Promise((resolve) => {
            const made = new Image();
            made.onload = () => resolve("image");
            made.onerror = () => resolve("");
            made.src = elsewhere + "/image";
          });
          const fetched = fetch(elsewhere + "/fetch", {mode: "no-cors"}).then(() => "fetch", () => "");
          return [await image, await fetched, navigator.sendBeacon(elsewhere + "/beacon") && ""];
        }""",
        elsewhere,
    )
    assert not any(sent), sent
    assert not other_site.asked
