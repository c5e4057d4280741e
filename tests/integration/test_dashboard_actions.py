"""What operators do from the dashboard, to real leases of this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.contrib.admin.models import LogEntry
from django.db import DatabaseError, connections
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from django_dbpool import reports
from django_dbpool.acting import Acted
from django_dbpool.admin import actions, ended
from django_dbpool.fleet.publisher import own_snapshot
from django_dbpool.reports import HolderRow
from testproject.processes import wait_until
from tests.fixtures.api import HOLDER, publish
from tests.fixtures.dashboard import client_of, site, url
from tests.fixtures.pools import hold
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture(autouse=True)
def pages() -> Iterator[None]:
    """Nothing is published: the page shows the process that serves it."""
    with site(FLEET=None):
        yield


@pytest.fixture
def operator() -> Client:
    return client_of("operator", csrf=False)


@pytest.fixture
def alias(make_pool: Callable[..., str]) -> str:
    return make_pool(size=3)


@contextmanager
def holding(worker: Worker, alias: str) -> Iterator[None]:
    """Another thread has a connection, and a transaction in it."""
    worker(hold, alias)
    try:
        yield
    finally:
        worker(lambda: connections[alias].close())


def held(alias: str, number: int = 0) -> HolderRow:
    return reports.holders(reports.own(), alias=alias, sort="who").items[number]


def ask(client: Client, verb: str, *keys: str, **more: str) -> Any:
    data = {verb: "selected", "selected": list(keys)} if len(keys) > 1 else {verb: keys[0]}
    return client.post(url("action"), {**data, **more})


def confirmed(client: Client, verb: str, *keys: str, **more: str) -> list[str]:
    """What the page says afterwards."""
    answer = ask(client, verb, *keys, confirmed="yes", **more)
    assert answer.status_code == 302, answer.content.decode()
    return [str(message) for message in client.get(answer["Location"]).context["messages"]]


def test_confirmation_names_the_victim_and_does_nothing(alias: str, worker: Worker, operator: Client) -> None:
    with holding(worker, alias):
        row = held(alias)
        answer = ask(operator, "terminate", row.key, back="state=idle")
        page = answer.content.decode()
        assert answer.status_code == 200
        for told in (row.who, str(row.backend_pid), row.process, alias, "rolled back"):
            assert told in page
        assert f'href="{url("holders")}?state=idle"' in page
        assert held(alias).key == row.key
    assert not LogEntry.objects.exists()


def test_session_is_ended(alias: str, worker: Worker, operator: Client, observer: psycopg.Connection[Any]) -> None:
    with holding(worker, alias):
        row = held(alias)
        (told,) = confirmed(operator, "terminate", row.key)
        assert told.startswith(f"{row.who}, {row.process}, backend {row.backend_pid}: Done.")
        question = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
        wait_until(lambda: observer.execute(question, [row.backend_pid]).fetchone() is None, 10)
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.user.get_username()) == (row.key, "operator")
    assert f"backend {row.backend_pid}" in entry.change_message
    assert "terminate" in entry.change_message
    assert entry.get_admin_url() is None
    assert client_of("superuser").get(reverse("admin:index")).status_code == 200  # which lists it


def test_statement_is_cancelled(alias: str, worker: Worker, operator: Client) -> None:
    def sleep() -> str:
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT pg_sleep(60)")
        except DatabaseError as error:
            return str(error)
        finally:
            connections[alias].close()
        return "slept"

    running = worker.start(sleep)
    wait_until(lambda: any(row.state == "running" for row in reports.holders(reports.own(), alias=alias).items), 10)
    (told,) = confirmed(operator, "cancel", held(alias).key)
    assert "Done." in told
    assert "canceling statement" in running.result()


def test_several_are_ended_at_once(
    alias: str, make_worker: Callable[[], Worker], operator: Client, observer: psycopg.Connection[Any]
) -> None:
    one, two, three = (make_worker() for _ in range(3))
    with holding(one, alias), holding(two, alias), holding(three, alias):
        rows = [held(alias, number) for number in range(3)]
        keys = [row.key for row in rows[:2]]
        answer = ask(operator, "terminate", *keys)
        assert all(f"<dd>{row.backend_pid}</dd>" in answer.content.decode() for row in rows[:2])
        assert confirmed(operator, "terminate", *keys) == ["Done to 2 of 2."]
        alive = "SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)"
        pids = [row.backend_pid for row in rows]
        wait_until(lambda: observer.execute(alive, [pids]).fetchall() == [(rows[2].backend_pid,)], 10)
    assert {entry.object_id for entry in LogEntry.objects.all()} == set(keys)


def test_lease_that_is_over_is_left_alone(
    alias: str, worker: Worker, operator: Client, observer: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Its connection serves the next one, whom the key does not name."""
    with holding(worker, alias):
        over = held(alias)
    with holding(worker, alias):
        assert held(alias).backend_pid == over.backend_pid
        for more in ({}, {"confirmed": "yes"}):
            answer = ask(operator, "terminate", over.key, **more)
            assert answer["Location"] == url("holders")
            (told,) = operator.get(answer["Location"]).context["messages"]
            assert "over already" in str(told)
        assert held(alias).backend_pid == over.backend_pid
        assert observer.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [over.backend_pid]).fetchone()
    assert not LogEntry.objects.exists()
    assert "asked for by" not in caplog.text


