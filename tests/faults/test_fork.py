"""A forked process makes connections of its own and never touches its parent's."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import django
import pytest
from django.db import InterfaceError, connections, transaction

from django_dbpool.pool import registry
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Child, Database, Task

ROUNDS = 100
"""How often each side asks for its own marker while the other one does the same."""

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def ask_for(database: Database, marker: str, rounds: int = ROUNDS) -> set[int]:
    """Select ``marker`` again and again; the backends that answered. Fails on anybody else's answer."""
    backends = set()
    for number in range(rounds):
        with database.connection.cursor() as cursor:
            cursor.execute("SELECT %s::text, pg_backend_pid()", [f"{marker} {number}"])
            answer, backend = cursor.fetchone()
        assert answer == f"{marker} {number}"
        backends.add(backend)
    return backends


def warm(database: Database, count: int = 2) -> None:
    database.serve_at_once(count)
    database.settle()


@contextmanager
def idle(database: Database) -> Iterator[None]:
    """Two connections that nobody uses."""
    warm(database)
    yield


@contextmanager
def empty(database: Database) -> Iterator[None]:
    """A pool that was made and has no connection yet."""
    assert database.pool.snapshot().size == 0
    yield


@contextmanager
def busy(database: Database) -> Iterator[None]:
    """Two threads in the middle of a query, which ends when the block does."""
    with database.observer.transaction():
        database.observer.execute("SELECT pg_advisory_xact_lock(2)")

        def wait_for_lock() -> None:
            with transaction.atomic(using=database.alias):
                database.fetch("SELECT pg_advisory_xact_lock_shared(2)")

        tasks = [Task(wait_for_lock) for _ in range(2)]
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"

        def both_wait() -> bool:
            row = database.observer.execute(waiting).fetchone()
            return row is not None and row[0] == 2

        assert wait_until(both_wait, PATIENCE)
        yield
    for task in tasks:
        task.result()


@contextmanager
def in_transaction(database: Database) -> Iterator[None]:
    """Another thread is between two statements of a transaction."""
    with database.holding(2):
        yield


@pytest.mark.parametrize("state", [idle, busy, in_transaction, empty])
def test_two_processes_share_no_connection(database: Database, state: Callable[[Database], Any]) -> None:
    """Whatever the pool does at the fork, both sides work at once, each on its own backends, with its own answers."""
    with state(database):
        child = Child(lambda: ask_for(database, "child"))
        parents = ask_for(database, "parent")
        childs = child.result()
        assert parents
        assert childs
        assert not parents & childs
        assert parents <= database.backends()  # the child's end closed none of them
    database.assert_whole()


def test_server_sees_the_backends_of_both(database: Database) -> None:
    """While parent and child both hold connections, pg_stat_activity lists exactly theirs."""
    warm(database)
    parents = database.backends()
    looked, look = os.pipe()
    backend_read, backend_write = os.pipe()

    def hold_until_looked() -> None:
        os.close(look)
        with transaction.atomic(using=database.alias):
            os.write(backend_write, str(database.backend()).encode())
            os.read(looked, 1)

    child = Child(hold_until_looked)
    own = int(os.read(backend_read, 20))
    try:
        assert own not in parents
        assert database.backends() == parents | {own}
    finally:
        os.close(look)
        child.result()
        for descriptor in (looked, backend_read, backend_write):
            os.close(descriptor)
    assert wait_until(lambda: database.backends() == parents, PATIENCE)


def test_fork_inside_a_transaction(database: Database, table: str, caplog: pytest.LogCaptureFixture) -> None:
    """The parent's transaction goes on and commits; the child is outside of it, and is told so."""

    def in_child() -> tuple[bool, int, int, list[str]]:
        before = database.connection.in_atomic_block
        caplog.set_level(logging.WARNING, logger="django_dbpool.backends")
        rows = database.fetch(f"SELECT count(*) FROM {table}")
        database.fetch(f"INSERT INTO {table} VALUES ('child') RETURNING 1")
        return before, rows, database.backend(), [record.getMessage() for record in caplog.records]

    with transaction.atomic(using=database.alias):
        parent = database.backend()
        database.fetch(f"INSERT INTO {table} VALUES ('before') RETURNING 1")
        in_atomic_block, rows, backend, messages = Child(in_child).result()
        assert database.backend() == parent
        database.fetch(f"INSERT INTO {table} VALUES ('after') RETURNING 1")
    assert (in_atomic_block, rows) == (False, 0)
    assert backend != parent
    assert len([message for message in messages if "forked inside a transaction" in message]) == 1
    keys = database.observer.execute(f"SELECT key FROM {table} ORDER BY 1").fetchall()
    assert keys == [("after",), ("before",), ("child",)]
    database.assert_whole()


def test_rollback_of_the_child_is_not_the_parents(database: Database, table: str) -> None:
    """An atomic block that was open at the fork fails in the child; the parent's commits all the same."""

    with transaction.atomic(using=database.alias):
        database.fetch(f"INSERT INTO {table} VALUES ('parent') RETURNING 1")
        assert Child(lambda: leave_block_by_error(database)).result() == 1
    assert database.observer.execute(f"SELECT key FROM {table}").fetchall() == [("parent",)]


def leave_block_by_error(database: Database) -> Any:
    """In the child of a fork: leave the atomic block that was copied with the process."""
    block = transaction.Atomic(database.alias, savepoint=True, durable=False)
    block.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    return database.fetch("SELECT 1")


