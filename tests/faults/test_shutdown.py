"""django_dbpool.shutdown(): what has begun is finished, what is new is refused, no connection is left."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from time import monotonic

import pytest
from django.core.signals import request_finished, request_started
from django.db import connections, transaction
from django.db.utils import OperationalError

import django_dbpool
from django_dbpool.core import reporter
from django_dbpool.errors import ShuttingDown
from django_dbpool.pool import background, stopping
from django_dbpool.pool.registry import pools
from testproject.postgres import EmbeddedServer
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Child, Database, Task
from tests.fixtures.workers import Step, Worker

MARGIN = 4.0
"""Seconds: the promised one, and what a busy machine adds."""


@pytest.fixture(autouse=True)
def _resumed() -> Iterator[None]:
    yield
    stopping.resume()


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker("worker")
    yield worker
    worker.stop()


def announced() -> bool:
    """And in force: between the two, the thread that does it suspends the pools."""
    return stopping.announced is not None and all(pool.gate.suspended for pool in pools())


def begin_request(path: str) -> None:
    request_started.send(sender=None, environ={"REQUEST_METHOD": "GET", "PATH_INFO": path})


def end_request() -> None:
    request_finished.send(sender=None)


def request(database: Database, path: str) -> int:
    begin_request(path)
    try:
        return database.backend()
    finally:
        end_request()


def test_nothing_runs(database: Database) -> None:
    """It returns at once, and from then on every lease is refused."""
    database.serve_at_once(3)
    result = django_dbpool.shutdown(timeout=PATIENCE)
    assert result.clean
    assert result.seconds < PATIENCE / 2
    assert wait_until(lambda: not database.backends(), PATIENCE)
    with pytest.raises(ShuttingDown, match="process is shutting down") as caught:
        database.backend()
    assert isinstance(caught.value, OperationalError)
    assert caught.value.retry_after > 0
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy)) == (ShuttingDown, str(caught.value))
    assert not database.backends()
    assert django_dbpool.shutdown(timeout=0) is result


def test_farewell_that_fails(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are said, the pools are closed, and nobody waits for it."""
    said: list[str] = []

    def fail() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(stopping, "farewells", [fail, lambda: said.append("farewell")])
    database.serve_at_once(2)
    start = monotonic()
    assert django_dbpool.shutdown(timeout=PATIENCE).clean
    assert monotonic() - start < PATIENCE / 2
    assert said == ["farewell"]
    assert wait_until(lambda: not database.backends(), PATIENCE)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "a last message of this process failed"
    ]


def test_request_that_began_before_is_finished(database: Database, worker: Worker) -> None:
    """Between its statements it holds nothing; it may lease again, also for the first time. New ones may not."""
    idle = Worker("idle")
    worker(begin_request, "/old/")
    worker(database.backend)
    idle(begin_request, "/old/without/query/")
    shutdown = Task(django_dbpool.shutdown, PATIENCE)
    assert wait_until(announced, PATIENCE)
    for _ in range(3):
        assert worker(database.backend)
    late = Task(request, database, "/new/")
    assert isinstance(late.error(), ShuttingDown)
    worker(end_request)
    assert isinstance(worker.start(request, database, "/next/on/this/thread/").exception(PATIENCE), ShuttingDown)
    assert shutdown.is_alive()
    assert idle(database.backend)
    idle(end_request)
    assert shutdown.result().clean
    assert wait_until(lambda: not database.backends(), PATIENCE)
    idle.stop()


def test_request_that_began_before_finds_an_alias_of_which_no_pool_was_made(
    make_database: MakeDatabase, worker: Worker
) -> None:
    """Its pool is as suspended as the others: nobody else gets its connections, and it is closed with them."""
    database = make_database(min_size=2)
    worker(begin_request, "/old/")
    shutdown = Task(django_dbpool.shutdown, PATIENCE)
    assert wait_until(announced, PATIENCE)
    assert worker(database.backend)
    assert isinstance(Task(request, database, "/new/").error(), ShuttingDown)
    worker(end_request)
    assert shutdown.result().clean
    assert wait_until(lambda: not database.backends(), PATIENCE)
    database.pool.housekeeping.tick()  # of the pool that looking made
    assert not database.backends()


