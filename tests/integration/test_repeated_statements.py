"""The same statement again and again in one unit of work: told once, with the line that asks, counted to the end."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.signals import request_finished, request_started
from django.db import connections, transaction
from django.template import Context, Engine
from django.test import override_settings

from django_dbpool.backends import activity, sampler
from django_dbpool.core import events
from django_dbpool.core.ledger import current_unit
from django_dbpool.pool.measures import measures
from django_dbpool.statements import RepeatedStatement, repeated_statements
from tests.app.models import Item
from tests.fixtures.pools import execute
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
LOGGER = "django_dbpool.statements"
SECRET = "hunter2"


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    connections.close_all()
    sampler.reset()
    with override_settings(DBPOOL={"REPEATED_STATEMENTS": 4}):
        yield
    connections.close_all()
    sampler.reset()


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    caplog.set_level(logging.INFO, LOGGER)
    return lambda: [record for record in caplog.records if record.name == LOGGER]


def ask(alias: str, times: int, sql: str = "SELECT %s, 'hunter2'") -> int:
    """Several statements from one line; returns the line."""
    for number in range(times):
        execute(alias, sql, [number])
    return inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]


def only() -> RepeatedStatement:
    (row,) = repeated_statements()
    return row


def test_the_line_that_asks(single: str, records: Any) -> None:
    request_started.send(object, environ={"REQUEST_METHOD": "GET", "PATH_INFO": f"/nowhere/{SECRET}/"})
    ask(single, 12)
    request_finished.send(object)
    connections[single].close()
    row = only()
    # The helper of these tests that executes stands between.
    assert row.where.partition(":")[0].endswith("tests/fixtures/pools.py")
    assert row.where.endswith(" in execute")
    assert (row.alias, row.sql, row.unit, row.name) == (single, "SELECT %s, ?", "GET (no route)", None)
    assert (row.units, row.count, row.most) == (1, 12, 12)
    (record,) = records()
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"database '{single}': the same statement 4 times in GET (no route), from {row.where}: SELECT %s, ?"
    )
    assert next(each for each in measures() if each.alias == single).repeated == 1


def test_one_query_for_each_row(records: Any) -> None:
    """Django's own frames are passed by."""
    for number in range(7):
        Item.objects.create(name=f"item {number}")
    connections.close_all()
    sampler.reset()
    names = [Item.objects.get(pk=pk).name for pk in Item.objects.values_list("pk", flat=True)]
    assert len(names) == 7
    connections.close_all()
    row = only()
    assert row.where.startswith(f"{__file__}:")
    assert "test_one_query_for_each_row" in row.where
    assert (row.count, "WHERE" in row.sql) == (7, True)
    # Of no request and no task: a command that works through its rows.
    assert [record.levelname for record in records() if record.where == row.where] == ["INFO"]


def test_in_a_template_it_is_the_call_of_render() -> None:
    """Whatever a template asks for, Django's engine is what asks."""
    rows = [Item.objects.filter(name=name) for name in "abcdef"]
    template = Engine().from_string("{% for row in rows %}{{ row.count }}{% endfor %}")
    assert template.render(Context({"rows": rows})) == "000000"
    assert only().where.endswith(" in test_in_a_template_it_is_the_call_of_render")


def test_units_are_counted_apart(single: str, records: Any) -> None:
    for times in (3, 3, 6, 9):
        ask(single, times)
        connections[single].close()
    assert (only().units, only().count, only().most) == (2, 9, 9)
    assert len(records()) == 1


def test_both_ends_of_a_request_begin_a_unit(single: str) -> None:
    for _ in range(3):
        request_started.send(object, environ={"PATH_INFO": "/nowhere/"})
        ask(single, 3)
        request_finished.send(object)
    assert repeated_statements() == ()


def test_switched_off_and_on(single: str) -> None:
    with override_settings(DBPOOL={"REPEATED_STATEMENTS": None}):
        ask(single, 20)
        connections[single].close()
    ask(single, 3)
    assert repeated_statements() == ()
    ask(single, 1)
    assert only().count == 4


def test_the_first_fifth_is_not_counted(single: str) -> None:
    """Most units have no more, and then it costs them nothing."""
    with override_settings(DBPOOL={"REPEATED_STATEMENTS": 10}):
        ask(single, 11)
        assert (connections[single]._seen is None, repeated_statements()) == (False, ())
        ask(single, 1)
        assert only().count == 10
        connections[single].close()
        ask(single, 2)
        assert connections[single]._seen is None


def test_values_written_into_the_text_do_not_grow(single: str) -> None:
    """Hashes of a thousand texts are kept for the unit, nothing afterwards; megabytes of text are not."""
    db: Any = connections[single]
    for number in range(activity.MOST + 200):
        execute(single, f"SELECT {number}, '{'x' * 1000}'")
    assert len(db._seen) <= activity.MOST
    assert all(type(key) is int for key in db._seen)
    db.close()
    assert db._seen is None
    assert repeated_statements() == ()


def test_transactions_threads_and_coroutines(make_pool: MakePool, make_worker: Callable[[], Worker]) -> None:
    """Each thread has a unit of its own; a transaction is a part of one."""
    alias = make_pool(size=2)
    with transaction.atomic(using=alias):
        ask(alias, 2)
        with transaction.atomic(using=alias):
            ask(alias, 1)
    assert repeated_statements() == ()
    for worker in (make_worker(), make_worker()):
        worker.start(ask, alias, 3).result(PATIENCE)
    assert repeated_statements() == ()
    ask(alias, 1)
    assert only().units == 1
    connections[alias].close()

    async def view() -> None:
        for _ in range(6):
            await sync_to_async(execute)(alias, "SELECT 'coroutine'")

    async_to_sync(view)()
    assert {row.sql for row in repeated_statements()} == {"SELECT %s, ?", "SELECT ?"}


def test_executemany_is_one_statement(single: str) -> None:
    with connections[single].cursor() as cursor:
        cursor.executemany("SELECT %s", [[number] for number in range(50)])
    assert repeated_statements() == ()


def test_what_goes_wrong_in_the_report_stays_there(single: str, monkeypatch: pytest.MonkeyPatch, records: Any) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(activity.kept.repeated, "note", refuse)
    ask(single, 9)
    monkeypatch.setattr(activity.kept.repeated, "note_end", refuse)
    connections[single].close()
    assert [record.getMessage() for record in records()] == ["a repeated statement could not be noted"]
    assert repeated_statements() == ()


def test_an_event_for_observers(single: str) -> None:
    seen: list[events.Event] = []
    subscription = events.subscribe("test", seen.append)
    token = current_unit.set({"REQUEST_METHOD": "GET", "PATH_INFO": f"/{SECRET}"})
    try:
        ask(single, 6)
        assert subscription.flush(PATIENCE)
    finally:
        current_unit.reset(token)
        subscription.close()
    (event,) = (event for event in seen if isinstance(event, events.StatementRepeated))
    assert (event.alias, event.count, event.sql, event.unit) == (single, 4, "SELECT %s, ?", "GET (no route)")
    assert event.where.endswith(" in execute")
    assert SECRET not in repr(event)
