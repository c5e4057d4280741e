"""The circuit breaker, transition by transition; time is injected."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest

from django_dbpool.core.breaker import BreakerPolicy, CircuitBreaker, Permit, Rejected, State, Transition

POLICY = BreakerPolicy(probe_interval=None)
PROBED = BreakerPolicy(probe_interval=0.25)
LOST = ConnectionError("no answer")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Circuit(CircuitBreaker):
    """A breaker with the clock in hand and its transitions in a list."""

    def __init__(self, policy: BreakerPolicy = POLICY, **kwargs: Any) -> None:
        self.clock = Clock()
        self.seen: list[Transition] = []
        super().__init__(policy, on_change=(self.seen.append,), clock=self.clock, **kwargs)

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.allow().failure(LOST)

    def succeed(self, times: int = 1) -> None:
        for _ in range(times):
            self.allow().success()

    def rejection(self) -> Rejected:
        with pytest.raises(Rejected) as caught:
            self.allow()
        return caught.value

    def path(self) -> list[State]:
        return [transition.after for transition in self.seen]


def opened(policy: BreakerPolicy = POLICY, **kwargs: Any) -> Circuit:
    circuit = Circuit(policy, **kwargs)
    circuit.fail(5)
    assert circuit.state is State.OPEN
    return circuit


def half_open(policy: BreakerPolicy = POLICY, **kwargs: Any) -> tuple[Circuit, Permit]:
    circuit = opened(policy, **kwargs)
    circuit.clock.now += 60
    trial = circuit.allow()
    assert (circuit.state, trial.is_trial) == (State.HALF_OPEN, True)
    return circuit, trial


# -- closed ----------------------------------------------------------------------------------------------------------


def test_opens_with_the_fifth_failure_and_not_before() -> None:
    circuit = Circuit()
    circuit.fail(4)
    assert circuit.state is State.CLOSED
    circuit.fail()
    assert circuit.snapshot().state is State.OPEN
    (transition,) = circuit.seen
    assert (transition.before, transition.after, transition.reason) == (State.CLOSED, State.OPEN, "too many failures")
    assert (transition.counts.failures, transition.error, transition.at) == (5, LOST, 1000.0)


@pytest.mark.parametrize(("successes", "failures", "state"), [(5, 4, State.CLOSED), (5, 5, State.OPEN)])
def test_opens_at_the_ratio(successes: int, failures: int, state: State) -> None:
    circuit = Circuit()
    circuit.succeed(successes)
    circuit.fail(failures)
    assert circuit.state is state


def test_a_success_never_opens() -> None:
    """Only a failure is a reason, as in Polly: here the fifth result brings the throughput, four of five failed."""
    circuit = Circuit()
    circuit.fail(4)
    circuit.succeed()
    assert circuit.state is State.CLOSED
    circuit.fail()
    assert circuit.snapshot().state is State.OPEN


def test_results_are_forgotten_after_the_sampling_duration() -> None:
    circuit = Circuit()
    circuit.fail(4)
    circuit.clock.now += 26.9
    assert circuit.snapshot().counts.failures == 4
    circuit.clock.now += 3.1
    assert circuit.snapshot().counts.failures == 0
    circuit.fail(4)
    assert circuit.state is State.CLOSED


def test_ignored_calls_do_not_count() -> None:
    circuit = Circuit()
    for _ in range(20):
        circuit.allow().ignore()
        with pytest.raises(ZeroDivisionError), circuit.allow():
            raise ZeroDivisionError
    assert circuit.snapshot().counts.throughput == 0


def test_a_permit_counts_once() -> None:
    circuit = Circuit()
    with circuit.allow() as permit:
        permit.failure(LOST)
        permit.failure(LOST)
        permit.success()
    assert (circuit.snapshot().counts.successes, circuit.snapshot().counts.failures) == (0, 1)


def test_not_enabled_it_never_opens_by_itself() -> None:
    circuit = Circuit(BreakerPolicy(enabled=False))
    circuit.fail(100)
    circuit.trip(LOST)
    assert circuit.state is State.CLOSED
    circuit.isolate()
    assert circuit.rejection().state is State.ISOLATED


# -- open ------------------------------------------------------------------------------------------------------------


def test_open_refuses_with_the_time_to_wait_and_the_failure() -> None:
    circuit = opened()
    circuit.clock.now += 20
    rejected = circuit.rejection()
    assert (rejected.state, rejected.retry_after, rejected.error) == (State.OPEN, 40.0, LOST)
    assert circuit.snapshot().rejected == 1
    circuit.clock.now += 39.9
    circuit.rejection()


def test_results_of_calls_that_began_before_do_not_count() -> None:
    circuit = Circuit()
    permits = [circuit.allow() for _ in range(20)]
    circuit.fail(5)
    for permit in permits:
        permit.success()
    permits[0].failure(LOST)
    snapshot = circuit.snapshot()
    assert (snapshot.state, snapshot.late, snapshot.retry_after) == (State.OPEN, 20, 60.0)
    assert circuit.path() == [State.OPEN]


def test_failures_from_before_an_outage_do_not_count_after_it() -> None:
    circuit = Circuit()
    permits = [circuit.allow() for _ in range(5)]
    circuit.fail(5)
    circuit.probe_succeeded()
    for permit in permits:
        permit.failure(LOST)
    assert circuit.state is State.CLOSED
    assert circuit.snapshot().counts.throughput == 0


# -- the trial -------------------------------------------------------------------------------------------------------


def test_the_first_call_after_the_break_is_the_trial_and_the_only_one() -> None:
    circuit, _trial = half_open()
    assert circuit.rejection().state is State.HALF_OPEN
    assert circuit.path() == [State.OPEN, State.HALF_OPEN]


def test_the_trials_success_closes() -> None:
    circuit, trial = half_open()
    trial.success()
    assert circuit.state is State.CLOSED
    assert (circuit.snapshot().counts.throughput, circuit.snapshot().error) == (0, None)
    circuit.fail(4)
    assert circuit.state is State.CLOSED, "the failures before the break are forgotten"


def test_the_trials_failure_opens_for_another_break() -> None:
    circuit, trial = half_open()
    circuit.clock.now += 5
    trial.failure(LOST)
    assert circuit.rejection().retry_after == 60
    circuit.clock.now += 60
    assert circuit.allow().is_trial


def test_a_late_result_does_not_decide_a_trial() -> None:
    circuit = Circuit()
    late_success, late_failure = circuit.allow(), circuit.allow()
    circuit.fail(5)
    circuit.clock.now += 60
    circuit.allow()
    late_success.success()
    late_failure.failure(LOST)
    assert circuit.state is State.HALF_OPEN


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, ZeroDivisionError])
def test_a_trial_that_is_interrupted_gives_its_place_to_the_next_caller(error: type[BaseException]) -> None:
    circuit, trial = half_open()
    with pytest.raises(error), trial:
        raise error
    following = circuit.allow()
    assert following.is_trial
    circuit.rejection()
    following.success()
    assert circuit.state is State.CLOSED


def test_a_trial_whose_thread_has_vanished_blocks_nobody_for_ever() -> None:
    circuit, lost = half_open(trial_timeout=10)
    circuit.clock.now += 9.9
    assert 0 < circuit.rejection().retry_after <= 0.1001
    circuit.clock.now += 0.1
    second = circuit.allow()
    assert second.is_trial
    lost.failure(LOST)
    assert circuit.state is State.HALF_OPEN, "the lost one came back too late"
    lost.ignore()
    circuit.rejection()
    second.success()
    assert circuit.snapshot().state is State.CLOSED


def test_sixty_four_threads_and_one_trial() -> None:
    for _ in range(20):
        circuit = opened()
        circuit.clock.now += 60
        together = threading.Barrier(64)
        trials: list[Permit] = []
        refused: list[Rejected] = []

        def ask(circuit: Circuit, together: threading.Barrier, trials: list[Permit], refused: list[Rejected]) -> None:
            together.wait()
            try:
                trials.append(circuit.allow())
            except Rejected as rejected:
                refused.append(rejected)

        threads = [threading.Thread(target=ask, args=(circuit, together, trials, refused)) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(trials), len(refused)) == (1, 63)
        trials[0].success()
        assert circuit.path() == [State.OPEN, State.HALF_OPEN, State.CLOSED]


def test_no_lock_is_held_while_callers_work() -> None:
    """A caller in the middle of its call keeps nobody from asking, reporting or looking."""
    circuit, _trial = half_open()
    done: list[State] = []

    def work_elsewhere() -> None:
        circuit.rejection()
        circuit.reset()
        with circuit.allow() as permit:
            permit.success()
        done.append(circuit.snapshot().state)

    with _trial:
        thread = threading.Thread(target=work_elsewhere)
        thread.start()
        thread.join(10)
        assert done == [State.CLOSED]


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


# -- callbacks and reports -------------------------------------------------------------------------------------------


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
