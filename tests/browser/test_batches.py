"""Runs of batches in a real browser: seen, paused, resumed and cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.addresses import BATCH, PAGES
from tests.browser.batches import plant
from tests.browser.shop import OPERATOR, STAFF, SUPERUSER, VIEWER, Person, Shop

pytestmark = [pytest.mark.ci, pytest.mark.alone]

NEWSLETTER = f"{BATCH}?alias=default&name=newsletter+7"


@pytest.fixture(autouse=True)
def runs(the_shop: Shop) -> Iterator[None]:
    plant(the_shop)
    yield
    with the_shop.observer() as observer:
        observer.execute("TRUNCATE django_dbpool_batchrun CASCADE")


def wanted(shop: Shop, name: str) -> tuple[str, str]:
    """What is wanted of a run, and its state."""
    with shop.observer() as observer:
        row = observer.execute("SELECT wanted, state FROM django_dbpool_batchrun WHERE name = %s", [name]).fetchone()
    assert row is not None
    return row[0], row[1]


def press(page: Any, run: str, action: str) -> Any:
    page.locator(f'tr[data-batch="{run}"] [data-action={action}]').click()
    page.wait_for_selector('[data-page="batch_confirm"]')


def confirm(page: Any) -> str:
    page.locator("[name=confirmed]").click()
    return str(page.inner_text(".messagelist"))


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
@pytest.mark.parametrize("person", [SUPERUSER, OPERATOR], ids=lambda person: person.name)
def test_pause_resume_cancel(the_shop: Shop, visitors: Any, person: Person, script: bool) -> None:
    with visitors.visit(person, java_script_enabled=script) as visitor:
        page = visitor.open(PAGES["batches"] + "?state=open")
        press(page, "newsletter 7", "pause")
        assert "newsletter 7" in page.inner_text("#content")
        assert wanted(the_shop, "newsletter 7") == ("run", "open"), "nothing happens before it is confirmed"
        assert "It stops when the batch at hand is done" in confirm(page)
        assert wanted(the_shop, "newsletter 7") == ("pause", "open")
        assert page.url.endswith("?state=open"), "with its filters"
        press(page, "newsletter 7", "resume")
        confirm(page)
        assert wanted(the_shop, "newsletter 7") == ("run", "open")
        press(page, "clean audio 2026-11-21", "cancel")
        assert "It has ended" in confirm(page)
        assert wanted(the_shop, "clean audio 2026-11-21") == ("cancel", "cancelled")


def test_one_run(the_shop: Shop, visitors: Any) -> None:
    """From the list to one of them, its failed items, and back to it after an action."""
    with visitors.visit(OPERATOR) as visitor:
        page = visitor.open(PAGES["batches"])
        page.click('tr[data-batch="newsletter 7"] th a')
        page.wait_for_selector('[data-page="batch"]')
        page.wait_for_selector("[data-live-bar]:visible")
        assert page.locator("[data-item]").count() == 25
        page.fill("[name=q]", "deleted")
        page.press("[name=q]", "Enter")
        page.wait_for_url("**q=deleted")
        assert 0 < page.locator("[data-item]").count() < 25
        page.locator("[data-action=pause]").click()
        confirm(page)
        assert page.get_attribute("#dbpool", "data-page") == "batch"
        assert page.locator('[data-batch="newsletter 7"] [data-state=pausing]').count() == 1
        assert wanted(the_shop, "newsletter 7")[0] == "pause"


def test_by_the_keyboard(visitors: Any) -> None:
    with visitors.visit(OPERATOR) as visitor:
        page = visitor.open(NEWSLETTER)
        button = page.locator("[data-action=pause]")
        for _ in range(60):
            page.keyboard.press("Tab")
            if button.evaluate("each => each === document.activeElement"):
                break
        page.keyboard.press("Enter")
        page.wait_for_selector('[data-page="batch_confirm"]')


def test_numbers_go_on_by_themselves(the_shop: Shop, visitors: Any) -> None:
    with visitors.visit(VIEWER) as visitor:
        page = visitor.open(PAGES["batches"])
        row = page.locator('tr[data-batch="newsletter 7"]')
        assert "62 %" in row.inner_text()
        with the_shop.observer() as observer:
            observer.execute("UPDATE django_dbpool_batchcheckpoint SET done = 19970 WHERE done = 12400")
        row.filter(has_text="100 %").wait_for()


@pytest.mark.parametrize("path", [PAGES["batches"], NEWSLETTER], ids=["runs", "one run"])
def test_narrow(visitors: Any, path: str) -> None:
    with visitors.visit(OPERATOR, viewport={"width": 390, "height": 844}) as visitor:
        page = visitor.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(("person", "status"), [(VIEWER, 200), (STAFF, 403)], ids=lambda each: str(each)[:12])
def test_who_may_only_look(visitors: Any, person: Person, status: int) -> None:
    with visitors.visit(person) as visitor:
        for path in (PAGES["batches"], NEWSLETTER):
            page = visitor.open(path, status)
            assert page.locator("[data-action]").count() == 0
