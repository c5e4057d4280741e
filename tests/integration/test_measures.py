"""What exporters read, against what was really done, and what is told of what is rare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from time import sleep
from typing import Any

import psycopg
import pytest
from django.core.signals import request_finished, request_started
from django.db import connections, transaction
from django.test import override_settings

from django_dbpool.core import events
from django_dbpool.core.ledger import unit_labels, unit_names
from django_dbpool.core.process import this_process
from django_dbpool.core.tally import tally_of
from django_dbpool.errors import ConnectionLost, PoolExhausted
from django_dbpool.pool.measures import Measures, measures
from testproject.processes import wait_until
from tests.faults.helpers import Child
from tests.fixtures.pools import backend, execute, hold, value
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)
PATIENCE = 20.0


def of(alias: str) -> Measures:
    (found,) = [each for each in measures() if each.alias == alias]
    return found


@pytest.fixture
def told() -> Iterator[Callable[[], list[events.Event]]]:
    """What was told since: a function that waits until the observer has handled it."""
    handled: list[events.Event] = []
    subscription = events.subscribe("test", handled.append)

    def read() -> list[events.Event]:
        assert events.flush(PATIENCE)
        return handled

    yield read
    subscription.close()


def test_leases_statements_and_times(single: str) -> None:
    execute(single, "SELECT 1")
    before = of(single)
    for _ in range(5):
        execute(single, "SELECT 1")
    with transaction.atomic(using=single):
        execute(single, "SELECT pg_sleep(0.06)")
        execute(single, "SELECT 1")
    after = of(single)
    assert after.leases - before.leases == 6
    assert after.statements - before.statements == 7
    since = after.use.since(before.use)
    assert since.count == 6
    assert sum(since.counts[:4]) == 5, "five that were short, one of more than 60 ms"
    assert after.wait.since(before.wait).counts[0] == 6
    assert (after.opened, after.closed) == (before.opened, before.closed)
    assert after.snapshot is not None and after.snapshot.in_use == 0
    assert after.to_json()["timeouts"] == before.timeouts


def test_holder_says_what_it_did(single: str) -> None:
    with transaction.atomic(using=single):
        execute(single, "SELECT 1")
        execute(single, "SELECT 'a secret' WHERE 1 = %s", [1])
        (holder,) = connections[single].pool.holders()
    assert holder.statements == 2
    assert holder.sql == "SELECT ? WHERE ? = %s"
    with transaction.atomic(using=single):
        execute(single, "SELECT 1")
        (later,) = connections[single].pool.holders()
    assert (later.backend_pid, later.generation) == (holder.backend_pid, holder.generation + 1)
    assert later.statements == 1


def test_who_waits_is_counted_with_its_wait(make_pool: Callable[..., str], worker: Worker, told: Any) -> None:
    alias = make_pool(timeout=PATIENCE)
    worker(hold, alias)
    before = of(alias)
    waiting = worker.start(wait_for_a_caller_and_return, alias)
    execute(alias, "SELECT 1")
    waiting.result(PATIENCE)
    after = of(alias)
    assert after.leases == before.leases + 2
    assert after.wait.count == before.wait.count + 2
    (waited,) = [event for event in told() if isinstance(event, events.Waited) and event.alias == alias][1:]
    assert waited.seconds > 0
    assert after.wait.total - before.wait.total >= waited.seconds


def wait_for_a_caller_and_return(alias: str) -> None:
    assert wait_until(lambda: connections[alias].pool.snapshot().waiting == 1, PATIENCE)
    transaction.rollback(using=alias)
    transaction.set_autocommit(True, using=alias)


def test_connection_killed_while_idle(single: str, observer: psycopg.Connection[Any], told: Any) -> None:
    pid = backend(single)
    before, earlier = of(single), len(told())
    observer.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    assert backend(single) != pid
    after = of(single)
    assert (after.lost, after.lost_expected) == (before.lost, before.lost_expected + 1)
    assert (after.opened, after.closed) == (before.opened + 1, before.closed + 1)
    kinds = [type(event).__name__ for event in told()[earlier:] if event.alias == single]
    assert sorted(kinds) == ["ConnectionClosed", "ConnectionOpened", "Lost", "Waited"]
    (closed,) = [event for event in told() if isinstance(event, events.ConnectionClosed)]
    assert (closed.reason, closed.backend_pid, closed.expected) == ("lost_idle", pid, True)


@pytest.mark.parametrize("block", [nullcontext, transaction.atomic])
def test_connection_killed_in_use(single: str, told: Any, block: Any) -> None:
    execute(single, "SELECT 1")
    before, earlier = of(single), len(told())
    with pytest.raises(ConnectionLost), block() if block is nullcontext else block(using=single):
        execute(single, "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(10)")
    after = of(single)
    assert (after.lost, after.lost_expected) == (before.lost + 1, before.lost_expected)
    assert (after.leases, after.closed) == (before.leases + 1, before.closed + 1)
    (closed,) = [event for event in told()[earlier:] if isinstance(event, events.ConnectionClosed)]
    assert (closed.reason, closed.expected) == ("lost", False)


def test_pinned_connection_that_is_killed(single: str, told: Any) -> None:
    earlier = len(told())
    execute(single, "SET work_mem = '5MB'")
    with pytest.raises(ConnectionLost):
        execute(single, "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(10)")
    connections[single].close()
    (closed,) = [event for event in told()[earlier:] if isinstance(event, events.ConnectionClosed)]
    assert (closed.reason, closed.expected) == ("lost", False)


def test_connection_that_is_too_old_when_it_is_wanted(make_pool: Callable[..., str], told: Any) -> None:
    """The housekeeper may not have been there."""
    alias = make_pool()
    pid = backend(alias)
    (entry,) = connections[alias].pool.entries
    entry.expires_at = entry.since
    assert backend(alias) != pid
    (closed,) = [event for event in told() if isinstance(event, events.ConnectionClosed) and event.alias == alias]
    assert (closed.reason, closed.expected) == ("expired", True)


def test_unit_that_cannot_be_named(
    make_pool: Callable[..., str], worker: Worker, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project's converter may raise where its route is found out. Who waits gets a connection nevertheless."""

    class Unit:
        pass

    def refuse(_: object) -> str:
        raise KeyError("no such shop")

    monkeypatch.setitem(unit_labels, Unit, refuse)
    monkeypatch.setitem(unit_names, Unit, refuse)
    alias = make_pool(timeout=PATIENCE)
    request_started.send(object, environ=Unit())
    try:
        execute(alias, "SELECT 1")
        (waited,) = [event for event in told() if isinstance(event, events.Waited) and event.alias == alias]
        assert waited.name is None
        transaction.set_autocommit(False, using=alias)
        execute(alias, "SELECT 1")
        (holder,) = connections[alias].pool.holders()
        assert holder.name is None
        connections[alias].close()  # which says who has left a transaction open
    finally:
        request_finished.send(object)
    assert worker(value, alias, "SELECT 1") == 1


