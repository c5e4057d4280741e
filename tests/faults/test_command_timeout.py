"""Statements that take too long are cancelled on the server, and nothing else is ever stopped for them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import psycopg
import pytest
from django.db import OperationalError, connections, transaction

from django_dbpool.errors import LeaseTimedOut
from django_dbpool.pool import command as commands
from django_dbpool.pool import watchdog
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Child, Database, Task
from tests.faults.timeouts import (
    LIMIT,
    NAP,
    WORKS,
    asleep,
    execute,
    too_late,
)

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("work", WORKS)
def test_slow_statement_is_cancelled(limited: Database, work: Callable[[str], None]) -> None:
    """On the server too; the lease is back, the thread goes on."""
    with too_late() as found:
        work(limited.alias)
    error, seconds = found
    assert seconds >= LIMIT
    assert error.waited >= LIMIT and error.limit == LIMIT and not error.maybe_committed
    assert 'POOL["command_timeout"] = 1 s' in str(error) and "pg_sleep" not in str(error)
    assert wait_until(lambda: not asleep(limited), PATIENCE)
    limited.connection.close()
    assert limited.fetch("SELECT 1") == 1
    limited.assert_whole()


def test_the_connection_of_a_cancelled_statement_is_not_lent_on(limited: Database) -> None:
    first = limited.backend()
    with too_late():
        execute(limited.alias, NAP)
    assert limited.backend() != first


def test_cancelled_inside_a_transaction(limited: Database, table: str) -> None:
    """What was done before is undone, also if somebody goes on after the error; never silently continued."""
    with pytest.raises(OperationalError), transaction.atomic(using=limited.alias):
        execute(limited.alias, f"INSERT INTO {table} VALUES ('lost')")
        with too_late():
            execute(limited.alias, NAP)
        with pytest.raises(Exception, match=r"current transaction is aborted|closed"):
            execute(limited.alias, f"INSERT INTO {table} VALUES ('lost too')")
        raise OperationalError
    assert limited.fetch(f"SELECT count(*) FROM {table}") == 0


def test_inner_block_can_fail_alone(limited: Database, table: str) -> None:
    """The server answers, so a savepoint is rolled back and the outer block is committed, as with any error."""
    with transaction.atomic(using=limited.alias):
        execute(limited.alias, f"INSERT INTO {table} VALUES ('kept')")
        with too_late(), transaction.atomic(using=limited.alias):
            execute(limited.alias, NAP)
    assert limited.fetch(f"SELECT count(*) FROM {table}") == 1


def test_other_peoples_cancel_keeps_its_name(limited: Database) -> None:
    """statement_timeout and pg_cancel_backend() are Django's OperationalError."""
    with pytest.raises(OperationalError) as raised, transaction.atomic(using=limited.alias):
        execute(limited.alias, "SET LOCAL statement_timeout = 50")
        execute(limited.alias, NAP)
    assert type(raised.value) is OperationalError
    assert isinstance(raised.value.__cause__, psycopg.errors.QueryCanceled)


def test_time_between_statements_does_not_count(make_database: MakeDatabase) -> None:
    """Neither a held connection nor a consumer of COPY or stream() that takes its time is stopped."""
    database = make_database(command_timeout=0.2, max_size=1)
    naps = threading.Event()
    with transaction.atomic(using=database.alias), database.connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        naps.wait(0.5)
        cursor.execute("SELECT 2")
        with cursor.copy("COPY (SELECT generate_series(1, 3)) TO STDOUT") as copy:
            for _ in copy:
                naps.wait(0.4)
        for _ in cursor.stream("SELECT generate_series(1, 3)"):
            naps.wait(0.4)
        assert cursor.connection is not None
        naps.wait(0.5)
        cursor.execute("SELECT 3")
        assert cursor.fetchone() == (3,)


def test_shared_wrapper_has_no_limit(make_database: MakeDatabase) -> None:
    """Of the threads that share a connection one waits for the other's statement without being late."""
    database = make_database(command_timeout=0.2, max_size=1)
    connection = database.connection
    connection.inc_thread_sharing()
    try:
        assert database.fetch("SELECT 1 FROM pg_sleep(0.6)") == 1
    finally:
        connection.dec_thread_sharing()


# -- neighbours ------------------------------------------------------------------------------------------------


