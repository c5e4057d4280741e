"""How often, how long and how late transaction.retrying() tries, with a clock that passes when told; no server."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connection
from hypothesis import given
from hypothesis import strategies as st

from django_dbpool import transaction
from django_dbpool.core.errors import Expiry, Loss, Moment, Refusal
from django_dbpool.errors import (
    CircuitOpen,
    CommitUnknown,
    ConnectionLost,
    DatabaseUnavailable,
    LeaseTimedOut,
    PoolError,
    PoolExhausted,
    PoolOverloaded,
    ServerConnectionsExhausted,
    ShuttingDown,
)
from django_dbpool.transaction.verdict import Done, is_harmless, is_transient, why_not
from tests.faults.helpers import Clock

REFUSAL = Refusal("default", waited=1.0, in_use=1, max_size=1, waiting=0)


def lost(moment: Moment) -> ConnectionLost:
    return (CommitUnknown if moment == "commit" else ConnectionLost)(REFUSAL, Loss(moment))


def django_error(cause: BaseException | None) -> OperationalError:
    error = OperationalError("text")
    error.__cause__ = cause
    return error


def unavailable(cause: BaseException | None) -> DatabaseUnavailable:
    error = DatabaseUnavailable(REFUSAL)
    error.__cause__ = cause
    return error


class Time(Clock):
    """Passes in pauses only, and while an attempt works."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts that neither look at a connection nor have one."""
    for name in ("prepare", "release"):
        monkeypatch.setattr("django_dbpool.transaction.attempt.Attempt." + name, lambda self: None)


def run(time: Time, error: Exception, works_for: float = 0.0, fails: int = 10**6, **arguments: Any) -> list[float]:
    """Begins of all attempts, on a clock that begins with 0."""
    begin, begins = time.now, []

    def work() -> None:
        begins.append(time.now - begin)
        time.now += works_for
        if len(begins) <= fails:
            raise error

    with suppress(type(error)):
        transaction.retrying(atomic=False, clock=time, sleep=time.sleep, **arguments).call(work)
    return begins


@given(
    attempts=st.integers(1, 40),
    total=st.floats(0, 60),
    max_delay=st.floats(0, 10),
    works_for=st.floats(0, 5),
    draws=st.lists(st.floats(0, 1), min_size=40, max_size=40),
)
def test_limits_hold(attempts: int, total: float, max_delay: float, works_for: float, draws: list[float]) -> None:
    """Never more attempts, none begins after the total time, no pause is longer than its cap."""
    time = Time()
    error = django_error(psycopg.errors.SerializationFailure())
    begins = run(
        time, error, works_for, attempts=attempts, total=total, max_delay=max_delay, random=iter(draws).__next__
    )
    assert 1 <= len(begins) <= attempts
    assert all(begin <= total for begin in begins[1:])
    for number, pause in enumerate(time.pauses):
        assert pause <= min(max_delay, 0.05 * 2**number) + 1e-9
    notes = "".join(error.__notes__)
    assert f"after {len(begins)} attempts in {time.now - 1000.0:.1f} s" in notes
    if len(begins) < attempts:
        assert begins[-1] + works_for + 1e-6 >= total


@given(fails=st.integers(0, 10))
def test_it_ends_with_the_first_success(fails: int) -> None:
    time = Time()
    begins = run(time, django_error(psycopg.errors.DeadlockDetected()), fails=fails, attempts=20, total=1000)
    assert len(begins) == fails + 1 == len(time.pauses) + 1


def test_pauses_are_random_and_grow() -> None:
    time = Time()
    run(time, django_error(psycopg.errors.SerializationFailure()), attempts=9, total=100, random=lambda: 1.0)
    assert time.pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])
    time = Time()
    run(time, django_error(psycopg.errors.SerializationFailure()), attempts=9, total=100, random=lambda: 0.5)
    assert time.pauses == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5])


def test_a_deadline_ends_it() -> None:
    time = Time()
    with transaction.deadline(0.4):
        begins = run(time, django_error(psycopg.errors.SerializationFailure()), total=60, attempts=1000)
    assert len(begins) > 2
    assert max(begins) <= 0.4
    with transaction.deadline(0):
        assert run(Time(), django_error(psycopg.errors.SerializationFailure())) == [0.0]


@pytest.mark.parametrize(("retry_after", "tries"), [(3.0, True), (60.0, False), (10.0, False)])
def test_an_open_circuit_is_waited_for_if_that_is_near(retry_after: float, tries: bool) -> None:
    """Patiently: it answers at once, so that short pauses would use up the attempts."""
    time = Time()
    error = CircuitOpen(dataclasses.replace(REFUSAL, retry_after=retry_after))
    begins = run(time, error, fails=3, total=10.0, attempts=5, random=lambda: 0.0)
    assert begins == ([0.0, 1.0, 2.0, 3.0] if tries else [0.0])


def test_asynchronous_pauses() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    @transaction.retrying(atomic=False, attempts=3, sleep=sleep)
    async def work() -> None:
        raise django_error(psycopg.errors.SerializationFailure())

    with pytest.raises(OperationalError):
        asyncio.run(work())
    assert len(pauses) == 2


def named(errors: list[Exception]) -> list[str]:
    return [f"{n} {type(error).__name__} {type(error.__cause__).__name__}" for n, error in enumerate(errors)]


