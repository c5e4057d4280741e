"""The line in the log that a reference leads to. No server."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from typing import Any

import psycopg
import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils.log import log_response
from psycopg import errors as driver

from django_dbpool.core.errors import Expiry, Refusal
from django_dbpool.errors import DatabaseUnavailable, LeaseTimedOut, PoolError, PoolExhausted
from django_dbpool.middleware import DatabasePoolMiddleware
from django_dbpool.middleware.failures.report import _NUMBERS
from tests.fixtures.answers import REFUSAL, answer, of_driver

pytestmark = pytest.mark.usefixtures("templates")


def logged(error: Exception, caplog: pytest.LogCaptureFixture, path: str = "/reports/") -> dict[str, Any]:
    middleware = DatabasePoolMiddleware(lambda request: HttpResponse())
    caplog.set_level(logging.DEBUG)
    middleware.process_exception(RequestFactory().get(path), error)
    (record,) = [record for record in caplog.records if record.name.startswith("django")]
    return {**vars(record), "text": record.getMessage()}


def test_expected_terminations_are_told_from_real_ones(caplog: pytest.LogCaptureFixture) -> None:
    expected = logged(of_driver(driver.AdminShutdown("terminating connection")), caplog)
    caplog.clear()
    real = logged(of_driver(driver.CrashShutdown("terminating connection")), caplog)
    assert (expected["severity"], expected["levelno"], expected["connection_terminated"]) == ("expected", 30, True)
    assert (real["severity"], real["levelno"], real["connection_terminated"]) == ("error", 40, True)


def test_planned_restart_is_expected_and_a_change_in_doubt_never(caplog: pytest.LogCaptureFixture) -> None:
    restart = logged(type("ShuttingDown", (PoolError,), {})(REFUSAL), caplog)
    caplog.clear()
    error = type("CommitUnknown", (PoolError,), {})(REFUSAL)
    error.__cause__ = driver.AdminShutdown("terminating connection")
    doubt = logged(error, caplog)
    keys = ("severity", "levelno", "connection_terminated", "maybe_committed", "sqlstate")
    assert [restart[key] for key in keys] == ["expected", 30, False, False, None]
    assert [doubt[key] for key in keys] == ["error", 40, True, True, "57P01"]


@pytest.mark.parametrize("answered", [True, False])
def test_statement_without_an_answer_has_cost_its_connection(caplog: pytest.LogCaptureFixture, answered: bool) -> None:
    line = logged(LeaseTimedOut(REFUSAL, Expiry("command_timeout", 1.0, 1.0, False, answered)), caplog)
    assert (line["severity"], line["connection_terminated"]) == ("warning", not answered)


def test_cause_of_an_outage_is_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    error = DatabaseUnavailable(REFUSAL)
    error.__cause__ = psycopg.OperationalError('connection failed: FATAL:  database "shop" does not exist')
    line = logged(error, caplog)
    assert 'database "shop" does not exist' in line["text"]
    assert (line["sqlstate"], line["alias"], line["waited"]) == ("3D000", "main", 2.0)
    assert line["exc_info"] is None


def test_traceback_where_the_place_matters(caplog: pytest.LogCaptureFixture) -> None:
    error = of_driver(driver.QueryCanceled("canceling statement due to statement timeout"))
    assert logged(error, caplog)["exc_info"][1] is error


def test_visitors_write_no_lines(caplog: pytest.LogCaptureFixture) -> None:
    line = logged(PoolExhausted(REFUSAL), caplog, "/a%0AERROR%20all%20is%20lost")
    assert "\nERROR" not in line["text"]


def test_query_string_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert "secret" not in logged(PoolExhausted(REFUSAL), caplog, "/?token=secret")["text"]


def test_django_does_not_log_it_again(caplog: pytest.LogCaptureFixture) -> None:
    """It would as ERROR, and mail it to the admins."""
    response = answer(PoolExhausted(REFUSAL))
    caplog.clear()
    log_response("%s", "/", response=response)
    assert caplog.records == []


def test_numbers_of_a_refusal_reach_the_log() -> None:
    assert set(_NUMBERS) <= {field.name for field in fields(Refusal)}


def test_the_drivers_words_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    quoting = DatabaseUnavailable(replace(REFUSAL, driver="Connection refused"))
    quoting.__cause__ = psycopg.OperationalError("Connection refused")
    text = logged(quoting, caplog)["text"]
    assert text.count("Connection refused") == 1 and text.endswith("Cause: OperationalError")
    caplog.clear()
    silent = PoolExhausted(REFUSAL)
    silent.__cause__ = psycopg.OperationalError("Connection refused")
    assert logged(silent, caplog)["text"].endswith("Cause: OperationalError: Connection refused")
