"""Observers that raise, hang, flood, lease or fork: no query is slower or broken, and nobody else misses anything."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from statistics import median
from time import monotonic
from typing import Any

import pytest

import django_dbpool
from django_dbpool.core import events, reporter
from django_dbpool.core.events import ConnectionClosed, ConnectionOpened, Event, Subscription
from django_dbpool.pool import stopping
from testproject.postgres import Server
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Child, Database, Task

ROUNDS = 8
"""Each opens a connection and closes it, which are two events."""

forking = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

Observe = Callable[..., Subscription]


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What an observer that hangs is waiting for; set at the end of the test, if not before."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def observe(release: threading.Event) -> Iterator[Observe]:
    """``events.subscribe``; the threads have ended with the test."""
    made: list[Subscription] = []

    def subscribe(*args: Any, **options: Any) -> Subscription:
        made.append(events.subscribe(*args, **options))
        return made[-1]

    yield subscribe
    release.set()
    for each in made:
        each.close(PATIENCE)
    names = {f"dbpool-{each.name}" for each in made}
    assert wait_until(lambda: not names & {thread.name for thread in threading.enumerate()}, PATIENCE), names


@pytest.fixture
def job(release: threading.Event) -> Iterator[Callable[..., None]]:
    """``reporter.register``; at the end nothing is registered any more and no call is under way."""
    calls: dict[str, threading.Lock] = {}

    def register(name: str, call: Callable[[], object], interval: float = 0.01) -> None:
        calls[name] = threading.Lock()

        def tracked() -> None:
            with calls[name]:
                call()

        reporter.register(name, tracked, interval=interval)

    yield register
    release.set()
    for name, running in calls.items():
        reporter.unregister(name)
        assert running.acquire(timeout=PATIENCE), name


@pytest.fixture
def witness(observe: Observe, database: Database) -> Witness:
    return Witness(observe, database.alias)


class Witness:
    """Another observer, which does nothing wrong."""

    def __init__(self, observe: Observe, alias: str) -> None:
        self.seen: list[Event] = []
        self._alias = alias
        self.subscription = observe("witness", self._see)

    def _see(self, event: Event) -> None:
        if event.alias == self._alias and isinstance(event, ConnectionOpened | ConnectionClosed):
            self.seen.append(event)

    def saw(self, rounds: int = ROUNDS) -> bool:
        """Whether it has been told of every connection that was opened and closed, in their order."""
        expected = [ConnectionOpened, ConnectionClosed] * rounds
        wait_until(lambda: len(self.seen) >= len(expected), PATIENCE)
        return [type(event) for event in self.seen] == expected


def work(database: Database, rounds: int = ROUNDS) -> list[float]:
    """Seconds of each round: connect, three statements, disconnect."""
    seconds = []
    for number in range(rounds):
        began = monotonic()
        assert [database.fetch("SELECT %s + 0", number) for _ in range(2)] == [number] * 2
        with database.connection.cursor() as cursor:
            cursor.execute("LISTEN pins_it")  # so that it is closed at the end
        database.connection.close()
        seconds.append(monotonic() - began)
    return seconds


def assert_as_fast(watched: list[float], unwatched: list[float]) -> None:
    """A wide margin, since other programs run here too; an observer that is waited for would cost far more."""
    assert len(watched) == len(unwatched)
    assert median(watched) < 5 * median(unwatched) + 0.02


ERRORS = [ValueError("observer"), SystemExit("observer")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_raises(database: Database, observe: Observe, caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    """For every event: each is counted, one line is logged, and the observers before and after it hear of all."""
    unwatched = work(database)

    def handler(event: Event) -> None:
        raise error

    before = Witness(observe, database.alias)
    bad = observe("bad", handler)
    after = Witness(lambda _, handler: observe("after", handler), database.alias)
    assert_as_fast(work(database), unwatched)
    assert before.saw() and after.saw()
    assert bad.flush(PATIENCE)
    assert bad.failures >= 2 * ROUNDS
    records = [record for record in caplog.records if record.name == "django_dbpool.events"]
    assert [(record.levelno, record.exc_info and record.exc_info[1]) for record in records] == [(logging.ERROR, error)]


def test_raises_and_so_does_the_log(database: Database, observe: Observe, break_log: Callable[[str], None]) -> None:
    """Its thread survives that too."""
    handled = []

    def handler(event: Event) -> None:
        handled.append(event)
        raise ValueError("observer")

    bad = observe("bad", handler)
    break_log(events.logger.name)
    work(database)
    assert bad.flush(PATIENCE)
    assert bad.failures == len(handled) >= 2 * ROUNDS


def test_hangs(database: Database, observe: Observe, witness: Witness, release: threading.Event) -> None:
    """Until the queries are done: none has waited for it. Then it hears of everything after all."""
    unwatched = work(database)
    assert witness.saw()
    witness.seen.clear()
    handled: list[Event] = []

    def handler(event: Event) -> None:
        assert release.wait(PATIENCE)
        handled.append(event)

    hanging = observe("hanging", handler)
    assert_as_fast(work(database), unwatched)
    assert not handled
    assert witness.saw()
    release.set()
    assert hanging.flush(PATIENCE)
    assert (len(handled) >= 2 * ROUNDS, hanging.dropped, hanging.failures) == (True, 0, 0)


def test_falls_behind(database: Database, observe: Observe, release: threading.Event) -> None:
    """The oldest events are dropped and counted, the newest are kept; nothing is ever handled twice."""
    first = threading.Event()
    handled: list[Event] = []

    def handler(event: Event) -> None:
        handled.append(event)
        first.set()
        assert release.wait(PATIENCE)

    slow = observe("slow", handler, limit=5)
    work(database, 1)
    assert first.wait(PATIENCE)
    published: list[Event] = []
    observe("witness", published.append)
    work(database)
    assert events.subscribers[-1].flush(PATIENCE)
    release.set()
    assert slow.flush(PATIENCE)
    assert handled[-5:] == published[-5:]
    assert slow.dropped >= len(published) - 5 > 0
    assert len({id(event) for event in handled}) == len(handled) <= 7


FLOOD = 1_000_000


def test_flood(database: Database, observe: Observe, release: threading.Event) -> None:
    """A million events for one that hangs and one that works: bounded memory, every event handled or counted."""
    unwatched = work(database)
    flood = Event(alias="flood")
    counts = {"hanging": 0, "working": 0}

    def hang(event: Event) -> None:
        assert release.wait(PATIENCE)
        counts["hanging"] += event is flood

    def count(event: Event) -> None:
        counts["working"] += event is flood

    flooded = [observe("hanging", hang), observe("working", count)]

    def publish() -> None:
        for _ in range(FLOOD // 2):
            events.publish(flood)

    events.publish(flood)
    assert wait_until(lambda: counts["working"] == 1, PATIENCE)
    before = sys.getallocatedblocks()
    flooding = [Task(publish) for _ in range(2)]
    watched = work(database)
    for task in flooding:
        task.result(2 * PATIENCE)
    assert sys.getallocatedblocks() - before < FLOOD / 5  # each event that waits is at least one
    # Two threads have kept an interpreter busy meanwhile; that much any thread would have cost.
    assert median(watched) < 50 * median(unwatched) + 0.5
    assert flooded[0]._queue.qsize() <= events.LIMIT + 2
    release.set()
    for each in flooded:
        assert each.flush(PATIENCE)
        rest = 3 * ROUNDS  # events of the queries, dropped perhaps
        assert FLOOD + 1 <= counts[each.name] + each.dropped <= FLOOD + 1 + rest
    assert flooded[0].dropped >= FLOOD - events.LIMIT


@pytest.mark.parametrize("max_size", [1, 4])
def test_leases_from_the_same_pool(make_database: MakeDatabase, observe: Observe, max_size: int) -> None:
    """It waits for its turn like everybody; what it causes itself comes to an end."""
    database = make_database(max_size=max_size)
    found: list[int] = []

    def handler(event: Event) -> None:
        if event.alias == database.alias:
            try:
                found.append(database.fetch("SELECT 1"))
            finally:
                database.connection.close()

    leasing = observe("leasing", handler)
    tasks = [Task(work, database) for _ in range(3)]
    assert [len(task.result()) for task in tasks] == [ROUNDS] * 3
    database.settle()

    def quiet() -> bool:
        seen = len(found)
        return leasing.flush(PATIENCE) and leasing._queue.qsize() == 0 and len(found) == seen

    assert wait_until(quiet, PATIENCE)
    assert (leasing.failures, leasing.dropped) == (0, 0)
    assert len(found) >= 2 * ROUNDS * 3
    database.assert_whole()


@forking
def test_forks(database: Database, observe: Observe, witness: Witness) -> None:
    """In its handler, and goes on in the child as if nothing had happened: the child ends, and tells nothing twice."""
    read, write = os.pipe()
    parent = os.getpid()
    children: list[int] = []

    def handler(event: Event) -> None:
        os.write(write, f"{os.getpid()}\n".encode())
        if not children:
            children.append(os.fork())

    forking = observe("forking", handler)
    work(database)
    assert witness.saw()
    forking.close(PATIENCE)
    assert wait_until(lambda: os.waitpid(children[0], os.WNOHANG)[0] == children[0], PATIENCE)
    os.close(write)
    with os.fdopen(read) as pipe:
        handled = pipe.read().split()
    assert set(handled) == {str(parent)}
    assert len(handled) >= 2 * ROUNDS
    database.assert_whole()


@forking
def test_hangs_when_the_process_forks(
    database: Database, observe: Observe, witness: Witness, release: threading.Event
) -> None:
    """The child starts with an empty queue and a thread of its own; what waits is the parent's."""
    parent = os.getpid()
    handled: list[Event] = []

    def handler(event: Event) -> None:
        assert os.getpid() != parent or release.wait(PATIENCE)
        if event.alias == database.alias:
            handled.append(event)

    hanging = observe("hanging", handler)
    work(database)
    assert witness.saw()

    def child() -> tuple[bool, int]:
        work(database, 3)
        return events.flush(PATIENCE), len(handled)

    assert Child(child).result() == (True, 9)
    assert not handled
    release.set()
    assert hanging.flush(PATIENCE)
    assert len(handled) == 3 * ROUNDS  # opened, waited for, closed


