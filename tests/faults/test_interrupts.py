"""Real asynchronous exceptions and signals, in those who wait for a connection and in those who use one."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import Error, transaction

from django_dbpool.pool import housekeeping
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* was deleted while still open:ResourceWarning"),
    # An interrupt in a destructor: Python reports and drops it.
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]


class TimeLimit(BaseException):
    """As Celery's soft time limit or a greenlet's exit: not an Exception."""


def interrupt(thread: threading.Thread, error: type[BaseException]) -> None:
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(error))


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_hundred_waiters_interrupted(make_database: MakeDatabase, mode: str) -> None:
    """Each ends with its KeyboardInterrupt, the queue is empty then, and no slot is missing."""
    database = make_database(mode=mode, max_size=8, timeout=PATIENCE)
    with database.holding(8):
        tasks = [Task(database.backend) for _ in range(100)]
        assert wait_until(lambda: database.pool.gate.waiting == 100, PATIENCE)
        for task in tasks:
            interrupt(task, KeyboardInterrupt)
        assert {type(task.error()) for task in tasks} == {KeyboardInterrupt}
        assert database.pool.gate.waiting == 0
        assert database.pool.gate.attention == 0
    database.assert_whole()


def origin(error: BaseException | None) -> BaseException | None:
    """The first of the exceptions in whose handling the others were raised."""
    while error is not None and error.__context__ is not None:
        error = error.__context__
    return error


def test_waiters_interrupted_while_slots_are_handed_over(database: Database) -> None:
    """Every one of 200 callers is either served or interrupted, and what was on its way goes to another one."""
    served = []
    # No Event: a thread that is struck in its lock would never give it back.
    # https://github.com/python/cpython/issues/74174
    all_struck: list[bool] = []

    def use() -> None:
        for _ in range(20):
            with transaction.atomic(using=database.alias):
                served.append(database.backend())
        # The system gives the number of a thread that has ended to the next one.
        assert wait_until(lambda: bool(all_struck), PATIENCE)

    tasks = [Task(use) for _ in range(200)]
    for task in tasks[::2]:
        interrupt(task, KeyboardInterrupt)
    all_struck.append(True)
    errors = [task.error(timeout=60) for task in tasks]
    assert {type(error) for error in errors[1::2]} == {type(None)}
    # Struck between Django's COMMIT and its set_autocommit(True), atomic() ends with the driver's complaint about that.
    assert {type(origin(error)) for error in errors[::2]} <= {KeyboardInterrupt, type(None)}
    assert KeyboardInterrupt in {type(error) for error in errors}
    assert len(served) >= 100 * 20
    database.assert_whole()


WAITING_PROGRAM = """
import os, signal, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us in the background
import django
from django.db import connection, transaction
django.setup()
pool = connection.pool
held, release = threading.Event(), threading.Event()
def hold():
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        held.set()
        release.wait()
def kill_when_waiting():
    while not pool.gate.waiting:
        held.wait(0.001)
    os.kill(os.getpid(), signal.SIGINT)
holders = [threading.Thread(target=hold) for _ in range(pool.max_size)]
for thread in holders:
    held.clear()
    thread.start()
    held.wait()
for _ in range(20):
    killer = threading.Thread(target=kill_when_waiting)
    killer.start()
    try:
        connection.cursor().execute("SELECT 1")
        raise SystemExit("was served")
    except KeyboardInterrupt:
        pass
    killer.join()
    assert not (pool.gate.waiting or pool.gate.attention), pool.snapshot()
release.set()
for thread in holders:
    thread.join()
snapshot = pool.snapshot()
assert (snapshot.in_use, snapshot.idle, snapshot.size) == (0, 2, 2), snapshot
with transaction.atomic(), connection.cursor() as cursor:
    cursor.execute("SELECT 1")
