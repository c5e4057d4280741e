"""The pages when they are needed: the pools exhausted, the database stopped, the web server gone, the session over."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

import pytest

from testproject.processes import wait_until
from tests.browser.addresses import PAGES, POOLS, STATUS
from tests.browser.shop import OPERATOR, PATIENCE, SUPERUSER, TOKEN, VIEWER, WORKERS, Shop, load

pytestmark = [pytest.mark.ci, pytest.mark.alone]

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def exhausted(the_shop: Shop) -> Iterator[None]:
    """Every connection of every web process is held, and callers wait, until the end of the test."""
    with the_shop.flag("payments"):
        the_shop.fill()
        with load(the_shop, pause=0.3):
            published(the_shop)
            yield
    the_shop.end_requests()


def published(shop: Shop) -> None:
    """Wait until what the web processes have said is of now: those who held connections before are no longer told."""
    sql = "SELECT count(*) FROM django_dbpool_process WHERE taken > %s AND document LIKE %s"
    with shop.observer() as observer:
        (now,) = observer.execute("SELECT clock_timestamp()").fetchone() or (None,)
        given = [now, '%"role":"web"%']
        assert wait_until(lambda: observer.execute(sql, given).fetchone() == (WORKERS,), PATIENCE)


def wait_for_status(page: Any, *statuses: str) -> None:
    """The verdict of an overview that is open; it has to come by itself."""
    deadline = time.monotonic() + PATIENCE
    while (status := page.get_attribute("[data-status]", "data-status")) not in statuses:
        assert time.monotonic() < deadline, status
        page.wait_for_timeout(100)


def test_every_page_while_the_pool_is_exhausted(the_shop: Shop, visitors: Any, exhausted: None) -> None:
    """Each worker answers with the reserve, without waiting for the pool's timeout."""
    with visitors.visit(VIEWER) as visitor:
        took = {}
        for name, path in PAGES.items():
            began = time.monotonic()
            visitor.open(path)
            took[name] = round(time.monotonic() - began, 2)
        print("seconds for each page:", took)
        assert max(took.values()) < 2, took
        page = visitor.open(PAGES["overview"])
        wait_for_status(page, "unhealthy", "degraded")
        assert page.locator("[data-severity=error]").count() >= 1
        assert "orders/<int:pk>/pay/" in page.inner_text("[data-page=overview]")  # the culprit, without a click


def test_holders_while_the_pool_is_exhausted(visitors: Any, exhausted: None) -> None:
    """Whoever holds what is listed, all of it."""
    with visitors.visit(OPERATOR) as visitor:
        page = visitor.open(PAGES["holders"])
        deadline = time.monotonic() + PATIENCE  # what a process has said may be an interval old
        while (listed := page.locator("tr[data-backend-pid]").count()) < 12:
            assert time.monotonic() < deadline, listed
            page.wait_for_timeout(100)


def test_log_in_while_the_pool_is_exhausted(visitors: Any, exhausted: None) -> None:
    """Where the project gives the reserve to the log-in, too, which is the admin's and no page of ours."""
    with visitors.visit(None) as visitor:
        visitor.log_in(VIEWER, PAGES["overview"])
        assert visitor.page.get_attribute("#dbpool", "data-page") == "overview"


def test_terminate_while_the_pool_is_exhausted(the_shop: Shop, visitors: Any, exhausted: None) -> None:
    """The dashboard ends what the site suffers from."""
    with visitors.visit(OPERATOR) as visitor:
        page = visitor.open(PAGES["holders"])
        row = page.locator("tr[data-backend-pid]").first
        pid = int(row.get_attribute("data-backend-pid"))
        row.locator("[data-action=terminate]").click()
        page.locator("[name=confirmed]").click()
        page.wait_for_selector(".messagelist, [data-outcome]")
        with the_shop.observer() as observer:
            sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
            assert wait_until(lambda: observer.execute(sql, [pid]).fetchone() == (0,), PATIENCE)