def test_closing_does_not_wait_for_one_that_hangs(
    database: Database, observe: Observe, release: threading.Event
) -> None:
    """Nor does replacing it by another of its name."""
    hanging = observe("hanging", lambda event: release.wait(PATIENCE))
    work(database, 1)
    handled: list[Event] = []
    began = monotonic()
    observe("hanging", handled.append)
    hanging.close(0.05)
    assert monotonic() - began < PATIENCE / 3
    work(database, 1)
    assert wait_until(lambda: len(handled) >= 2, PATIENCE)


def test_closed_twice(database: Database, observe: Observe) -> None:
    """Nobody waits for a thread that has ended."""
    handled: list[Event] = []
    subscription = observe("closed", handled.append)
    work(database, 1)
    subscription.close(PATIENCE)
    assert len(handled) >= 2
    began = monotonic()
    subscription.close(PATIENCE)
    assert subscription.flush(PATIENCE)
    assert monotonic() - began < PATIENCE / 3


@pytest.fixture
def _resumed() -> Iterator[None]:
    yield
    stopping.resume()


@pytest.mark.usefixtures("_resumed")
@pytest.mark.parametrize("late", [False, True], ids=["all the time", "at the end"])
def test_shutdown_does_not_wait_for_those_that_hang(
    database: Database, observe: Observe, job: Callable[..., None], release: threading.Event, late: bool
) -> None:
    """Whatever is told of the shutdown, it is over soon after the leases are."""
    called, ending = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        called.set()
        if not late or ending.is_set():
            release.wait(2 * PATIENCE)

    observe("hanging", hang)
    job("hanging", hang, interval=PATIENCE)
    work(database, 1)
    assert called.wait(PATIENCE)
    ending.set()
    began = monotonic()
    assert django_dbpool.shutdown(timeout=PATIENCE).clean
    assert monotonic() - began < PATIENCE / 3


