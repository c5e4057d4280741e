"""
What leaves the process has no value and no secret in it, and is as many lines as it should be, whatever requests,
tasks, threads, groups and statements are called.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import DatabaseError, connections
from django.test import Client, override_settings
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from django_dbpool import errors
from django_dbpool import transaction as pooled
from django_dbpool.backends import activity
from django_dbpool.core import ledger
from django_dbpool.fleet import socket_server
from django_dbpool.fleet.socket_client import ask_local, local_processes
from django_dbpool.pool import registry
from django_dbpool.transaction import group
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.api import TOKEN, digest

pytestmark = pytest.mark.django_db(transaction=True)

LITERAL = "canaryliteral7781"
PARAMETER = "canaryparameter7782"
PASSWORD = "canarypassword7783"
SECRET = "canarysecretkey7784"
CANARIES = (LITERAL, PARAMETER, PASSWORD, SECRET)

UNTOLD = st.sampled_from(
    ["\n", "\r", "\x1b[2J", "\u2028", "\u202e", "\0", "\x85", "\ud800", "'", '"', "%s", "{0}", "\\", "; ", "/*", "--"]
)
hostile = st.lists(UNTOLD | st.text(max_size=5), max_size=6).map("".join)
names = st.builds("{}{}{}".format, hostile, st.just("\nERROR forged 2026"), hostile)
QUOTES = ("'{}'", "E'{}'", "$${}$$", "$q${}$q$", "N'{}'")


@st.composite
def statements(draw: st.DrawFn) -> str:
    """SQL with the literal in it, of which some is valid and much is not."""
    around = st.sampled_from(["", "; ", ";", "\n", " x ", "''", ";set ", "; LISTEN ", "/*", "--", "\\", "$", ";'"])
    value = draw(around) + LITERAL + draw(around)
    text = draw(st.sampled_from(QUOTES)).format(value)
    form = draw(
        st.sampled_from(
            [
                "SELECT {}, %s",
                'SELECT {} AS "a\nERROR forged 2026", %s',
                "SET app.token = {}; SELECT %s",
                "({}, %s",
                "{} %s",
                "SELECT %s; NOTIFY a, {}",
                "DO {} -- %s",
            ]
        )
    )
    return form.format(text)


class Unit:
    def __init__(self, name: str) -> None:
        self.name = name


class Lines(logging.Handler):
    """What the package logs, as a file would have it."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = StringIO()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream.write(self.format(record) + "\n")
        # What structured formatters take from the record.
        standard = logging.makeLogRecord({}).__dict__
        extra = {key: value for key, value in record.__dict__.items() if key not in standard}
        self.stream.write(f"DEBUG django_dbpool extra {json.dumps(extra, default=ascii)}\n")