@pytest.fixture
def stopped(the_shop: Shop) -> Iterator[None]:
    """The database is away, and its clients have noticed."""
    the_shop.server.stop("immediate")
    try:
        yield
    finally:
        the_shop.server.start()
        assert wait_until(lambda: the_shop.answers("/items/"), PATIENCE), the_shop.site.log()


@pytest.mark.parametrize("path", PAGES.values(), ids=PAGES)
def test_503_while_the_database_is_stopped(visitors: Any, stopped: None, path: str) -> None:
    """The admin can't know who asks. What it says is short, and tells when to come back."""
    with visitors.visit(SUPERUSER) as visitor:
        page = visitor.open(path, status=503)
        assert "Traceback" not in page.content()
        assert page.inner_text("h1")


def remembering(shop: Shop) -> None:
    """Wait until each web process has read the fleet once, whichever the requests come to."""
    known: set[str] = set()
    deadline = time.monotonic() + PATIENCE
    while len(known) < WORKERS:
        assert time.monotonic() < deadline, known
        text(shop, POOLS)  # who answers this reads it
        own, _, remembered = text(shop, STATUS).partition("All processes, as last read")
        if remembered:
            known |= {pid for pid in map(str, shop.web_pids()) if f":{pid}<" in own}


def text(shop: Shop, path: str) -> str:
    with urlopen(Request(shop.url + path, headers=BEARER), timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def test_status_page_while_the_database_is_stopped(the_shop: Shop, visitors: Any) -> None:
    """It needs no database: this process as it is, the fleet as it was, marked as old."""
    remembering(the_shop)
    with visitors.visit(None, extra_http_headers=BEARER) as visitor:
        the_shop.server.stop("immediate")
        try:
            page = visitor.open(STATUS)
            text = page.inner_text("body")
            assert re.search(r"\bstale\b", text, re.IGNORECASE), text
            assert "default" in text
        finally:
            the_shop.server.start()
            assert wait_until(lambda: the_shop.answers("/items/"), PATIENCE), the_shop.site.log()


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}], ids=["anonymous", "wrong token"])
def test_status_page_tells_nobody_else(visitors: Any, headers: dict[str, str]) -> None:
    with visitors.visit(None, extra_http_headers=headers) as visitor:
        visitor.complaints.expected |= {401, 403, 404}
        answer = visitor.page.goto(visitor.url + STATUS)
        assert "default" not in visitor.page.inner_text("body") or answer.status in (401, 403, 404)


def test_page_that_is_open_when_the_database_stops(the_shop: Shop, visitors: Any) -> None:
    """It keeps its last numbers, says how old they are, and comes back by itself."""
    with visitors.visit(VIEWER) as visitor:
        visitor.complaints.expected |= {500, 503}
        page = visitor.open(PAGES["overview"])
        before = page.inner_text('[data-alias="default"] [data-value="max"]')
        the_shop.server.stop("immediate")
        try:
            page.wait_for_selector("[data-live-bar][data-state=error], [data-live-bar][data-state=unreachable]")
            assert page.inner_text('[data-alias="default"] [data-value="max"]') == before
            assert page.get_attribute("[data-live]", "data-outdated") is not None
        finally:
            the_shop.server.start()
            assert wait_until(lambda: the_shop.answers("/items/"), PATIENCE), the_shop.site.log()
        page.wait_for_selector("[data-live-bar][data-state=fresh]", timeout=2 * PATIENCE * 1000)


def test_page_that_is_open_when_its_reader_logs_out(visitors: Any) -> None:
    with visitors.visit(None) as visitor:
        visitor.log_in(VIEWER)
        page = visitor.open(PAGES["holders"])
        elsewhere = visitor.new_page()
        elsewhere.goto(visitor.url + "/admin/")
        elsewhere.click("#logout-form button")
        page.bring_to_front()
        page.wait_for_selector("[data-live-bar][data-state=ended]")
        assert page.inner_text("[data-live-text]").startswith("You are logged out")
