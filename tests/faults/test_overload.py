"""Far more work than the connections can do: what is served is served in time, what is refused is refused at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connections

from testproject.overload import CAPACITY, DJANGOS, ENGINES, OURS, SERVICE, WARM_UP, Outcome, measure, percentile
from tests.fixtures.aliases import MakeAlias

TARGET = 0.05
LONGEST_WAIT = 1.0
"""Seconds that nobody waits beyond once the overload is known, so that nobody starves within its class."""

Measure = Callable[[float, float], Outcome]


@pytest.fixture
def ours(make_alias: MakeAlias) -> Measure:
    return lambda factor, seconds: measure(make_alias(**ENGINES[OURS]), factor, seconds, ours=True)


@pytest.fixture
def djangos(make_alias: MakeAlias) -> Measure:
    return lambda factor, seconds: measure(make_alias(**ENGINES[DJANGOS]), factor, seconds, ours=False)


def judge(outcome: Outcome) -> None:
    """Beside a thread that has a connection of its own: what makes that one late is not the pool's."""
    assert outcome.delay(0.5) <= 0.02, "half of its requests are late: the pool is in everybody's way"
    served, refused = outcome.served(WARM_UP), outcome.refused(WARM_UP)
    assert outcome.goodput() >= 0.9 * outcome.possible()
    assert percentile(served, 0.99) <= 3 * TARGET + SERVICE + outcome.delay(0.99)
    assert served[-1] <= LONGEST_WAIT + outcome.delay(1)
    assert percentile(refused, 0.99) < 0.02 + outcome.delay(0.99)
    assert set(outcome.errors()) == {"PoolOverloaded"}
    assert outcome.captures <= outcome.seconds + 1
    assert len(outcome.reserved) > outcome.seconds
    assert max(outcome.reserved) < LONGEST_WAIT + outcome.delay(1)


@pytest.mark.ci
@pytest.mark.alone
@pytest.mark.parametrize("factor", [2, 10])
def test_overload(ours: Measure, factor: int) -> None:
    judge(ours(factor, 17.0))


@pytest.mark.ci
@pytest.mark.alone
def test_in_djangos_pool_all_of_them_wait(djangos: Measure) -> None:
    """Else the test above would prove nothing."""
    outcome = djangos(10, 9.0)
    assert percentile(outcome.served(WARM_UP), 0.5) > 10 * (3 * TARGET + SERVICE)


@pytest.mark.soak
@pytest.mark.parametrize("factor", [2, 10])
def test_overload_for_ten_minutes(ours: Measure, factor: int) -> None:
    judge(ours(factor, 600.0))


@pytest.mark.ci
@pytest.mark.alone
def test_threads_that_wait_for_each_other_are_served(make_alias: MakeAlias) -> None:
    """Thirty-two threads that never rest on eight connections, 0.1 s each: a queue that stands, and no overload."""
    entry = {**ENGINES[OURS], "POOL": {"max_size": 8, "timeout": 10}}
    alias = make_alias(**entry)
    outcome = measure(alias, 100 * 8 / CAPACITY, 5.0, threads=32, ours=True)
    assert outcome.errors() == {}
    assert percentile(outcome.served(), 0.5) > 2 * TARGET, "it stood above the target"
    assert connections[alias].pool.gate.codel.slow is False  # type: ignore[attr-defined]