EXIT = """
import json, sys, threading, django
from django.conf import settings
database = {"ENGINE": "django_dbpool.backends.postgresql", **json.loads(sys.argv[1])}
settings.configure(INSTALLED_APPS=["django_dbpool"], DATABASES={"default": database})
django.setup()
from django.db import connection
from django_dbpool.core import events, reporter
hanging = threading.Semaphore(0)
late = threading.Event()
def hang(*_):
    hanging.release()
    threading.Event().wait()
def hang_late():
    hanging.release()
    if late.is_set():
        threading.Event().wait()
events.subscribe("hanging", hang)
reporter.register("late", hang_late, interval=1000, last=True)
reporter.register("hanging", hang, interval=1000, last=True)
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
for _ in range(3):
    hanging.acquire()
late.set()
print("all hang")
"""


def test_interpreter_does_not_wait_for_those_that_hang(session_server: Server) -> None:
    """At its end, without a shutdown; a job that hangs all the time, one at the end, and an observer."""
    database = json.dumps(session_server.django())
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXIT, database], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "all hang\n", "")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_job_raises(
    database: Database, job: Callable[..., None], caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Each time: one line is logged, it is called again, and so are the others."""
    unwatched = work(database)
    called = {"bad": 0, "good": 0}

    def bad() -> None:
        called["bad"] += 1
        raise error

    def good() -> None:
        called["good"] += 1

    job("bad", bad)
    job("good", good)
    assert_as_fast(work(database), unwatched)
    assert wait_until(lambda: min(called.values()) >= 3, PATIENCE), called
    records = [record for record in caplog.records if record.name == "django_dbpool.reporter"]
    assert [(record.levelno, record.exc_info and record.exc_info[1]) for record in records] == [(logging.ERROR, error)]


def test_job_raises_and_so_does_the_log(
    database: Database, job: Callable[..., None], break_log: Callable[[str], None]
) -> None:
    """The thread of all jobs survives that too."""
    called: list[None] = []

    def bad() -> None:
        called.append(None)
        raise ValueError("job")

    break_log(reporter.logger.name)
    job("bad", bad)
    work(database, 1)
    assert wait_until(lambda: len(called) >= 3, PATIENCE)


def test_job_hangs(database: Database, job: Callable[..., None], release: threading.Event) -> None:
    """Queries go on, a flush does not wait for it, and once it returns the other jobs go on too."""
    unwatched = work(database)
    hangs, good = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        assert release.wait(PATIENCE)

    job("hanging", hang)
    work(database, 1)
    assert hangs.wait(PATIENCE)
    job("good", good.set)
    assert_as_fast(work(database), unwatched)
    Task(reporter.flush).result()
    assert good.is_set()
    good.clear()
    release.set()
    assert wait_until(good.is_set, PATIENCE)
