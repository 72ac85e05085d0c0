"""A person's browser in front of a deployed lakehouse: Debian's chromium, driven by Playwright.

It runs in the network of the host that is tested, so that it opens the addresses which people there type. It answers the
browser's own sign-in prompt; it sets no header, token or cookie.

    LAKEHOUSE_URL              where the portal is (default: http://127.0.0.1:8080)
    LAKEHOUSE_ADMIN_PASSWORD   the password of the user admin
    LAKEHOUSE_VM               container that plays the host (empty: this machine)
    LAKEHOUSE_SCREENSHOTS      folder for the screenshots of tests that fail
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    TimeoutError,
    ViewportSize,
    expect,
    sync_playwright,
)

URL = os.environ.get("LAKEHOUSE_URL", "http://127.0.0.1:8080")
USER, PASSWORD = "admin", os.environ.get("LAKEHOUSE_ADMIN_PASSWORD", "password")
VM = os.environ.get("LAKEHOUSE_VM", "")
SCREENSHOTS = Path(os.environ.get("LAKEHOUSE_SCREENSHOTS", ".cache/browser"))
WIDE, NARROW = ViewportSize(width=1280, height=900), ViewportSize(width=375, height=800)
PATIENCE = 60_000  # ms

expect.set_options(timeout=30_000)  # ms; a busy machine draws slowly

# Chromium asks servers of its maker otherwise, which a closed network refuses.
OPTIONS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

# What may go wrong, as a regular expression on "KIND TEXT", with the reason.
ALLOWED: dict[str, str] = {
    r"failed .* net::ERR_ABORTED$": "a page that was left before all of it had arrived",
}


class Watch:
    """Collects what a page's console and network complain of."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.expected: list[str] = []

    def allow(self, pattern: str) -> None:
        """Expect a complaint in this test: what it provokes itself."""
        self.expected.append(pattern)

    def follow(self, page: Page) -> None:
        page.on("console", self.console)
        page.on("pageerror", lambda error: self.complain(f"script {page.url} {str(error)[:300]}"))
        page.on("response", self.response)
        page.on("requestfailed", self.failed)

    def console(self, message: ConsoleMessage) -> None:
        # That a resource was not loaded is told by its response, with the address.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.complain(f"console {message.location.get('url', '')} {message.text[:300]}")

    def response(self, response: Response) -> None:
        if response.status >= 400:
            self.complain(f"response {response.status} {response.request.method} {response.url}")

    def failed(self, request: Request) -> None:
        self.complain(f"failed {request.method} {request.url} {request.failure}")

    def complain(self, text: str) -> None:
        if not any(re.search(pattern, text) for pattern in [*ALLOWED, *self.expected]):
            self.complaints.append(text)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=OPTIONS)
        yield started
        started.close()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def context(browser: Browser, watch: Watch, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A signed-in person's window; what console and network complained of fails the test, and a failure leaves pictures."""
    made = browser.new_context(http_credentials={"username": USER, "password": PASSWORD}, viewport=WIDE)
    made.set_default_timeout(PATIENCE)
    made.on("page", watch.follow)
    yield made
    failed = getattr(request.node, "failed", False) or watch.complaints
    if failed:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        for number, page in enumerate(made.pages):
            page.screenshot(path=SCREENSHOTS / f"{request.node.name}-{number}.png", full_page=True)
    made.close()
    assert not watch.complaints, "\n".join(list(dict.fromkeys(watch.complaints))[:20])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    if outcome.get_result().failed:  # type: ignore[attr-defined]
        item.failed = True  # type: ignore[attr-defined]


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def network_at_rest() -> None:
    """Wait after containers have come or gone: Chromium gives up what it loads while network interfaces change."""
    time.sleep(2)


@pytest.fixture(scope="session")
def host() -> Callable[..., str]:
    """Run a command on the host that is tested and return what it prints."""

    def run(*command: str) -> str:
        prefix = ["docker", "exec", VM] if VM else []
        return subprocess.run([*prefix, *command], check=True, capture_output=True, text=True).stdout

    return run


def settled(page: Page) -> None:
    """Wait until a page asks for nothing more, or is one that goes on asking."""
    with contextlib.suppress(TimeoutError):
        page.wait_for_load_state("networkidle", timeout=10_000)