def test_fork_while_a_server_side_cursor_is_open(database: Database) -> None:
    """The parent reads on to the last row; the child can't read from the parent's connection."""

    def read_on() -> str:
        with pytest.raises(InterfaceError, match="server-side cursor was released"):
            cursor.fetchone()
        cursor.close()
        return str(database.fetch("SELECT 'own connection'"))

    cursor = database.connection.chunked_cursor()
    cursor.itersize = 10
    cursor.execute("SELECT generate_series(1, 100)")
    assert cursor.fetchone() == (1,)
    assert Child(read_on).result() == "own connection"
    assert [row for (row,) in cursor] == list(range(2, 101))
    cursor.close()
    database.assert_whole()


def test_fork_from_another_thread(database: Database) -> None:
    """The forking thread is the child's only one; its lease and the main thread's stay with the parent."""

    def fork_in_transaction() -> tuple[int, int]:
        with transaction.atomic(using=database.alias):
            own = database.backend()
            childs = Child(lambda: ask_for(database, "child")).result()
            assert database.backend() == own
            assert own not in childs
        return own, childs.pop()

    with transaction.atomic(using=database.alias):
        main = database.backend()
        own, child = Task(fork_in_transaction).result()
        assert len({main, own, child}) == 3
        assert database.backend() == main
    database.assert_whole()


def test_grandchild(database: Database) -> None:
    """A child that has used its own pool may fork as well."""
    warm(database)

    def in_child() -> tuple[set[int], set[int]]:
        warm(database)
        child = Child(lambda: ask_for(database, "grandchild"))
        own = ask_for(database, "child")
        return own, child.result()

    child = Child(in_child)
    parents = ask_for(database, "parent")
    childs, grandchilds = child.result()
    assert len(parents | childs | grandchilds) == len(parents) + len(childs) + len(grandchilds)


def test_locks_held_by_other_threads_at_the_fork(database: Database) -> None:
    """Every lock of the parent may be taken for ever in the child's copy of the memory."""
    warm(database)
    pool = database.pool
    held, release = threading.Event(), threading.Event()

    def hold_locks() -> None:
        housekeeping = pool.housekeeping
        with pool.gate._lock, housekeeping._opening, housekeeping._reclaiming, registry._lock:
            held.set()
            release.wait(PATIENCE)

    task = Task(hold_locks)
    assert held.wait(PATIENCE)
    try:
        assert len(Child(lambda: ask_for(database, "child", 3)).result()) == 1
    finally:
        release.set()
        task.result()
    database.assert_whole()


def test_fifty_forks_while_threads_churn(database: Database) -> None:
    """Children of a parent under load all work, and no answer of the parent's threads goes astray."""
    stop = threading.Event()

    def churn(name: str) -> set[int]:
        backends = set()
        while not stop.is_set():
            backends |= ask_for(database, name, 5)
            with transaction.atomic(using=database.alias):
                backends |= ask_for(database, name, 2)
        return backends

    tasks = [Task(churn, f"thread {number}") for number in range(6)]
    childs: list[set[int]] = []
    try:
        for number in range(50):
            childs.append(Child(partial(ask_for, database, f"child {number}", 2)).result())
    finally:
        stop.set()
    parents = set().union(*(task.result() for task in tasks))
    assert all(childs)
    assert not parents & set().union(*childs)
    assert len(parents) <= 4
    database.assert_whole()


def use_in_process(alias: str, entry: dict[str, Any], queue: Any, go: Any) -> None:
    """The target of a multiprocessing.Process, forked or spawned."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    connections.settings[alias] = entry
    connections.configure_settings(connections.settings)
    database = Database(alias, "", observer=None)  # type: ignore[arg-type]
    database.backend()
    queue.put(os.getpid())
    assert go.wait(PATIENCE)
    queue.put((os.getpid(), ask_for(database, str(os.getpid()))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(database: Database, method: str) -> None:
    """Two processes of multiprocessing and their parent query at the same time, on different backends."""
    warm(database)
    context = multiprocessing.get_context(method)
    queue, go = context.Queue(), context.Event()
    entry = dict(connections.settings[database.alias])
    processes = [context.Process(target=use_in_process, args=(database.alias, entry, queue, go)) for _ in range(2)]
    for process in processes:
        process.start()
    started = {queue.get(timeout=PATIENCE) for _ in processes}
    go.set()
    parents = ask_for(database, "parent")
    answers = dict(queue.get(timeout=PATIENCE) for _ in processes)
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert set(answers) == started == {process.pid for process in processes}
    first, second = answers.values()
    assert not (first & second or first & parents or second & parents)
    database.assert_whole()


FORKING_PROGRAM = """
import os, sys, warnings
import django
from django.db import connection, transaction
warnings.simplefilter("ignore", DeprecationWarning)
django.setup()
def backend():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]
idle = backend()
with transaction.atomic():
    assert backend() == idle
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert backend() == idle
    elif sys.argv[1] == "uses it":
        assert backend() != idle
assert child == 0 or backend() == idle
print("child" if child == 0 else "parent", "ended well")
"""


@pytest.mark.parametrize("childs_way", ["uses it", "leaves it alone"])
def test_child_that_ends_as_a_program_does(childs_way: str) -> None:
    """With destructors and exit handlers the child's end still leaves the parent's sockets alone."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", FORKING_PROGRAM, childs_way],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.faults.preloaded_settings"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["child ended well", "parent ended well"]
    assert "Traceback" not in done.stderr
