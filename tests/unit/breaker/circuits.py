"""Circuit breakers whose time passes when told."""

from __future__ import annotations

from typing import Any

import pytest

from django_dbpool.core.breaker import BreakerPolicy, CircuitBreaker, Permit, Rejected, State, Transition
from tests.faults.helpers import Clock

POLICY = BreakerPolicy(probe_interval=None)
PROBED = BreakerPolicy(probe_interval=0.25)
LOST = ConnectionError("no answer")


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
