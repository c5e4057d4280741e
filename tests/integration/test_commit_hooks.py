"""on_commit hooks: the lease has ended when they run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction

from django_dbpool.errors import PoolExhausted
from testproject.processes import wait_until
from tests.app.models import Log
from tests.fixtures.pools import backend, execute, in_use, rows_of
from tests.fixtures.workers import Step, Worker

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]
MakePool = Callable[..., str]


def write(alias: str, key: str) -> None:
    Log.objects.using(alias).create(key=key)


def keys(observer: Observer) -> list[str]:
    return [key for (key,) in observer.execute("SELECT key FROM app_log ORDER BY id")]


def test_slow_hook_holds_nothing(single: str, worker: Worker, observer: Observer) -> None:
    """While a hook waits for something slow, another thread works on the only connection."""
    slow = Step()

    def transaction_with_hook() -> None:
        with transaction.atomic(using=single):
            write(single, "committed")
            transaction.on_commit(slow.wait, using=single)

    running = worker.start(transaction_with_hook)
    slow.reached()
    assert in_use(single) == 0
    assert keys(observer) == ["committed"]
    with transaction.atomic(using=single):
        write(single, "meanwhile")
        assert in_use(single) == 1
    slow.go_on()
    running.result(20)
    assert keys(observer) == ["committed", "meanwhile"]


def test_slow_hook_of_a_manual_transaction(single: str, worker: Worker) -> None:
    """Hooks of a block inside a manual transaction run when autocommit is switched on again."""
    slow = Step()

    def transaction_with_hook() -> None:
        transaction.set_autocommit(False, using=single)
        with transaction.atomic(using=single):
            write(single, "committed")
            transaction.on_commit(slow.wait, using=single)
        transaction.commit(using=single)
        transaction.set_autocommit(True, using=single)

    running = worker.start(transaction_with_hook)
    slow.reached()
    write(single, "meanwhile")
    slow.go_on()
    running.result(20)


def test_hooks_run_outside_the_transaction_in_order(make_pool: MakePool, mode: str, observer: Observer) -> None:
    """Statements of a hook are statements in autocommit, its blocks transactions with hooks of their own."""
    alias = make_pool(mode=mode)
    connection = connections[alias]
    ran: list[object] = []

    def first() -> None:
        ran.append(("first", connection.in_atomic_block, connection.get_autocommit(), keys(observer)))
        write(alias, "first hook")

    def second() -> None:
        ran.append(("second", keys(observer)))
        with transaction.atomic(using=alias):
            write(alias, "second hook")
            transaction.on_commit(lambda: ran.append(("inner", keys(observer))), using=alias)

    with transaction.atomic(using=alias):
        transaction.on_commit(first, using=alias)
        write(alias, "body")
        transaction.on_commit(second, using=alias)
        assert ran == []
    assert ran == [
        ("first", False, True, ["body"]),
        ("second", ["body", "first hook"]),
        ("inner", ["body", "first hook", "second hook"]),
    ]
    if mode == "transaction":
        assert in_use(alias) == 0


def test_hooks_of_a_savepoint_that_is_rolled_back(make_pool: MakePool, mode: str) -> None:
    alias = make_pool(mode=mode)
    ran: list[str] = []
    with transaction.atomic(using=alias):
        transaction.on_commit(lambda: ran.append("outer"), using=alias)
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
            transaction.on_commit(lambda: ran.append("inner"), using=alias)
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
        transaction.on_commit(lambda: ran.append("rolled back"), using=alias)
        raise ZeroDivisionError
    assert ran == ["outer"]


def test_hook_outside_atomic_runs_at_once(single: str) -> None:
    ran: list[int] = []
    execute(single, "SELECT 1")
    transaction.on_commit(lambda: ran.append(in_use(single)), using=single)
    assert ran == [0]


def test_error_of_a_hook_says_committed(make_pool: MakePool, mode: str, observer: Observer) -> None:
    """Whoever retries the block on an error would write twice: the error says that the transaction is committed."""
    alias = make_pool(mode=mode)
    with pytest.raises(ZeroDivisionError) as raised, transaction.atomic(using=alias):
        write(alias, "committed")
        transaction.on_commit(lambda: 1 / 0, using=alias)
    assert raised.value.committed is True  # type: ignore[attr-defined]
    assert keys(observer) == ["committed"]
    assert not connections[alias].in_atomic_block
    write(alias, "next")
    if mode == "transaction":
        assert in_use(alias) == 0


def test_error_of_the_block_does_not_say_committed(single: str) -> None:
    with pytest.raises(ZeroDivisionError) as raised, transaction.atomic(using=single):
        write(single, "lost")
        transaction.on_commit(lambda: None, using=single)
        raise ZeroDivisionError
    assert not hasattr(raised.value, "committed")


def test_shortage_in_a_hook_says_committed(make_pool: MakePool, worker: Worker, observer: Observer) -> None:
    """The hook finds the pool full; its error is told apart from one of the block."""
    alias = make_pool(POOL={"timeout": 0.1})
    taken = Step()

    def take() -> None:
        with transaction.atomic(using=alias):
            execute(alias, "SELECT 1")
            taken.wait()

    running = []

    def hook() -> None:
        running.append(worker.start(take))
        taken.reached()
        write(alias, "hook")

    with pytest.raises(PoolExhausted) as raised, transaction.atomic(using=alias):
        write(alias, "committed")
        transaction.on_commit(hook, using=alias)
    assert raised.value.committed is True  # type: ignore[attr-defined]
    taken.go_on()
    running[0].result(20)
    assert keys(observer) == ["committed"]


def test_robust_hook_is_logged(single: str, observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    """A robust hook's error stays in the log and the later hooks run, as Django documents."""
    ran: list[str] = []
    with caplog.at_level(logging.ERROR), transaction.atomic(using=single):
        write(single, "committed")
        transaction.on_commit(lambda: 1 / 0, using=single, robust=True)
        transaction.on_commit(lambda: ran.append("later"), using=single)
    assert ran == ["later"]
    assert "on_commit" in caplog.text
    assert rows_of(observer, "app_log") == 1


