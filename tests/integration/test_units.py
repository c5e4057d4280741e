"""Where a unit of work ends, and what closing at an unusual moment does to the others."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connections, transaction

from testproject.processes import wait_until
from tests.app.models import Item, Log
from tests.fixtures.pools import alive, backend, execute, holders, in_use, size, value
from tests.fixtures.workers import Step, Worker

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]
MakePool = Callable[..., str]


def pin(alias: str) -> int:
    execute(alias, "SET statement_timeout = '777ms'")
    return backend(alias)


def begin(alias: str) -> int:
    transaction.set_autocommit(False, using=alias)
    return backend(alias)


# -- Django's ways to end a unit -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close_old_connections", "close_all", "request_started", "request_finished"])
def test_every_end_of_a_unit_ends_all_leases(make_pool: MakePool, end: str) -> None:
    """Pins, session mode and forgotten transactions of every alias end; other aliases' pools stay warm."""
    ends: dict[str, Callable[[], object]] = {
        "close_old_connections": close_old_connections,
        "close_all": connections.close_all,
        "request_started": lambda: request_started.send(object),
        "request_finished": lambda: request_finished.send(object),
    }
    pinned, session, manual = make_pool(), make_pool(mode="session"), make_pool()
    pin(pinned)
    kept = backend(session)
    begin(manual)
    assert [in_use(alias) for alias in (pinned, session, manual)] == [1, 1, 1]
    ends[end]()
    assert [in_use(alias) for alias in (pinned, session, manual)] == [0, 0, 0]
    assert value(pinned, "SHOW statement_timeout") != "777ms"
    assert backend(session) == kept
    assert connections[manual].get_autocommit()


def test_unit_without_statements_costs_nothing(single: str) -> None:
    for _ in range(3):
        close_old_connections()
        connections[single].close()
    assert size(single) == 0


def test_errors_of_a_unit_do_not_cost_the_connection(single: str) -> None:
    """The stock engine asks after an error whether the connection still works; so does the pool, without asking."""
    mine = backend(single)
    for _ in range(3):
        with pytest.raises(Exception, match="division"):
            execute(single, "SELECT 1 / 0")
        close_old_connections()
        assert backend(single) == mine


def test_health_checks_find_what_the_socket_does_not_show(make_pool: MakePool, observer: Observer) -> None:
    """A connection killed between two units is replaced without an error, with CONN_HEALTH_CHECKS and without."""
    for checks in (True, False):
        alias = make_pool(CONN_HEALTH_CHECKS=checks)
        pid = backend(alias)
        connections[alias].close()
        observer.execute("SELECT pg_terminate_backend(%s)", [pid])
        assert wait_until(lambda: not alive(observer, pid), 5)  # noqa: B023
        assert backend(alias) != pid


# -- close_pool() ----------------------------------------------------------------------------------------------


def test_close_pool_closes_what_is_idle(make_pool: MakePool, worker: Worker, observer: Observer) -> None:
    alias = make_pool(size=2)
    with transaction.atomic(using=alias):
        pids = {backend(alias), worker(backend, alias)}
    assert len(pids) == 2
    connections[alias].close_pool()
    assert wait_until(lambda: not any(alive(observer, pid) for pid in pids), 5)
    assert backend(alias) not in pids


def test_close_pool_in_the_middle_of_transactions(make_pool: MakePool, worker: Worker, observer: Observer) -> None:
    """One's own transaction and a neighbour's both commit, then their connections are closed."""
    alias = make_pool(size=2)
    step = Step()

    def neighbour() -> int:
        with transaction.atomic(using=alias):
            Log.objects.using(alias).create(key="neighbour")
            pid = backend(alias)
            step.wait()
            Log.objects.using(alias).create(key="neighbour")
        return pid

    running = worker.start(neighbour)
    step.reached()
    with transaction.atomic(using=alias):
        Log.objects.using(alias).create(key="own")
        mine = backend(alias)
        connections[alias].close_pool()
        Log.objects.using(alias).create(key="own")
        assert backend(alias) == mine
    step.go_on()
    theirs = running.result(20)
    assert Log.objects.count() == 4
    assert wait_until(lambda: not alive(observer, mine) and not alive(observer, theirs), 5)
    assert in_use(alias) == 0


def test_close_pool_while_somebody_waits(single: str, worker: Worker) -> None:
    """The waiter moves to the new pool; it isn't told of the old one's end."""
    with transaction.atomic(using=single):
        mine = backend(single)
        waiting = worker.start(backend, single)
        assert wait_until(lambda: connections[single].pool.snapshot().waiting == 1, 5)
        connections[single].close_pool()
        assert waiting.result(20) != mine
        assert backend(single) == mine


def test_tasks_as_celery_runs_them(single: str, worker: Worker) -> None:
    """close(); close_pool() before and after each task, in two threads, with work in between."""

    def task(number: int) -> None:
        for connection in connections.all(initialized_only=True):
            connection.close()
            connection.close_pool()
        with transaction.atomic(using=single):
            Log.objects.using(single).create(key=str(number))
        for connection in connections.all(initialized_only=True):
            connection.close()
            connection.close_pool()

    for number in range(5):
        other = worker.start(task, number)
        task(number)
        other.result(20)
    assert Log.objects.count() == 10
    assert in_use(single) == 0


