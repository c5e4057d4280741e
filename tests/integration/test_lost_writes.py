"""Cursors that outlive a statement, beside transactions: cases in which early release has lost or doubled writes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from django.db import Error, IntegrityError, OperationalError, connections, transaction

from testproject.processes import wait_until
from tests.app.models import Item, Log
from tests.fixtures.pools import backend, execute, holders, in_use, rows_of
from tests.fixtures.workers import Step, Worker

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]
MakePool = Callable[..., str]


def add_items(count: int) -> None:
    Item.objects.bulk_create(Item(name=f"item {n}", n=n) for n in range(count))


def write(alias: str, key: str) -> None:
    Log.objects.using(alias).create(key=key)


def keys(observer: Observer) -> list[str]:
    """The committed keys of Log."""
    return [key for (key,) in observer.execute("SELECT key FROM app_log ORDER BY id")]


# -- iterator() and transactions -------------------------------------------------------------------------------


def finish(rows: Iterator[Item]) -> int:
    return len(list(rows))


def close(rows: Iterator[Item]) -> int:
    rows.close()  # type: ignore[attr-defined]
    return 0


@pytest.mark.parametrize(("end", "rest"), [(finish, 9), (close, 0)])
def test_iterator_ended_inside_a_later_atomic(
    make_pool: MakePool, mode: str, observer: Observer, end: Callable[[Iterator[Item]], int], rest: int
) -> None:
    """Ending the iterator neither ends nor rolls back the transaction it is ended in."""
    alias = make_pool(mode=mode)
    add_items(10)
    rows = Item.objects.using(alias).order_by("n").iterator(chunk_size=2)
    next(rows)
    with transaction.atomic(using=alias):
        write(alias, "before")
        assert end(rows) == rest
        assert connections[alias].in_atomic_block
        write(alias, "after")
        assert keys(observer) == []
    assert keys(observer) == ["before", "after"]


def test_iterator_dropped_inside_a_later_atomic(make_pool: MakePool, mode: str, observer: Observer) -> None:
    """A collected iterator can't close its cursor; the transaction it is dropped in must not pay for that."""
    alias = make_pool(mode=mode)
    add_items(10)
    rows = Item.objects.using(alias).iterator(chunk_size=2)
    next(rows)
    with transaction.atomic(using=alias):
        write(alias, "before")
        del rows
        gc.collect()
        write(alias, "after")
    assert keys(observer) == ["before", "after"]


def test_iterator_begun_in_atomic_ends_with_it(make_pool: MakePool, mode: str, observer: Observer) -> None:
    """Inside atomic() the cursor is not WITH HOLD: after the block it can't be read, and says so."""
    alias = make_pool(mode=mode)
    add_items(10)
    with transaction.atomic(using=alias):
        rows = Item.objects.using(alias).iterator(chunk_size=2)
        next(rows)
        write(alias, "inside")
    with pytest.raises(Error):
        list(rows)
    if mode == "transaction":
        assert in_use(alias) == 0
    write(alias, "after")
    assert keys(observer) == ["inside", "after"]


def test_iterator_with_writes_in_the_loop_and_neighbours(
    make_pool: MakePool, make_worker: Callable[[], Worker], observer: Observer
) -> None:
    """
    Each row is read once and written once while other threads use whatever connection is free, in transactions that
    they roll back.
    """
    alias = make_pool(size=2)
    add_items(40)
    stop = Step()
    done = False

    def interfere() -> int:
        rounds = 0
        while not done:
            with suppress(ZeroDivisionError), transaction.atomic(using=alias):
                write(alias, "never")
                raise ZeroDivisionError
            rounds += 1
            if rounds == 5:
                stop.wait()
        return rounds

    neighbours = [make_worker().start(interfere) for _ in range(3)]
    stop.reached()
    stop.go_on()
    seen = []
    for item in Item.objects.using(alias).order_by("n").iterator(chunk_size=3):
        seen.append(item.n)
        Log.objects.using(alias).update_or_create(key=f"row {item.n}", defaults={"key": f"row {item.n}"})
    done = True
    assert all(neighbour.result(20) > 5 for neighbour in neighbours)
    assert seen == list(range(40))
    assert sorted(keys(observer)) == sorted(f"row {n}" for n in range(40))
    assert in_use(alias) == 0


def test_iterator_keeps_its_connection_across_inner_transactions(
    make_pool: MakePool, mode: str, worker: Worker
) -> None:
    """On a pool of one nobody else gets the connection until the iterator has ended, however many commits pass."""
    alias = make_pool(mode=mode, POOL={"timeout": 0.1})
    add_items(6)
    for _ in Item.objects.using(alias).iterator(chunk_size=2):
        with transaction.atomic(using=alias):
            Item.objects.using(alias).filter(n=0).update(name="changed")
        with pytest.raises(OperationalError):
            worker(backend, alias)
    connections[alias].close()
    worker(backend, alias)


# -- cursors closed late, twice, in another order --------------------------------------------------------------


def test_cursor_closed_twice_inside_atomic(make_pool: MakePool, mode: str, observer: Observer) -> None:
    """Neither the first nor the second close() ends the transaction."""
    alias = make_pool(mode=mode)
    with transaction.atomic(using=alias):
        write(alias, "first")
        cursor = connections[alias].cursor()
        cursor.execute("SELECT 1")
        cursor.close()
        cursor.close()
        write(alias, "second")
        assert keys(observer) == []
    cursor.close()
    assert keys(observer) == ["first", "second"]


