"""Telling a process what to do, from wherever: the way that works is found, and what is said of it is true."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from django_dbpool.acting import Acted, act
from django_dbpool.core.ledger import Holder
from django_dbpool.core.process import this_process
from testproject.processes import wait_until
from tests.faults.conftest import StartOther
from tests.faults.helpers import PATIENCE, Database, Task
from tests.faults.others import published, reachable
from tests.fixtures.pools import alive

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("nothing_left", "sockets")]


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
    error = task.error()
    assert isinstance(error, OperationalError)
    assert getattr(error.__cause__, "sqlstate", None) == "57014"
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


# -- in another one ---------------------------------------------------------------------------------------------------


def test_by_its_socket(start_other: StartOther, sockets: Path) -> None:
    other = start_other()
    start_other().lease("hold")  # which is not meant
    lease = other.lease("run")
    assert wait_until(lambda: reachable(sockets, other), PATIENCE)
    acted = act(other.instance, "stack", actor="test", **lease)
    assert (acted.outcome, acted.way) == ("done", "socket"), acted
    assert acted.result["thread"] == "holder-run"
    assert any(call.endswith(" in work") for call in acted.result["calls"])
    acted = act(other.instance, "cancel", actor="test", **lease)
    assert (acted.outcome, acted.way) == ("done", "socket"), acted
    assert other.said() == {"ended": "OperationalError", "sqlstate": "57014"}
    assert act(other.instance, "cancel", actor="test", **lease).outcome == "already over"


def test_by_a_signed_command(start_other: StartOther, sockets: Path) -> None:
    other = start_other(DBPOOL_TEST_SOCKETS="")
    lease = other.lease("hold")
    assert wait_until(lambda: published(other), PATIENCE)
    acted = act(other.instance, "stack", actor="test", **lease)
    assert (acted.outcome, acted.way) == ("done", "signed command"), acted
    assert any(call.endswith(" in work") for call in acted.result["calls"])
    acted = act(other.instance, "terminate", actor="test", **lease)
    assert (acted.outcome, acted.way) == ("done", "signed command"), acted
    assert acted.text == (
        "The session was ended and its transaction rolled back. Asked by a signed command. "
        "Not by socket: none of this host is that process."
    )
    again = act(other.instance, "terminate", actor="test", **lease)
    assert (again.outcome, again.done) == ("already over", False), again