@pytest.fixture
def log() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("django_dbpool")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def world(make_alias: MakeAlias, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A pool of one, with a canary wherever a secret can be."""
    monkeypatch.setitem(ledger.unit_labels, Unit, lambda unit: f"task {unit.name}")
    monkeypatch.setitem(ledger.unit_names, Unit, lambda unit: unit.name)
    pool = {"max_size": 1, "min_size": 0, "timeout": 0.01, "retry": False, "breaker": False, "queue_target": None}
    alias = make_alias(
        PASSWORD=PASSWORD,
        OPTIONS={"application_name": "x\nERROR forged 2026"},
        POOL={**pool, "leak_after": 0.0001, "groups": {"default": 1}},
    )
    with tempfile.TemporaryDirectory(prefix="dbp") as directory:
        told = {"SOCKET": directory, "SLOW_STATEMENT": 0.000001, "REPEATED_STATEMENTS": 2, "LEAK_STACKS": True}
        told |= {"FLEET": None, "SECRET": SECRET, "TOKENS": [digest(TOKEN)]}
        with override_settings(SECRET_KEY=SECRET, ROOT_URLCONF="tests.fixtures.api_site", DBPOOL=told):
            socket_server.ensure_running()
            yield alias
            socket_server.stop()


def judge(text: str, where: str) -> None:
    for canary in CANARIES:
        assert canary not in text.lower(), (canary, where, text)
    for line in text.split("\n"):
        assert not line.startswith("ERROR forged"), (where, text)
        assert line.isprintable(), (where, line)


REFUSED = (DatabaseError, UnicodeError, ValueError)


def hold(alias: str, sql: str, name: str, endpoint: str) -> None:
    """Execute it, valid or not, twice, as such a unit, thread and group; then look, from inside of the lease."""
    ledger.current_unit.set(Unit(name))
    threading.current_thread().name = name
    with group(name), pooled.atomic(using=alias), connections[alias].cursor() as cursor:  # canarysource7785
        with suppress(*REFUSED), pooled.atomic(using=alias):
            cursor.execute(sql, [PARAMETER])
        with suppress(*REFUSED):
            cursor.execute(sql, [PARAMETER])  # it is the last, whatever the server said
        look(alias, endpoint)
        raise Undo


class Undo(Exception):
    pass


def look(alias: str, endpoint: str) -> None:
    (pool,) = [pool for pool in registry.pools() if pool.alias == alias]
    (holder,) = pool.holders()
    judge(str(holder), "holder")
    judge(repr(holder), "its repr")
    for answer in (*local_processes().answers, *ask_local("holders", stacks=True).answers):
        assert answer.ok, answer
        judge(json.dumps(answer.to_json()), "the socket")
        judge_values(answer.result)
        assert "canarysource7785" not in json.dumps(answer.result), "a line of the program may have a value in it"
        assert [each["leased_at"] for each in answer.result["holders"] if each["alias"] == alias] != [[]]
    look_from_outside(endpoint)
    pool.housekeeping._warn()
    refused: list[BaseException] = []

    def ask() -> None:
        try:
            connections[alias].cursor().execute("SELECT 1")
        except errors.PoolError as error:
            refused.append(error)
        finally:
            connections[alias].close()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    (error,) = refused
    judge(str(error), "error")
    judge(repr(error), "its repr")


ENDPOINTS = (
    "pools", "processes", "holders", "operations", "statements/slow", "statements/repeated", "alerts", "metrics",
    "advice", "status",
)  # fmt: skip


def look_from_outside(path: str) -> None:
    response = Client(headers={"Authorization": f"Bearer {TOKEN}"}).get(f"/dbpool/{path}")
    assert response.status_code == 200, (path, response.content)
    judge(response.content.decode(), path)
    assert b"canarysource7785" not in response.content
    if path not in ("status", "advice"):  # which has lines to be copied
        judge_values(response.json())
    if path == "holders":
        assert response.json()["items"], "it has something to tell"


def judge_values(value: Any) -> None:
    """Whoever shows a string of the document shows one line."""
    if isinstance(value, str):
        assert value.isprintable(), value
    elif isinstance(value, dict):
        for key, item in value.items():
            judge_values(key)
            judge_values(item)
    elif isinstance(value, list):
        for item in value:
            judge_values(item)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(statements(), names, st.sampled_from(ENDPOINTS))
@example(f"SELECT 'a;{LITERAL}', %s", "x", "holders")
@example(f"SELECT 'a; {LITERAL}', %s", "x", "holders")
@example(f"SELECT 'a;''{LITERAL}', %s", "x", "holders")
@example(f"SELECT 'a;set {LITERAL}', %s", "x", "holders")
@example("SELECT %s", "\nERROR forged 2026", "status")
def test_no_value_no_secret_and_no_line_of_others(world: str, log: Lines, sql: str, name: str, endpoint: str) -> None:
    activity.reset()  # it says the same once a minute
    found: list[BaseException] = []
    thread = threading.Thread(target=wrapped, args=(found, world, sql, name, endpoint))
    thread.start()
    thread.join()
    assert [type(error) for error in found] == [Undo], found
    lines = log.stream.getvalue()
    log.stream.truncate(0)
    log.stream.seek(0)
    judge(lines, "log")
    assert "is held for long" in lines and " a statement " in lines
    for line in lines.splitlines():
        assert re.match(r"(DEBUG|INFO|WARNING|ERROR) django_dbpool|  |Leased at", line), line


def wrapped(found: list[BaseException], *arguments: str) -> None:
    try:
        hold(*arguments)
    except BaseException as error:
        found.append(error)
    finally:
        connections[arguments[0]].close()


def test_secrets_of_settings_are_in_no_repr() -> None:
    from django_dbpool.conf import project_config

    with override_settings(DBPOOL={"SECRET": SECRET}):
        assert SECRET not in repr(project_config())
        assert django_settings.DBPOOL["SECRET"] == SECRET
