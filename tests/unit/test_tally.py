"""Counting leases: exact, over connections that come and go, and never less than before."""

from __future__ import annotations

import gc
import threading

import pytest

from django_dbpool.core import tally
from django_dbpool.core.tally import BOUNDS, Counts, Histogram, Tally, count_lease, tally_of


class Connection:
    def __init__(self) -> None:
        self.uses = [0] * (len(BOUNDS) + 1)
        self.used = 0.0
        self.statements = 0
        self.owner: object = None


def lease(connection: Connection, seconds: float, tally: Tally, waited: float | None = None) -> None:
    connection.statements += 1
    if waited is None:
        count_lease(connection, seconds)
    else:
        tally.ended(connection, seconds, waited)


@pytest.fixture
def numbers() -> Tally:
    return Tally("unit")


def test_each_lease_counts_once_in_everything(numbers: Tally) -> None:
    first, second = Connection(), Connection()
    numbers.opened(first, 0.02)
    numbers.opened(second, 7.0)
    lease(first, 0.0005, numbers)
    lease(first, 0.001, numbers, waited=0.3)
    lease(second, 2.0, numbers, waited=20.0)
    assert numbers.closed(second)
    counts = numbers.read()
    assert counts.leases == counts.use.count == counts.wait.count == counts.statements == 3
    assert counts.use.counts == (2, 0, 0, 0, 0, 0, 0, 1, 0, 0)
    assert counts.use.total == pytest.approx(2.0015)
    assert counts.wait.counts == (1, 0, 0, 0, 0, 1, 0, 0, 0, 1)
    assert counts.wait.total == pytest.approx(20.3)
    assert counts.connect.counts == (0, 0, 0, 1, 0, 0, 0, 0, 1, 0)


def test_connection_is_closed_once(numbers: Tally) -> None:
    connection = Connection()
    numbers.opened(connection, 0.0)
    lease(connection, 1.0, numbers)
    assert [numbers.closed(connection), numbers.closed(connection)] == [True, False]
    assert numbers.read().leases == 1


@pytest.mark.parametrize("waited", [None, 0.3])
def test_lease_that_ends_after_its_connection_was_closed(numbers: Tally, waited: float | None) -> None:
    """An interrupt in the middle of a statement closes the connection first."""
    connection = Connection()
    numbers.opened(connection, 0.0)
    numbers.closed(connection)
    numbers.ended(connection, 1.0, waited)
    counts = numbers.read()
    assert (counts.leases, counts.use.total) == (1, 1.0)
    assert counts.wait.count == 1
    assert min(counts.wait.counts) == 0


def test_somebody_holds_one(numbers: Tally) -> None:
    connection = Connection()
    numbers.opened(connection, 0.0)
    assert numbers.leases() == (0, False)
    connection.owner = object()
    assert numbers.leases() == (0, True)
    connection.owner = None
    count_lease(connection, 0.0)
    assert numbers.leases() == (1, False)


class Abandoned:
    """In a cycle, so that only the collector finds it: a stream() that nobody has closed ends its lease there."""

    def __init__(self, numbers: Tally) -> None:
        self.numbers, self.own = numbers, self

    def __del__(self) -> None:
        connection = Connection()
        self.numbers.opened(connection, 0.0)
        self.numbers.ended(connection, 0.0, 0.0)
        self.numbers.event("collected")
        self.numbers.closed(connection)


def test_collector_that_comes_while_it_is_read(numbers: Tally) -> None:
    """It runs in whatever thread makes objects, and that of a reader holds the lock."""
    for _ in range(20):
        numbers.opened(Connection(), 0.0)

    def read() -> None:
        for _ in range(300):
            Abandoned(numbers)
            numbers.read()
            numbers.leases()

    before = gc.get_threshold()
    gc.set_threshold(5)
    try:
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(20)
    finally:
        gc.set_threshold(*before)
    assert not reader.is_alive()
    gc.collect()
    counts = numbers.read()
    assert counts.leases == counts.wait.count == counts.events["collected"] == 300


def test_readings_never_become_less(numbers: Tally) -> None:
    """Eight threads lease, connect and close while one reads as often as it can."""
    done = threading.Event()

    def work() -> None:
        for _ in range(60):
            connection = Connection()
            numbers.opened(connection, 0.01)
            for number in range(20):
                lease(connection, 0.01, numbers, waited=0.2 if number % 3 else None)
            numbers.closed(connection)

    readings: list[Counts] = []

    def read() -> None:
        while not done.is_set():
            readings.append(numbers.read())

    reader = threading.Thread(target=read)
    workers = [threading.Thread(target=work) for _ in range(8)]
    for thread in (reader, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    reader.join()
    for before, after in zip(readings, [*readings[1:], numbers.read()], strict=True):
        for name in ("use", "wait", "connect"):
            assert min(getattr(after, name).since(getattr(before, name)).counts) >= 0
        assert after.wait.count == after.leases >= before.leases
        assert min(after.wait.counts) >= 0
    last = numbers.read()
    assert last.leases == last.statements == 8 * 60 * 20
    assert last.wait.counts[0] == 8 * 60 * 7
    assert last.connect.count == 8 * 60


def test_lease_and_its_wait_are_counted_together(numbers: Tally) -> None:
    """Whoever read in between would take it for one that did not wait, and a bucket would become less afterwards."""
    connection = Connection()
    numbers.opened(connection, 0.0)
    counted: list[int] = []
    lock = numbers._lock

    class Watched:
        def __enter__(self) -> None:
            lock.acquire()
            counted.append(sum(connection.uses) - sum(numbers._waits))

        def __exit__(self, *_: object) -> None:
            counted.append(sum(connection.uses) - sum(numbers._waits))
            lock.release()

    numbers._lock = Watched()  # type: ignore[assignment]
    lease(connection, 0.01, numbers, waited=0.2)
    assert counted == [0, 0]
    assert sum(connection.uses) == 1


@pytest.mark.parametrize(
    ("counts", "q", "seconds"),
    [
        ({}, 0.5, 0.0),
        ({0: 10}, 0.5, 0.0005),
        ({0: 10}, 1.0, 0.001),
        ({0: 50, 4: 50}, 0.5, 0.001),
        ({0: 50, 4: 50}, 0.75, 0.075),
        ({9: 4}, 0.5, 10.0),  # above all bounds: the last of them is all that is known
    ],
)
def test_quantiles_are_those_of_prometheus(counts: dict[int, int], q: float, seconds: float) -> None:
    histogram = Histogram(tuple(counts.get(index, 0) for index in range(len(BOUNDS) + 1)))
    assert histogram.quantile(q) == pytest.approx(seconds)


def test_mean_and_difference() -> None:
    before = Histogram((1, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0.001)
    after = Histogram((2, 0, 0, 0, 0, 0, 0, 0, 0, 1), 20.002)
    since = after.since(before)
    assert since.count == 2
    assert since.mean == pytest.approx(10.0005)
    assert Histogram().mean == 0.0
    assert after.to_json()["count"] == 3


@pytest.fixture
def no_tallies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_tallies", {})


@pytest.mark.usefixtures("no_tallies")
def test_alias_keeps_its_tally_until_a_fork() -> None:
    first = tally_of("a")
    assert tally_of("a") is first
    assert tally.tallies() == {"a": first}
    tally.reset_after_fork()
    assert tally.tallies() == {}
