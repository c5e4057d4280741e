"""What Sentry is sent of the pool's failures: real clients, whose transport keeps the events."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import sentry_sdk
from django.db import connections, transaction
from django.test import Client as Browser
from django.test import override_settings
from sentry_sdk.integrations.logging import EventHandler
from sentry_sdk.transport import Transport

from django_dbpool.contrib.sentry import DatabasePoolIntegration
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import Database
from tests.faults.test_connection_lost import kill

LITERAL = "ann@example.org"
"""Of a statement. No variable of these tests: Sentry shows their frames with everything in them."""
PASSWORD = "correct-horse"
Events = list[dict[str, Any]]


@contextmanager
def listening(*integrations: Any) -> Iterator[Events]:
    events: Events = []

    class Memory(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            events.extend(event for item in envelope.items if (event := item.get_event()))

    client = sentry_sdk.Client(
        dsn="https://public@localhost/1",
        transport=Memory,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=list(integrations),
    )
    with sentry_sdk.isolation_scope(), sentry_sdk.new_scope() as scope:
        scope.set_client(client)
        yield events
        client.flush()
    client.close()


@pytest.fixture
def events() -> Iterator[Events]:
    with listening(DatabasePoolIntegration()) as found:
        yield found


def report(work: Callable[..., Any], *args: Any) -> None:
    """As an integration does with what nobody has caught."""
    with suppress(Exception):
        try:
            work(*args)
        except Exception:
            sentry_sdk.capture_exception()
            raise


def ask(database: Database) -> None:
    with connections[database.alias].cursor() as cursor:
        cursor.execute("SELECT %s", [LITERAL])


def execute(database: Database, sql: str, params: Any = None) -> None:
    with connections[database.alias].cursor() as cursor:
        cursor.execute(sql, params)


def lose(database: Database) -> None:
    """In a transaction: an administrator ends the session."""
    with transaction.atomic(using=database.alias):
        ask(database)
        kill(database)
        ask(database)


def route_1(database: Database) -> None:
    ask(database)


def route_2(database: Database) -> None:
    with transaction.atomic(using=database.alias):
        ask(database)


def route_3(database: Database) -> None:
    try:
        ask(database)
    except Exception as error:
        raise LookupError("no report today") from error


def handler_fails(database: Database) -> None:
    try:
        ask(database)
    except Exception:
        repr(database.no_such_attribute)


def test_one_issue_for_a_full_pool(make_database: MakeDatabase, events: Events) -> None:
    """Whatever route it meets; with the pool's numbers and its holders."""
    database = make_database(max_size=1, timeout=0.05)
    with database.holding() as (backend,):
        for route in (route_1, route_2, route_3):
            report(route, database)
    assert [event["fingerprint"] for event in events] == [["django_dbpool", "PoolExhausted", database.alias]] * 3
    for event in events:
        assert event["tags"] == {
            "dbpool.failure": "PoolExhausted",
            "dbpool.alias": database.alias,
            "dbpool.expected": "false",
        }
        assert event["level"] == "error"
        context = event["contexts"]["dbpool"]
        assert (context["alias"], context["in_use"], context["max"], context["waiting"]) == (database.alias, 1, 1, 0)
        assert context["waited"] >= 0.05
        (holder,) = context["holders"]
        assert f"backend {backend}" in holder
        assert "idle in transaction" in holder


def test_an_error_of_the_handler_stays_an_issue_of_its_own(make_database: MakeDatabase, events: Events) -> None:
    """It has the tags, since the pool was full when it happened."""
    database = make_database(max_size=1, timeout=0.05)
    with database.holding():
        report(handler_fails, database)
    (event,) = events
    assert event["exception"]["values"][-1]["type"] == "AttributeError"
    assert "fingerprint" not in event
    assert event["tags"]["dbpool.failure"] == "PoolExhausted"


def test_tags_and_other_events_are_left_alone(make_database: MakeDatabase, events: Events) -> None:
    database = make_database(max_size=1, timeout=0.05)
    with database.holding(), sentry_sdk.new_scope() as scope:
        scope.set_tag("dbpool.alias", "mine")
        report(route_1, database)
    report(execute, database, "SELEC 1")
    own, other = events
    assert own["tags"]["dbpool.alias"] == "mine"
    assert "tags" not in other
    assert "fingerprint" not in other
    assert "dbpool" not in other["contexts"]


