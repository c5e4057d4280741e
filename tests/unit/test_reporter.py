"""The thread that looks from time to time: when it runs, and what it does with jobs that fail."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from django_dbpool.core import reporter, tally
from django_dbpool.pool import background
from testproject.processes import wait_until

PATIENCE = 20.0


@pytest.fixture(autouse=True)
def own_jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only those of a test, and a thread of its own, which ends when there are none; so does the one before."""
    former, wake = reporter._thread, reporter._wake
    fresh: dict[str, object] = {"_jobs": {}, "_thread": None, "_began": False, "_wake": threading.Event()}
    for name, value in fresh.items():
        monkeypatch.setattr(reporter, name, value)
    if former is not None:
        wake.set()
        former.join(PATIENCE)
        assert not former.is_alive()
    yield
    thread = reporter._thread
    for name in tuple(reporter._jobs):
        reporter.unregister(name)
    if thread is not None:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_nothing_runs_before_the_first_lease() -> None:
    reporter.register("job", lambda: None, interval=0.0)
    assert reporter._thread is None


def test_job_of_before_and_after_the_first_lease() -> None:
    early, late = threading.Event(), threading.Event()
    reporter.register("early", early.set, interval=0.01)
    reporter.start()
    assert early.wait(PATIENCE)
    reporter.register("late", late.set, interval=0.01)
    assert late.wait(PATIENCE)
    assert reporter._thread is not None and reporter._thread.name == "dbpool-reporter"


def test_who_keeps_a_pool_does_not_wait_for_it() -> None:
    """What wakes the pool's own thread may be a destructor, in the middle of whatever its thread does."""
    called = threading.Event()
    reporter.register("job", called.set, interval=0.01)
    background.start()
    assert called.wait(PATIENCE)
    with reporter._starting:
        waker = threading.Thread(target=background.start, daemon=True)
        waker.start()
        waker.join(2.0)
        assert not waker.is_alive()


def test_no_thread_to_be_had_is_no_error_of_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    called = threading.Event()
    reporter.register("job", called.set, interval=0.01)
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        reporter.begin()
    reporter.begin()
    assert called.wait(PATIENCE)


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_job_that_fails_is_called_again_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[None] = []
    others = threading.Event()

    def fail() -> None:
        calls.append(None)
        raise ValueError("a job's mistake")

    with caplog.at_level(logging.ERROR, "django_dbpool.reporter"):
        reporter.register("bad", fail, interval=0.0)
        reporter.start()
        assert wait_until(lambda: len(calls) > 2, PATIENCE)
        reporter.register("good", others.set, interval=0.0)
        assert others.wait(PATIENCE)
    assert [record.getMessage() for record in caplog.records] == ["job 'bad' failed"]


