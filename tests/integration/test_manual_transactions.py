"""Transactions that the application ends itself: AUTOCOMMIT=False and set_autocommit(False)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import IntegrityError, connections, transaction

from django_dbpool import transaction as dbpool_transaction
from testproject.processes import wait_until
from tests.app.models import Item, Log
from tests.fixtures.pools import backend, execute, holders, in_use
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]
MakePool = Callable[..., str]


@pytest.fixture
def manual(make_pool: MakePool, mode: str) -> str:
    """An alias with AUTOCOMMIT=False, in both modes, with a pool of two."""
    return make_pool(size=2, mode=mode, AUTOCOMMIT=False)


def write(alias: str, key: str) -> None:
    Log.objects.using(alias).create(key=key)


def keys(observer: Observer) -> list[str]:
    return [key for (key,) in observer.execute("SELECT key FROM app_log ORDER BY id")]


# -- AUTOCOMMIT=False ------------------------------------------------------------------------------------------


def test_nothing_is_committed_early_and_nothing_lost(manual: str, observer: Observer) -> None:
    """Writes through several cursors, some closed, some not, stay in one transaction until commit()."""
    connection = connections[manual]
    assert not connection.get_autocommit()
    assert in_use(manual) == 0
    open_cursor = connection.cursor()
    open_cursor.execute("INSERT INTO app_log (key) VALUES ('unclosed')")
    for n in range(3):
        execute(manual, "INSERT INTO app_log (key) VALUES (%s)", [f"closed {n}"])
    write(manual, "orm")
    (holder,) = holders(manual)
    assert holder.state == "idle in transaction"
    assert keys(observer) == []
    connection.commit()
    assert keys(observer) == ["unclosed", "closed 0", "closed 1", "closed 2", "orm"]
    write(manual, "second part")
    assert len(keys(observer)) == 5
    connection.commit()
    assert keys(observer)[5:] == ["second part"]
    assert not connection.get_autocommit()


def test_rollback(manual: str, observer: Observer) -> None:
    write(manual, "lost")
    connections[manual].rollback()
    write(manual, "kept")
    connections[manual].commit()
    assert keys(observer) == ["kept"]


def test_connection_goes_back_at_commit_and_rollback(make_pool: MakePool, worker: Worker) -> None:
    """Between two transactions a neighbour gets the only connection, in the middle of one it does not."""
    alias = make_pool(AUTOCOMMIT=False)

    def neighbour() -> int:
        pid = backend(alias)
        connections[alias].rollback()
        return pid

    for end in (connections[alias].commit, connections[alias].rollback):
        mine = backend(alias)
        waiting = worker.start(neighbour)
        assert wait_until(lambda: connections[alias].pool.snapshot().waiting == 1, 5)
        end()
        assert waiting.result(20) == mine
        assert in_use(alias) == 0


def test_unit_that_ends_without_commit(
    manual: str, worker: Worker, observer: Observer, caplog: pytest.LogCaptureFixture
) -> None:
    """As on the stock engine the writes are rolled back; here the log says so, and no neighbour commits them."""

    def neighbour() -> None:
        write(manual, "neighbour")
        connections[manual].commit()

    write(manual, "forgotten")
    connections[manual].close()
    assert "still open" in caplog.text
    for _ in range(3):
        worker(neighbour)
    assert keys(observer) == ["neighbour"] * 3
    assert not connections[manual].get_autocommit()
    write(manual, "next unit")
    assert keys(observer) == ["neighbour"] * 3
    connections[manual].commit()
    assert keys(observer)[3:] == ["next unit"]


def test_atomic_is_a_savepoint_there(manual: str, observer: Observer) -> None:
    """Django doesn't commit at the end of atomic() under AUTOCOMMIT=False, and neither does the release."""
    with transaction.atomic(using=manual):
        write(manual, "outer")
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=manual):
            write(manual, "inner")
            raise ZeroDivisionError
    assert in_use(manual) == 1
    assert keys(observer) == []
    connections[manual].commit()
    assert keys(observer) == ["outer"]


def test_iterator_and_writes(manual: str, observer: Observer) -> None:
    Item.objects.bulk_create(Item(name=str(n), n=n) for n in range(7))
    for item in Item.objects.using(manual).order_by("n").iterator(chunk_size=2):
        write(manual, item.name)
    assert keys(observer) == []
    connections[manual].commit()
    assert keys(observer) == [str(n) for n in range(7)]
    if connections[manual].pool.config.mode == "transaction":
        assert in_use(manual) == 0


def test_error_and_rollback(manual: str, observer: Observer) -> None:
    """An error ends nothing by itself; the application rolls back and goes on."""
    execute(manual, "INSERT INTO app_item (id, name, n) VALUES (7, 'a', 0)")
    with pytest.raises(IntegrityError):
        execute(manual, "INSERT INTO app_item (id, name, n) VALUES (7, 'b', 0)")
    (holder,) = holders(manual)
    assert holder.state == "failed transaction"
    connections[manual].rollback()
    write(manual, "after")
    connections[manual].commit()
    assert keys(observer) == ["after"]
    assert Item.objects.count() == 0