# -- wrappers that go without being closed ---------------------------------------------------------------------


@pytest.mark.parametrize("state", [pin, begin, backend])
def test_copied_wrapper_dropped_without_close(make_pool: MakePool, mode: str, state: Callable[[str], int]) -> None:
    """connection.copy() has leases of its own; dropped, they come back, and its transaction is rolled back."""
    alias = make_pool(mode=mode)
    duplicate = connections[alias].copy()
    assert in_use(alias) == 0
    with duplicate.cursor() as cursor:
        if state is pin:
            cursor.execute("SET statement_timeout = '777ms'")
        elif state is begin:
            duplicate.set_autocommit(False)
        cursor.execute("INSERT INTO app_log (key) VALUES ('copy')")
    del duplicate, cursor
    gc.collect()
    assert wait_until(lambda: in_use(alias) == 0, 5)
    assert value(alias, "SHOW statement_timeout") != "777ms"
    assert Log.objects.count() == (0 if state is begin else 1)


def test_shallow_copy_shares_no_lease(single: str) -> None:
    """copy.copy() of a wrapper in a transaction: neither its use nor its end touches the original."""
    with transaction.atomic(using=single):
        mine = backend(single)
        duplicate = copy.copy(connections[single])
        duplicate.close()
        del duplicate
        gc.collect()
        assert backend(single) == mine


# -- one wrapper, several threads ------------------------------------------------------------------------------


def test_sharing_threads_use_one_lease_at_a_time(make_pool: MakePool, make_worker: Callable[[], Worker]) -> None:
    """Statements of four threads on one wrapper: all on one backend, and no neighbour gets it meanwhile."""
    alias = make_pool(size=2)
    connection = connections[alias]
    outsider = make_worker()

    def count(times: int) -> list[tuple[int, int]]:
        seen = []
        for n in range(times):
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid(), %s::int", [n])
                seen.append(cursor.fetchone())
        return seen

    connection.inc_thread_sharing()
    try:
        sharing = [make_worker().start(count, 50) for _ in range(4)]
        foreign = {outsider(backend, alias) for _ in range(20)}
        results = [future.result(20) for future in sharing]
    finally:
        connection.dec_thread_sharing()
    mine = {pid for seen in results for pid, _ in seen}
    assert all([n for _, n in seen] == list(range(50)) for seen in results)
    assert len(mine) == 1
    assert mine.isdisjoint(foreign)
    assert in_use(alias) == 0


def test_sharing_inside_atomic(single: str, worker: Worker) -> None:
    """As a live server's thread sees the test's transaction: the other thread reads what isn't committed yet."""
    connection = connections[single]

    def read_and_write() -> int:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO app_log (key) VALUES ('shared')")
            cursor.execute("SELECT count(*) FROM app_log")
            return int(cursor.fetchone()[0])

    connection.inc_thread_sharing()
    try:
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=single):
            Log.objects.using(single).create(key="own")
            assert worker(read_and_write) == 2
            raise ZeroDivisionError
        assert worker(read_and_write) == 1
    finally:
        connection.dec_thread_sharing()
    assert in_use(single) == 0
    assert Log.objects.count() == 1


def test_sharing_ends_while_the_other_thread_streams(single: str, worker: Worker) -> None:
    """The lease lasts as long as the server-side cursor, whoever reads it."""
    Item.objects.bulk_create(Item(name=str(n), n=n) for n in range(6))
    connection = connections[single]
    connection.inc_thread_sharing()
    with connection.chunked_cursor() as cursor:
        cursor.execute("SELECT n FROM app_item ORDER BY n")
        assert worker(cursor.fetchone) == (0,)
        connection.dec_thread_sharing()
        assert in_use(single) == 1
        assert len(cursor.fetchall()) == 5
    assert in_use(single) == 0


def test_thread_that_may_not_share_is_refused(single: str, worker: Worker) -> None:
    """Django's error, before anything is leased."""
    connection = connections[single]
    for call in (connection.cursor, connection.close, connection.commit):
        with pytest.raises(Exception, match="created in thread"):
            worker(call)
    assert in_use(single) == 0


# -- several aliases -------------------------------------------------------------------------------------------


def test_aliases_of_one_database_have_pools_of_their_own(make_pool: MakePool) -> None:
    """A full pool of one alias does not stop another, and a holder names its alias."""
    one, two = make_pool(), make_pool()
    with transaction.atomic(using=one):
        first = backend(one)
        with transaction.atomic(using=two):
            assert backend(two) != first
            assert [holder.alias for holder in (*holders(one), *holders(two))] == [one, two]


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_copying_rows_between_databases() -> None:
    Item.objects.bulk_create(Item(name=str(n), n=n) for n in range(7))
    with transaction.atomic(using="other"):
        for item in Item.objects.order_by("n").iterator(chunk_size=2):
            Item.objects.using("other").create(name=item.name, n=item.n)
            assert (in_use("default"), in_use("other")) == (1, 1)
    assert (in_use("default"), in_use("other")) == (0, 0)
    assert Item.objects.using("other").count() == 7
