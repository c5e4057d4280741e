"""The gate: exact counts, a fair queue, deadlines, nothing lost; no threads (see test_gate_threads.py)."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import pytest

from django_dbpool.core import gate as gate_module
from django_dbpool.core.errors import GateClosed
from django_dbpool.core.gate import DeadlinePassed, Gate, QueueIsFull, Ticket

LONG = 30.0


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_gate(**kwargs: int) -> Gate[str]:
    return Gate(**cast("Any", {"max_size": 2, **kwargs}), clock=Clock())


def queue_up(gate: Gate[str], holder: object = None, priority: bool = False) -> Ticket[str]:
    """A ticket that waits: its caller is at the deadline, but has not abandoned it yet."""
    ticket: Ticket[str] = Ticket(holder, priority)
    with pytest.raises(DeadlinePassed):
        gate.enter(ticket, 0.0)
    return ticket


def permits(gate: Gate[str], number: int) -> list[Ticket[str]]:
    tickets: list[Ticket[str]] = [Ticket() for _ in range(number)]
    for ticket in tickets:
        assert gate.enter(ticket, 0.0) is None
        assert ticket.granted
    return tickets


def check_empty(gate: Gate[str], *, size: int) -> None:
    assert (gate.size, gate.waiting, gate.attention) == (size, 0, 0)


# -- grants --------------------------------------------------------------------------------------------------


def test_permits_to_open_up_to_max_size_and_no_further() -> None:
    gate = make_gate(max_size=3)
    permits(gate, 3)
    queue_up(gate)
    assert (gate.size, gate.waiting, gate.attention) == (3, 1, 1)


def test_a_free_entry_goes_before_a_permit_and_the_last_used_goes_first() -> None:
    gate = make_gate(max_size=3)
    permits(gate, 2)
    gate.give("older")
    gate.give("newer")
    assert gate.enter(Ticket(), 0.0) == "newer"
    assert gate.enter(Ticket(), 0.0) == "older"
    assert gate.size == 2
    assert gate.enter(Ticket(), 0.0) is None
    assert gate.size == 3


def test_entries_in_use_and_permits_together_never_exceed_max_size() -> None:
    gate = make_gate(max_size=2)
    permits(gate, 1)
    gate.give("a")
    assert gate.enter(Ticket(), 0.0) == "a"
    permits(gate, 1)
    queue_up(gate)
    assert gate.size == 2


def test_first_come_first_served() -> None:
    gate = make_gate(max_size=1)
    permits(gate, 1)
    first, second = queue_up(gate, "first"), queue_up(gate, "second")
    assert gate.waiters() == ("first", "second")
    gate.give("a")
    assert (first.granted, first.entry, second.granted) == (True, "a", False)
    assert (gate.waiting, gate.attention, len(gate.free)) == (1, 1, 0)


def test_priority_goes_before_those_who_came_earlier_and_is_fair_within_itself() -> None:
    gate = make_gate(max_size=1)
    permits(gate, 1)
    ordinary = queue_up(gate, "ordinary")
    hook, later_hook = queue_up(gate, "hook", priority=True), queue_up(gate, "later", priority=True)
    assert gate.waiters() == ("hook", "later", "ordinary")
    for ticket in (hook, later_hook, ordinary):
        assert not ticket.granted
        gate.give("a")
        assert ticket.granted
    check_empty(gate, size=1)


def test_a_newcomer_does_not_overtake_the_queue() -> None:
    gate = make_gate(max_size=1)
    permits(gate, 1)
    first = queue_up(gate)
    # What give() does, stopped before it looks at attention: a newcomer meets an entry and a queue.
    gate.free.append("a")
    newcomer = queue_up(gate)
    assert (first.entry, newcomer.granted) == ("a", False)


def test_a_newcomer_with_priority_takes_what_is_free_while_ordinary_callers_wait() -> None:
    gate = make_gate(max_size=1)
    permits(gate, 1)
    ordinary = queue_up(gate)
    gate.free.append("a")
    assert gate.enter(Ticket(priority=True), 0.0) == "a"
    assert not ordinary.granted


def test_an_entry_given_back_while_the_caller_queues_up_is_not_overlooked() -> None:
    class Late(Gate[str]):
        """The hot path gives back without the lock: here, just after the caller saw an empty stack."""

        looks = 0

        def _grant(self, ticket: Ticket[str]) -> bool:
            self.looks += 1
            if self.looks == 1:
                self.free.append("a")
                assert not self.attention, "the giver would have seen the waiter"
                return False
            return super()._grant(ticket)

    gate = Late(max_size=1, clock=Clock())
    gate.size = 1
    assert gate.enter(Ticket(), 0.0) == "a"
    check_empty(gate, size=1)


def test_an_entry_taken_by_the_hot_path_under_the_gates_hands_is_no_error() -> None:
    class Snatched(deque[str]):
        def pop(self) -> str:  # type: ignore[override]
            self.clear()
            raise IndexError

    gate = make_gate(max_size=1)
    gate.free = Snatched(["a"])
    assert gate.enter(Ticket(), 0.0) is None


# -- deadlines -----------------------------------------------------------------------------------------------


def test_the_deadline_is_read_from_the_gates_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "WAIT_SLICE", 0.001)

    class Fast(Clock):
        """A minute passes at each look."""

        def __call__(self) -> float:
            self.now += 60.0
            return self.now

    gate: Gate[str] = Gate(max_size=1, clock=Fast())
    permits(gate, 1)
    slices: list[float] = []
    with pytest.raises(DeadlinePassed):
        gate.enter(Ticket(), 100.0 + 600.0, lambda: slices.append(gate._clock()))
    assert slices == [340.0, 520.0, 700.0], "called after each slice, and not after the deadline"


def test_what_is_granted_in_the_last_moment_is_taken() -> None:
    class LastMoment(Clock):
        """The entry comes after the wait has timed out and before the caller looks at the time."""

        calls = 0

        def __call__(self) -> float:
            self.calls += 1
            if self.calls == 2:
                gate.give("a")
            return self.now

    gate: Gate[str] = Gate(max_size=1, clock=LastMoment())
    gate.size = 1
    assert gate.enter(Ticket(), 0.0) == "a"
    check_empty(gate, size=1)


def test_max_waiting_counts_those_who_wait_and_nobody_else() -> None:
    gate = make_gate(max_size=1, max_waiting=2)
    permits(gate, 1)
    gave_up, waits = queue_up(gate), queue_up(gate, priority=True)
    with pytest.raises(QueueIsFull):
        gate.enter(Ticket(), 0.0)
    gate.abandon(gave_up)
    another = queue_up(gate)
    with pytest.raises(QueueIsFull):
        gate.enter(Ticket(priority=True), 0.0)
    gate.give("a")
    assert (waits.granted, another.granted, gate.waiting) == (True, False, 1)
    queue_up(gate)


def test_max_waiting_refuses_nobody_who_need_not_wait() -> None:
    gate = make_gate(max_size=2, max_waiting=1)
    permits(gate, 2)
    queue_up(gate)
    gate.give("a")
    gate.give("b")
    assert gate.enter(Ticket(), 0.0) == "b"


# -- abandon -------------------------------------------------------------------------------------------------


def test_abandon_before_anything_happened() -> None:
    gate = make_gate()
    assert gate.abandon(Ticket()) is None
    check_empty(gate, size=0)


@pytest.mark.parametrize("priority", [False, True])
def test_abandon_in_the_queue(priority: bool) -> None:
    gate = make_gate(max_size=1)
    permits(gate, 1)
    ticket = queue_up(gate, priority=priority)
    for _ in range(2):
        assert gate.abandon(ticket) is None
        check_empty(gate, size=1)


def test_abandon_with_an_entry_hands_it_to_the_caller_once() -> None:
    gate = make_gate(max_size=1)
    permits(gate, 1)
    ticket = queue_up(gate)
    gate.give("a")
    assert gate.abandon(ticket) == "a"
    check_empty(gate, size=1)
    assert gate.abandon(ticket) is None
    check_empty(gate, size=1)


def test_abandon_with_a_permit_forfeits_it_once_and_serves_the_next() -> None:
    gate = make_gate(max_size=1)
    (ticket,) = permits(gate, 1)
    waiting = queue_up(gate)
    assert gate.abandon(ticket) is None
    assert (waiting.granted, waiting.entry, gate.size) == (True, None, 1)
    assert gate.abandon(ticket) is None
    check_empty(gate, size=1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_exception_in_a_waiter_loses_nothing(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "WAIT_SLICE", 0.001)
    gate = make_gate(max_size=1)
    permits(gate, 1)
    ticket: Ticket[str] = Ticket()

    def struck() -> None:
        gate.give("a")  # granted, and then the exception: the worst moment
        raise error

    with pytest.raises(error):
        gate.enter(ticket, gate_module.monotonic() + LONG, struck)
    assert gate.abandon(ticket) == "a"
    check_empty(gate, size=1)


# -- forfeit, grow, resize -----------------------------------------------------------------------------------


def test_forfeit_lets_the_head_of_the_queue_open_a_connection() -> None:
    gate = make_gate(max_size=1)
    permits(gate, 1)
    first, second = queue_up(gate), queue_up(gate)
    gate.forfeit()
    assert (first.granted, first.entry, second.granted, gate.size) == (True, None, False, 1)


def test_grow_stops_at_its_limit_at_max_size_and_behind_waiters() -> None:
    gate = make_gate(max_size=2)
    assert gate.grow(1)
    assert not gate.grow(1)
    assert gate.grow(5)
    assert not gate.grow(5)
    waiting = queue_up(gate)
    gate.resize(3)
    assert waiting.granted
    queue_up(gate)
    gate.max_size = 4  # room, but somebody is before us
    assert not gate.grow(5)


def test_resize_serves_those_who_wait_and_lowers_without_taking_away() -> None:
    gate = make_gate(max_size=1)
    permits(gate, 1)
    waiting = [queue_up(gate) for _ in range(3)]
    gate.resize(3)
    assert [ticket.granted for ticket in waiting] == [True, True, False]
    gate.resize(1)
    assert gate.size == 3
    gate.forfeit()
    gate.forfeit()
    assert (gate.size, waiting[2].granted) == (1, False)
    gate.forfeit()
    assert (gate.size, waiting[2].granted) == (1, True)


# -- close ---------------------------------------------------------------------------------------------------


def test_a_closed_gate_refuses_and_keeps_the_hot_path_out() -> None:
    gate = make_gate(max_size=2)
    permits(gate, 2)
    gate.give("a")
    for _ in range(2):
        gate.close()
        assert gate.attention == 1
    with pytest.raises(GateClosed):
        gate.enter(Ticket(), 0.0)
    gate.give("b")
    assert list(gate.free) == ["a", "b"], "left for the owner to close"
