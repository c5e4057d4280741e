"""The answer 503: page or problem+json, headers, when to come back. No server."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from django.db import InternalError
from django.http import HttpResponse
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors as driver

from django_dbpool.core.errors import Expiry
from django_dbpool.errors import (
    CircuitOpen,
    DatabaseUnavailable,
    LeaseTimedOut,
    PoolExhausted,
    ServerConnectionsExhausted,
)
from django_dbpool.middleware import DatabasePoolMiddleware
from django_dbpool.middleware.failures.answer import _spread
from tests.fixtures.answers import HTML, REFUSAL, answer, of_driver

pytestmark = pytest.mark.usefixtures("templates")


@pytest.mark.parametrize(
    ("headers", "is_json"),
    [
        ({}, False),
        ({"Accept": "*/*"}, False),
        ({"Accept": ""}, False),
        ({"Accept": HTML}, False),
        ({"Accept": "text/*"}, False),
        ({"Accept": "image/png"}, False),
        ({"Accept": "text/html, application/json"}, False),
        ({"Accept": "application/json, text/html;q=0.9"}, True),
        ({"Accept": "application/json"}, True),
        ({"Accept": "application/json, text/plain, */*"}, True),
        ({"Accept": "application/problem+json"}, True),
        ({"Accept": "application/vnd.api+json"}, True),
        ({"Accept": "application/*"}, True),
        ({"Accept": "*/*", "Content-Type": "application/json"}, True),
        ({"Accept": HTML, "Content-Type": "application/json"}, False),
    ],
    ids=str,
)
def test_programs_get_json_and_people_a_page(headers: dict[str, str], is_json: bool) -> None:
    sent = dict(headers)
    request = RequestFactory().generic(
        "POST", "/", b"{}", content_type=sent.pop("Content-Type", "application/octet-stream"), headers=sent
    )
    response = DatabasePoolMiddleware(lambda r: HttpResponse()).process_exception(request, PoolExhausted(REFUSAL))
    assert response is not None
    assert response["Content-Type"] == ("application/problem+json" if is_json else "text/html; charset=utf-8")
    assert "Accept" in response["Vary"]


def test_problem() -> None:
    response = answer(PoolExhausted(REFUSAL), accept="application/json", random=0.999)
    problem = json.loads(response.content)
    reference = response["Error-Reference"]
    assert problem == {
        "type": "urn:problem-type:django-dbpool:busy",
        "title": "Very busy just now",
        "status": 503,
        "detail": "More is being asked of this site at the moment than it can answer at once.",
        "instance": f"urn:problem-instance:django-dbpool:{reference}",
        "reference": reference,
        "retry_after": int(response["Retry-After"]),
        "maybe_committed": False,
    }


@pytest.mark.parametrize("method", ["get", "head", "options", "post", "put", "delete"])
def test_every_method_gets_the_same_headers(method: str) -> None:
    response = answer(PoolExhausted(REFUSAL), method)
    assert response.status_code == 503
    assert (response["Retry-After"], response["Cache-Control"]) == ("1", "no-store")
    assert len(response["Error-Reference"]) == 8


@pytest.mark.parametrize(
    ("seconds", "random", "expected"),
    [
        (0, 0, 1),
        (0.2, 0, 1),
        (1, 0, 1),
        (1, 0.5, 2),
        (1, 0.999, 3),
        (1, 1.0, 3),
        (1.2, 0, 2),
        (60, 0, 60),
        (60, 0.999, 75),
        (60, 1.0, 75),
        (math.inf, 0, 120),
    ],
)
def test_retry_after_is_spread(seconds: float, random: float, expected: int) -> None:
    assert _spread(seconds, lambda: random) == expected


@given(seconds=st.floats(0, 120), random=st.floats(0, 1))
def test_nobody_is_called_back_too_early_or_much_too_late(seconds: float, random: float) -> None:
    spread = _spread(seconds, lambda: random)
    assert max(1, seconds) <= spread <= 1.25 * seconds + 3


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (PoolExhausted(REFUSAL), 1, 3),
        (ServerConnectionsExhausted(REFUSAL), 1, 3),
        (DatabaseUnavailable(REFUSAL), 5, 7),
        (LeaseTimedOut(REFUSAL, Expiry("command_timeout", 1.0, 1.0, maybe_committed=False, answered=True)), 5, 7),
        (CircuitOpen(replace(REFUSAL, retry_after=0.25)), 1, 3),  # it is probed
        (CircuitOpen(replace(REFUSAL, retry_after=40.0)), 40, 50),  # it isn't: nobody is let in before
        (of_driver(driver.SerializationFailure("...")), 1, 3),
        (of_driver(driver.ReadOnlySqlTransaction("..."), InternalError), 10, 12),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_failure_says_when_to_come_back(error: Exception, least: int, most: int) -> None:
    answers = [answer(error, random=random)["Retry-After"] for random in (0.0, 1.0)]
    assert answers == [str(least), str(most)]


def test_references_differ() -> None:
    assert len({answer(PoolExhausted(REFUSAL))["Error-Reference"] for _ in range(50)}) == 50
