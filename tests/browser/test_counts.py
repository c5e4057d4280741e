"""Numbers on a page that is open equal what the server and the processes themselves say, within few refreshes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from testproject.processes import wait_until
from tests.browser.addresses import PAGES
from tests.browser.shop import APPLICATION, MAX_SIZE, PATIENCE, SUPERUSER, TASKS, VIEWER, WORKERS, Shop, load

pytestmark = [pytest.mark.ci, pytest.mark.alone]

REFRESHES = 8
"""
Answers after which what has been published is shown; seconds would measure the machine. One or two would do, but for a
snapshot that is taken while its process holds a connection for a page like this one.
"""


@pytest.fixture
def observer(the_shop: Shop) -> Iterator[psycopg.Connection[Any]]:
    with the_shop.observer() as observer:
        yield observer


def on_page(page: Any, *names: str) -> dict[str, int]:
    """Of alias default, as they stand there."""
    found = {}
    for name in names:
        text = page.inner_text(f'[data-alias="default"] [data-value="{name}"]')
        found[name] = int(text.replace(",", ""))
    return found


def in_transaction(observer: psycopg.Connection[Any]) -> set[int]:
    """Backends of sessions in a transaction: what holds a connection here, if nothing quick is under way."""
    rows = observer.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'", [APPLICATION]
    )
    return {pid for (pid,) in rows}


def pooled(shop: Shop, observer: psycopg.Connection[Any]) -> int:
    """Sessions of ours, but for those that a process has opened beside its pool."""
    rows = observer.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", [APPLICATION]).fetchall()
    beside = {pid for process in shop.said_by_processes().values() for pid in process["dedicated"].get("default", ())}
    return len({pid for (pid,) in rows} - beside)


def said(shop: Shop, name: str) -> int:
    """The sum over all processes, by their own word."""
    return sum(pool[name] for process in shop.said_by_processes().values() for pool in process["pools"])


def becomes(page: Any, observer: psycopg.Connection[Any], name: str, count: int) -> float:
    """Seconds until the page shows it, within few refreshes of the moment when every process at work has published."""
    return refreshed(page, observer, lambda: on_page(page, name)[name], lambda shown: shown == count)


def all_are_told(shop: Shop, page: Any, observer: psycopg.Connection[Any]) -> None:
    """The page counts as many connections as the server does sessions, which may still be about to come or go."""
    refreshed(
        page,
        observer,
        lambda: (on_page(page, "total")["total"], pooled(shop, observer)),
        lambda counts: counts[0] == counts[1],
    )


def refreshed(
    page: Any, observer: psycopg.Connection[Any], look: Callable[[], Any], is_right: Callable[[Any], bool]
) -> float:
    began = time.monotonic()
    (moment,) = observer.execute("SELECT clock_timestamp()").fetchone() or (None,)
    sql = "SELECT coalesce(bool_and(taken > %s), true) FROM django_dbpool_process WHERE document LIKE %s"
    published, answers = False, 0

    def count(request: Any) -> None:
        nonlocal answers
        answers += published and request.resource_type == "fetch"

    page.on("requestfinished", count)
    try:
        while not is_right(shown := look()):
            published = published or observer.execute(sql, [moment, '%"state":"active"%']).fetchone() == (True,)
            assert answers < REFRESHES, f"the page shows {shown}, {answers} refreshes after all have published"
            assert time.monotonic() - began < PATIENCE, f"the page shows {shown}, {published=}, {answers} refreshes"
            page.wait_for_timeout(50)
    finally:
        page.remove_listener("requestfinished", count)
    return time.monotonic() - began


def counted_by_both(shop: Shop, observer: psycopg.Connection[Any], count: int) -> bool:
    """By processes and server; of which one that publishes just then uses one more for a millisecond."""
    return wait_until(lambda: said(shop, "in_use") == len(in_transaction(observer)) == count, PATIENCE)


def test_connections_in_use(the_shop: Shop, visitors: Any, observer: psycopg.Connection[Any]) -> None:
    """Up, down and up to the brim, on a page that nobody reloads."""
    with visitors.visit(VIEWER) as visitor:
        page = visitor.open(PAGES["overview"])
        took = [becomes(page, observer, "active", 0)]
        for count in (2, 5, WORKERS * MAX_SIZE):
            with the_shop.flag("payments"):
                the_shop.hold("/orders/4711/pay/", count)
                assert wait_until(lambda count=count: len(in_transaction(observer)) == count, PATIENCE)  # type: ignore[misc]
                took.append(becomes(page, observer, "active", count))
                assert counted_by_both(the_shop, observer, count)
                all_are_told(the_shop, page, observer)
            the_shop.end_requests()
            assert wait_until(lambda: not in_transaction(observer), PATIENCE)
            took.append(becomes(page, observer, "active", 0))
        print("seconds until the page was right:", [round(each, 1) for each in took])


def test_under_load(the_shop: Shop, visitors: Any, observer: psycopg.Connection[Any]) -> None:
    """With requests and tasks that come and go around those that stay."""
    with visitors.visit(VIEWER) as visitor, the_shop.flag("payments"), the_shop.flag("indexes"):
        with load(the_shop):
            the_shop.tasks.send("shop.tasks.reindex")
            the_shop.hold("/orders/4711/pay/", 3)
            page = visitor.open(PAGES["holders"])
            staying = held_for_long(observer, 4)
            refreshed(page, observer, lambda: backends(page), lambda shown: staying <= shown)
            page = visitor.open(PAGES["overview"])
            becomes(page, observer, "max", (WORKERS + TASKS) * MAX_SIZE)
        # While pools grow, two counts of their connections are never of the same moment.
        all_are_told(the_shop, page, observer)
        assert backends_told(the_shop) >= staying
    the_shop.end_requests()


def backends_told(shop: Shop) -> set[int]:
    """Of all leases, by the processes' own word."""
    return {holder["backend_pid"] for process in shop.said_by_processes().values() for holder in process["holders"]}


def held_for_long(observer: psycopg.Connection[Any], count: int) -> set[int]:
    """Backends of transactions that are older than anything quick, once there are that many."""
    sql = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND state = 'idle in transaction' "
        "AND state_change < now() - interval '1 s'"
    )
    found: set[int] = set()

    def enough() -> bool:
        found.update(pid for (pid,) in observer.execute(sql, [APPLICATION]))
        return len(found) == count

    assert wait_until(enough, PATIENCE), found
    return found


def backends(page: Any) -> set[int]:
    rows = page.locator("tr[data-backend-pid]").evaluate_all("rows => rows.map(row => row.dataset.backendPid)")
    return {int(pid) for pid in rows}


def test_processes(the_shop: Shop, visitors: Any) -> None:
    """Those that the operating system has, and no other."""
    with visitors.visit(SUPERUSER) as visitor, load(the_shop):
        page = visitor.open(PAGES["processes"])
        web = the_shop.web_pids()
        assert len(web) == WORKERS
        shown = page.locator("tr[data-process]").evaluate_all("rows => rows.map(row => row.dataset.process)")
        pids = {int(name.rpartition(":")[2]) for name in shown}
        assert web <= pids
        assert pids == set(the_shop.said_by_processes())
        assert len(shown) == WORKERS + TASKS