def test_transaction_is_finished(database: Database, table: str, worker: Worker) -> None:
    """Also outside of a request: it commits, and its hooks may lease; its thread's next transaction may not."""
    step, hooked = Step(), []

    def write() -> None:
        with transaction.atomic(using=database.alias):
            with connections[database.alias].cursor() as cursor:
                cursor.execute(f"INSERT INTO {table} VALUES ('a')")
            step.wait()
            transaction.on_commit(lambda: hooked.append(database.backend()), using=database.alias)

    writing = worker.start(write)
    step.reached()
    shutdown = Task(django_dbpool.shutdown, PATIENCE)
    assert wait_until(announced, PATIENCE)
    step.go_on()
    writing.result(PATIENCE)
    assert len(hooked) == 1
    assert shutdown.result().clean
    assert isinstance(worker.start(database.backend).exception(PATIENCE), ShuttingDown)
    assert database.observer.execute(f"SELECT key FROM {table}").fetchall() == [("a",)]


def test_thread_of_no_unit_finishes_its_transaction_and_no_more(database: Database, table: str, worker: Worker) -> None:
    """Also while somebody else is still waited for. Its commit hook belongs to the transaction."""
    other, long, step = Worker("other"), Step(), Step()

    def hold() -> None:
        with transaction.atomic(using=database.alias):
            database.backend()
            long.wait()

    def write() -> list[object]:
        hooked: list[object] = []
        with transaction.atomic(using=database.alias):
            transaction.on_commit(lambda: hooked.append(database.backend()), using=database.alias)
            database.backend()
            step.wait()
        try:
            database.backend()
        except ShuttingDown as error:
            hooked.append(type(error))
        return hooked

    holding, writing = other.start(hold), worker.start(write)
    long.reached()
    step.reached()
    shutdown = Task(django_dbpool.shutdown, PATIENCE)
    assert wait_until(announced, PATIENCE)
    step.go_on()
    pid, refused = writing.result(PATIENCE)
    assert isinstance(pid, int)
    assert refused is ShuttingDown
    assert shutdown.is_alive()
    long.go_on()
    holding.result(PATIENCE)
    assert shutdown.result().clean
    other.stop()


def test_helper_of_a_request_may_lease(database: Database, worker: Worker) -> None:
    """A thread that a request has started doesn't know that it belongs to one."""
    worker(begin_request, "/old/")
    shutdown = Task(django_dbpool.shutdown, PATIENCE)
    assert wait_until(announced, PATIENCE)
    assert worker(lambda: Task(database.backend).result())
    worker(end_request)
    assert shutdown.result().clean


def test_circuit_does_not_open_the_door_again(database: Database, worker: Worker) -> None:
    """To suspend the hot path is the breaker's way, too."""
    known = Worker("known")
    known(request, database, "/first/")
    worker(begin_request, "/old/")
    shutdown = Task(django_dbpool.shutdown, PATIENCE)
    assert wait_until(lambda: database.pool.gate.suspended, PATIENCE)
    database.pool.breaker.isolate()
    database.pool.breaker.reset()
    assert isinstance(known.start(request, database, "/late/").exception(PATIENCE), ShuttingDown)
    worker(end_request)
    assert shutdown.result().clean
    known.stop()


def test_holder_may_need_another_alias(database: Database, make_database: MakeDatabase, worker: Worker) -> None:
    other, step = make_database(), Step()

    def copy() -> int:
        with transaction.atomic(using=database.alias):
            database.backend()
            step.wait()
            return other.backend()

    copying = worker.start(copy)
    step.reached()
    shutdown = Task(django_dbpool.shutdown, PATIENCE)
    assert wait_until(announced, PATIENCE)
    step.go_on()
    assert copying.result(PATIENCE)
    assert shutdown.result().clean


def test_those_who_queue_belong_to_what_has_begun(make_database: MakeDatabase) -> None:
    database = make_database(max_size=1)
    with database.holding():
        queued = Task(request, database, "/queued/")
        assert wait_until(lambda: database.pool.gate.waiting == 1, PATIENCE)
        shutdown = Task(django_dbpool.shutdown, PATIENCE)
        assert wait_until(announced, PATIENCE)
    assert queued.result()
    assert shutdown.result().clean


