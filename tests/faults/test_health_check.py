"""The plug-ins for django-health-check, by themselves and through its view."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import RequestFactory
from health_check.exceptions import HealthCheckException, ServiceUnavailable, ServiceWarning
from health_check.views import HealthCheckView

from django_dbpool.contrib.health_check import CircuitState, PoolConnectivity, PoolSaturation
from django_dbpool.pool import probing
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Database, Task

pytestmark = pytest.mark.django_db(transaction=True)

MakeDatabase = Callable[..., Database]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def closed_probes() -> Iterator[None]:
    yield
    probing.close(timeout=PATIENCE)


def error_of(check: Any) -> HealthCheckException | None:
    return asyncio.run(check.get_result()).error


def test_saturation(make_database: MakeDatabase) -> None:
    database = make_database(max_size=2, reserve_size=0)
    check = PoolSaturation(database.alias)
    warning = PoolSaturation(database.alias, warning=50, unavailable=None)
    assert error_of(check) is None and error_of(warning) is None
    with database.holding(1):
        assert error_of(check) is None
        assert isinstance(error_of(warning), ServiceWarning)
    with database.holding(2):
        assert error_of(check) is None, "all are lent, and nobody waits"
        waiting = Task(database.backend)
        assert wait_until(lambda: database.pool.snapshot().waiting == 1, PATIENCE)
        error = error_of(check)
        assert isinstance(error, ServiceUnavailable)
        assert "2 of 2 connections lent, 1 callers wait, the first for" in str(error)
        assert error_of(PoolSaturation(database.alias, unavailable=None)) is None
        assert error_of(PoolSaturation(database.alias, unavailable=151)) is None
        assert error_of(PoolSaturation(database.alias, unavailable=150)) is not None
    waiting.result()
    assert error_of(check) is None
    assert (check.data["max"], check.data["waiting"]) == (2, 0)


def test_small_pools_are_no_warning(make_database: MakeDatabase) -> None:
    database = make_database(max_size=1)
    for check in (PoolSaturation(database.alias), PoolConnectivity(database.alias)):
        assert error_of(check) is None
    with database.holding():
        assert error_of(PoolSaturation(database.alias)) is None


@pytest.mark.parametrize(
    ("limits", "error", "match"),
    [
        ({"warning": 0.9}, ValueError, "warning must be percent above 1, such as 90"),
        ({"unavailable": float("nan")}, ValueError, "unavailable must be percent"),
        ({"unavailable": "90"}, TypeError, "unavailable must be a number of percent, or None"),
        ({"warning": True}, TypeError, "warning must be a number"),
    ],
    ids=["ratio", "nan", "text", "bool"],
)
def test_limits_that_make_no_sense(limits: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        PoolSaturation(**limits)


def test_timeouts_that_make_no_sense() -> None:
    with pytest.raises(TypeError, match="timeout must be a timedelta"):
        PoolConnectivity(timeout=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout must be above 0"):
        PoolConnectivity(timeout=timedelta(0))


def test_connectivity(make_database: MakeDatabase) -> None:
    database = make_database(max_size=7)
    check = PoolConnectivity(database.alias)
    assert error_of(check) is None
    assert check.data["pooling"] is True
    assert (check.data["sizes"]["max"], check.data["lifetimes"]["max_lifetime"]) == (7, 3600.0)
    assert {"attempts", "total"} <= check.data["retry"].keys()
    assert check.data["breaker"]["state"] == "closed"
    json.dumps(check.data, allow_nan=False)
    labels = {"check": "PoolConnectivity", "alias": database.alias}
    assert check.labels == {**labels, "pooling": "true", "min": "0", "max": "7", "reserve": "1"}


def test_connectivity_without_a_server(make_database: MakeDatabase, caplog: pytest.LogCaptureFixture) -> None:
    """The answer and the log name no host, no user and no password."""
    database = make_database(HOST="127.0.0.9", PORT="1", USER="somebody", PASSWORD="s3cret", max_size=3)
    error = error_of(PoolConnectivity(database.alias))
    assert isinstance(error, ServiceUnavailable)
    assert "There is no connection to the server" in str(error)
    for secret in ("127.0.0.9", "somebody", "s3cret"):
        assert secret not in str(error)
        assert secret not in caplog.text


def test_circuit(make_database: MakeDatabase) -> None:
    database = make_database(breaker={"probe_interval": None, "break_duration": 60})
    check = CircuitState(database.alias)
    assert error_of(check) is None
    database.pool.breaker.trip(OSError("s3cret"))
    error = error_of(check)
    assert isinstance(error, ServiceUnavailable)
    assert "The circuit breaker is open" in str(error)
    assert "s3cret" not in f"{error} {check.data}"
    assert (check.data["state"], check.data["error"]) == ("open", "OSError")
    database.pool.breaker.reset()
    assert error_of(check) is None


@pytest.mark.parametrize("kind", [PoolSaturation, PoolConnectivity, CircuitState], ids=lambda kind: kind.__name__)
def test_each_is_what_the_library_expects(kind: type, make_database: MakeDatabase) -> None:
    assert repr(kind()) == f"{kind.__name__}(alias='default')", "the label on its page, and the key in its JSON"
    assert inspect.iscoroutinefunction(kind.run), "else it would take a thread, which may be waiting for the database"
    assert kind().timeout == timedelta(seconds=1)
    assert kind().labels["alias"] == "default"
    first, *_ = (field.name for field in dataclasses.fields(kind))
    assert first == "alias"
    assert "There is no database alias 'nowhere'" in str(error_of(kind("nowhere")))
    faulty = make_database(max_size="many")
    assert "run manage.py check" in str(error_of(kind(faulty.alias)))
    assert kind(faulty.alias).labels["alias"] == faulty.alias
    unpooled = make_database(enabled=False)
    assert error_of(kind(unpooled.alias)) is None


@pytest.mark.parametrize("form", ["json", "text", "openmetrics", "atom", "rss"])
def test_its_view(form: str, make_database: MakeDatabase) -> None:
    """Under WSGI: each request has an event loop of its own."""
    database = make_database(breaker={"probe_interval": None, "break_duration": 60})
    path = "django_dbpool.contrib.health_check"
    options = {"alias": database.alias}
    view = HealthCheckView.as_view(
        checks=[(f"{path}.{name}", options) for name in ("PoolSaturation", "PoolConnectivity", "CircuitState")]
    )
    request = RequestFactory().get("/health/", {"format": form})

    def respond() -> Any:
        return async_to_sync(view)(request)

    assert respond().status_code == 200
    database.pool.breaker.isolate()
    response = respond()
    assert response.status_code == (200 if form in ("openmetrics", "atom", "rss") else 500)
    assert database.alias in response.content.decode()


def test_the_rest_works_without_the_library() -> None:
    """It is an extra: nothing but this module imports it."""
    program = (
        "import sys; sys.modules['health_check'] = None\n"
        "import django; django.setup()\n"
        "from django.core.management import call_command\n"
        "import django_dbpool.health, pkgutil, importlib\n"
        "assert django_dbpool.health.live().ok\n"
        "try:\n    import django_dbpool.contrib.health_check\n"
        "except ModuleNotFoundError as error:\n    assert 'health_check' in str(error)\n"
        "else:\n    raise AssertionError\n"
        "call_command('check')\n"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
