"""Retries: how many, how long, never past a deadline; time and chance are injected."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_dbpool.core.retry import Retrier, RetryPolicy


class World:
    """A clock that moves when somebody sleeps, or when an attempt takes its time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


class Unlucky:
    """An operation that fails a number of times and takes a while each time."""

    def __init__(self, world: World, failures: float, seconds: float = 0.0) -> None:
        self.world = world
        self.failures = failures
        self.seconds = seconds
        self.begins: list[float] = []

    def __call__(self) -> str:
        self.begins.append(self.world.now)
        self.world.now += self.seconds
        if len(self.begins) <= self.failures:
            raise ConnectionError(len(self.begins))
        return "done"


def call(
    function: Callable[[], Any], retrier: Retrier, should_retry: Callable[[Exception], bool] = lambda error: True
) -> Any:
    """As its callers do it."""
    while True:
        try:
            return function()
        except Exception as error:
            if not (should_retry(error) and retrier.wait()):
                raise


def run(
    operation: Unlucky,
    policy: RetryPolicy,
    *,
    deadline: float = math.inf,
    random: Callable[[], float] = lambda: 1.0,
    should_retry: Callable[[Exception], bool] = lambda error: isinstance(error, ConnectionError),
) -> Any:
    world = operation.world
    retrier = Retrier(policy, deadline=deadline, clock=world.clock, sleep=world.sleep, random=random)
    return call(operation, retrier, should_retry)


# -- examples --------------------------------------------------------------------------------------------------------


def test_a_success_is_not_repeated() -> None:
    operation = Unlucky(World(), failures=0)
    assert run(operation, RetryPolicy()) == "done"
    assert (len(operation.begins), operation.world.slept) == (1, [])


def test_delays_double_up_to_the_cap() -> None:
    operation = Unlucky(World(), failures=6)
    policy = RetryPolicy(attempts=7, base_delay=0.25, max_delay=1.0, total=60)
    assert run(operation, policy) == "done"
    assert operation.world.slept == [0.25, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_jitter_is_full() -> None:
    """The random number scales the whole delay; zero means at once, without a sleep."""
    chances = iter([0.5, 0.0, 0.25])
    operation = Unlucky(World(), failures=3)
    run(operation, RetryPolicy(base_delay=0.25, total=60), random=lambda: next(chances))
    assert operation.world.slept == [0.125, 0.25]


def test_the_last_error_is_raised_after_all_attempts() -> None:
    operation = Unlucky(World(), failures=math.inf)
    with pytest.raises(ConnectionError) as caught:
        run(operation, RetryPolicy(attempts=3, total=60))
    assert caught.value.args == (3,)
    assert len(operation.begins) == 3
    assert len(operation.world.slept) == 2, "no sleep after the last one"


@pytest.mark.parametrize("policy", [RetryPolicy(enabled=False), RetryPolicy(attempts=1), RetryPolicy(total=0)])
def test_without_retries_the_first_error_is_raised_at_once(policy: RetryPolicy) -> None:
    operation = Unlucky(World(), failures=1)
    with pytest.raises(ConnectionError):
        run(operation, policy)
    assert (len(operation.begins), operation.world.slept) == (1, [])


def test_an_error_of_another_kind_is_raised_at_once() -> None:
    operation = Unlucky(World(), failures=1)
    with pytest.raises(ConnectionError):
        run(operation, RetryPolicy(), should_retry=lambda error: False)
    assert (len(operation.begins), operation.world.slept) == (1, [])


def test_no_attempt_begins_after_the_callers_deadline() -> None:
    operation = Unlucky(World(), failures=math.inf, seconds=0.1)
    with pytest.raises(ConnectionError):
        run(operation, RetryPolicy(attempts=100, base_delay=0.3, total=60), deadline=1001.0)
    assert operation.begins == pytest.approx([1000.0, 1000.4, 1000.95])
    assert operation.world.now == pytest.approx(1001.05), "the last delay is shortened, none begins after the deadline"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("where", ["attempt", "sleep"])
def test_interrupts_pass_through(interrupt: type[BaseException], where: str) -> None:
    calls = []

    def function() -> None:
        calls.append(1)
        raise interrupt if where == "attempt" else ConnectionError

    def sleep(seconds: float) -> None:
        assert where == "sleep"
        raise interrupt

    with pytest.raises(interrupt):
        call(function, Retrier(RetryPolicy(), sleep=sleep, random=lambda: 1.0))
    assert len(calls) == 1


def test_a_retrier_tells_how_it_stands() -> None:
    world = World()
    retrier = Retrier(RetryPolicy(total=4.0), clock=world.clock, sleep=world.sleep, random=lambda: 1.0)
    assert (retrier.attempts, retrier.remaining(), retrier.elapsed()) == (1, 4.0, 0.0)
    world.now += 1
    assert retrier.wait()
    assert (retrier.attempts, retrier.waited) == (2, 0.05)
    assert retrier.elapsed() == pytest.approx(1.05)
    assert retrier.remaining() == pytest.approx(2.95)
    world.now += 10
    assert retrier.remaining() == 0
    assert not retrier.wait()


# -- properties ------------------------------------------------------------------------------------------------------

policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 2000),
    max_delay=st.floats(0, 10),
    total=st.floats(0, 100),
    base_delay=st.floats(0, 10),
)
chance = st.floats(0, 1)


@given(policy=policies, chances=st.randoms(), patience=st.floats(0, 200), seconds=st.floats(0.001, 3))
def test_limits_hold_for_any_policy(policy: RetryPolicy, chances: object, patience: float, seconds: float) -> None:
    """Never more attempts, never a longer delay, never a sleep or a begin beyond the end of the time."""
    world = World()
    operation = Unlucky(world, failures=math.inf, seconds=seconds)
    deadline = world.now + patience
    end = min(deadline, world.now + policy.total)
    with pytest.raises(ConnectionError):
        run(operation, policy, deadline=deadline, random=chances.random)  # type: ignore[attr-defined]
    assert 1 <= len(operation.begins) <= policy.attempts
    assert all(begin < end for begin in operation.begins[1:])
    assert all(
        0 < slept <= min(policy.max_delay, policy.base_delay * 2.0**failures)
        for failures, slept in enumerate(world.slept)
        if len(world.slept) == len(operation.begins) - 1 and failures < 60
    )
    assert sum(world.slept) <= max(0.0, end - 1000.0)


@given(policy=policies, failures=st.integers(1, 5000))
def test_caps_grow_and_stay_below_the_limit(policy: RetryPolicy, failures: int) -> None:
    assert 0 <= policy.cap(failures) <= policy.cap(failures + 1) <= policy.max_delay or policy.cap(failures) == 0


@given(policy=policies, random=chance)
def test_a_delay_is_between_zero_and_the_cap(policy: RetryPolicy, random: float) -> None:
    world = World()
    delay = Retrier(policy, clock=world.clock, sleep=world.sleep, random=lambda: random).next_delay()
    assert delay is None or 0 <= delay <= policy.cap(1)
    assert world.slept == [], "asking does not sleep"