def test_idle_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is called until somebody leases again."""
    leases = 0
    monkeypatch.setattr(reporter, "_leases", lambda: (leases, False))
    monkeypatch.setattr(reporter, "IDLE_AFTER", 0.05)
    monkeypatch.setattr(reporter, "IDLE_LOOK", 0.01)
    calls: list[None] = []
    looks = threading.Semaphore(0)
    wait = reporter._wake.wait

    def counted(timeout: float | None = None) -> bool:
        if timeout == 0.01:
            looks.release()
        return wait(timeout)

    monkeypatch.setattr(reporter._wake, "wait", counted)
    reporter.register("job", lambda: calls.append(None), interval=0.0)
    reporter.start()
    assert looks.acquire(timeout=PATIENCE)
    before = len(calls)
    for _ in range(5):
        assert looks.acquire(timeout=PATIENCE)
    assert len(calls) == before > 0
    leases += 1
    assert wait_until(lambda: len(calls) > before, PATIENCE)


def test_flush_calls_each_once_in_this_thread() -> None:
    threads: list[threading.Thread] = []
    reporter.register("job", lambda: threads.append(threading.current_thread()), interval=100.0)
    reporter.flush()
    assert threads == [threading.current_thread()]


def test_job_never_runs_twice_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()
    calls: list[None] = []

    def job() -> None:
        calls.append(None)
        inside.set()
        go_on.wait(PATIENCE)

    reporter.register("job", job, interval=100.0)
    reporter.start()
    assert inside.wait(PATIENCE)
    monkeypatch.setattr(reporter, "PATIENCE", 0.0)
    reporter.flush()
    go_on.set()
    assert len(calls) == 1


def test_fork_keeps_the_jobs() -> None:
    reporter.register("job", lambda: None, interval=1.0)
    reporter._jobs["job"].running.acquire()
    reporter.reset_after_fork()
    assert reporter._jobs["job"].running.acquire(blocking=False)
    assert reporter._thread is None


class Job:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


@pytest.fixture
def soon_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "IDLE_AFTER", 0.1)
    monkeypatch.setattr(reporter, "IDLE_LOOK", 0.01)


@pytest.mark.usefixtures("soon_idle")
def test_once_more_when_the_process_becomes_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is due once an hour has something to tell by then; later only who asked for it is called."""
    monkeypatch.setattr(reporter, "_leases", lambda: (1, False))
    hourly, always = Job(), Job()
    reporter.register("hourly", hourly, interval=3600)
    reporter.register("always", always, interval=0.0, idle=True)
    reporter.start()
    assert wait_until(lambda: hourly.calls == 2, PATIENCE)
    seen = always.calls
    assert wait_until(lambda: always.calls > seen + 3, PATIENCE)
    assert hourly.calls == 2


@pytest.mark.usefixtures("soon_idle")
def test_refusals_are_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an outage nobody gets a lease, and that is what there is to tell."""
    monkeypatch.setattr(tally, "_tallies", {})
    job = Job()
    reporter.register("job", job, interval=0.0)
    reporter.start()
    names = itertools.cycle(("refused DatabaseUnavailable", "refused CircuitOpen"))

    def still_called() -> bool:
        tally.tally_of("default").event(next(names))
        return job.calls > 10

    assert wait_until(still_called, PATIENCE)
    before = reporter._leases()
    tally.tally_of("default").event("closed")  # by its age, say
    assert reporter._leases() == before


def test_flush_waits_for_a_call_that_is_under_way() -> None:
    """It began before the last numbers were there."""
    inside, go_on, told = threading.Event(), threading.Event(), []
    numbers = [1]

    def job() -> None:
        told.append(numbers[0])
        if len(told) == 1:
            inside.set()
            go_on.wait(PATIENCE)

    reporter.register("job", job, interval=3600)
    first = threading.Thread(target=reporter.flush)
    first.start()
    inside.wait(PATIENCE)
    numbers[0] = 2
    second = threading.Thread(target=reporter.flush)
    second.start()
    go_on.set()
    for thread in (first, second):
        thread.join(PATIENCE)
    assert told == [1, 2]


def test_flush_does_not_wait_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "PATIENCE", 0.01)
    job = Job()
    reporter.register("job", job, interval=3600)
    with reporter._jobs["job"].running:
        reporter.flush()
    assert job.calls == 0
    reporter.flush()
    assert job.calls == 1


def test_what_makes_no_traffic_is_flushed_first() -> None:
    """It is quick, and behind a job that hangs it would be lost with the process."""
    order: list[str] = []
    for name, idle in (("first", False), ("quick", True), ("second", False)):
        reporter.register(name, partial(order.append, name), interval=3600, idle=idle)
    reporter.flush()
    assert order == ["quick", "first", "second"]


def test_end_of_a_process_calls_only_what_wants_to_be_called_last() -> None:
    calls: list[str] = []
    for name, last in (("exporter", True), ("looks after others", False)):
        reporter.register(name, partial(calls.append, name), interval=3600, last=last)
    reporter.finish(PATIENCE)
    assert calls == ["exporter"]


def test_end_of_a_process_is_not_held_up_by_a_job_that_hangs() -> None:
    go_on, called = threading.Event(), threading.Event()

    def hang() -> None:
        called.set()
        go_on.wait(PATIENCE)

    reporter.register("hanging", hang, interval=3600, last=True)
    reporter.finish(0.01)
    assert called.wait(PATIENCE)
    go_on.set()