def test_no_parameter_and_no_password(make_database: MakeDatabase, events: Events) -> None:
    """Local variables of Django's database layer, psycopg and ours would show both."""
    database = make_database()
    report(lose, database)
    other = make_database(PASSWORD=PASSWORD, PORT=1, timeout=0.2)
    report(ask, other)
    assert [event["tags"]["dbpool.failure"] for event in events] == ["ConnectionLost", "DatabaseUnavailable"]
    text = json.dumps(events)
    assert LITERAL not in text
    assert PASSWORD not in text
    frames = [frame for event in events for value in event["exception"]["values"] for frame in frames_of(value)]
    assert any("vars" in frame for frame in frames)  # those of the tests


def frames_of(value: dict[str, Any]) -> list[dict[str, Any]]:
    found = (value.get("stacktrace") or {}).get("frames", [])
    return list(found)


@pytest.mark.parametrize(("expected", "levels"), [("warning", ["warning"]), ("keep", ["error"]), ("drop", [])])
def test_expected_terminations(make_database: MakeDatabase, expected: Any, levels: list[str]) -> None:
    with listening(DatabasePoolIntegration(expected=expected)) as events:
        report(lose, make_database())
    assert [event["level"] for event in events] == levels
    assert [event["tags"]["dbpool.expected"] for event in events] == ["true"] * len(levels)


def test_what_may_be_committed_is_never_dropped(make_database: MakeDatabase, table: str) -> None:
    with listening(DatabasePoolIntegration(expected="drop")) as events:
        report(
            execute,
            make_database(),
            f"INSERT INTO {table} SELECT '1' FROM pg_terminate_backend(pg_backend_pid())",
        )
    (event,) = events
    assert event["level"] == "error"
    assert event["contexts"]["dbpool"]["maybe_committed"] is True


@override_settings(
    ROOT_URLCONF="tests.faults.urls", MIDDLEWARE=["django_dbpool.middleware.DatabasePoolMiddleware"], DEBUG=False
)
def test_a_request_that_was_answered(make_database: MakeDatabase, events: Events) -> None:
    """The middleware raises nothing, it writes a record: that is the same issue."""
    database = make_database(PORT=1, timeout=0.2)
    log = logging.getLogger("django_dbpool.request")
    handler = EventHandler(level=logging.ERROR)
    log.addHandler(handler)
    try:
        answer = Browser().get("/query/", {"alias": database.alias})
    finally:
        log.removeHandler(handler)
    assert answer.status_code == 503
    (event,) = events
    assert event["fingerprint"] == ["django_dbpool", "DatabaseUnavailable", database.alias]
    assert event["contexts"]["dbpool"]["alias"] == database.alias


def test_without_the_integration_nothing_changes(make_database: MakeDatabase) -> None:
    """The processor is there for all clients of the process."""
    database = make_database(max_size=1, timeout=0.05)
    with listening() as events, database.holding():
        report(ask, database)
    (event,) = events
    assert "fingerprint" not in event
    assert "tags" not in event


def test_other_types_of_events_pass(events: Events) -> None:
    sentry_sdk.capture_message("hello")
    assert [event["message"] for event in events] == ["hello"]


def test_wrong_choice() -> None:
    with pytest.raises(ValueError, match='"warning", "drop" or "keep"'):
        DatabasePoolIntegration(expected="ignore")  # type: ignore[arg-type]


def test_in_settings_before_django() -> None:
    """Where Sentry's documentation says to initialize it: nothing that needs settings may be imported."""
    code = """
import sentry_sdk
from django_dbpool.contrib.sentry import DatabasePoolIntegration
sentry_sdk.init(dsn="https://public@localhost/1", integrations=[DatabasePoolIntegration()])
from django.conf import settings
assert not settings.configured
settings.configure(INSTALLED_APPS=["django_dbpool"])
import django
django.setup()
assert sentry_sdk.get_client().get_integration(DatabasePoolIntegration) is not None
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