def test_a_late_cancel_hits_nobody(make_database: MakeDatabase) -> None:
    """
    Statements that last about as long as they may, on few connections, beside borrowers of the same server without a
    limit: each gives its value or is too late, and whoever has no limit is never stopped.
    """
    limit = 0.05
    strict = make_database(command_timeout=limit, max_size=3)
    easy = make_database(max_size=3)
    stop = threading.Event()
    counts = {"value": 0, "late": 0, "transaction": 0, "easy": 0}

    def hurried(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(40):
            nap = max(0.0, chance.gauss(limit, limit / 10))
            try:
                if number % 4:
                    assert strict.fetch("SELECT %s::int FROM pg_sleep(%s)", number, nap) == number
                    counts["value"] += 1
                else:
                    # What follows in the same transaction is a neighbour too: it is fast, so it is never late.
                    with transaction.atomic(using=strict.alias):
                        assert strict.fetch("SELECT %s::int FROM pg_sleep(%s)", number, nap) == number
                        assert strict.fetch("SELECT %s::int", number) == number
                    counts["transaction"] += 1
            except LeaseTimedOut:
                counts["late"] += 1

    def calm() -> None:
        while not stop.is_set():
            assert easy.fetch("SELECT 7 FROM pg_sleep(0.06)") == 7
            counts["easy"] += 1

    calmly = [Task(calm) for _ in range(3)]
    tasks = [Task(hurried, seed) for seed in range(6)]
    for task in tasks:
        task.result(120)
    stop.set()
    for task in calmly:
        task.result()
    assert sum(counts.values()) - counts["easy"] == 240
    assert min(counts.values()) > 0, counts
    easy.assert_whole()
    # Not assert_whole(): on a busy machine any statement may take as long as the limit, which costs its connection.
    size = strict.settle().size
    assert wait_until(lambda: len(strict.backends()) == size, PATIENCE)


def test_each_side_looks_twice(limited: Database) -> None:
    """A statement that has ended is not cancelled; one that is announced to be waits for its cancellation."""
    with transaction.atomic(using=limited.alias):
        limited.backend()
        entry = limited.connection._entry
        watchdog.begin(entry, LIMIT)
        command = entry.command
        assert commands.end(entry) is None
        assert commands.announce(command, timed_out=True) is None
        assert entry.expires_at > 0

        watchdog.begin(entry, LIMIT)
        cancellation = commands.announce(entry.command, timed_out=True)
        assert cancellation is not None
        assert commands.announce(entry.command, timed_out=False) is None, "one of two is enough"
        ending = Task(commands.end, entry)
        assert cancellation.statement_over.wait(PATIENCE)
        ending.join(0.2)
        assert ending.is_alive()
        cancellation.start()
        assert ending.result() is cancellation
        assert (cancellation.cut, entry.expires_at) == (False, float("-inf"))
        assert limited.fetch("SELECT 1") == 1


def test_slow_threads_are_not_slow_statements(make_database: MakeDatabase) -> None:
    """A statement that has its result, but whose thread has not come to say so, is not cut off."""
    database = make_database(command_timeout=0.05, max_size=1)
    entry_of = connections[database.alias]
    with transaction.atomic(using=database.alias):
        database.backend()
        entry = entry_of._entry
        with watchdog.limited(entry, 0.05):
            assert not wait_until(lambda: entry.command.cancellation is not None, 0.5)
        assert database.fetch("SELECT 1") == 1


# -- the thread ------------------------------------------------------------------------------------------------


def test_watchdog_sleeps_when_nothing_runs(limited: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """No wake-ups between statements, but for one at the deadline of the last."""
    rounds: list[float] = []
    look = watchdog._look

    def counted(now: float) -> float:
        rounds.append(look(now))
        return rounds[-1]

    monkeypatch.setattr(watchdog, "_look", counted)
    limited.backend()
    assert wait_until(lambda: bool(rounds) and rounds[-1] == float("inf"), PATIENCE)
    before = len(rounds)
    threading.Event().wait(LIMIT)
    assert len(rounds) == before
    assert sum(thread.name == "dbpool-watchdog" for thread in threading.enumerate()) == 1


def test_child_of_a_fork_has_its_own(limited: Database) -> None:
    """The parent's thread and statements don't exist there; limits do."""
    limited.backend()
    sleeping = Task(execute, limited.alias, "SELECT pg_sleep(0.5)")
    assert wait_until(lambda: asleep(limited), PATIENCE)

    def child() -> str:
        assert not commands.running
        try:
            execute(limited.alias, NAP)
        except LeaseTimedOut:
            return "in time"
        return "never"

    assert Child(child).result() == "in time"
    sleeping.result()
