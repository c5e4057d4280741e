"""The circuit breaker, transition by transition, as its callers' results make them."""

from __future__ import annotations

import threading

import pytest

from django_dbpool.core.breaker import BreakerPolicy, Permit, Rejected, State
from tests.unit.breaker.circuits import LOST, Circuit, half_open, opened

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
