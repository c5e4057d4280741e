"""An exception from outside, at every moment of a lease: no slot is lost and no connection is shared."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import Context, copy_context
from typing import Any

import psycopg
import pytest
from django.db import Error, connections, transaction

from django_dbpool import transaction as admission
from django_dbpool.core import gate as gate_module
from django_dbpool.errors import DatabaseUnavailable, PoolExhausted
from django_dbpool.pool import housekeeping
from testproject.postgres import free_port
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task
from tests.faults.injection import ENGINE, STACK, Injector

FEWEST_POINTS, MOST_POINTS = 25, 3000

pytestmark = [
    pytest.mark.skipif(sys.version_info < (3, 12), reason="finds the points by sys.monitoring"),
    pytest.mark.filterwarnings("ignore:.* was deleted while still open:ResourceWarning"),
    # An interrupt in a destructor: Python reports and drops it.
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]


def damage(database: Database) -> str | None:
    """What is wrong with the pool's accounts after its net has looked; None if nothing is."""
    pool, gate = database.pool, database.pool.gate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(housekeeping, "LOST_AFTER", 0.0)  # nobody is in the middle of anything
        pool.housekeeping.reclaim_lost()
    free = [*gate.free, *gate.reserve_free]
    reserved = {entry for entry in pool.entries if entry.reserved}
    facts = {
        "size": gate.size == len(pool.entries - reserved),
        "reserve": gate.reserve_used == len(reserved) <= gate.reserve_size and set(gate.reserve_free) == reserved,
        "free": len(free) == len(set(free)) and set(free) == pool.entries,
        "attention": gate.attention == (gate.groups is not None) and gate.waiting == 0,
        "groups": gate.members() == set(),
        "in_use": pool.snapshot().in_use == 0,
        "limit": gate.size <= gate.max_size,
    }
    wrong = [name for name, good in facts.items() if not good]
    if not wrong:
        return None
    return f"{wrong}: size={gate.size} entries={len(pool.entries)} attention={gate.attention} {pool.snapshot()}"


@contextmanager
def nothing(database: Database) -> Iterator[None]:
    yield


def every_point(
    database: Database,
    body: Callable[[Database], Any],
    around: Callable[[Database], Any] = nothing,
    folders: tuple[str, ...] = ENGINE,
) -> None:
    """Run ``body`` again and again, interrupted one point later each time, until it is not interrupted."""
    failures = []
    for at in range(1, MOST_POINTS):
        injector = Injector(at, folders)
        with around(database):
            with suppress(Error, psycopg.Error):  # the interrupt closed what a later line wanted to use
                injector.run(lambda: body(database))
            wrapper = database.connection
            shared = wrapper._entry is not None and wrapper._entry in database.pool.gate.free
            wrapper.close()  # as the end of the request does
        if wrapper.in_atomic_block:
            assert "django_dbpool" not in injector.where, "atomic() itself was interrupted, which is Django's"
            del connections[database.alias]
        if problem := "held and free at once" if shared else damage(database):
            failures.append(f"{injector.fired}: {problem}")
            wrapper.close_pool()
        if injector.fired is None:
            break
    else:
        pytest.fail(f"more than {MOST_POINTS} points")
    assert at > FEWEST_POINTS
    assert not failures, f"{len(failures)} of {at} points:\n" + "\n".join(failures)


def statement(database: Database) -> None:
    database.fetch("SELECT 1")


def block(database: Database) -> None:
    with transaction.atomic(using=database.alias):
        database.fetch("SELECT 1")
        with transaction.atomic(using=database.alias):
            database.fetch("SELECT 2")


def pinned(database: Database) -> None:
    database.fetch("SELECT set_config('statement_timeout', '1h', false)")
    database.connection.close()


def server_side_cursor(database: Database) -> None:
    with database.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 10)")
        cursor.fetchall()


def unit(database: Database) -> None:
    database.fetch("SELECT 1")
    database.connection.close()


@pytest.mark.parametrize("body", [statement, block, pinned, server_side_cursor, unit])
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_on_a_free_connection(make_database: MakeDatabase, mode: str, body: Callable[[Database], Any]) -> None:
    """In the engine's own code."""
    database = make_database(mode=mode)
    body(database)
    every_point(database, body)
    database.assert_whole()


@pytest.mark.parametrize("body", [block, pinned, server_side_cursor])
def test_in_the_code_below(database: Database, body: Callable[[Database], Any]) -> None:
    """In Django's and psycopg's code too, which the engine calls and is called by."""
    body(database)
    every_point(database, body, folders=STACK)
    database.assert_whole()


@contextmanager
def cold(database: Database) -> Iterator[None]:
    """A pool without a connection."""
    for entry in tuple(database.pool.gate.free):
        database.pool.gate.free.remove(entry)
        database.pool.discard(entry)
    yield


@contextmanager
def killed(database: Database) -> Iterator[None]:
    """A pool whose one free connection was closed by the server."""
    database.observer.execute("SELECT pg_terminate_backend(%s)", [database.backend()])
    (entry,) = database.pool.entries
    assert wait_until(entry.suspicious, PATIENCE)
    yield


