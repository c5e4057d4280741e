"""
The circuit breaker against a model that is too simple to be wrong: no lock, no buckets, no callbacks, everything is
computed from the history of results. Steps are taken by several threads.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from django_dbpool.core.breaker import BreakerPolicy, CircuitBreaker, Permit, Rejected, State, Transition

SAMPLING = 30.0
BREAK = 60.0
TRIAL = 20.0


class Model:
    """What a breaker of this policy has to do. A permit is the number of its era, or of its trial."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.now = 0.0
        self.state = "closed"
        self.era = 0
        self.opened = 0.0
        self.last_word = 0.0
        """When it opened, or the last failed probe came."""
        self.results: list[tuple[int, bool]] = []
        self.trial: int | None = None
        self.trial_began = 0.0
        self.trials = 0

    def counts(self) -> tuple[int, int]:
        """A result lives for ten tenths of the sampling duration, the one in which it came included."""
        tenth = SAMPLING / 10
        living = [ok for number, ok in self.results if int(self.now / tenth) - number < 10]
        return living.count(True), living.count(False)

    def may_try(self) -> bool:
        if self.state == "open":
            return self.now >= self.last_word + BREAK
        return self.state == "half-open" and (self.trial is None or self.now >= self.trial_began + TRIAL)

    def allow(self) -> tuple[str, int] | None:
        if self.state == "closed":
            return ("call", self.era)
        if not self.may_try():
            return None
        self.state = "half-open"
        self.trials += 1
        self.trial, self.trial_began = self.trials, self.now
        return ("trial", self.trials)

    def report(self, permit: tuple[str, int], result: str) -> None:
        kind, number = permit
        if kind == "trial" and self.state == "half-open" and number == self.trial:
            if result == "ignore":
                self.trial = None
            elif result == "success":
                self.close()
            else:
                self.open()
        elif kind == "call" and self.state == "closed" and number == self.era and result != "ignore":
            self.results.append((int(self.now / (SAMPLING / 10)), result == "success"))
            successes, failures = self.counts()
            enough = successes + failures >= self.policy.minimum_throughput
            if result == "failure" and enough and failures / (successes + failures) >= self.policy.failure_ratio:
                self.open()

    def open(self) -> None:
        self.state, self.trial = "open", None
        self.opened = self.last_word = self.now

    def close(self) -> None:
        self.state, self.trial, self.results = "closed", None, []
        self.era += 1

    def probe(self, answered: bool) -> None:
        if answered and self.state in ("open", "half-open"):
            self.close()
        elif not answered and self.state == "open":
            self.last_word = self.now

    def trip(self) -> None:
        if self.state in ("closed", "half-open"):
            self.open()

    def isolate(self) -> None:
        self.state, self.trial = "isolated", None

    def reset(self) -> None:
        if self.state == "closed":
            self.results = []  # not a new era: a call that is under way says something about the server of today
        else:
            self.close()


class BreakerMachine(RuleBasedStateMachine):
    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.threads = ThreadPoolExecutor(4)

    def teardown(self) -> None:
        self.threads.shutdown()

    @initialize(
        ratio=st.sampled_from([0.01, 0.5, 0.9, 1.0]),
        throughput=st.integers(2, 6),
        probe=st.sampled_from([None, 0.25]),
    )
    def begin(self, ratio: float, throughput: int, probe: float | None) -> None:
        policy = BreakerPolicy(True, ratio, throughput, SAMPLING, BREAK, probe)
        self.model = Model(policy)
        self.seen: list[Transition] = []
        self.breaker = CircuitBreaker(
            policy, trial_timeout=TRIAL, on_change=(self.seen.append,), clock=lambda: self.model.now
        )

    def elsewhere(self, function: Any, *args: Any) -> Any:
        """In any one of the threads."""
        return self.threads.submit(function, *args).result(20)

    # Whole eighths, which floats hold exactly, so that two ways of computing can't differ at the edges.
    @rule(eighths=st.one_of(st.integers(1, 24), st.sampled_from([24, 80, 159, 160, 240, 479, 480, 481])))
    def time_passes(self, eighths: int) -> None:
        self.model.now += eighths / 8

    @rule(target=permits)
    def ask(self) -> Any:
        expected = self.model.allow()
        try:
            permit = self.elsewhere(self.breaker.allow)
        except Rejected as rejected:
            self.check_rejection(rejected, expected)
            return None
        assert expected is not None
        assert permit.is_trial == (expected[0] == "trial")
        return (permit, expected)

    def check_rejection(self, rejected: Rejected, expected: object) -> None:
        assert expected is None
        assert rejected.state.value == self.model.state
        assert 0 < rejected.retry_after <= BREAK

    @rule(pair=consumes(permits), result=st.sampled_from(["failure", "failure", "failure", "success", "ignore"]))
    def report(self, pair: tuple[Permit, tuple[str, int]] | None, result: str) -> None:
        if pair is not None:
            permit, number = pair
            self.model.report(number, result)
            self.elsewhere(getattr(permit, result))

    @rule(times=st.integers(1, 6))
    def calls_fail(self, times: int) -> None:
        for _ in range(times):
            self.report(self.ask(), "failure")

    @rule(answered=st.booleans())
    def probe(self, answered: bool) -> None:
        self.model.probe(answered)
        self.elsewhere(self.breaker.probe_succeeded if answered else self.breaker.probe_failed)

    @rule(action=st.sampled_from(["trip", "isolate", "reset", "reset"]))
    def by_hand(self, action: str) -> None:
        getattr(self.model, action)()
        self.elsewhere(getattr(self.breaker, action))

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "model"):
            return
        snapshot = self.breaker.snapshot()
        assert snapshot.state.value == self.model.state
        if self.model.state == "closed":
            assert (snapshot.counts.successes, snapshot.counts.failures) == self.model.counts()
        assert (snapshot.retry_after == 0) == (self.model.state == "closed" or self.model.may_try())
        if self.model.state == "open" and self.model.policy.probe_interval is None and not self.model.may_try():
            assert snapshot.retry_after == self.model.last_word + BREAK - self.model.now
        assert legal(self.seen)


def legal(seen: list[Transition]) -> bool:
    """Each transition begins where the one before has ended."""
    states = [State.CLOSED, *(transition.after for transition in seen)]
    return [transition.before for transition in seen] == states[:-1] and all(t.before != t.after for t in seen)


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=100, stateful_step_count=40)


@pytest.mark.parametrize("seed", range(5))
def test_threads_at_random(seed: int) -> None:
    """Eight threads do what they like: transitions fit together, and of each half-open state exactly one trial."""
    clock = [0.0]
    seen: list[Transition] = []
    trials: list[int] = []
    breaker = CircuitBreaker(
        BreakerPolicy(minimum_throughput=3, break_duration=5, sampling_duration=10, probe_interval=None),
        trial_timeout=1e9,
        on_change=(seen.append,),
        clock=lambda: clock[0],
    )

    def act(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        for _ in range(1500):
            try:
                with breaker.allow() as permit:
                    if permit.is_trial:
                        trials.append(number)
                    # Never ignored: a trial given back may be followed by another one in the same state.
                    permit.success() if chance.random() < 0.3 else permit.failure()
            except Rejected:
                if chance.random() < 0.1:
                    clock[0] += 1
                if chance.random() < 0.01:
                    chance.choice([breaker.isolate, breaker.probe_succeeded, breaker.reset])()
                elif breaker.state is State.ISOLATED:
                    breaker.reset()

    threads = [threading.Thread(target=act, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    breaker._deliver()
    assert legal(seen)
    assert len(trials) == sum(transition.after is State.HALF_OPEN for transition in seen) > 0
