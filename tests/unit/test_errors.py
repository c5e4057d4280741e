"""What a refused caller is told."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing.reduction
import pickle

import psycopg
import pytest
from django.db import DatabaseError, OperationalError

from django_dbpool.core.errors import Exhausted, LeaseRefused, QueueFull, Refusal, Unreachable
from django_dbpool.core.ledger import Holder
from django_dbpool.errors import DatabaseUnavailable, PoolError, PoolExhausted, from_refusal

HOLDERS = tuple(
    Holder("default", 100 + n, f"worker-{n}", n, f"GET /reports/{n}/", 10.0 - n, None, "running", ("a.py:1 in f: x()",))
    for n in (1, 2)
)
REFUSAL = Refusal("default", waited=10.04, in_use=2, max_size=2, waiting=3, holders=HOLDERS)


@pytest.mark.parametrize(
    ("refused", "public"),
    [(Exhausted, PoolExhausted), (QueueFull, PoolExhausted), (Unreachable, DatabaseUnavailable)],
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
    assert "POOL['max_size']" in PoolExhausted.advice and "`holders`" in PoolExhausted.advice


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
