"""Every page and action, for everybody who may come; with a script and without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from testproject.processes import wait_until
from tests.browser.addresses import ADMIN, PAGES
from tests.browser.shop import OPERATOR, PATIENCE, STAFF, SUPERUSER, VIEWER, Person, Shop

pytestmark = [pytest.mark.ci, pytest.mark.alone]

ROLES: dict[str, tuple[Person | None, int]] = {
    "superuser": (SUPERUSER, 200),
    "operator": (OPERATOR, 200),
    "viewer": (VIEWER, 200),
    "staff without permission": (STAFF, 403),
}
"""Who, and what the pages answer."""


@pytest.fixture(scope="module")
def at_work(the_shop: Shop) -> Iterator[None]:
    """Something of each kind to be seen: holders in several states, operations, statements, a stranger."""
    with the_shop.busy():
        yield
    the_shop.end_requests()


@pytest.mark.parametrize("page_name", PAGES)
@pytest.mark.parametrize("role", ROLES)
def test_page(visitors: Any, at_work: None, role: str, page_name: str) -> None:
    """It is shown whole, or refused; the browser has nothing to complain about."""
    person, status = ROLES[role]
    with visitors.visit(person) as visitor:
        page = visitor.open(PAGES[page_name], status)
        if status == 200:
            assert page.get_attribute("#dbpool", "data-page") == page_name
            page.wait_for_selector("[data-live-bar]:visible")
        else:
            assert page.locator("#dbpool").count() == 0
            assert "shop.tasks" not in page.content()


@pytest.mark.parametrize("page_name", PAGES)
def test_page_of_nobody(visitors: Any, page_name: str) -> None:
    with visitors.visit(None) as visitor:
        page = visitor.open(PAGES[page_name])
        assert page.url.startswith(f"{visitor.url}/admin/login/")


@pytest.mark.parametrize("page_name", PAGES)
def test_page_without_script(visitors: Any, at_work: None, page_name: str) -> None:
    with visitors.visit(VIEWER, java_script_enabled=False) as visitor:
        page = visitor.open(PAGES[page_name])
        assert page.locator("[data-live-bar]").is_hidden()
        assert page.get_attribute("#dbpool", "data-page") == page_name
        # The next is a click away.
        page.click(".dbpool-tabs li:last-child a")
        assert page.get_attribute("#dbpool", "data-page") == "advice"


@pytest.mark.parametrize("page_name", PAGES)
def test_narrow(visitors: Any, at_work: None, page_name: str) -> None:
    """On a telephone nothing is cut off, or has to be moved sideways."""
    with visitors.visit(OPERATOR, viewport={"width": 390, "height": 844}) as visitor:
        page = visitor.open(PAGES[page_name])
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{width} px wide"


def test_in_the_index(visitors: Any) -> None:
    """It is found where the models are, by those who may see it."""
    for person, shown in ((VIEWER, True), (STAFF, False)):
        with visitors.visit(person) as visitor:
            page = visitor.open("/admin/")
            assert page.locator(f'#content a[href="{ADMIN}"]').first.is_visible() is shown, person


# -- actions --------------------------------------------------------------------------------------------------------


PAY = "/orders/815/pay/?until=orders"
REPORT = "/reports/2026/"


@contextmanager
def held(shop: Shop, path: str) -> Iterator[int]:
    """One more lease; gives its backend."""
    with shop.observer() as observer, shop.flag("orders"):
        before = in_use(observer)
        shop.hold(path, 1)
        assert wait_until(lambda: len(in_use(observer) - before) == 1, PATIENCE)
        (pid,) = in_use(observer) - before
        yield pid


def in_use(observer: psycopg.Connection[Any]) -> set[int]:
    """Backends of payments and reports that are under way."""
    sql = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'shop' AND state <> 'idle' "
        "AND query ~ 'FOR UPDATE SKIP LOCKED|LEFT JOIN auth_user'"
    )
    return {pid for (pid,) in observer.execute(sql)}


def choose(visitor: Any, pid: int, action: str) -> Any:
    """Open the holders and press the button of one of them."""
    page = visitor.open(PAGES["holders"])
    row = page.locator(f'tr[data-backend-pid="{pid}"]')
    for _ in range(400):  # its process tells every few seconds, and a busy machine takes its time
        if row.count():
            break
        page.wait_for_timeout(100)
        page.reload()
    row.locator(f"[data-action={action}]").click()
    return page


def confirm(page: Any) -> str:
    page.locator("[name=confirmed]").click()
    return str(page.inner_text(".messagelist"))


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
@pytest.mark.parametrize("person", [SUPERUSER, OPERATOR], ids=lambda person: person.name)
def test_terminate(the_shop: Shop, visitors: Any, person: Person, script: bool) -> None:
    with held(the_shop, PAY) as pid, visitors.visit(person, java_script_enabled=script) as visitor:
        page = choose(visitor, pid, "terminate")
        assert "orders/<int:pk>/pay/" in page.inner_text("#content")  # who it is
        with the_shop.observer() as observer:
            assert pid in in_use(observer)  # nothing happens before it is confirmed
            said = confirm(page)
            assert wait_until(lambda: pid not in in_use(observer), PATIENCE), said


def test_cancel(the_shop: Shop, visitors: Any) -> None:
    with held(the_shop, REPORT) as pid, visitors.visit(OPERATOR) as visitor:
        said = confirm(choose(visitor, pid, "cancel"))
        with the_shop.observer() as observer:
            assert wait_until(lambda: pid not in in_use(observer), PATIENCE), said


def test_lease_that_is_over(the_shop: Shop, visitors: Any) -> None:
    """It has ended while somebody read what he was asked."""
    with visitors.visit(OPERATOR) as visitor:
        with held(the_shop, PAY) as pid:
            page = choose(visitor, pid, "terminate")
        with the_shop.observer() as observer:
            assert wait_until(lambda: pid not in in_use(observer), PATIENCE)
        said = confirm(page)
        assert "nothing was done" in said, said


def test_stack(the_shop: Shop, visitors: Any) -> None:
    with held(the_shop, PAY) as pid, visitors.visit(OPERATOR) as visitor:
        page = choose(visitor, pid, "stack")
        page.wait_for_selector("text=wait_for")


def test_drain(the_shop: Shop, visitors: Any) -> None:
    with the_shop.observer() as observer, visitors.visit(OPERATOR) as visitor:
        sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'shop'"
        before = {pid for (pid,) in observer.execute(sql)}
        page = visitor.open(PAGES["processes"])
        page.locator("[data-action=drain]").first.click()
        said = confirm(page)
        assert wait_until(lambda: bool(before - {pid for (pid,) in observer.execute(sql)}), PATIENCE), said


def test_viewer_is_offered_no_action(visitors: Any, at_work: None) -> None:
    with visitors.visit(VIEWER) as visitor:
        for path in PAGES.values():
            page = visitor.open(path)
            assert page.locator("[data-action]:not([data-action=stack])").count() == 0, path
