"""Our own pages, on a wide and on a narrow screen, for everybody; and every link from there on."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urldefrag, urlsplit

from axe_playwright_python.sync_playwright import Axe
from conftest import NARROW, URL, WIDE, Watch, network_at_rest, settled
from playwright.sync_api import Browser, Page, expect

AXE = Axe()
# Pages that differ by ids, numbers and orders of rows are of one kind: each kind is visited once.
VARIABLE = re.compile(r"(?:app|local|worker)-[\w.-]+|[0-9a-f]{32}|m-[0-9a-f]+|\d+")
# Links that are no pages: what is downloaded.
DOWNLOADS = re.compile(r"/api/v1/applications/.*/logs$")


def check(page: Page) -> None:
    """Expect a page of ours to fit both screens and to be usable by everybody."""
    for screen in (WIDE, NARROW):
        page.set_viewport_size(screen)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= screen["width"], f"{page.url} is {width} pixels wide on a screen of {screen['width']}"
        violations = AXE.run(page).response["violations"]
        found = [f"{each['id']}: {each['help']}: {[node['target'] for node in each['nodes']]}" for each in violations]
        assert not found, f"{page.url} on {screen['width']} pixels:\n" + "\n".join(found)


def test_our_pages(page: Page, watch: Watch, host: Callable[..., str]) -> None:
    title = page.get_by_role("heading", level=1)
    page.goto(URL)
    expect(title).to_have_text("Moodle Lakehouse")
    expect(page.get_by_role("heading", name="Connect your tool")).to_be_visible()
    check(page)

    watch.allow(r"response 404 GET .*/nothing/%3Cb%3Ehere$")
    page.goto(f"{URL}/nothing/<b>here")
    expect(title).to_have_text("There is no such page")
    expect(page.locator("main")).to_contain_text("/nothing/<b>here")
    check(page)
    page.get_by_role("link", name="To the portal").click()
    expect(title).to_have_text("Moodle Lakehouse")

    watch.allow(r"response 404 GET .*/spark/proxy/app-that-ended/$")
    page.goto(f"{URL}/spark/proxy/app-that-ended/")
    expect(title).to_have_text("There is no such page")

    watch.allow(r"response 502 GET .*/spark-history/$")
    host("docker", "stop", "--time", "0", "spark-history")
    network_at_rest()
    try:
        page.goto(f"{URL}/spark-history/")
        expect(title).to_have_text("Spark's history server does not answer")
        expect(page.locator("main")).to_contain_text("./lakehouse status")
        check(page)
    finally:
        host("docker", "start", "spark-history")
        host("sh", "-c", "until docker exec spark-history http-ok http://127.0.0.1:18080/; do sleep 0.5; done")
        network_at_rest()


def test_wrong_password(browser: Browser) -> None:
    """Somebody who gives up at the prompt reads what to do."""
    context = browser.new_context(http_credentials={"username": "admin", "password": "wrong"})
    page = context.new_page()
    answer = page.goto(URL)
    assert answer
    assert answer.status == 401
    expect(page.get_by_role("heading", level=1)).to_have_text("Please sign in")
    check(page)
    context.close()


def test_every_link(page: Page) -> None:
    """Follow every link of the portal, and from there two clicks further, as long as it stays on this site."""
    seen: set[str] = set()
    visited: list[str] = []

    def follow(address: str, clicks: int) -> None:
        # MLflow's pages differ by their fragment alone; elsewhere it is a place on the page.
        whole = address if "#/" in address else urldefrag(address).url
        kind = VARIABLE.sub("*", whole.partition("?")[0])
        if kind in seen or DOWNLOADS.search(address):
            return
        seen.add(kind)
        page.goto("about:blank")  # so that an address which differs by its fragment alone is loaded as well
        answer = page.goto(address)
        settled(page)
        assert answer, address
        page.wait_for_function("document.body.innerText.trim()")  # which fails on an empty page
        prefix = "/" + urlsplit(address).path.split("/")[1]
        assert urlsplit(page.url).path.startswith(prefix), f"{address} leads out to {page.url}"
        visited.append(address)
        if clicks:
            links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
            for link in dict.fromkeys(links):
                if link.startswith(f"{URL}/"):
                    follow(link, clicks - 1)

    page.goto(URL)
    starts = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
    for start in dict.fromkeys(starts):
        follow(start, 2)
    assert len(visited) > 15, visited
