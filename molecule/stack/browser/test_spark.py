"""Spark's pages, of what runs and of what has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from conftest import URL, network_at_rest
from playwright.sync_api import Page, expect

NAME = "browser suite"
PROGRAM = f"""
import time
from pyspark.sql import SparkSession
spark = SparkSession.builder.appName({NAME!r}).config("spark.cores.max", "1").getOrCreate()
spark.sql("SELECT count(*) AS courses FROM curated.dim_course").collect()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def application(host: Callable[..., str]) -> Iterator[str]:
    """An application on the jobs' cluster that has run a query and goes on."""
    run = "docker compose --project-directory /opt/lakehouse run --rm --detach --name browser-suite --no-deps --entrypoint python jobs -c"
    host("sh", "-c", f'{run} "$0"', PROGRAM)
    try:
        for _ in range(120):
            if "ready" in host("docker", "logs", "browser-suite"):
                break
            time.sleep(0.5)
        else:
            pytest.fail(f"the application is not ready: {host('sh', '-c', 'docker logs browser-suite 2>&1')}")
        yield NAME
    finally:
        host("docker", "rm", "--force", "browser-suite")
        network_at_rest()


def check_tabs(page: Page, prefix: str) -> None:
    """Expect the tabs of an application's pages to show what it did, all of them below the prefix."""

    def open_tab(name: str, heading: str) -> None:
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.locator("h3").first).to_contain_text(heading)
        assert page.url.startswith(f"{URL}{prefix}"), page.url

    open_tab("Executors", "Executors")
    expect(page.locator("#active-executors-table tbody tr", has_text="driver")).to_be_visible()
    open_tab("SQL / DataFrame", "SQL / DataFrame")
    page.locator("table a", has_text="collect at").first.click()
    expect(page.locator("h3").first).to_contain_text("Details for Query")
    expect(page.locator("#plan-viz-graph svg")).to_be_visible()
    open_tab("Stages", "Stages for All Jobs")
    open_tab("Environment", "Environment")
    open_tab("Jobs", "Spark Jobs")
    page.locator("#completed tbody tr a, #completedJob-table tbody tr a").first.click()
    expect(page.locator("h3").first).to_contain_text("Details for Job")
    assert page.url.startswith(f"{URL}{prefix}"), page.url


def test_running_application(page: Page, application: str) -> None:
    page.goto(URL)
    page.get_by_role("link", name="Spark", exact=True).click()
    page.get_by_role("link", name=application, exact=True).first.click()
    expect(page.locator("h3").first).to_contain_text("Spark Jobs")
    check_tabs(page, "/spark/proxy/app-")


def test_workers(page: Page, application: str) -> None:
    page.goto(f"{URL}/spark/")
    page.locator("a[href*='proxy/worker-']").first.click()
    expect(page.locator("h3").first).to_contain_text("Spark Worker at")
    page.get_by_role("link", name="Back to Master").click()
    expect(page.locator("h3").first).to_contain_text("Spark Master at")
    page.locator("a[href*='app/?appId=']").first.click()
    expect(page.locator("h3").first).to_contain_text("Application: ")
    page.get_by_role("link", name="stderr", exact=True).first.click()
    expect(page.locator("h3").first).to_contain_text("stderr log page")
    expect(page.locator("pre")).to_contain_text("CoarseGrainedExecutorBackend")


def test_history(page: Page) -> None:
    page.goto(URL)
    page.get_by_role("link", name="Spark history").click()
    page.get_by_role("searchbox").fill("pipeline")
    page.get_by_role("row", name="moodle-lakehouse pipeline").get_by_role("link").first.click()
    expect(page.locator("h3").first).to_contain_text("Spark Jobs")
    check_tabs(page, "/spark-history/history/app-")
