"""What a circuit tells: callbacks, snapshots, its timeline."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from django_dbpool.core.breaker import State, Transition
from tests.unit.breaker.circuits import LOST, Circuit


def test_callbacks_may_use_the_breaker_and_see_transitions_in_order() -> None:
    circuit = Circuit()
    order: list[State] = []

    def heal(transition: Transition) -> None:
        if transition.after is State.OPEN:
            circuit.probe_succeeded()
        order.append(transition.after)

    circuit.on_change(heal)
    circuit.fail(5)
    assert circuit.state is State.CLOSED
    assert order == circuit.path() == [State.OPEN, State.CLOSED]


def test_a_callback_that_fails_harms_neither_the_call_nor_the_others(caplog: pytest.LogCaptureFixture) -> None:
    circuit = Circuit()
    after: list[Transition] = []

    def fails(transition: Transition) -> None:
        raise ZeroDivisionError

    circuit.on_change(fails)
    circuit.on_change(after.append)
    circuit.fail(5)
    assert len(after) == 1
    assert "a callback failed on the transition to open" in caplog.text


def test_an_interrupt_in_a_callback_does_not_silence_the_next() -> None:
    circuit = Circuit()
    interrupts = [KeyboardInterrupt]

    def interrupted(transition: Transition) -> None:
        if interrupts:
            raise interrupts.pop()

    circuit.on_change(interrupted)
    with pytest.raises(KeyboardInterrupt):
        circuit.fail(5)
    circuit.reset()
    assert circuit.path() == [State.OPEN, State.CLOSED]


def test_one_thread_at_a_time_calls_back() -> None:
    circuit = Circuit()
    inside, together, order = threading.Lock(), threading.Barrier(8), []

    def callback(transition: Transition) -> None:
        assert inside.acquire(blocking=False)
        order.append(transition.after)
        inside.release()

    circuit.on_change(callback)

    def toggle(action: Callable[[], None]) -> None:
        together.wait()
        for _ in range(200):
            action()

    actions = [circuit.isolate, circuit.reset] * 4
    threads = [threading.Thread(target=toggle, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    circuit._deliver()
    assert order == [State.ISOLATED, State.CLOSED] * (len(order) // 2) + [State.ISOLATED] * (len(order) % 2)
    assert order == circuit.path()


def test_snapshot_for_a_dashboard() -> None:
    circuit = Circuit()
    circuit.succeed(2)
    circuit.fail(3)
    circuit.clock.now += 15
    snapshot = circuit.snapshot()
    assert (snapshot.at, snapshot.since, snapshot.state, snapshot.retry_after) == (1015.0, 1000.0, State.OPEN, 45.0)
    assert (snapshot.counts.successes, snapshot.counts.failures, snapshot.counts.failure_ratio) == (2, 3, 0.6)
    assert snapshot.error is LOST
    assert snapshot.timeline == tuple(circuit.seen)
    circuit.clock.now += 45
    assert circuit.snapshot().retry_after == 0, "a call would be allowed"


def test_the_timeline_is_bounded() -> None:
    circuit = Circuit()
    for _ in range(100):
        circuit.isolate()
        circuit.reset()
    assert len(circuit.snapshot().timeline) == 32
    assert circuit.snapshot().timeline == tuple(circuit.seen[-32:])
