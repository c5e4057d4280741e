"""
A process that runs for months: leases leave nothing behind. Memory is compared between windows, after a first one in
which caches fill; what one lease left behind would show millionfold.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction

from django_dbpool.pool.session_state import known_neutral
from tests.fixtures.pools import execute, in_use

pytestmark = pytest.mark.django_db(transaction=True)

WINDOWS = 4
SLACK = 4_000
"""Bytes, of the interpreter's own coming and going. One byte for each lease would be far more."""


def growth(work: Callable[[], object]) -> int:
    """
    Bytes by which the later two of four windows end above the first two. Not one by one: caches of the driver and the
    interpreter are fuller at the end of one window and emptier at the end of the next.
    """
    work()
    tracemalloc.start(1)
    try:
        work()
        sizes = []
        for _ in range(WINDOWS):
            work()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    return max(sizes[2:]) - max(sizes[:2])


def leases(alias: str, count: int) -> Callable[[], None]:
    """Take a free connection and give it back, by the code that every statement goes through."""
    db: Any = connections[alias]
    execute(alias, "SELECT 1")
    pool = db.pool
    db._attach(pool)

    def work() -> None:
        take, release, owner = db._take, pool.release, db._owner
        for _ in range(count):
            entry = take(pool)
            db._entry = None
            release(entry, owner)

    return work


@pytest.mark.parametrize("count", [170_000, pytest.param(1_700_000, marks=pytest.mark.ci)])
def test_the_ledger_does_not_grow(single: str, count: int) -> None:
    """In six windows a million leases, or ten millions."""
    assert growth(leases(single, count)) < SLACK
    assert in_use(single) == 0


@pytest.mark.parametrize("count", [1_000, pytest.param(34_000, marks=pytest.mark.ci)])
def test_statements_and_transactions_do_not_grow(single: str, count: int) -> None:
    """Real ones, with their round trips: in six windows six thousand, or two hundred thousand."""
    numbers = iter(range(10_000_000))

    def work() -> None:
        for _ in range(count // 4):
            execute(single, "SELECT %s", [1])
            execute(single, f"SELECT {next(numbers)}")
            with transaction.atomic(using=single):
                execute(single, "SELECT 2")
            with connections[single].cursor():
                pass
        known_neutral.clear()  # a bounded cache, which would be somewhere between empty and full

    assert growth(work) < SLACK
    assert in_use(single) == 0