REPEATED: list[Exception] = [
    django_error(psycopg.errors.SerializationFailure()),
    django_error(psycopg.errors.DeadlockDetected()),
    django_error(psycopg.OperationalError("server closed the connection unexpectedly")),
    psycopg.errors.SerializationFailure(),
    unavailable(None),
    unavailable(psycopg.OperationalError("connection refused")),
    unavailable(psycopg.errors.CannotConnectNow()),
    CircuitOpen(dataclasses.replace(REFUSAL, retry_after=0.0)),
    ServerConnectionsExhausted(REFUSAL),
    lost("read"),
    lost("unsent"),
    lost("transaction"),
    lost("aborted"),
    lost("unwritten"),
]


class PoolTimeout(psycopg.OperationalError):
    """As that of psycopg_pool."""


PoolTimeout.__module__ = "psycopg_pool.errors"
NOT_REPEATED: list[Exception] = [
    django_error(None),
    django_error(ValueError()),
    django_error(psycopg.errors.QueryCanceled()),
    django_error(psycopg.errors.LockNotAvailable()),
    django_error(psycopg.errors.ReadOnlySqlTransaction()),
    django_error(psycopg.errors.IdleInTransactionSessionTimeout()),
    django_error(psycopg.errors.ProtocolViolation()),
    django_error(psycopg.InterfaceError("the cursor is closed")),
    django_error(PoolTimeout()),
    RuntimeError(),
    PoolError(REFUSAL),
    PoolExhausted(REFUSAL),
    PoolOverloaded(REFUSAL),
    ShuttingDown(REFUSAL),
    LeaseTimedOut(REFUSAL, Expiry("command_timeout", 1.0, 1.0, maybe_committed=False, answered=True)),
    unavailable(psycopg.errors.InvalidPassword()),
    unavailable(psycopg.OperationalError('FATAL: database "x" does not exist')),
    unavailable(ValueError("the provider of passwords")),
    lost("write"),
    lost("commit"),
]


@pytest.mark.parametrize("error", REPEATED, ids=named(REPEATED))
def test_repeated(error: Exception) -> None:
    assert is_transient(error)
    assert why_not(error, Done(), ()) is None


@pytest.mark.parametrize("error", NOT_REPEATED, ids=named(NOT_REPEATED))
def test_not_repeated(error: Exception) -> None:
    assert why_not(error, Done(), ()) is not None


@pytest.mark.parametrize(
    ("done", "always"),
    [
        ({"committed": True}, True),
        ({"commit_unknown": True}, True),
        ({"kept": "it"}, False),
        ({"unknown": True}, False),
    ],
)
def test_what_was_done_counts_more_than_the_error(done: dict[str, Any], always: bool) -> None:
    """Also with ``on``. Only an attempt's own transaction is never repeated for an idempotent block either."""
    attempt = Done()
    vars(attempt).update(done)
    for error in (*REPEATED, ZeroDivisionError()):
        assert why_not(error, attempt, ZeroDivisionError) is not None
        with transaction.idempotent():
            assert (why_not(error, attempt, ZeroDivisionError) is not None) is always


def test_unknown_outcomes() -> None:
    with transaction.idempotent():
        assert why_not(lost("write"), Done(), ()) is None
        assert why_not(lost("commit"), Done(), PoolError) is not None
    assert why_not(lost("write"), Done(), PoolError) is not None
    attempt, error = Done(), lost("write")
    attempt.harmless = error
    assert why_not(error, attempt, ()) is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "select 1;",
        "/* by: /reports */ SELECT 1",
        "-- comment\nVACUUM ANALYZE t",
        "VACUUM (ANALYZE) t;",
        "ANALYZE",
        "SHOW work_mem",
        "SET work_mem = '1MB'",
        "COPY t TO STDOUT",
        "copy (SELECT 1) TO STDOUT",
        b"SELECT 2",
        psycopg.sql.SQL("SELECT 1"),
    ],
)
def test_harmless(sql: Any) -> None:
    assert is_harmless(connection, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (1)",
        "SELECT 1; DELETE FROM t",
        "SELECT 1 INTO t",
        "WITH x AS (DELETE FROM t) SELECT 1",
        "SELECTION",
        "COPY t FROM STDIN",
        "COPY t (a, b) FROM STDIN",
        "COPY (DELETE FROM t RETURNING a) TO STDOUT",
        "/* SELECT */ UPDATE t SET a = 1",
        "",
        b"INSERT",
        None,
        "SELECT charge(7)",
        "VACUUM; DELETE FROM t",
    ],
)
def test_not_harmless(sql: Any) -> None:
    assert not is_harmless(connection, sql)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"attempts": 0}, ValueError),
        ({"attempts": True}, TypeError),
        ({"attempts": 1.5}, TypeError),
        ({"total": -1}, ValueError),
        ({"total": float("nan")}, ValueError),
        ({"total": "4"}, TypeError),
        ({"atomic": "no"}, TypeError),
        ({"max_delay": float("inf")}, ValueError),
        ({"on": KeyboardInterrupt}, TypeError),
        ({"on": (ValueError, "x")}, TypeError),
        ({"using": 7}, TypeError),
    ],
    ids=repr,
)
def test_mistakes_are_named(arguments: Any, error: type[Exception]) -> None:
    name = "alias" if "using" in arguments else next(iter(arguments))
    with pytest.raises(error, match=name):
        transaction.retrying(**arguments)