# -- set_autocommit(False) -------------------------------------------------------------------------------------


def test_every_part_of_a_manual_transaction_is_one(make_pool: MakePool, mode: str, observer: Observer) -> None:
    """After commit() the next statements are a transaction again, not statements of their own."""
    alias = make_pool(mode=mode)
    transaction.set_autocommit(False, using=alias)
    write(alias, "first")
    transaction.commit(using=alias)
    write(alias, "second")
    assert keys(observer) == ["first"]
    transaction.rollback(using=alias)
    write(alias, "third")
    write(alias, "fourth")
    assert keys(observer) == ["first"]
    transaction.commit(using=alias)
    transaction.set_autocommit(True, using=alias)
    write(alias, "autocommit")
    assert keys(observer) == ["first", "third", "fourth", "autocommit"]
    if mode == "transaction":
        assert in_use(alias) == 0


def test_manual_transaction_with_savepoints(make_pool: MakePool, mode: str, observer: Observer) -> None:
    alias = make_pool(mode=mode)
    begin = getattr(transaction, "savepoint_create", None) or transaction.savepoint  # renamed in Django 6.1
    transaction.set_autocommit(False, using=alias)
    try:
        write(alias, "first")
        savepoint = begin(using=alias)
        write(alias, "undone")
        transaction.savepoint_rollback(savepoint, using=alias)
        savepoint = begin(using=alias)
        write(alias, "second")
        transaction.savepoint_commit(savepoint, using=alias)
        transaction.commit(using=alias)
    finally:
        transaction.set_autocommit(True, using=alias)
    assert keys(observer) == ["first", "second"]


def test_manual_transaction_keeps_its_connection(make_pool: MakePool, worker: Worker) -> None:
    """From the first statement to commit() or rollback() one backend, which no neighbour gets."""
    alias = make_pool(size=2)
    transaction.set_autocommit(False, using=alias)
    assert in_use(alias) == 0
    mine = backend(alias)
    for _ in range(3):
        assert worker(backend, alias) != mine
        assert backend(alias) == mine
    transaction.rollback(using=alias)
    assert in_use(alias) == 0
    transaction.set_autocommit(True, using=alias)


def test_autocommit_returns_at_the_end_of_the_unit(single: str, observer: Observer) -> None:
    """A unit that forgets set_autocommit(True) does not leave the next one without commits."""
    transaction.set_autocommit(False, using=single)
    connections[single].close()
    assert connections[single].get_autocommit()
    write(single, "kept")
    assert keys(observer) == ["kept"]


def test_neighbour_of_a_manual_transaction_is_in_autocommit(
    make_pool: MakePool, worker: Worker, observer: Observer
) -> None:
    """The connection that served a manual transaction commits the next borrower's statement at once."""
    alias = make_pool()
    transaction.set_autocommit(False, using=alias)
    write(alias, "first")
    transaction.commit(using=alias)
    worker(execute, alias, "INSERT INTO app_log (key) VALUES ('neighbour')")
    assert keys(observer) == ["first", "neighbour"]
    write(alias, "second")
    assert keys(observer) == ["first", "neighbour"]
    transaction.commit(using=alias)
    transaction.set_autocommit(True, using=alias)
    assert keys(observer) == ["first", "neighbour", "second"]


def ask_version(alias: str) -> None:
    """As Django's features do; the answer is cached, so only the first question takes a connection."""
    connections[alias].__dict__.pop("pg_version", None)
    assert connections[alias].pg_version >= 140000


def ask_temporarily(alias: str) -> None:
    with connections[alias].temporary_connection() as cursor:
        cursor.execute("SELECT 1")


def pin_for_a_block(alias: str) -> None:
    with dbpool_transaction.pin(using=alias):
        execute(alias, "SELECT 1")


@pytest.mark.parametrize("aside", [ask_version, ask_temporarily, pin_for_a_block])
@pytest.mark.parametrize("before", [True, False])
def test_what_ends_by_itself_does_not_end_a_manual_transaction(
    make_pool: MakePool, mode: str, observer: Observer, before: bool, aside: Callable[[str], None]
) -> None:
    """Helpers that close what they have opened neither roll back nor switch autocommit on."""
    alias = make_pool(mode=mode)
    transaction.set_autocommit(False, using=alias)
    if before:
        write(alias, "before")
    aside(alias)
    assert not transaction.get_autocommit(using=alias)
    write(alias, "after")
    assert keys(observer) == []
    transaction.commit(using=alias)
    transaction.set_autocommit(True, using=alias)
    assert keys(observer) == (["before", "after"] if before else ["after"])
