"""A pool in an overload, with threads that really wait for a real server."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest

from django_dbpool.core.gate import CROWD
from django_dbpool.errors import PoolExhausted, PoolOverloaded
from testproject.postgres import EmbeddedServer
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task

CROWDED = {"max_size": 1, "timeout": PATIENCE, "queue_target": 0.01, "queue_interval": 0.1}


def waits(database: Database, count: int) -> bool:
    return database.pool.gate.waiting == count


@contextmanager
def overloaded(database: Database) -> Iterator[list[Task]]:
    """A crowd in front of a connection that is not given back; nobody has been told yet."""
    with database.holding():
        tasks = [Task(database.backend) for _ in range(CROWD + 2)]
        yield tasks
    for task in tasks:
        task.join(PATIENCE)


def test_a_crowd_that_stands_too_long_is_shed_and_newcomers_are_refused_at_once(make_database: MakeDatabase) -> None:
    database = make_database(**CROWDED)
    with overloaded(database) as tasks:
        assert wait_until(lambda: waits(database, 1), PATIENCE)
        start = monotonic()
        with pytest.raises(PoolOverloaded) as caught:
            database.backend()
        assert monotonic() - start < PATIENCE / 3
    error = caught.value
    assert isinstance(error, PoolExhausted)
    assert (error.alias, error.in_use, error.max_size, error.waiting) == (database.alias, 1, 1, 1)
    assert error.waited < PATIENCE / 3
    assert error.cycle == ()
    assert "overloaded, refused after" in str(error)
    assert 'queue_target"] = 0.01 s' in str(error)
    assert str(error.holders[0]) in str(error)
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied), vars(copied)) == (PoolOverloaded, str(error), vars(error))
    served = [task for task in tasks if task.error() is None]
    assert len(served) == 1, "as many as there are connections are kept, and served"
    assert all(isinstance(task.error(), PoolOverloaded) for task in tasks if task not in served)
    database.assert_whole()


def test_without_a_target_nobody_is_shed(make_database: MakeDatabase) -> None:
    database = make_database(**{**CROWDED, "queue_target": None})
    with overloaded(database) as tasks:
        assert wait_until(lambda: waits(database, len(tasks)), PATIENCE)
        assert database.pool.gate.codel is None
    assert all(task.result() for task in tasks)


def test_the_queue_of_an_outage_is_no_overload(make_database: MakeDatabase, server: EmbeddedServer) -> None:
    """However many wait for a server that comes back after more than an interval: all are served."""
    retry = {"total": PATIENCE, "attempts": 1000, "max_delay": 0.1}
    database = make_database(server, max_size=1, timeout=PATIENCE, queue_target=0.05, queue_interval=1.5, retry=retry)
    database.backend()
    server.stop()
    tasks = [Task(database.backend) for _ in range(4 * CROWD)]
    since = monotonic()
    assert wait_until(lambda: monotonic() - since > 3.0 or any(not task.is_alive() for task in tasks), PATIENCE)
    server.start()
    assert [task.error() for task in tasks] == [None] * len(tasks)


def test_one_beyond_the_longest_queue_is_refused_at_once(make_database: MakeDatabase) -> None:
    database = make_database(max_size=1, max_waiting=1, timeout=PATIENCE)
    with database.holding():
        task = Task(database.backend)
        assert wait_until(lambda: waits(database, 1), PATIENCE)
        start = monotonic()
        with pytest.raises(PoolOverloaded, match=r'callers wait as POOL\["max_waiting"\] = 1 allows'):
            database.backend()
        assert monotonic() - start < PATIENCE / 3
    assert task.result()


def test_holders_are_looked_at_once_a_second_however_many_are_refused(make_database: MakeDatabase) -> None:
    """What the others are told says how old it is."""
    database = make_database(max_size=2, max_waiting=1, timeout=PATIENCE)
    database.serve_at_once(2)
    with database.holding(2):
        waiter = Task(database.backend)
        assert wait_until(lambda: waits(database, 1), PATIENCE)
        began = monotonic()
        errors = [task.error() for task in [Task(database.backend) for _ in range(200)]]
        seconds = monotonic() - began
        assert database.pool.captured.captures <= seconds + 1
        with pytest.raises(PoolOverloaded) as caught:
            database.backend()
    assert waiter.result()
    assert all(isinstance(error, PoolOverloaded) and len(error.holders) == 2 for error in errors)
    old = caught.value
    assert 0 < old.holders_age < 1
    assert f"The holders {old.holders_age:.1f} s ago:" in str(old)
    assert all("holding" in "".join(holder.stack) for holder in old.holders)
