"""Which errors are answered 503, and as what. No server."""

from __future__ import annotations

import sqlite3

import psycopg
import pytest
from django.db import DatabaseError, OperationalError
from django.http import HttpResponse
from django.test import RequestFactory
from psycopg import errors as driver
from psycopg_pool import PoolTimeout

from django_dbpool import errors
from django_dbpool.core import sqlstate
from django_dbpool.errors import DatabaseUnavailable, PoolError, PoolExhausted
from django_dbpool.middleware import DatabasePoolMiddleware
from django_dbpool.middleware.failures import failure
from django_dbpool.middleware.failures.failure import failure_of
from tests.fixtures.answers import REFUSAL, of_driver

pytestmark = pytest.mark.usefixtures("templates")


DRIVER_ERRORS = sorted(
    {
        error
        for error in vars(driver).values()
        if isinstance(error, type) and issubclass(error, psycopg.Error) and error.sqlstate
    },
    key=lambda error: str(error.sqlstate),
)


@pytest.mark.parametrize("error", DRIVER_ERRORS, ids=lambda error: str(error.sqlstate))
def test_errors_of_the_server_by_their_code(error: type[psycopg.Error]) -> None:
    found = failure_of(of_driver(error("..."), DatabaseError))
    assert (found is not None) == sqlstate.is_unavailable_answer(error.sqlstate)
    assert found is None or (found.name, found.sqlstate) == (error.__name__, error.sqlstate)


@pytest.mark.parametrize(
    ("cause", "slug", "terminated"),
    [
        (psycopg.OperationalError("connection failed: connection refused"), "unavailable", False),
        (psycopg.OperationalError("failed: FATAL:  sorry, too many clients already"), "busy", False),
        (psycopg.OperationalError("consuming input failed: server closed the connection"), "interrupted", True),
        (psycopg.OperationalError("the connection is closed"), "interrupted", True),
        (driver.ConnectionTimeout("connection timeout expired"), "unavailable", False),
        (driver.AdminShutdown("terminating connection"), "interrupted", True),
        (driver.IdleInTransactionSessionTimeout("..."), "timeout", True),
        (driver.CannotConnectNow("..."), "unavailable", False),
        (driver.TooManyConnections("..."), "busy", False),
        (PoolTimeout("couldn't get a connection after 10.00 sec"), "busy", False),
    ],
    ids=repr,
)
def test_kinds(cause: Exception, slug: str, terminated: bool) -> None:
    found = failure_of(of_driver(cause))
    assert found is not None
    assert (found.kind.slug, found.connection_terminated) == (slug, terminated)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no database at all"),
        psycopg.OperationalError("not raised by Django"),
        OperationalError("without a cause"),
        of_driver(sqlite3.OperationalError("no such table: item")),
        of_driver(psycopg.InternalError("not of the connection"), DatabaseError),
    ],
    ids=repr,
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert failure_of(error) is None
    middleware = DatabasePoolMiddleware(lambda request: HttpResponse())
    assert middleware.process_exception(RequestFactory().get("/"), error) is None


def test_every_public_error_has_a_kind_of_its_own() -> None:
    for name in errors.__all__:
        if issubclass(getattr(errors, name), PoolError):
            assert name in failure._BY_CLASS


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("PoolOverloaded", "busy"),
        ("ConnectionLost", "interrupted"),
        ("CommitUnknown", "outcome-unknown"),
        ("ShuttingDown", "restarting"),
        ("SomethingNew", "unavailable"),
    ],
)
def test_kinds_of_errors_by_their_names(name: str, slug: str) -> None:
    found = failure_of(type(name, (PoolError,), {})(REFUSAL))
    assert found is not None
    assert (found.kind.slug, found.name) == (slug, name)
    assert found.maybe_committed is (name == "CommitUnknown")


def test_derived_errors_and_their_attributes() -> None:
    """The nearest known class counts, and what the errors know of the outcome."""

    class Impatient(PoolExhausted):
        retry_after = 7.0

    found = failure_of(Impatient(REFUSAL))
    assert found is not None
    assert (found.kind, found.retry_after, found.maybe_committed) == (failure.BUSY, 7.0, False)
    written = DatabaseUnavailable(REFUSAL)
    written.maybe_committed = True  # type: ignore[attr-defined]
    found = failure_of(written)
    assert found is not None
    assert found.kind is failure.OUTCOME_UNKNOWN


def test_groups_are_failures_if_all_in_them_are() -> None:
    failures, mistakes = [PoolExhausted(REFUSAL), PoolExhausted(REFUSAL)], [PoolExhausted(REFUSAL), ValueError()]
    found = failure_of(ExceptionGroup("", [failures[0], ExceptionGroup("", failures[1:])]))
    assert found is not None
    assert found.error is failures[0]
    assert failure_of(ExceptionGroup("", mistakes)) is None
