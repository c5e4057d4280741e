"""Telling a process what to do, from wherever: the way that works is found, and what is said of it is true."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction
from django.test import override_settings

from django_dbpool.acting import Acted, act
from django_dbpool.core.ledger import Holder
from django_dbpool.core.process import this_process
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Database, Task
from tests.fixtures.pools import alive

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("nothing_left")]


@pytest.fixture(autouse=True)
def base() -> Iterator[Path]:
    """Nobody else's sockets."""
    with tempfile.TemporaryDirectory(prefix="dbp") as directory, override_settings(DBPOOL={"SOCKET": directory}):
        yield Path(directory)


def here(verb: str, **arguments: Any) -> Acted:
    return act(this_process().instance, verb, actor="test", **arguments)


def target(holder: Holder) -> dict[str, Any]:
    return {"alias": holder.alias, "backend_pid": holder.backend_pid, "generation": holder.generation}


def holder_of(database: Database, state: str = "running") -> Holder:
    found: list[Holder] = []

    def there() -> bool:
        found[:] = [each for each in database.pool.holders() if each.state == state and each.generation >= 0]
        return len(found) == 1

    assert wait_until(there, PATIENCE), database.pool.holders()
    return found[0]


@pytest.fixture
def sleeper(database: Database) -> Iterator[tuple[Task, Holder]]:
    """A thread in a statement that takes long, and its lease."""
    task = Task(database.fetch, "SELECT pg_sleep(600)")
    holder = holder_of(database)
    active = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
    assert wait_until(lambda: bool(database.observer.execute(active, [holder.backend_pid]).fetchone()), PATIENCE)
    yield task, holder
    if task.is_alive():
        database.observer.execute("SELECT pg_terminate_backend(%s)", [holder.backend_pid])
    task.error()


# -- in this process --------------------------------------------------------------------------------------------------


def test_cancel_in_this_process(sleeper: tuple[Task, Holder]) -> None:
    task, holder = sleeper
    acted = here("cancel", **target(holder))
    assert (acted.outcome, acted.way, acted.done) == ("done", "own process", True), acted
    assert acted.text == "The statement was cancelled. In this process."
    assert getattr(task.error().__cause__, "sqlstate", None) == "57014"
    again = here("cancel", **target(holder))
    assert again.outcome == "already over"
    assert again.text.startswith("Nothing was done: that lease is over")


def test_terminate_from_within_a_transaction(database: Database, sleeper: tuple[Task, Holder]) -> None:
    task, holder = sleeper
    with transaction.atomic(using="default"), connections["default"].cursor() as cursor:
        cursor.execute("SELECT 1")
        assert here("terminate", **target(holder)).outcome == "done"
    assert isinstance(task.error(), OperationalError)
    assert wait_until(lambda: not alive(database.observer, holder.backend_pid), PATIENCE)


def test_the_stack_of_a_lease(sleeper: tuple[Task, Holder]) -> None:
    _, holder = sleeper
    acted = here("stack", **target(holder))
    assert acted.outcome == "done"
    calls = acted.result["calls"]
    assert any(call.startswith("django_dbpool/backends/") for call in calls), calls
    assert any("tests/faults/helpers.py:" in call and call.endswith(" in Database.fetch") for call in calls), calls
    assert not any("pg_sleep" in call for call in calls)
    assert acted.result["thread"] == holder.thread
    assert here("stack", **{**target(holder), "generation": holder.generation + 1}).outcome == "already over"
