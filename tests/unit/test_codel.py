"""Latency-based admission: rules one by one, then a simulated pool; the clock is injected."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from django_dbpool.core.codel import Codel

TARGET, INTERVAL, KEEP = 0.05, 2.0, 4


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_codel() -> tuple[Codel, Clock]:
    clock = Clock()
    return Codel(target=TARGET, interval=INTERVAL, keep=KEEP, clock=clock), clock


def overloaded(served: int = 80) -> tuple[Codel, Clock]:
    """After an interval in which all waited too long."""
    codel, clock = make_codel()
    for number in range(served):
        assert codel.arrive(10)
        clock.now = (number + 1) * INTERVAL / served
        codel.serve(0.3)
    assert codel.slow
    return codel, clock


# -- rules -----------------------------------------------------------------------------------------------------------


def test_an_interval_of_long_waits_is_an_overload() -> None:
    codel, clock = make_codel()
    assert codel.arrive(10)
    clock.now = 1.999
    codel.serve(0.3)
    assert not codel.slow
    clock.now = 2.0
    codel.serve(0.3)
    assert codel.slow


def test_one_short_wait_within_it_makes_it_a_burst() -> None:
    codel, clock = make_codel()
    for clock.now, waited in ((0.5, 0.3), (1.0, TARGET), (2.9, 0.3)):
        assert codel.arrive(10)
        codel.serve(waited)
        assert not codel.slow
    clock.now = 3.0
    codel.serve(0.3)
    assert codel.slow, "an interval after the short one"


def test_an_empty_queue_within_it_makes_it_a_burst() -> None:
    codel, clock = make_codel()
    for clock.now, waiting in ((0.5, 5), (1.0, 0), (2.9, 5)):
        assert codel.arrive(waiting)
        codel.serve(0.3)
    assert not codel.slow


def test_a_stopped_queue_is_noticed_although_nobody_is_served() -> None:
    codel, clock = make_codel()
    assert codel.arrive(0)
    for waiting in range(1, 10):
        assert codel.arrive(waiting)
    clock.now = 1.9
    assert not codel.sheds(1.9, 10)
    clock.now = 2.0
    assert codel.sheds(2.0, 10)
    assert codel.slow


def test_a_queue_that_stops_after_a_short_wait_is_noticed_an_interval_later() -> None:
    codel, clock = make_codel()
    for waiting in range(10):
        assert codel.arrive(waiting)
    clock.now = 0.03125
    codel.serve(0.03125)
    clock.now = 2.0
    assert not codel.sheds(2.0, 9)
    clock.now = 2.03125
    assert codel.sheds(2.03125, 9), "though nobody came or was served since"


def test_the_old_are_shed_but_not_the_last_few() -> None:
    codel, _clock = overloaded()
    assert codel.sheds(2 * TARGET + 0.001, KEEP + 1)
    assert not codel.sheds(2 * TARGET, KEEP + 1)
    assert not codel.sheds(10.0, KEEP)


@pytest.mark.parametrize(("served", "limit"), [(80, 4), (400, 20), (20, KEEP)])
def test_newcomers_are_refused_beyond_what_is_served_in_twice_the_target(served: int, limit: int) -> None:
    codel, _clock = overloaded(served)
    assert codel.arrive(limit - 1)
    assert not codel.arrive(limit)


@pytest.mark.parametrize("waiting", [0, 1])
def test_the_overload_ends_after_an_interval_with_a_short_wait_and_few_refusals(waiting: int) -> None:
    """The shortest wait counts, whenever it was; to find the queue empty is the shortest of all."""
    codel, clock = overloaded()
    clock.now += 1.0
    assert codel.arrive(waiting)
    codel.serve(0.3 if waiting == 0 else 0.01)
    assert codel.slow
    clock.now += 1.0
    codel.serve(0.3)
    assert not codel.slow


def test_the_overload_does_not_end_while_many_are_refused() -> None:
    codel, clock = overloaded()
    for _ in range(5):
        clock.now += 0.5
        codel.arrive(100)
        assert codel.arrive(1)
        codel.serve(0.01)
    assert codel.slow


def test_a_pause_ends_the_overload() -> None:
    """What was measured before an hour of silence says nothing about now."""
    codel, clock = overloaded()
    assert not codel.arrive(100)
    assert codel.arrive(3)
    codel.serve(0.3)
    clock.now += 3600
    assert codel.arrive(0)
    assert not codel.slow


# -- a simulated pool ------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    waits: list[tuple[float, float]] = field(default_factory=list)
    """When served, and how long it had waited."""
    refused: list[tuple[float, float]] = field(default_factory=list)
    """When refused, and how long after the arrival."""
    timed_out: int = 0

    def p99(self, after: float = 0.0) -> float:
        waits = sorted(waited for at, waited in self.waits if at >= after)
        return waits[int(len(waits) * 0.99)]


class Simulation:
    """
    Connections that work for a fixed time each, a queue with a timeout, arrivals at random; all events in one heap,
    so that a run depends on its seed only.
    """

    def __init__(
        self, rate: float, seconds: float, *, codel: bool, work: float = 0.1, connections: int = 4, burst: int = 0
    ) -> None:
        self.clock = Clock()
        self.codel = Codel(target=TARGET, interval=INTERVAL, keep=connections, clock=self.clock) if codel else None
        self.rate, self.seconds, self.work, self.timeout = rate, seconds, work, 10.0
        self.free = connections
        self.queue: deque[float] = deque()
        self.chance = random.Random(7)
        self.direct = False
        self.outcome = Outcome()
        self.events = [(1.0, "one of a burst")] * burst

    def run(self) -> Outcome:
        events = self.events
        heapq.heappush(events, (self.chance.expovariate(self.rate), "arrival"))
        while events:
            self.clock.now, event = heapq.heappop(events)
            if event == "arrival":
                if self.clock.now < self.seconds:
                    heapq.heappush(events, (self.clock.now + self.chance.expovariate(self.rate), "arrival"))
                self.arrive()
            elif event == "one of a burst":
                self.arrive()
            else:
                self.free += 1
            while self.free and self.queue:
                self.shed()
                began = self.queue.popleft()
                waited = self.clock.now - began
                if waited > self.timeout:
                    self.outcome.timed_out += 1
                    continue
                if self.codel:
                    self.codel.serve(waited)
                self.begin(waited, events)
            if self.direct:
                self.begin(0.0, events)
        return self.outcome

    def arrive(self) -> None:
        self.direct = self.free > 0 and not self.queue
        if self.direct:
            return
        if self.codel and not self.codel.arrive(len(self.queue)):
            self.outcome.refused.append((self.clock.now, 0.0))
        else:
            self.queue.append(self.clock.now)

    def shed(self) -> None:
        while self.codel and self.queue and self.codel.sheds(self.clock.now - self.queue[0], len(self.queue)):
            self.outcome.refused.append((self.clock.now, self.clock.now - self.queue.popleft()))

    def begin(self, waited: float, events: list[tuple[float, str]]) -> None:
        self.direct = False
        self.free -= 1
        self.outcome.waits.append((self.clock.now, waited))
        heapq.heappush(events, (self.clock.now + self.work, "done"))


@pytest.mark.parametrize("factor", [1.2, 2, 10])
@pytest.mark.parametrize(("work", "connections"), [(0.1, 4), (1.0, 4), (0.01, 10)])
def test_overload_is_answered_in_time(factor: float, work: float, connections: int) -> None:
    """As many served as the connections can, in time once the overload is known; the others refused at once."""
    capacity = connections / work
    seconds = 12.0 if work < 0.1 else 60.0  # as many events
    outcome = Simulation(factor * capacity, seconds, codel=True, work=work, connections=connections).run()
    served = sum(1 for at, _ in outcome.waits if at < seconds)
    assert served >= 0.9 * capacity * seconds
    assert outcome.timed_out == 0
    if factor >= 2:
        assert outcome.p99(after=2.5 * INTERVAL) <= 3 * TARGET + work
        known = [waited for at, waited in outcome.refused if at > 2.5 * INTERVAL]
        assert sum(1 for waited in known if waited == 0) >= 0.95 * len(known)


def test_without_it_all_wait_to_their_timeout() -> None:
    """What the simulation shows of an ordinary queue; else the test above would prove nothing."""
    outcome = Simulation(80, 60, codel=False).run()
    assert outcome.p99(after=2.5 * INTERVAL) > 9
    assert outcome.timed_out > 1000


@pytest.mark.parametrize(("factor", "most"), [(0.5, 0.0), (0.8, 0.0), (0.9, 0.02), (0.95, 0.05)])
def test_below_capacity_hardly_anybody_is_refused(factor: float, most: float) -> None:
    outcome = Simulation(factor * 40, 60, codel=True).run()
    assert len(outcome.refused) <= most * (len(outcome.refused) + len(outcome.waits))


def test_a_burst_is_served() -> None:
    """Half a second's worth of work at once, on top of half of the capacity."""
    simulation = Simulation(20, 10, codel=True, burst=20)
    outcome = simulation.run()
    assert outcome.refused == []
    assert max(waited for _, waited in outcome.waits) > 4 * TARGET