@contextmanager
def full(database: Database) -> Iterator[None]:
    """A pool whose connections stay leased."""
    with database.holding(database.pool.gate.max_size):
        yield


@contextmanager
def soon_free(database: Database, context: Context | None = None) -> Iterator[None]:
    """A pool whose only connection is held, in this context, until somebody waits for it, or the block ends."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(using=database.alias):
            database.backend()
            held.set()
            assert wait_until(lambda: over.is_set() or database.pool.gate.waiting == 1, PATIENCE)

    task = Task((context or Context()).run, hold)
    assert held.wait(PATIENCE)
    yield
    over.set()
    task.result()


@contextmanager
def wanted(database: Database) -> Iterator[None]:
    """A pool whose only connection is held by this thread; another one waits for it and gets it in the end."""
    database.connection.ensure_connection()
    task = Task(database.backend)
    assert wait_until(lambda: database.pool.gate.waiting == 1, PATIENCE)
    yield
    assert task.result()


def refused(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable):
        database.fetch("SELECT 1")


def exhausted(database: Database) -> None:
    with pytest.raises(PoolExhausted):
        database.fetch("SELECT 1")


def test_while_opening(database: Database) -> None:
    """The connection is opened by the one who is interrupted."""
    every_point(database, statement, cold)
    database.assert_whole()


def test_while_replacing_a_dead_connection(database: Database) -> None:
    """From the look at the socket to the new connection."""
    every_point(database, statement, killed)
    database.assert_whole()


def test_while_being_refused(make_database: MakeDatabase) -> None:
    """From the failed connect to the error: the permit to open goes back."""
    every_point(make_database(HOST="127.0.0.1", PORT=str(free_port())), refused)


def test_while_waiting_in_vain(make_database: MakeDatabase) -> None:
    """From the queue to the error."""
    database = make_database(max_size=2, timeout=0.005)
    every_point(database, exhausted, full, folders=tuple(ENGINE[0] + part for part in ("/core/gate", "/pool")))
    database.pool.config = dataclasses.replace(database.pool.config, timeout=PATIENCE)
    database.assert_whole()


def test_while_waiting_with_success(make_database: MakeDatabase) -> None:
    """What was granted in the moment of the interrupt goes to the next."""
    database = make_database(max_size=1)
    every_point(database, statement, soon_free)
    database.assert_whole()


def test_while_giving_to_the_next(make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A giver who is interrupted leaves nobody waiting beside a free connection."""
    monkeypatch.setattr(gate_module, "WAIT_SLICE", 0.01)
    monkeypatch.setattr(housekeeping, "LOST_AFTER", 0.05)
    database = make_database(max_size=1)
    every_point(database, statement, wanted)
    database.assert_whole()


GROUPS = {"limits": {"batch": 1}}


AT_THE_GATE = tuple(ENGINE[0] + part for part in ("/core/gate", "/core/groups", "/pool/managed", "/pool/admitting"))


def marked(mark: Any, database: Database) -> None:
    """In a context of its own: a mark whose block was interrupted at its end stays until the context ends."""

    def use() -> None:
        with mark:
            database.fetch("SELECT 1")

    copy_context().run(use)


def in_group(database: Database) -> None:
    marked(admission.group("batch"), database)


def test_with_a_limit_for_its_group(make_database: MakeDatabase) -> None:
    """The place in the group comes back whatever happens."""
    database = make_database(groups=GROUPS)
    every_point(database, in_group, folders=AT_THE_GATE)
    every_point(database, in_group, cold, folders=AT_THE_GATE)
    database.assert_whole()


def group_soon_free(database: Database) -> AbstractContextManager[None]:
    """The group's only place is taken until somebody waits for it, or the block ends."""
    with admission.group("batch"):
        return soon_free(database, copy_context())


def test_while_waiting_for_its_group(make_database: MakeDatabase) -> None:
    """Beside the queue, and from there into it."""
    database = make_database(groups=GROUPS)
    every_point(database, in_group, group_soon_free, folders=AT_THE_GATE)
    database.assert_whole()


def in_reserve(database: Database) -> None:
    marked(admission.reserved(), database)


@contextmanager
def full_and_cold(database: Database) -> Iterator[None]:
    """A pool whose connections stay leased, and whose reserve has none."""
    for entry in tuple(database.pool.gate.reserve_free):
        database.pool.gate.reserve_free.remove(entry)
        database.pool.discard(entry)
    with full(database):
        yield


@pytest.mark.parametrize("around", [full, full_and_cold])
def test_in_the_reserve(make_database: MakeDatabase, around: Callable[[Database], Any]) -> None:
    """Its connection and the permit to open it stay the reserve's."""
    database = make_database(max_size=1)
    every_point(database, in_reserve, around, folders=AT_THE_GATE)
    assert database.pool.gate.reserve_used <= 1
