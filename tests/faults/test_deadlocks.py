"""Waits that can't end: the error tells the cycle, so that nobody has to guess."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from django.db import transaction

from django_dbpool.core.ledger import Owner
from django_dbpool.errors import PoolExhausted
from django_dbpool.pool import reporting
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task


def test_two_aliases_in_opposite_order(make_database: MakeDatabase) -> None:
    """Each thread holds what the other one wants; whoever gives up first names both, and the other goes on."""
    first, second = make_database(max_size=1, timeout=0.5), make_database(max_size=1, timeout=PATIENCE)
    together = threading.Barrier(2)

    def take(one: Database, other: Database) -> int:
        with transaction.atomic(using=one.alias):
            one.backend()
            together.wait(PATIENCE)
            return other.backend()

    loser, winner = Task(take, second, first), Task(take, first, second)
    error = loser.error()
    assert isinstance(error, PoolExhausted)
    assert error.alias == first.alias
    assert error.cycle == (
        f"thread {loser.name!r} waits for {first.alias!r}, held by {winner.name!r}",
        f"thread {winner.name!r} waits for {second.alias!r}, held by {loser.name!r}",
    )
    assert "could never end" in str(error)
    for sentence in error.cycle:
        assert sentence in str(error)
    assert winner.result()
    first.assert_whole()
    second.assert_whole()


def test_both_give_up_at_the_same_time(make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """With equal timeouts each of the two sees the other one still waiting."""
    first, second = make_database(max_size=1, timeout=0.1), make_database(max_size=1, timeout=0.1)
    holding, looking, done = threading.Barrier(2), threading.Barrier(2), threading.Barrier(2)
    look = reporting.cycle

    def look_together(owner: Owner, alias: str, group: str | None) -> tuple[str, ...]:
        looking.wait(PATIENCE)
        found = look(owner, alias, group)
        done.wait(PATIENCE)
        return found

    monkeypatch.setattr(reporting, "cycle", look_together)

    def take(one: Database, other: Database) -> None:
        with transaction.atomic(using=one.alias):
            one.backend()
            holding.wait(PATIENCE)
            other.backend()

    tasks = [Task(take, first, second), Task(take, second, first)]
    for error in [task.error() for task in tasks]:
        assert isinstance(error, PoolExhausted)
        assert len(error.cycle) == 2


def join(call: Callable[[], Any]) -> BaseException | None:
    """Wait for a thread as threading's users do."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="child")
    thread.start()
    thread.join()
    return errors[0] if errors else None


def future(call: Callable[[], Any]) -> BaseException | None:
    """Wait for the result of an executor."""
    with ThreadPoolExecutor(1, thread_name_prefix="child") as executor:
        submitted: Future[Any] = executor.submit(call)
        try:
            submitted.result()
        except BaseException as error:
            return error
    return None


def leave_executor(call: Callable[[], Any]) -> BaseException | None:
    """Wait for all threads of an executor at the end of its block."""
    with ThreadPoolExecutor(1, thread_name_prefix="child") as executor:
        submitted = executor.submit(call)
    return submitted.exception()


@pytest.mark.parametrize("wait_for", [join, future, leave_executor])
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_parent_waits_for_its_child(
    make_database: MakeDatabase, mode: str, wait_for: Callable[[Callable[[], Any]], BaseException | None]
) -> None:
    """The parent holds the only connection, its child needs it: the child's error names them both."""
    database = make_database(mode=mode, max_size=1, timeout=0.1)

    def parent() -> BaseException | None:
        with transaction.atomic(using=database.alias):
            database.backend()
            return wait_for(database.backend)

    task = Task(parent)
    error = task.result()
    assert isinstance(error, PoolExhausted)
    held, waits = error.cycle
    assert f"waits for {database.alias!r}, held by {task.name!r}" in held
    assert "thread 'child" in held
    assert f"thread {task.name!r} waits for thread 'child" in waits
    assert held in str(error)
    assert waits in str(error)
    database.assert_whole()


def test_without_a_transaction_the_child_is_served(make_database: MakeDatabase) -> None:
    """In transaction mode a parent that only has queried holds nothing."""
    database = make_database(max_size=1, timeout=PATIENCE)
    database.backend()
    assert join(database.backend) is None
    assert future(database.backend) is None


def test_no_cycle_where_somebody_can_go_on(make_database: MakeDatabase) -> None:
    """Of two holders one waits for the caller, but the other one will come back by itself."""
    database = make_database(max_size=2, timeout=0.1)

    def parent() -> BaseException | None:
        with transaction.atomic(using=database.alias):
            database.backend()
            return join(database.backend)

    with database.holding():
        error = Task(parent).result()
    assert isinstance(error, PoolExhausted)
    assert error.cycle == ()
    assert "never end" not in str(error)
    assert len(error.holders) == 2


def test_three_threads_in_a_ring(make_database: MakeDatabase) -> None:
    """Three aliases, each thread holds one and wants the next: three sentences."""
    databases = [make_database(max_size=1, timeout=timeout) for timeout in (0.5, PATIENCE, PATIENCE)]
    together = threading.Barrier(3)

    def take(number: int) -> int:
        with transaction.atomic(using=databases[number].alias):
            databases[number].backend()
            together.wait(PATIENCE)
            return databases[(number + 1) % 3].backend()

    tasks = [Task(take, number) for number in range(3)]
    error = tasks[2].error()
    assert isinstance(error, PoolExhausted)
    assert len(error.cycle) == 3
    assert all(task.name in " ".join(error.cycle) for task in tasks)
    assert tasks[0].result()
    assert tasks[1].result()
