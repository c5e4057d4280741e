"""
A process that runs for months: leases leave nothing behind. Memory is compared between windows, after a first one in
which caches fill; what one lease left behind would show millionfold.
"""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction

from tests.fixtures.pools import execute, in_use

pytestmark = pytest.mark.django_db(transaction=True)

WINDOWS = 4
SLACK = 2_000
"""Bytes between two windows: the interpreter's own coming and going. One byte for each lease would be far more."""


def growth(work: Callable[[], object]) -> list[int]:
    """Bytes that each window has added to what is allocated after the one before it."""
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
    return [after - before for before, after in itertools.pairwise(sizes)]


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
    assert max(growth(leases(single, count))) < SLACK
    assert in_use(single) == 0


@pytest.mark.parametrize("count", [1_000, pytest.param(34_000, marks=pytest.mark.ci)])
def test_statements_and_transactions_do_not_grow(single: str, count: int) -> None:
    """Real ones, with their round trips: in six windows six thousand, or two hundred thousand."""
    numbers = iter(range(10_000_000))

    def work() -> None:
        for _ in range(count // 4):
            execute(single, "SELECT %s", [1])
            execute(single, f"SELECT {next(numbers) % 300}")
            with transaction.atomic(using=single):
                execute(single, "SELECT 2")
            with connections[single].cursor():
                pass

    assert max(growth(work)) < SLACK + count // 100
    assert in_use(single) == 0
