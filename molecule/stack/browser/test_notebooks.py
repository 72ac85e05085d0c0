"""JupyterLab as an analyst uses it: a new notebook, its Spark application's page, the terminal, the tour."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from conftest import URL, settled
from playwright.sync_api import BrowserContext, Locator, Page, expect

# Spark and a first query start within this (ms); the tour is a dozen queries.
QUERY, TOUR = 90_000, 180_000


@pytest.fixture(autouse=True)
def leave_no_trace(host: Callable[..., str]) -> Iterator[None]:
    """Remove what a test leaves in Lab: its files, and the tabs that Lab would open again."""
    yield
    trace = "cd /home/notebooks && rm -rf notebooks/Untitled*.ipynb notebooks/made-* .jupyter/lab/workspaces"
    host("docker", "exec", "jupyterlab", "sh", "-c", trace)


def open_lab(page: Page) -> None:
    page.goto(URL)
    page.get_by_role("link", name="Notebooks", exact=True).click()
    page.get_by_role("button", name=re.compile("^New Launcher")).first.click()
    expect(page.locator(".jp-Launcher:visible")).to_be_visible()
    settled(page)


def wait_for_kernel(page: Page) -> None:
    """Return when the visible notebook's kernel has started."""
    expect(page.get_by_role("button", name=re.compile(r"\| Idle$"))).to_be_visible()


def run_cell(page: Page, text: str) -> Locator:
    """Type into the last cell, run it and return its outputs once it has finished."""
    cells = page.locator(".jp-Notebook:visible .jp-CodeCell")
    cell = cells.nth(cells.count() - 1)
    cell.locator(".cm-content").click()
    page.keyboard.insert_text(text)
    page.keyboard.press("Shift+Enter")
    expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=QUERY)
    return cell.locator(".jp-OutputArea-output")


def test_new_notebook(page: Page, context: BrowserContext) -> None:
    """A cell of SQL and one of Python run on Spark, and the link to the application's page works."""
    open_lab(page)
    page.locator(".jp-LauncherCard[data-category='Notebook']:visible").first.click()
    expect(page.locator(".jp-Notebook:visible .jp-CodeCell")).to_have_count(1)
    wait_for_kernel(page)

    table = run_cell(page, "%%sql\nSELECT count(*) AS courses FROM curated.dim_course")
    expect(table.locator("th", has_text="courses")).to_be_visible()
    expect(table.locator("td").last).to_have_text(re.compile(r"^\d+$"))

    python = "from pyspark.sql import SparkSession\n\nspark = SparkSession.builder.getOrCreate()\nspark.table('curated.dim_course').groupBy().count().show()\nspark"
    outputs = run_cell(page, python)
    expect(outputs.first).to_contain_text("|count|")
    with context.expect_page() as opened:
        outputs.last.get_by_role("link", name="Spark UI").click(modifiers=["ControlOrMeta"])
    spark = opened.value
    expect(spark.locator("h3").first).to_contain_text("Spark Jobs")
    assert spark.url.startswith(f"{URL}/jupyter/"), spark.url
    spark.get_by_role("link", name="Executors", exact=True).click()
    expect(spark.locator("#active-executors-table tbody tr", has_text="driver")).to_be_visible()
    spark.get_by_role("link", name="SQL / DataFrame", exact=True).click()
    expect(spark.locator("h3").first).to_contain_text("SQL / DataFrame")
    spark.close()

    failed = run_cell(page, "%%sql\nSELECT nothing FROM curated.dim_course")
    expect(failed).to_contain_text("nothing")
    expect(failed).not_to_contain_text("org.apache.spark")

    page.get_by_role("menuitem", name="Kernel").click()
    page.locator("[data-command='kernelmenu:shutdown']").click()
    settled(page)


def test_terminal(page: Page) -> None:
    """Its screen is a picture, so what was typed there is read in a file that it made."""
    open_lab(page)
    page.locator(".jp-LauncherCard:visible", has_text="Terminal").click()
    page.locator(".jp-Terminal:visible .xterm-screen").click()
    page.keyboard.type("(git --version; nano --version) > made-in-the-terminal.txt\n")
    page.get_by_role("button", name="Refresh the file browser").click()
    page.locator(".jp-DirListing-item", has_text="made-in-the-terminal.txt").dblclick()
    text = page.locator(".jp-FileEditor:visible .cm-content")
    expect(text).to_contain_text("git version")
    expect(text).to_contain_text("GNU nano")


def test_tour(page: Page) -> None:
    """Run All, as the menu does it."""
    page.goto(URL)
    page.get_by_role("link", name="a tour of the lake").click()
    expect(page.locator(".jp-Notebook:visible .jp-CodeCell").first).to_be_visible()
    wait_for_kernel(page)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator("[data-command='runmenu:run-all']").click()
    cells = page.locator(".jp-Notebook:visible .jp-CodeCell")
    # Lab shows the prompts of cells that are far away only once they are near: the last one is scrolled to.
    expect(page.get_by_role("button", name=re.compile(r"\| Busy$"))).to_be_visible()
    expect(page.get_by_role("button", name=re.compile(r"\| Idle$"))).to_be_visible(timeout=TOUR)
    for number in range(cells.count()):
        cells.nth(number).scroll_into_view_if_needed()
        expect(cells.nth(number).locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"))
        expect(cells.nth(number).locator("[data-mime-type='application/vnd.jupyter.error']")).to_have_count(0)
    expect(page.locator(".jp-Notebook:visible .jp-RenderedImage").first).to_be_visible()
    expect(page.locator(".jp-Notebook:visible .jp-OutputArea-output", has_text="reason_1")).to_be_attached()