print("no slot lost")
"""


def test_sigint_in_the_waiting_main_thread(session_server: Any) -> None:
    """Ctrl-C ends the wait, twenty times, and costs nothing."""
    # Not measured: the tracer runs code of its own between the taking of a lock and the block that gives it back, and
    # an interrupt there would leave it taken.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}
    environment["DJANGO_SETTINGS_MODULE"] = "tests.faults.preloaded_settings"
    done = subprocess.run(
        [sys.executable, "-c", WAITING_PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (0, "no slot lost\n"), done.stderr


@pytest.fixture
def signalled() -> Iterator[type[BaseException]]:
    """SIGUSR1 raises TimeLimit in the main thread, as Celery's soft time limit does."""

    def strike(number: int, frame: object) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGUSR1, strike)
    yield TimeLimit
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("in_block", [False, True], ids=["autocommit", "atomic"])
def test_query_of_an_interrupted_caller_is_cancelled(
    database: Database, signalled: type[BaseException], in_block: bool
) -> None:
    """The server does not go on with a query whose caller is gone, and its connection serves nobody else."""
    active = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND state = 'active' AND query LIKE %s"

    def running() -> bool:
        params = [database.application, "%pg_sleep%"]
        return database.observer.execute(active, params).fetchone() is not None

    def strike_when_running() -> None:
        assert wait_until(running, PATIENCE)
        os.kill(os.getpid(), signal.SIGUSR1)

    for _ in range(3):
        striker = Task(strike_when_running)
        with pytest.raises(signalled):
            if in_block:
                with transaction.atomic(using=database.alias):
                    database.fetch("SELECT pg_sleep(600)")
            else:
                database.fetch("SELECT pg_sleep(600)")
        striker.result()
        assert wait_until(lambda: not running(), PATIENCE)
        assert database.pool.snapshot().in_use == 0
    database.assert_whole()


class Fuzzed:
    """Threads that use the pool in every way while exceptions rain on them."""

    def __init__(self, database: Database, threads: int) -> None:
        self.database = database
        self.stop = threading.Event()
        self.struck = 0
        self.rounds = 0
        self.tasks = [Task(self.run, number) for number in range(threads)]

    def run(self, number: int) -> None:
        dice = random.Random(number)
        while not self.stop.is_set():
            try:
                self.use(f"{number}", dice)
                self.rounds += 1
            except TimeLimit:
                self.struck += 1
            except Error:
                pass  # what the interrupt had closed was used once more
            finally:
                self.database.connection.close()

    def use(self, me: str, dice: random.Random) -> None:
        database = self.database
        kind = dice.randrange(4)
        if kind == 0:
            assert database.fetch("SELECT %s::text", me) == me
        elif kind == 1:
            with transaction.atomic(using=database.alias):
                database.fetch("SELECT set_config('faults.me', %s, true)", me)
                assert database.fetch("SELECT current_setting('faults.me')") == me
        elif kind == 2:
            with database.connection.chunked_cursor() as cursor:
                cursor.execute("SELECT %s::text FROM generate_series(1, 5)", [me])
                assert cursor.fetchall() == [(me,)] * 5
        else:
            database.fetch("SELECT set_config('faults.me', %s, false)", me)
            assert database.fetch("SELECT current_setting('faults.me')") == me

    def rain(self, strokes: int) -> None:
        dice = random.Random(strokes)
        while self.struck < strokes and (alive := [task for task in self.tasks if task.is_alive()]):
            interrupt(dice.choice(alive), TimeLimit)
            self.let_them_run()
        self.stop.set()

    def let_them_run(self) -> None:
        """Until the last exception has struck, or its thread would have met it if it still lived."""
        rounds, struck = self.rounds, self.struck
        wait_until(lambda: self.struck > struck or self.rounds > rounds + 20, PATIENCE)


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_rain_of_exceptions(make_database: MakeDatabase, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of them at random moments: nobody ever reads another's value, and no slot stays lost."""
    database = make_database(mode=mode, max_size=3, timeout=PATIENCE)
    fuzzed = Fuzzed(database, threads=8)
    fuzzed.rain(300)
    errors = [task.error() for task in fuzzed.tasks]
    # A stroke may fall between the two try blocks of run(): such a thread ends with it, as any program's would.
    assert {type(error) for error in errors} <= {type(None), TimeLimit}, errors
    assert fuzzed.struck >= 300 or not any(error is None for error in errors)
    del errors, fuzzed  # tracebacks, which refer to connections
    gc.collect()
    monkeypatch.setattr(housekeeping, "LOST_AFTER", 0.0)  # all threads have ended
    database.pool.housekeeping.reclaim_lost()
    database.assert_whole()
