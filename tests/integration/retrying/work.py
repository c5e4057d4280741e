"""Work that fails, in one way after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import connections

from tests.app.models import Log
from tests.fixtures.pools import execute

MakePool = Callable[..., str]
Observer = psycopg.Connection[Any]
NOW: Any = {"sleep": lambda seconds: None}
ENGINES: dict[str, Any] = {
    "transaction": {"mode": "transaction"},
    "session": {"mode": "session"},
    "off": {"POOL": {"enabled": False}},
    "stock": {"ENGINE": "django.db.backends.postgresql"},
}

ON_TWO = pytest.mark.parametrize("alias", ["transaction", "stock"], indirect=True)
"""For what doesn't look at connections."""


def keys(observer: Observer) -> list[str]:
    return [key for (key,) in observer.execute("SELECT key FROM app_log ORDER BY id")]


def fail(alias: str, code: str = "40001") -> None:
    execute(alias, "SELECT raise_for_test(%s)", [code])


def die(alias: str) -> None:
    """The server closes this connection in the middle of its statement."""
    execute(alias, "SELECT pg_terminate_backend(pg_backend_pid())")


def close(alias: str) -> None:
    connections[alias].close()


class Work:
    """Writes a row, then fails in one way after the other; counts its runs."""

    def __init__(self, alias: str, *failures: Callable[[], object]) -> None:
        self.alias = alias
        self.failures = list(failures)
        self.runs = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.runs += 1
        Log.objects.using(self.alias).create(key=f"run {self.runs}")
        if self.runs <= len(self.failures):
            self.failures[self.runs - 1]()
        return args, kwargs