@pytest.mark.parametrize("hooks_before", [0, 1])
def test_hook_goes_before_ordinary_waiters(
    make_pool: MakePool, make_worker: Callable[[], Worker], observer: Observer, hooks_before: int
) -> None:
    """A hook finishes work that is half done: it gets the next free connection though others queued before it."""
    alias = make_pool(POOL={"timeout": 15})
    first, second, watcher = make_worker(), make_worker(), make_worker()
    pool = connections[alias].pool

    def take_and_stand() -> None:
        with transaction.atomic(using=alias):
            execute(alias, "SELECT pg_advisory_xact_lock(77)")
            write(alias, "first")

    after_commit = Step()
    after_commit.go_on()

    def empty_block() -> None:
        with transaction.atomic(using=alias):
            pass

    def hook() -> None:
        after_commit.wait()
        write(alias, "hook")

    def let_go_when_the_hook_waits() -> None:
        assert wait_until(lambda: pool.snapshot().waiting == 2, 10)
        observer.execute("SELECT pg_advisory_unlock(77)")

    observer.execute("SELECT pg_advisory_lock(77)")
    with transaction.atomic(using=alias):
        backend(alias)
        one = first.start(take_and_stand)
        assert wait_until(lambda: pool.snapshot().waiting == 1, 10)
        two = second.start(write, alias, "second")
        assert wait_until(lambda: pool.snapshot().waiting == 2, 10)
        for _ in range(hooks_before):
            transaction.on_commit(empty_block, using=alias)
        transaction.on_commit(hook, using=alias)
        # After COMMIT `first` stands on the connection, `second` waits for it, and the hook comes as the third.
        watcher.start(after_commit.reached)
        releasing = watcher.start(let_go_when_the_hook_waits)
    for future in (one, two, releasing):
        future.result(20)
    assert keys(observer) == ["first", "hook", "second"]