def test_lease_that_ends_between_the_pages_look_and_the_act(
    alias: str, worker: Worker, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holding(worker, alias):
        row = held(alias)
        before = reports.own()
    monkeypatch.setattr(reports, "read", lambda: before)
    (told,) = confirmed(operator, "terminate", row.key)
    assert "already over; nothing was done" in told


def test_stack_is_shown_without_a_question(alias: str, worker: Worker, operator: Client) -> None:
    with holding(worker, alias):
        answer = ask(operator, "stack", held(alias).key)
        assert answer.status_code == 200
        assert "concurrent/futures/thread.py" in answer.content.decode()
    assert not LogEntry.objects.exists()


def test_connections_are_replaced(alias: str, worker: Worker, operator: Client) -> None:
    with holding(worker, alias):
        pass
    (process,) = reports.processes(reports.own()).items
    answer = ask(operator, "drain", process.instance)
    assert process.name in answer.content.decode()
    (told,) = confirmed(operator, "drain", process.instance)
    assert told.startswith(f"{process.name}: Done.")
    assert LogEntry.objects.get().object_id == process.instance


def test_log_comes_before_the_act_and_names_the_actor(
    alias: str, worker: Worker, operator: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "django_dbpool.commands")
    with holding(worker, alias):
        row = held(alias)
        confirmed(operator, "terminate", row.key)
    first = next(record for record in caplog.records if record.name == "django_dbpool.commands")
    assert first.levelno == logging.WARNING
    for part in ("terminate", str(row.backend_pid), "operator"):
        assert part in first.getMessage()


def test_history_outlives_an_error_of_the_request(
    alias: str, worker: Worker, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was done, so that it must not be undone with a transaction around the request."""

    def act(*args: Any, note: Callable[[], object], **kwargs: Any) -> None:
        note()
        raise RuntimeError("behind the act")

    monkeypatch.setattr(actions, "act", act)
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    operator.raise_request_exception = False
    with holding(worker, alias):
        assert ask(operator, "terminate", held(alias).key, confirmed="yes").status_code == 500
    assert LogEntry.objects.count() == 1


def test_history_that_can_not_be_written_stops_nobody(
    alias: str, worker: Worker, operator: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute("ALTER TABLE django_admin_log RENAME TO elsewhere")
    try:
        with holding(worker, alias):
            (told,) = confirmed(operator, "terminate", held(alias).key)
    finally:
        with connections["default"].cursor() as cursor:
            cursor.execute("ALTER TABLE elsewhere RENAME TO django_admin_log")
    assert "Done." in told
    assert "could not be noted" in caplog.text


def test_process_that_is_gone(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with site():
        publish("b" * 16, host="elsewhere", role="web")
        before = reports.read()
        with connections["default"].cursor() as cursor:
            cursor.execute("DELETE FROM django_dbpool_process")
        monkeypatch.setattr(reports, "read", lambda: before)
        (row,) = reports.holders(before).items
        (told,) = confirmed(operator, "terminate", row.key)
    assert "There is no such process any more; nothing was done" in told
    assert LogEntry.objects.get().object_id == row.key


def test_what_processes_say_of_themselves_may_be_anything(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can write to the store can't make the page fail for the others that are ticked."""
    monkeypatch.setattr(actions, "EACH", 0.5)  # of the last, whom nobody finds
    odd: list[dict[str, Any]] = [{"backend_pid": 2**40}, {"alias": "d" * 250}, {"generation": 2**52}, {}]
    with site():
        publish("b" * 16, host="elsewhere", holders=[{**HOLDER, **values} for values in odd])
        publish("not one of ours", host="nowhere", holders=[])
        keys = [row.key for row in reports.holders(reports.read()).items]
        (first, *_) = found = confirmed(operator, "terminate", *keys[:2], keys[3])
        assert len(found) == 3
        assert "It was not done." in first and "backend_pid" in first
        (told,) = confirmed(operator, "drain", "not one of ours")
        assert "It was not done." in told


def test_a_lease_without_a_number_is_shown_and_not_offered(operator: Client) -> None:
    """One that was about to end when its process looked at it."""
    with site():
        publish(holders=[{**HOLDER, "generation": -1}, {**HOLDER, "backend_pid": 12}])
        (over, row) = sorted(reports.holders(reports.read()).items, key=lambda row: row.backend_pid)
        page = operator.get(url("holders")).content.decode()
        assert f'name="terminate" value="{row.key}"' in page
        assert f'data-key="{over.key}"' in page and f'value="{over.key}"' not in page
        assert f'value="{over.key}"' not in operator.get(url("changelist")).content.decode()


def test_many_that_do_not_answer_are_told_before_the_request_is_killed(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not begun within its time is said to be so, and is not begun."""
    begun: list[int] = []

    def act(instance: str, verb: str, *, backend_pid: int, **_: Any) -> Acted:
        begun.append(backend_pid)
        time.sleep(0.5)
        return Acted("unknown", "It does not answer.", 0.5)

    monkeypatch.setattr(actions, "act", act)
    monkeypatch.setattr(actions, "LONGEST", 0.7)
    with site():
        publish(holders=[{**HOLDER, "backend_pid": pid} for pid in range(1, 41)])
        keys = [row.key for row in reports.holders(reports.read()).items]
        found = confirmed(operator, "terminate", *keys)
    assert len(found) == 40
    assert sum("It was not begun" in text for text in found) == 40 - len(begun)
    assert actions.AT_ONCE <= len(begun) <= 2 * actions.AT_ONCE


def publish_own() -> None:
    """As this process would from time to time."""
    with connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM django_dbpool_process")
    own = own_snapshot()
    publish(own.pop("instance"), age=0, **{name: value for name, value in own.items() if name != "at"})


def test_what_was_ended_is_marked_until_its_process_says_so(alias: str, worker: Worker, operator: Client) -> None:
    """The page that follows is from before: there it would stand as if nothing had happened."""
    with site(), holding(worker, alias):
        row = held(alias)
        publish_own()
        pages = [url("holders"), url("changelist")]
        button = f'name="terminate" value="{row.key}"'
        for page in pages:
            assert button in operator.get(page).content.decode()
        (told,) = confirmed(operator, "terminate", row.key)
        assert "Done." in told
        for page in pages:
            shown = operator.get(page).content.decode()
            assert f'data-key="{row.key}"' in shown
            assert "data-ended>ended<" in shown
            assert "It is over; its process has not said so yet." in shown
            assert f'value="{row.key}"' not in shown, "it can't be ended twice"
        other = client_of("superuser").get(pages[0]).content.decode()
        assert button in other and "data-ended" not in other
        operator.cookies[ended.COOKIE] = "forged:1:x"
        assert button in operator.get(pages[0]).content.decode()


def test_what_its_process_has_told_since_is_shown_as_it_is(alias: str, worker: Worker, operator: Client) -> None:
    with site(), holding(worker, alias):
        row = held(alias)
        publish_own()
        confirmed(operator, "terminate", row.key)
        publish(row.instance[::-1], holders=[])  # another one
        assert "data-ended" in operator.get(url("holders")).content.decode()
        publish_own()
        assert wait_until(lambda: not reports.holders(reports.own(), alias=alias).items, 10)
        publish_own()
        assert row.key not in operator.get(url("holders")).content.decode()
        # It may still be there, as where the server has not got round to it: then it is no longer said to be over.
        publish_still_there(row)
        shown = operator.get(url("holders")).content.decode()
        assert f'name="terminate" value="{row.key}"' in shown and "data-ended" not in shown


def publish_still_there(row: HolderRow) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM django_dbpool_process")
    lease = {"alias": row.alias, "backend_pid": row.backend_pid, "generation": row.generation}
    publish(row.instance, age=0, holders=[{**HOLDER, **lease}])


def test_browsers_are_not_given_more_than_they_keep(rf: Any) -> None:
    """The oldest are forgotten: their processes have told of them since."""
    request, answer = rf.get("/"), HttpResponse()
    keys = [reports.key_of(f"{number:016x}", "default", number, number) for number in range(500)]
    ended.remember(request, answer, keys, "/admin/")
    cookie = answer.cookies[ended.COOKIE]
    assert len(cookie.output()) < 4096
    request.COOKIES[ended.COOKIE] = cookie.value
    kept = list(ended._remembered(request))
    assert kept == keys[-len(kept) :] and len(kept) >= actions.MOST