def test_timeout(database: Database, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """What is still held is named, goes on, and its connection is closed when it comes back. Nothing new for it."""
    step = Step()

    def hold() -> int:
        begin_request("/slow/")
        try:
            with transaction.atomic(using=database.alias):
                pid = database.backend()
                step.wait()
                assert database.backend() == pid
            with pytest.raises(ShuttingDown):
                database.backend()
            return pid
        finally:
            end_request()

    holding = worker.start(hold)
    step.reached()
    start = monotonic()
    with caplog.at_level(logging.WARNING, "django_dbpool.pool"):
        result = django_dbpool.shutdown(timeout=0.2)
    assert 0.2 <= monotonic() - start < 0.2 + MARGIN
    assert not result.clean
    (holder,) = result.held
    assert holder.unit == "GET (no route)"
    assert result.unfinished == ("GET (no route)",)
    assert "1 leases and 1 requests or tasks have not ended" in caplog.text
    assert "GET (no route)" in caplog.text
    assert len(database.backends()) == 1
    step.go_on()
    pid = holding.result(PATIENCE)
    assert wait_until(lambda: pid not in database.backends(), PATIENCE)


def test_whoever_still_queues_at_the_end_is_sent_away(make_database: MakeDatabase) -> None:
    database = make_database(max_size=1, timeout=600)
    with database.holding():
        queued = Task(request, database, "/queued/")
        assert wait_until(lambda: database.pool.gate.waiting == 1, PATIENCE)
        django_dbpool.shutdown(timeout=0.1)
        assert isinstance(queued.error(), ShuttingDown)


def test_many_callers_and_a_hasty_one(database: Database) -> None:
    """All wait for the same end; it can be brought nearer."""
    with database.holding():
        callers = [Task(django_dbpool.shutdown, 600.0) for _ in range(8)]
        assert wait_until(announced, PATIENCE)
        assert len(django_dbpool.shutdown(timeout=0.1).held) == 1
        assert {len(task.result().held) for task in callers} == {1}


def test_a_lease_of_the_caller_is_not_waited_for(database: Database, table: str) -> None:
    """A signal handler stands on top of the transaction that it would wait for."""
    with transaction.atomic(using=database.alias):
        with connections[database.alias].cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES ('a')")
        start = monotonic()
        result = django_dbpool.shutdown(timeout=PATIENCE)
        assert monotonic() - start < PATIENCE / 2
        assert len(result.held) == 1
        with connections[database.alias].cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES ('b')")
    assert database.observer.execute(f"SELECT count(*) FROM {table}").fetchone() == (2,)
    assert django_dbpool.shutdown(timeout=PATIENCE).clean
    assert wait_until(lambda: not database.backends(), PATIENCE)


def test_request_that_calls_it_may_go_on(database: Database) -> None:
    begin_request("/stop/")
    try:
        assert django_dbpool.shutdown(timeout=PATIENCE).unfinished == ("GET (no route)",)
        assert database.backend()
    finally:
        end_request()
    assert django_dbpool.shutdown(timeout=PATIENCE).clean
    assert wait_until(lambda: not database.backends(), PATIENCE)


def test_signal_on_top_of_a_lock(database: Database) -> None:
    """The interrupted code holds what the shutdown needs; the handler returns all the same, and then it is done."""
    database.backend()
    pool = database.pool
    for lock in (pool.gate._lock, pool._lock, pool.housekeeping._opening, pool.tally._lock, reporter._starting):
        seconds: list[float] = []

        def handle(*_: object, seconds: list[float] = seconds) -> None:
            start = monotonic()
            django_dbpool.shutdown(timeout=0.1)
            seconds.append(monotonic() - start)

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            with lock:
                signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert seconds[0] < 0.1 + MARGIN
        assert wait_until(lambda: not database.backends(), PATIENCE)
        stopping.resume()
        database.backend()
        pool = database.pool


def test_signal_on_top_of_a_shutdown(database: Database) -> None:
    results = []
    with database.holding():
        main = threading.main_thread().ident
        assert main is not None
        before = signal.signal(signal.SIGUSR1, lambda *_: results.append(django_dbpool.shutdown(timeout=0.1)))
        try:
            timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGUSR1))
            timer.start()
            results.append(django_dbpool.shutdown(timeout=600))
        finally:
            timer.join()
            signal.signal(signal.SIGUSR1, before)
        assert [len(result.held) for result in results] == [1, 1]


