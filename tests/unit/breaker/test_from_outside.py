"""What probes and people do to a circuit."""

from __future__ import annotations

import dataclasses

import pytest

from django_dbpool.core.breaker import State
from tests.unit.breaker.circuits import LOST, PROBED, Circuit, half_open, opened

# -- probes ----------------------------------------------------------------------------------------------------------


def test_a_probe_closes_at_once() -> None:
    circuit = opened(PROBED)
    circuit.probe_failed(LOST)
    circuit.rejection()
    circuit.probe_succeeded()
    circuit.succeed()
    assert [(t.after, t.reason) for t in circuit.seen][1:] == [(State.CLOSED, "a probe succeeded")]


def test_while_somebody_probes_no_caller_is_the_trial() -> None:
    circuit = opened(PROBED)
    for _ in range(300):
        circuit.clock.now += 1
        circuit.probe_failed(LOST)
        assert 0 < circuit.rejection().retry_after <= 60
    circuit.clock.now += 60
    assert circuit.allow().is_trial, "the prober is gone"


def test_retry_after_under_probes_grows_with_the_outage() -> None:
    """A sixth of its age, from one second to ten: never the whole break, which a probe will end much sooner."""
    circuit = opened(PROBED)
    seen = []
    for seconds in (0, 1, 11, 12, 36, 540):
        circuit.clock.now += seconds
        circuit.probe_failed(LOST)
        seen.append(circuit.rejection().retry_after)
    assert seen == pytest.approx([1, 1, 2, 4, 10, 10])


def test_retry_after_under_probes_is_the_age_of_the_outage_not_of_the_last_trial() -> None:
    circuit = opened(PROBED)
    circuit.clock.now += 60  # the prober is late
    circuit.allow().failure(LOST)
    assert circuit.rejection().retry_after == pytest.approx(10)
    circuit.probe_succeeded()
    circuit.clock.now += 60
    circuit.trip(LOST)
    assert circuit.rejection().retry_after == 1


def test_retry_after_under_probes_is_at_most_the_break() -> None:
    circuit = opened(dataclasses.replace(PROBED, break_duration=0.5))
    assert circuit.rejection().retry_after == 0.5


def test_a_probe_closes_in_the_middle_of_a_trial_whose_result_is_then_late() -> None:
    circuit, trial = half_open()
    circuit.probe_succeeded()
    trial.failure(LOST)
    assert (circuit.state, circuit.snapshot().late) == (State.CLOSED, 1)


def test_a_probe_says_nothing_new_while_closed() -> None:
    circuit = Circuit()
    circuit.fail(4)
    circuit.probe_succeeded()
    circuit.probe_failed(LOST)
    assert (circuit.snapshot().counts.failures, circuit.seen) == (4, [])


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_isolated_nothing_counts_until_the_reset() -> None:
    circuit = Circuit()
    before = circuit.allow()
    circuit.isolate("maintenance")
    rejected = circuit.rejection()
    assert (rejected.state, rejected.retry_after, rejected.error) == (State.ISOLATED, 60.0, None)
    before.failure(LOST)
    circuit.probe_succeeded()
    circuit.probe_failed(LOST)
    circuit.trip(LOST)
    circuit.isolate()
    circuit.clock.now += 1e6
    circuit.rejection()
    assert circuit.path() == [State.ISOLATED]
    circuit.reset()
    circuit.succeed()
    assert [(t.after, t.reason) for t in circuit.seen] == [
        (State.ISOLATED, "maintenance"),
        (State.CLOSED, "reset by hand"),
    ]


def test_a_trials_result_does_not_end_an_isolation() -> None:
    circuit, trial = half_open()
    circuit.isolate()
    trial.success()
    assert circuit.state is State.ISOLATED


def test_trip_opens_at_once() -> None:
    circuit = Circuit()
    circuit.trip(LOST, "failover")
    assert (circuit.rejection().retry_after, circuit.seen[0].reason) == (60, "failover")
    circuit.clock.now += 30
    circuit.trip(LOST)
    assert circuit.rejection().retry_after == 30, "an open circuit is not opened again"


def test_reset_of_a_closed_circuit_forgets_its_results() -> None:
    circuit = Circuit()
    circuit.fail(4)
    circuit.reset()
    circuit.fail(4)
    assert (circuit.state, circuit.seen) == (State.CLOSED, [])


def test_a_child_process_begins_anew_whatever_its_parent_was_doing() -> None:
    circuit = opened()
    circuit._lock.acquire()  # as if another thread had been in it during the fork
    circuit.forget()
    snapshot = circuit.snapshot()
    assert (snapshot.state, snapshot.rejected, snapshot.timeline, snapshot.counts.throughput) == (
        State.CLOSED,
        0,
        (),
        0,
    )
    circuit.fail(5)
    assert circuit.path() == [State.OPEN, State.OPEN], "callbacks stay"
