"""When the reporter calls its jobs: while there is work, once more when there is none, and at the end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from django_dbpool.core import reporter, tally
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE


class Job:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A reporter without other jobs, which takes a process for idle soon."""
    monkeypatch.setattr(reporter, "_jobs", {})
    monkeypatch.setattr(reporter, "_thread", None)
    monkeypatch.setattr(reporter, "_began", False)
    monkeypatch.setattr(reporter, "_wake", threading.Event())
    monkeypatch.setattr(reporter, "IDLE_AFTER", 0.1)
    monkeypatch.setattr(reporter, "IDLE_LOOK", 0.01)
    yield
    thread = reporter._thread
    for name in tuple(reporter._jobs):
        reporter.unregister(name)
    if thread is not None:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_once_more_when_the_process_becomes_idle(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_refusals_are_work(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_flush_waits_for_a_call_that_is_under_way(alone: None) -> None:
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


def test_flush_does_not_wait_without_end(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "PATIENCE", 0.01)
    job = Job()
    reporter.register("job", job, interval=3600)
    with reporter._jobs["job"].running:
        reporter.flush()
    assert job.calls == 0
    reporter.flush()
    assert job.calls == 1