def test_child_is_not_shut_down_with_its_parent(database: Database) -> None:
    with database.holding():
        during = Task(django_dbpool.shutdown, PATIENCE)
        assert wait_until(announced, PATIENCE)
        assert Child(database.backend).result()
    assert during.result().clean
    assert Child(database.backend).result()
    assert Child(lambda: (database.backend(), django_dbpool.shutdown(5).clean)).result()[1]


def test_end_of_a_request_that_nobody_reported(database: Database) -> None:
    """Its thread is gone, and the shutdown doesn't wait for it."""
    Task(begin_request, "/lost/").result()
    database.backend()
    assert django_dbpool.shutdown(timeout=PATIENCE).clean


def test_lease_of_a_thread_that_is_gone(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reclaimed, not waited for; of a connection taken by hand nothing else tells that its thread has ended."""
    monkeypatch.setattr(background, "_tick", lambda: 60.0)  # the next round of the upkeep is a minute away
    connection = Task(database.pool.getconn).result()
    result = django_dbpool.shutdown(timeout=PATIENCE)
    assert result.clean
    assert connection.closed
    assert wait_until(lambda: not database.backends(), PATIENCE)


@pytest.mark.parametrize("busy", ["idle", "running", "opening"])
def test_frozen_server(make_database: MakeDatabase, server: EmbeddedServer, busy: str) -> None:
    """It lasts a second longer than its timeout at the most; nothing is left when the server is back."""
    server.start()
    database = make_database(server, max_size=4, connect_timeout=2)
    database.serve_at_once(2)
    running = Step()

    def hold() -> None:
        with transaction.atomic(using=database.alias):
            database.backend()
            running.wait()
            database.backend()

    tasks = [Task(hold)] if busy == "running" else []
    if busy == "running":
        running.reached()
    server.freeze()
    try:
        running.go_on()
        if busy == "opening":
            database.pool.resize(4, 4)
            tasks.append(Task(database.pool.housekeeping.tick))
            assert wait_until(database.pool.housekeeping._opening.locked, PATIENCE)
        start = monotonic()
        result = django_dbpool.shutdown(timeout=0.5)
        assert monotonic() - start < 0.5 + MARGIN
        assert result.clean is (busy != "running")
    finally:
        server.thaw()
    for task in tasks:
        task.result()
    assert wait_until(lambda: not database.backends(), PATIENCE)


def test_at_exit(session_server: object) -> None:
    """A daemon thread that goes on while the interpreter ends gets no new pool; nothing is printed."""
    script = (
        "import os, threading, atexit\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'\n"
        "import django; django.setup()\n"
        "from django.db import connection\n"
        "connection.settings_dict['NAME'] = 'postgres'\n"
        "from django_dbpool.pool import registry, stopping\n"
        "import django_dbpool\n"
        "def late():\n"
        "    from django_dbpool.errors import ShuttingDown\n"
        "    try:\n"
        "        connection.ensure_connection()\n"
        "    except ShuttingDown:\n"
        "        print('refused', len(registry.pools()[0].entries), django_dbpool.shutdown(1).clean)\n"
        "atexit.unregister(registry._close_at_exit)\n"
        "atexit.register(late)\n"
        "atexit.register(registry._close_at_exit)\n"
        "connection.ensure_connection()\n"
        "connection.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=os.environ)
    assert (done.stdout, done.stderr, done.returncode) == ("refused 0 True\n", "", 0)


def test_import_is_cheap() -> None:
    code = "import sys, django_dbpool; print([m for m in ('django', 'psycopg', 'psycopg_pool') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.stdout == "[]\n", done.stderr
