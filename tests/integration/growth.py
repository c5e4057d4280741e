"""A program of its own, in which nothing else allocates: by how much leases make a process grow."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import django
from django.db import connection, transaction
from django.test.utils import setup_test_environment

WINDOWS = 4


def execute(sql: str, params: list[Any] | None = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)


def leases(count: int) -> Callable[[], None]:
    """Take a free connection and give it back, by the code that every statement goes through."""
    db: Any = connection
    execute("SELECT 1")
    pool = db.pool

    def work() -> None:
        take, release, owner = db._take, pool.release, db._owner
        for _ in range(count):
            entry = take(pool)
            db._entry = None
            release(entry, owner)

    return work


def statements(count: int) -> Callable[[], None]:
    """Real ones, with their round trips, in transactions and outside of them."""
    from django_dbpool.pool.session_state import known_neutral

    numbers = iter(range(10_000_000))

    def work() -> None:
        for _ in range(count // 4):
            execute("SELECT %s", [1])
            execute(f"SELECT {next(numbers)}")
            with transaction.atomic():
                execute("SELECT 2")
            with connection.cursor():
                pass
        known_neutral.clear()  # a bounded cache, which would be somewhere between empty and full

    return work


def growth(work: Callable[[], object]) -> int:
    """
    Bytes by which the later two of four windows end above the first two. Not one by one: caches of the driver and the
    interpreter are fuller at the end of one window and emptier at the end of the next.
    """
    work()
    tracemalloc.start(1)
    work()
    sizes = []
    for _ in range(WINDOWS):
        work()
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    return max(sizes[2:]) - max(sizes[:2])


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    setup_test_environment()  # what looks from time to time fills its series, for up to a quarter of an hour
    connection.settings_dict["NAME"] = "postgres"
    kind = {"leases": leases, "statements": statements}[sys.argv[1]]
    print(growth(kind(int(sys.argv[2]))), connection.pool.snapshot().in_use)
