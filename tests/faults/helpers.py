"""Threads and processes whose outcome counts, and what the server says of their connections."""

from __future__ import annotations

import faulthandler
import itertools
import os
import pickle
import select
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import psycopg
from django.db import connections, transaction

from django_dbpool.core.ledger import Holder
from django_dbpool.pool.managed import ManagedPool
from django_dbpool.pool.reporting import PoolSnapshot
from testproject.processes import gone, wait_until

PATIENCE = 30.0
"""Seconds after which a test that waits for something gives up; never a measure of speed."""

STACKS = signal.SIGUSR2
"""Makes this process or a forked child tell where it is, even within fork()."""

faulthandler.register(STACKS, file=sys.__stderr__ or 2)

_numbers = itertools.count(1)


class Task(threading.Thread):
    """A started thread that keeps what its function returned or raised."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(name=f"task-{next(_numbers)}", daemon=True)
        self._call: Any = (function, args)
        self._value: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        function, args = self._call
        self._call = None
        try:
            self._value = function(*args)
        except BaseException as error:
            self._error = error

    def error(self, timeout: float = PATIENCE) -> BaseException | None:
        self.join(timeout)
        assert not self.is_alive(), f"{self.name} has not ended"
        return self._error

    def result(self, timeout: float = PATIENCE) -> Any:
        if (error := self.error(timeout)) is not None:
            raise error
        return self._value


class Database:
    """A pooled alias of one test, and an observer on its server that no pool knows of."""

    def __init__(self, alias: str, application: str, observer: psycopg.Connection[Any]) -> None:
        self.alias = alias
        self.application = application
        self.observer = observer

    @property
    def connection(self) -> Any:
        return connections[self.alias]

    @property
    def pool(self) -> ManagedPool:
        pool = self.connection.pool
        assert isinstance(pool, ManagedPool)
        return pool

    def fetch(self, sql: str, *params: Any) -> Any:
        """The first column of the first row."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            row = cursor.fetchone()
        return row[0]

    def backend(self) -> int:
        pid = self.fetch("SELECT pg_backend_pid()")
        assert isinstance(pid, int)
        return pid

    def backends(self) -> set[int]:
        """The sessions that the server has for this alias, in whatever process of ours they are used."""
        rows = self.observer.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", [self.application])
        return {pid for (pid,) in rows}

    @contextmanager
    def holding(self, count: int = 1) -> Iterator[list[int]]:
        """Have ``count`` threads in transactions while the block runs; gives their backends."""
        release = threading.Event()
        held: list[int] = []

        def hold() -> None:
            with transaction.atomic(using=self.alias):
                held.append(self.backend())
                release.wait(PATIENCE)

        tasks = [Task(hold) for _ in range(count)]
        try:
            assert wait_until(lambda: len(held) == count, PATIENCE)
            yield held
        finally:
            release.set()
            for task in tasks:
                task.result()

    def serve_at_once(self, count: int) -> set[int]:
        """Have ``count`` threads in transactions at the same moment; their backends, all different."""
        together = threading.Barrier(count)

        def use() -> int:
            with transaction.atomic(using=self.alias):
                pid = self.backend()
                together.wait(PATIENCE)
            return pid

        tasks = [Task(use) for _ in range(count)]
        pids = {task.result() for task in tasks}
        assert len(pids) == count
        return pids

    def holder(self, state: str = "running") -> Holder:
        """The only one, once it is in this state."""
        found: list[Holder] = []

        def there() -> bool:
            found[:] = [each for each in self.pool.holders() if each.state == state and each.generation >= 0]
            return len(found) == 1

        assert wait_until(there, PATIENCE), self.pool.holders()
        return found[0]

    def settle(self) -> PoolSnapshot:
        """The pool's numbers once nobody holds or waits for anything; fails if that does not come."""

        def settled() -> bool:
            now = self.pool.snapshot()
            return now.in_use == now.waiting == now.opening == 0 and now.size == now.idle

        assert wait_until(settled, PATIENCE), (self.pool.snapshot(), self.pool.holders())
        return self.pool.snapshot()

    def assert_whole(self) -> None:
        """No slot is lost: the counts agree with each other and with the server, and all of max_size is served."""
        size = self.pool.gate.max_size
        self.settle()
        self.serve_at_once(size)
        snapshot = self.settle()
        assert (snapshot.size, snapshot.idle) == (size, size)
        assert wait_until(lambda: len(self.backends()) == size, PATIENCE), self.backends()
        assert len(set(self.pool.gate.free)) == len(self.pool.gate.free)


class Child:
    """A forked child that runs ``body``, reports what came of it, and ends without Python's clean-up."""

    def __init__(self, body: Callable[[], Any]) -> None:
        read, write = os.pipe()
        with warnings.catch_warnings():
            # Since 3.12 for every fork of a process with threads, which is what is tested here.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            self._report(body, write)
        os.close(write)
        self._read = read

    def _report(self, body: Callable[[], Any], write: int) -> None:
        try:
            answer = (True, body())
        except BaseException:
            answer = (False, traceback.format_exc())
        try:
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(answer, pipe)
        finally:
            os._exit(0)

    def result(self) -> Any:
        answer = self._answer()
        end_of(self.pid)
        assert answer, "the child ended without an answer"
        good, value = pickle.loads(answer)
        assert good, value
        return value

    def _answer(self) -> bytes:
        parts, deadline = [], monotonic() + PATIENCE
        try:
            while select.select([self._read], [], [], max(0.0, deadline - monotonic()))[0]:
                if not (part := os.read(self._read, 65536)):
                    break
                parts.append(part)
            else:
                # It hangs, and says where, or a child of its own has the pipe.
                os.kill(self.pid, STACKS)
                wait_until(lambda: gone(self.pid), 1)
                os.kill(self.pid, signal.SIGKILL)
        finally:
            os.close(self._read)
        return b"".join(parts)


def end_of(pid: int) -> tuple[int, int]:
    """What waitpid() says of a child; one that hangs is killed."""
    ended = (0, 0)

    def has_ended() -> bool:
        nonlocal ended
        ended = os.waitpid(pid, os.WNOHANG)
        return ended[0] == pid

    if wait_until(has_ended, 2 * PATIENCE):
        return ended
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
