"""What a refused caller is told."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing.reduction
import pickle
from typing import get_args

import psycopg
import pytest
from django.db import DatabaseError, OperationalError

from django_dbpool.core.errors import (
    Exhausted,
    Expiry,
    LeaseRefused,
    Loss,
    Moment,
    QueueFull,
    Refusal,
    Unreachable,
)
from django_dbpool.core.ledger import Holder
from django_dbpool.errors import (
    CommitUnknown,
    ConnectionLost,
    DatabaseUnavailable,
    LeaseTimedOut,
    PoolError,
    PoolExhausted,
    PoolOverloaded,
    from_refusal,
    raised_in_request,
    withdraw,
)

HOLDERS = tuple(
    Holder("default", 100 + n, f"worker-{n}", n, f"GET /reports/{n}/", 10.0 - n, None, "running", ("a.py:1 in f: x()",))
    for n in (1, 2)
)
REFUSAL = Refusal("default", waited=10.04, in_use=2, max_size=2, waiting=3, holders=HOLDERS)
EXPIRY = Expiry("command_timeout", limit=10.0, age=10.04, maybe_committed=True, answered=False)


@pytest.mark.parametrize(
    ("refused", "public"),
    [(Exhausted, PoolExhausted), (QueueFull, PoolOverloaded), (Unreachable, DatabaseUnavailable)],
)
def test_each_refusal_has_a_public_name_and_keeps_its_cause(
    refused: type[LeaseRefused], public: type[PoolError]
) -> None:
    cause = psycopg.OperationalError("refused")
    original = refused(REFUSAL)
    original.__cause__ = cause
    error = from_refusal(original)
    assert type(error) is public
    assert error.__cause__ is cause
    assert isinstance(error, OperationalError), "code that caught Django's error goes on working"
    assert isinstance(error, DatabaseError)


@pytest.mark.parametrize("public", [PoolExhausted, DatabaseUnavailable])
def test_the_numbers_are_attributes(public: type[PoolError]) -> None:
    error = public(REFUSAL)
    for name in ("alias", "waited", "in_use", "max_size", "waiting", "holders"):
        assert getattr(error, name) == getattr(REFUSAL, name)
    assert error.retry_after > 0


def test_exhausted_reads_like_a_runbook() -> None:
    lines = str(PoolExhausted(REFUSAL)).splitlines()
    assert lines == [
        "No connection to database 'default' after 10.0 s: 2 of 2 in use, 3 more waiting.",
        "  1. GET /reports/1/, thread 'worker-1', 9.0 s, running, backend 101",
        "  2. GET /reports/2/, thread 'worker-2', 8.0 s, running, backend 102",
        PoolExhausted.advice,
    ]
    assert 'POOL["max_size"]' in PoolExhausted.advice and "`holders`" in PoolExhausted.advice


def test_stacks_are_in_holders_and_not_in_the_text() -> None:
    error = PoolExhausted(REFUSAL)
    assert "a.py" not in str(error)
    assert error.holders[0].stack == ("a.py:1 in f: x()",)


def test_a_cycle_is_told() -> None:
    refusal = dataclasses.replace(REFUSAL, cycle=("A waits for x, held by B", "B waits for y, held by A"))
    lines = str(PoolExhausted(refusal)).splitlines()
    assert "A waits for x, held by B; B waits for y, held by A." in lines[3]
    assert PoolExhausted(refusal).cycle == refusal.cycle


def test_unavailable_says_what_to_look_at() -> None:
    text = str(DatabaseUnavailable(dataclasses.replace(REFUSAL, waited=0.01)))
    assert text.startswith("Database 'default' is unavailable: connecting failed after 0.0 s, 2 older connections in")
    assert text.endswith(DatabaseUnavailable.advice)


@pytest.mark.parametrize("public", [PoolError, PoolExhausted, DatabaseUnavailable])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_survive_pickling(public: type[PoolError], protocol: int) -> None:
    """As results of tasks and of child processes do."""
    error = public(REFUSAL)
    loaded = pickle.loads(pickle.dumps(error, protocol))
    assert type(loaded) is public
    assert (str(loaded), loaded.refusal, loaded.args) == (str(error), REFUSAL, error.args)
    assert loaded.holders == HOLDERS


def test_errors_survive_copying_and_multiprocessing() -> None:
    error = PoolExhausted(REFUSAL)
    assert copy.copy(error).refusal == REFUSAL
    again = multiprocessing.reduction.ForkingPickler.loads(multiprocessing.reduction.ForkingPickler.dumps(error))
    assert str(again) == str(error)


def test_committed_survives_pickling_when_a_commit_hook_failed() -> None:
    error = PoolExhausted(REFUSAL)
    error.committed = True  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(error)).committed is True


def test_timed_out_reads_like_a_runbook() -> None:
    assert str(LeaseTimedOut(REFUSAL, EXPIRY)).splitlines() == [
        (
            "A statement on database 'default' was stopped after 10.0 s: POOL[\"command_timeout\"] = 10 s was "
            "exceeded; 2 of 2 connections in use, 3 callers waiting."
        ),
        "The server did not answer the request to cancel it, so the connection was cut.",
        "It may have been committed: look before you repeat it.",
        LeaseTimedOut._advice["command_timeout"],
    ]


@pytest.mark.parametrize(
    ("setting", "limit", "begins"),
    [
        (
            "command_timeout",
            1.5,
            "A statement on database 'default' was stopped after 2.0 s: POOL[\"command_timeout\"] = 1.5 s",
        ),
        (
            "transaction_timeout",
            1,
            "A transaction on database 'default' was ended by the server: POOL[\"transaction_timeout\"]",
        ),
        ("idle_in_transaction_timeout", 1, "An idle session on database 'default' was ended by the server: POOL["),
        (
            "idle_in_transaction_timeout",
            None,
            "An idle session on database 'default' was ended by the server: the server's",
        ),
        (
            "idle_session_timeout",
            None,
            "An idle session on database 'default' was ended by the server: the server's limit",
        ),
    ],
)
def test_each_limit_has_its_text_and_advice(setting: str, limit: float | None, begins: str) -> None:
    error = LeaseTimedOut(REFUSAL, Expiry(setting, limit, age=2.0, maybe_committed=False, answered=True))
    lines = str(error).splitlines()
    assert lines[0].startswith(begins)
    assert lines[1:] == [LeaseTimedOut._advice[setting]]
    assert (error.setting, error.limit, error.maybe_committed) == (setting, limit, False)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_timed_out_survives_pickling(protocol: int) -> None:
    error = LeaseTimedOut(REFUSAL, EXPIRY)
    loaded = pickle.loads(pickle.dumps(error, protocol))
    assert type(loaded) is LeaseTimedOut
    assert (str(loaded), loaded.args, loaded.refusal, loaded.expiry) == (str(error), error.args, REFUSAL, EXPIRY)
    assert (loaded.setting, loaded.limit, loaded.maybe_committed) == ("command_timeout", 10.0, True)
    assert isinstance(loaded, OperationalError)


# -- connections that were lost ------------------------------------------------------------------------------------

SAID = dataclasses.replace(REFUSAL, driver="terminating connection due to administrator command")
MOMENTS = get_args(Moment)


@pytest.mark.parametrize("moment", MOMENTS)
def test_lost_says_what_and_whether_and_what_to_do(moment: Moment) -> None:
    error = (CommitUnknown if moment == "commit" else ConnectionLost)(SAID, Loss(moment))
    text = str(error)
    assert text.startswith("The connection to database 'default' was lost ")
    assert "The driver says: terminating connection due to administrator command." in text
    assert error.maybe_committed is (moment in ("write", "commit"))
    assert ("may have been committed" in text) is error.maybe_committed
    assert ("Look before you repeat it" in text) is error.maybe_committed
    assert ("Repeat the whole block" in text) is not error.maybe_committed


def test_unknown_commit_is_a_lost_connection() -> None:
    assert issubclass(CommitUnknown, ConnectionLost)
    assert issubclass(ConnectionLost, PoolError)


@pytest.mark.parametrize("kind", [ConnectionLost, CommitUnknown])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_lost_survives_pickling(kind: type[ConnectionLost], protocol: int) -> None:
    error = kind(SAID, Loss("commit"))
    loaded = pickle.loads(pickle.dumps(error, protocol))
    assert type(loaded) is kind
    assert (str(loaded), loaded.refusal, loaded.loss, loaded.maybe_committed) == (str(error), SAID, error.loss, True)


def test_what_was_dealt_with_is_withdrawn() -> None:
    """A read that was repeated is nothing that a request's answer could be about."""
    raised: list[BaseException] = []
    token = raised_in_request.set(raised)
    try:
        kept, repeated = ConnectionLost(SAID, Loss("write")), ConnectionLost(SAID, Loss("read"))
        withdraw(repeated)
        assert raised == [kept]
    finally:
        raised_in_request.reset(token)
    withdraw(kept)  # outside of a request
