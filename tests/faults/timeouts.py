"""Statements that take too long, in each of the ways in which one can be sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction

from django_dbpool.errors import LeaseTimedOut
from tests.faults.helpers import Database

LIMIT = 1.0
LATEST = LIMIT + 1.0
"""Seconds after which a statement has ended whatever the server does."""
NAP = "SELECT pg_sleep(600)"


@contextmanager
def too_late(setting: str = "command_timeout") -> Iterator[list[Any]]:
    """The block ends in LeaseTimedOut; gives a list with the error and the seconds that it took."""
    found: list[Any] = []
    began = monotonic()
    with pytest.raises(LeaseTimedOut) as raised:
        yield found
    found += [raised.value, monotonic() - began]
    assert raised.value.setting == setting
    assert isinstance(raised.value.__cause__, psycopg.Error)


def execute(alias: str, sql: str, params: Any = None) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)


def asleep(database: Database) -> bool:
    row = database.observer.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state = 'active'", [database.application]
    ).fetchone()
    return row is not None and row[0] > 0


def many(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.executemany("SELECT pg_sleep(%s)", [(600,), (600,)])


def called(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.callproc("pg_sleep", [600])


def fetched(alias: str) -> None:
    with transaction.atomic(using=alias), connections[alias].chunked_cursor() as cursor:
        cursor.execute("SELECT n, CASE WHEN n > 3 THEN pg_sleep(600) END FROM generate_series(1, 9) AS n")
        while cursor.fetchmany(2):
            pass


def iterated(alias: str) -> None:
    with connections[alias].chunked_cursor() as cursor:
        cursor.execute("SELECT n, CASE WHEN n > 3 THEN pg_sleep(600) END FROM generate_series(1, 9) AS n")
        list(cursor)


def in_savepoint(alias: str) -> None:
    with transaction.atomic(using=alias):
        execute(alias, "SELECT 1")
        with transaction.atomic(using=alias):
            execute(alias, NAP)


def manually(alias: str) -> None:
    transaction.set_autocommit(False, using=alias)
    try:
        execute(alias, NAP)
    finally:
        connections[alias].close()


def alone(alias: str) -> None:
    execute(alias, NAP)


WORKS = [alone, many, called, fetched, iterated, in_savepoint, manually]
