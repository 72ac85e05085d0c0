"""MLflow as somebody uses it who wants to know how good the model is."""

from __future__ import annotations

import re

from conftest import URL, USER
from playwright.sync_api import BrowserContext, Page, expect


def test_model_card(page: Page, context: BrowserContext) -> None:
    """From the portal to the training's measures in three clicks, and to its whole card in one more."""
    page.goto(URL)
    page.get_by_role("link", name="MLflow", exact=True).click()
    page.get_by_role("link", name="student_dropout").click()
    page.get_by_role("link", name=re.compile(r"^train [\d-]+$")).first.click()
    expect(page.get_by_text("It predicts")).to_be_attached()
    expect(page.locator("td", has_text="0.").first).to_be_attached()
    with context.expect_page() as opened:
        page.get_by_role("link", name="The whole model card").first.click()
    card = opened.value.frame_locator("iframe")
    expect(card.get_by_role("heading", name="student_dropout").first).to_be_visible()
    expect(card.locator("svg, img").first).to_be_visible()
    opened.value.close()

    for tab in ("Model metrics", "Artifacts"):
        page.get_by_role("tab", name=tab).or_(page.get_by_role("link", name=tab)).first.click()
        expect(page.get_by_text("auc" if tab == "Model metrics" else "model_card.html").first).to_be_visible()


def test_registered_model(page: Page) -> None:
    page.goto(f"{URL}/mlflow/")
    page.get_by_role("link", name="Model registry").click()
    page.get_by_role("link", name="student_dropout").first.click()
    expect(page.get_by_text("The risk of each student of a running course")).to_be_visible()
    expect(page.get_by_text("champion").first).to_be_visible()
    page.get_by_role("link", name=re.compile(r"^Version \d+$")).first.click()
    expect(page.get_by_text("AUC / Brier score").first).to_be_attached()


def test_signed_in(page: Page) -> None:
    """MLflow knows who edge let in, and asks for no password of its own."""
    page.goto(f"{URL}/mlflow/#/account")
    expect(page.get_by_text(f"Logged in as {USER}")).to_be_visible()
    expect(page.get_by_text(re.compile("change password|log ?out", re.IGNORECASE))).to_have_count(0)