def test_cursor_from_before_closed_twice_inside_atomic(make_pool: MakePool, mode: str, observer: Observer) -> None:
    """The same for a cursor of an earlier lease, which ended with its statement."""
    alias = make_pool(mode=mode)
    early = connections[alias].cursor()
    early.execute("SELECT 1")
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
        write(alias, "first")
        early.close()
        early.close()
        write(alias, "second")
        raise ZeroDivisionError
    assert keys(observer) == []  # had the cursor released the connection, "second" would be there
    with transaction.atomic(using=alias):
        write(alias, "first")
        early.close()
        write(alias, "second")
    assert keys(observer) == ["first", "second"]


def test_two_cursors_first_closed_first(make_pool: MakePool, worker: Worker, observer: Observer) -> None:
    """The second cursor does not run on a connection that a neighbour has in a transaction by now."""
    single = make_pool(POOL={"timeout": 0.3})
    first, second = connections[single].cursor(), connections[single].cursor()
    first.execute("SELECT 1")
    second.execute("SELECT 2")
    first.close()
    ready = Step()

    def transaction_that_fails() -> None:
        with transaction.atomic(using=single):
            write(single, "never")
            ready.wait()
            raise ZeroDivisionError

    neighbour = worker.start(transaction_that_fails)
    ready.reached()
    with pytest.raises(OperationalError):  # the only connection is the neighbour's
        second.execute("INSERT INTO app_log (key) VALUES ('mine')")
    ready.go_on()
    with pytest.raises(ZeroDivisionError):
        neighbour.result(20)
    second.execute("INSERT INTO app_log (key) VALUES ('mine')")
    second.close()
    first.close()
    assert keys(observer) == ["mine"]


def test_two_cursors_with_a_second_connection(make_pool: MakePool, worker: Worker, observer: Observer) -> None:
    """With a second connection the late cursor moves to it, and the neighbour's rollback takes only its own rows."""
    alias = make_pool(size=2)
    first, second = connections[alias].cursor(), connections[alias].cursor()
    first.execute("SELECT pg_backend_pid()")
    second.execute("SELECT 2")
    (shared,) = first.fetchone()
    first.close()
    ready = Step()

    def transaction_that_fails() -> int:
        with suppress(ZeroDivisionError), transaction.atomic(using=alias):
            write(alias, "never")
            pid = backend(alias)
            ready.wait()
            raise ZeroDivisionError
        return pid

    neighbour = worker.start(transaction_that_fails)
    ready.reached()
    second.execute("INSERT INTO app_log (key) VALUES ('mine') RETURNING pg_backend_pid()")
    (mine,) = second.fetchone()
    ready.go_on()
    assert neighbour.result(20) == shared != mine
    second.close()
    assert keys(observer) == ["mine"]


def test_late_close_leaves_a_neighbours_transaction_alone(single: str, worker: Worker, observer: Observer) -> None:
    """Closing old cursors and the wrapper itself does nothing to the thread that has the connection now."""
    old = [connections[single].cursor() for _ in range(2)]
    for cursor in old:
        cursor.execute("SELECT 1")
    ready = Step()

    def neighbour() -> None:
        with transaction.atomic(using=single):
            write(single, "first")
            ready.wait()
            write(single, "second")

    running = worker.start(neighbour)
    ready.reached()
    for cursor in (*old, *old):
        cursor.close()
    connections[single].close()
    (holder,) = holders(single)
    assert holder.thread_ident == worker.ident
    assert holder.state == "idle in transaction"
    ready.go_on()
    running.result(20)
    assert keys(observer) == ["first", "second"]


def test_failed_statement_leaves_no_lease_and_no_transaction(
    make_pool: MakePool, mode: str, observer: Observer
) -> None:
    """After an IntegrityError in autocommit the next write is a statement of its own and is kept."""
    alias = make_pool(mode=mode)
    execute(alias, "INSERT INTO app_item (id, name, n) VALUES (7, 'a', 0)")
    for _ in range(3):
        with pytest.raises(IntegrityError):
            execute(alias, "INSERT INTO app_item (id, name, n) VALUES (7, 'b', 0)")
        if mode == "transaction":
            assert in_use(alias) == 0
        write(alias, "kept")
    assert keys(observer) == ["kept"] * 3
    assert rows_of(observer, "app_item") == 1


def test_savepoints_keep_what_they_kept(make_pool: MakePool, mode: str, observer: Observer) -> None:
    """Inner blocks that fail lose their own writes and nothing else."""
    alias = make_pool(mode=mode)
    with transaction.atomic(using=alias):
        write(alias, "outer")
        for n in range(3):
            with suppress(ZeroDivisionError), transaction.atomic(using=alias):
                write(alias, f"inner {n}")
                if n == 1:
                    raise ZeroDivisionError
    assert keys(observer) == ["outer", "inner 0", "inner 2"]


def test_concurrent_transactions_lose_no_update(make_pool: MakePool, make_worker: Callable[[], Worker]) -> None:
    """Eight threads on two connections, each adding one to a row in a transaction: every addition counts."""
    alias = make_pool(size=2, POOL={"timeout": 15})
    item = Item.objects.create(name="counter", n=0)

    def add(times: int) -> None:
        for _ in range(times):
            with transaction.atomic(using=alias):
                current = Item.objects.using(alias).select_for_update().get(pk=item.pk)
                Item.objects.using(alias).filter(pk=item.pk).update(n=current.n + 1)

    for running in [make_worker().start(add, 25) for _ in range(8)]:
        running.result(30)
    item.refresh_from_db()
    assert item.n == 200
    assert wait_until(lambda: in_use(alias) == 0, 2)
