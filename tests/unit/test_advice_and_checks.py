"""Advice and system checks speak with one voice: what is to be pasted brings no complaint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from django_dbpool.advice import Load, Report
from django_dbpool.checks.pools import pools
from django_dbpool.checks.project import read_project
from django_dbpool.core.advice import Measured, Room
from django_dbpool.reports.sizes import advise_on

OURS = "django_dbpool.backends.postgresql"
MIDDLEWARE = ["django_dbpool.middleware.DatabasePoolMiddleware"]


@contextmanager
def project(database: Mapping[str, Any], dbpool: Mapping[str, Any]) -> Iterator[None]:
    """In production, on one database."""
    entry = {"ENGINE": OURS, "NAME": "x", "HOST": "db", **database}
    with pytest.MonkeyPatch.context() as patch, override_settings(DBPOOL=dict(dbpool), MIDDLEWARE=MIDDLEWARE):
        patch.delenv("WEB_CONCURRENCY", raising=False)
        patch.setattr(settings, "DATABASES", {"x": entry})
        yield


def complaints() -> set[str]:
    return {str(message.id) for message in run_checks(tags=["dbpool"])}


def advised(measured: Measured | None, room: Room) -> Report:
    (alias,) = pools()
    loads = [] if measured is None else [Load("app-1:1", {"x": measured})]
    return advise_on(alias, read_project(), loads, room=room)


def follow(database: dict[str, Any], dbpool: dict[str, Any], measured: Measured | None = None, **room: Any) -> Report:
    """Paste it; nothing that was not complained of before is now."""
    with project(database, dbpool):
        before = complaints()
        report = advised(measured, Room(**room))
    pool = {**database.get("POOL", {}), **report.changes}
    with project({**database, "POOL": pool or True}, dbpool):
        new = complaints() - before
    assert not new, (report.changes, new)
    return report


QUIET = Measured(seconds=900, leases=9000, hold=0.05, load=0.5, usual_load=0.5, peak_load=1.0, most=3, executing=0.9)


def test_small_pool_that_was_measured_is_no_leftover() -> None:
    """A system check used to ask for ten connections, whatever was measured."""
    report = follow({"POOL": {"max_size": 30}}, {"THREADS": 16}, QUIET)
    assert report.changes["max_size"] < 10


@pytest.mark.parametrize(
    ("database", "dbpool", "setting", "contradiction"),
    [
        ({"POOL": {"lock_timeout": 40}}, {}, "statement_timeout", "lock_timeout (40 s) never takes effect"),
        ({"OPTIONS": {"options": "-c statement_timeout=5s"}}, {}, "statement_timeout", "statement_timeout in OPTIONS"),
        ({"OPTIONS": {"service": "shop"}}, {}, "statement_timeout", "service keeps statement_timeout out"),
        ({}, {"SLOW_STATEMENT": 45}, "statement_timeout", "ended before it is reported as slow"),
        ({"POOL": {"connect_timeout": 8}}, {"WORKER_TIMEOUT": 10}, "timeout", "connect_timeout (8 s) is above timeout"),
        ({}, {"WORKER_TIMEOUT": 9, "READINESS": {"longest_wait": 6}}, "timeout", "nobody waits for so long"),
        ({"POOL": {"max_size": 30, "groups": {"limits": {"a": 20}}}}, {}, "max_size", "of 'a' (20) never takes effect"),
        ({"POOL": {"max_size": 30, "mode": "session"}}, {"THREADS": 16}, "max_size", 'is below DBPOOL["THREADS"] (16)'),
    ],
)
def test_what_would_be_complained_of_is_to_be_looked_at(
    database: dict[str, Any], dbpool: dict[str, Any], setting: str, contradiction: str
) -> None:
    report = follow(database, dbpool, QUIET)
    assert setting not in report.changes
    (item,) = [item for item in report.advice if item.setting == setting]
    assert (item.kind, item.proposed) == ("look", None)
    assert contradiction in item.reason


def test_others_are_followed_all_the_same() -> None:
    report = follow({"POOL": {"max_size": 30, "lock_timeout": 40}}, {}, QUIET)
    assert set(report.changes) == {"max_size"}


seconds = st.sampled_from([None, 1, 5, 20, 29, 30, 60])
POOLS = st.fixed_dictionaries(
    {},
    optional={
        "max_size": st.integers(1, 60),
        "timeout": st.sampled_from([1, 5, 10, 40]),
        "lock_timeout": seconds,
        "transaction_timeout": seconds,
        "command_timeout": seconds,
        "connect_timeout": st.sampled_from([1, 5, 8, 30]),
        "queue_target": st.sampled_from([0.05, 2]),
        "mode": st.sampled_from(["transaction", "session"]),
        "pooler": st.sampled_from([None, "transaction", "session"]),
        "groups": st.sampled_from([{"limits": {"a": 2}}, {"limits": {"a": 8}}, {"default": 5}]),
        "warm": st.booleans(),
    },
)
PROJECTS = st.fixed_dictionaries(
    {},
    optional={
        "THREADS": st.integers(1, 40),
        "PROCESSES": st.integers(1, 8),
        "WORKER_TIMEOUT": st.sampled_from([2, 8, 10, 30, 120]),
        "BUDGET": st.integers(1, 200),
        "ROLE": st.sampled_from(["web", "worker"]),
        "SLOW_STATEMENT": st.sampled_from([0.5, 30, 60]),
        "READINESS": st.sampled_from([{"longest_wait": 2}, {"longest_wait": 6}]),
    },
)
LOADS = st.builds(
    Measured,
    seconds=st.just(900.0),
    leases=st.just(9000),
    hold=st.sampled_from([0.001, 0.05, 2.0]),
    load=st.floats(0.1, 8),
    usual_load=st.floats(0, 20),
    peak_load=st.floats(0.1, 30),
    peak_queue=st.floats(0, 10),
    most=st.integers(1, 40),
    late=st.sampled_from([0, 900]),
    timeouts=st.sampled_from([0, 5]),
    executing=st.sampled_from([None, 0.1, 0.9]),
    nested=st.sampled_from([1, 2]),
)


@given(POOLS, PROJECTS, st.none() | LOADS, st.sampled_from([{}, {"connections": 97}, {"connections": 20, "others": 5}]))
def test_following_advice_brings_no_complaint(
    pool: dict[str, Any], dbpool: dict[str, Any], measured: Measured | None, room: dict[str, int]
) -> None:
    database = {"POOL": pool} if pool else {}
    with project(database, dbpool):
        if not pools():
            return  # refused as it is
    follow(database, dbpool, measured, **room)
