"""The gate with threads that really wait."""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest

from django_dbpool.core.errors import GateClosed
from django_dbpool.core.gate import DeadlinePassed, Gate, Ticket
from testproject.processes import wait_until

LONG = 30.0


def full_gate() -> Gate[str]:
    gate: Gate[str] = Gate(max_size=1)
    assert gate.enter(Ticket(), 0.0) is None
    return gate


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


def in_queue(
    gate: Gate[str], executor: ThreadPoolExecutor, priority: bool = False
) -> tuple[Ticket[str], Future[str | None]]:
    """A caller that really waits, in a thread of its own."""
    before = gate.waiting
    ticket: Ticket[str] = Ticket(None, priority)
    future = executor.submit(gate.enter, ticket, time.monotonic() + LONG)
    assert wait_until(lambda: gate.waiting == before + 1, LONG)
    return ticket, future


def test_close_wakes_everybody(threads: ThreadPoolExecutor) -> None:
    gate = full_gate()
    waiting = [in_queue(gate, threads, priority=number % 2 == 0) for number in range(6)]
    gate.close()
    for ticket, future in waiting:
        with pytest.raises(GateClosed):
            future.result(LONG)
        assert gate.abandon(ticket) is None
    assert (gate.size, gate.waiting, gate.attention) == (1, 0, 1)


@pytest.mark.parametrize("what", ["give", "forfeit", "resize"])
def test_waiting_threads_are_woken_in_order(threads: ThreadPoolExecutor, what: str) -> None:
    gate = full_gate()
    futures = [in_queue(gate, threads)[1] for _ in range(5)]
    wake: dict[str, Callable[[int], None]] = {
        "give": lambda number: gate.give(str(number)),
        "forfeit": lambda number: gate.forfeit(),
        "resize": lambda number: gate.resize(2 + number),
    }
    for number, future in enumerate(futures):
        assert not any(later.done() for later in futures[number:])
        wake[what](number)
        assert future.result(LONG) == (str(number) if what == "give" else None)
    assert (gate.size, gate.waiting, gate.attention) == (6 if what == "resize" else 1, 0, 0)


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Hammer:
    """Callers as in the pool: the hot path without the lock, lost connections, callers that give up."""

    def __init__(self, gate: Gate[str]) -> None:
        self.gate = gate
        self.held: dict[str, int] = {}
        self.names = itertools.count()
        self.waits = 0

    def take(self, dice: random.Random) -> str | None:
        if not self.gate.attention and dice.random() < 0.5:
            with suppress(IndexError):
                return self.gate.free.pop()
        ticket: Ticket[str] = Ticket()
        patience = 0.0 if dice.random() < 0.1 else LONG
        try:
            entry = self.gate.enter(ticket, time.monotonic() + patience)
        except DeadlinePassed:
            assert not patience, "a wake-up was lost"
            entry = self.gate.abandon(ticket)
            if entry is not None:
                self.gate.give(entry)
            return None
        return entry or f"entry {next(self.names)}"

    def use(self, entry: str, me: int, dice: random.Random) -> None:
        assert self.held.setdefault(entry, me) == me, "two threads hold one entry"
        assert len(self.held) <= 3
        time.sleep(0)  # lets another thread run while this one holds
        self.waits += bool(self.gate.waiting)
        del self.held[entry]
        if dice.random() < 0.05:
            self.gate.forfeit()
        else:
            self.gate.give(entry)

    def run(self, me: int) -> None:
        dice = random.Random(me)
        for _ in range(1500):
            entry = self.take(dice)
            if entry is not None:
                self.use(entry, me, dice)


@pytest.mark.usefixtures("frequent_switches")
def test_no_wake_up_is_lost_and_nothing_is_shared_under_a_hammer(threads: ThreadPoolExecutor) -> None:
    gate: Gate[str] = Gate(max_size=3)
    hammer = Hammer(gate)
    for future in [threads.submit(hammer.run, me) for me in range(8)]:
        future.result(2 * LONG)
    assert hammer.waits > 100, "the hammer was too soft to prove anything"
    assert (gate.size, gate.waiting, gate.attention) == (len(gate.free), 0, 0)
    assert len(set(gate.free)) == len(gate.free) <= 3