def test_refusal(make_pool: Callable[..., str], worker: Worker, told: Any) -> None:
    alias = make_pool(timeout=0.1)
    worker(hold, alias)
    before = of(alias)
    with pytest.raises(PoolExhausted):
        execute(alias, "SELECT 1")
    after = of(alias)
    assert (after.timeouts, after.leases) == (before.timeouts + 1, before.leases)
    (refused,) = [event for event in told() if isinstance(event, events.Refused)]
    assert (refused.alias, refused.error) == (alias, "PoolExhausted")
    assert refused.waited >= 0.1


def test_counts_outlive_their_pool(single: str) -> None:
    execute(single, "SELECT 1")
    before = of(single)
    connections[single].close_pool()
    closed = of(single)
    assert (closed.leases, closed.use.count, closed.snapshot) == (before.leases, before.use.count, None)
    assert closed.closed == before.closed + 1
    execute(single, "SELECT 1")
    assert of(single).leases == before.leases + 1


def test_child_begins_at_zero(single: str) -> None:
    execute(single, "SELECT 1")
    parent = this_process()

    def child() -> tuple[bool, int]:
        own = this_process()
        return (own.pid, own.instance) != (parent.pid, parent.instance), tally_of(single).read().leases

    assert Child(child).result() == (True, 0)
    assert this_process() is parent


def test_cursor_that_is_open_for_long_is_no_slow_statement(make_pool: Callable[..., str], worker: Worker) -> None:
    """Neither one that executes nothing, nor one that waits before it does, in a lease of either kind."""
    alias = make_pool()
    execute(alias, "SELECT 1")
    with override_settings(DBPOOL={"SLOW_STATEMENT": 0.2}):
        before = of(alias).slow
        for block in (nullcontext(), transaction.atomic(using=alias)):
            with block:
                with connections[alias].cursor():
                    worker(sleep, 0.3)
                with connections[alias].cursor() as cursor:
                    worker(sleep, 0.3)
                    cursor.execute("SELECT 1")
                    worker(sleep, 0.3)
        assert of(alias).slow == before
        execute(alias, "SELECT pg_sleep(0.25)")
        assert of(alias).slow == before + 1
