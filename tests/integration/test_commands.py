"""
Commands between hosts: a genuine one is obeyed once and answered, whatever else stands in the table; what its signature
doesn't cover is believed nothing.
"""

from __future__ import annotations

import itertools
import json
import random
import secrets
from collections.abc import Iterator
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import DatabaseError, connections, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_dbpool.core.commands import TABLE
from django_dbpool.core.process import this_process
from django_dbpool.fleet import commands, signing, verbs
from django_dbpool.fleet.commands import AT_ONCE, Inbox, Row, result_of, send, wait_for
from django_dbpool.fleet.publisher import Publisher
from django_dbpool.fleet.table import TableStore
from django_dbpool.models import Command
from testproject.processes import wait_until
from tests.fixtures.command_rows import FIELDS, TARGET, genuine
from tests.fixtures.pools import alive, backend
from tests.fixtures.workers import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def obeyed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was done, in place of draining."""
    done: list[Any] = []

    def drain(alias: str | None = None) -> dict[str, Any]:
        done.append(alias)
        return {"drained": {}}

    instead = verbs.Verb(drain, verbs.VERBS["drain"].arguments, changes=True)
    changed = {**verbs.VERBS, "drain": instead}
    monkeypatch.setattr(verbs, "VERBS", changed)
    monkeypatch.setattr(commands, "VERBS", changed)
    return done


# -- the table --------------------------------------------------------------------------------------------------------


def poll(inbox: Inbox) -> int:
    return inbox.poll("default")


def test_sent_obeyed_and_answered(obeyed: list[Any], caplog: Any) -> None:
    inbox = Inbox(TARGET)
    sent = send(TARGET, "drain", alias="default")
    assert result_of(sent) is None
    assert (poll(inbox), obeyed) == (1, ["default"])
    found = wait_for(sent)
    assert (found.outcome, found.result) == ("done", {"drained": {}})
    assert found.to_json() == {"outcome": "done", "result": {"drained": {}}}
    assert (poll(inbox), obeyed) == (0, ["default"])
    assert f'drain {{"alias":"default"}}, asked for by a signed command (row {sent.id})' in caplog.text


def test_a_real_drain(make_pool: Any, observer: psycopg.Connection[Any]) -> None:
    alias = make_pool()
    pid = backend(alias)
    sent = send(this_process().instance, "drain", alias=alias)
    assert commands.poll("default") == 1
    assert wait_for(sent).result == {"drained": {alias: 1}}
    assert wait_until(lambda: not alive(observer, pid), PATIENCE)


def test_who_publishes_looks_for_commands(obeyed: list[Any]) -> None:
    sent = send(this_process().instance, "drain", alias="default")
    publisher = Publisher(TableStore("default"), interval=0.0, expire=30)
    try:
        publisher.tick()
        assert publisher.wait(PATIENCE)
    finally:
        publisher.close()
    assert (wait_for(sent).outcome, obeyed) == ("done", ["default"])


@pytest.fixture
def looking() -> Iterator[Publisher]:
    """A process that has published once and looks for commands ten times a second, until it publishes otherwise."""
    publisher = Publisher(TableStore("default"), interval=0.25, expire=30)
    publisher._began = -1e9
    publisher._offer("active", 30)
    assert publisher.wait(PATIENCE)
    yield publisher
    publisher.close(PATIENCE)


def test_it_looks_for_them_between_two_snapshots_too(obeyed: list[Any], looking: Publisher) -> None:
    """Whoever has clicked on a button is not to wait for the next one."""
    sent = send(this_process().instance, "drain", alias="default")
    assert (wait_for(sent).outcome, obeyed) == ("done", ["default"])
    assert looking.published == 1


@pytest.mark.parametrize("state", ["idle", "ended"])
def test_who_is_idle_looks_for_nothing(looking: Publisher, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that scales to zero has to be able to."""
    looking._offer(state, 30)
    assert looking.wait(PATIENCE)
    looks: list[str] = []
    monkeypatch.setattr(commands, "poll", looks.append)
    with looking._changed:
        assert looking._looking is None
        assert not looking._changed.wait(0.3)
    assert looks == []


def test_where_it_cannot_look_it_does_not_go_on(looking: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again after the next snapshot: each attempt would be a line in the log."""
    looks: list[str] = []

    def fail(using: str) -> None:
        looks.append(using)
        raise DatabaseError("away")

    monkeypatch.setattr(commands, "poll", fail)
    assert wait_until(lambda: bool(looks), PATIENCE)
    with looking._changed:
        looking._changed.wait(0.3)
    assert looks == ["default"]
    looking._offer("active", 30)
    assert looking.wait(PATIENCE)
    with looking._changed:
        looking._changed.wait(0.3)
    assert looks == ["default", "default"]


def test_what_goes_wrong_is_told_without_its_text(obeyed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(alias: str | None = None) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setitem(verbs.VERBS, "drain", verbs.Verb(fail, verbs.VERBS["drain"].arguments, changes=True))  # type: ignore[arg-type]
    bad, wrong = send(TARGET, "drain"), send(TARGET, "drain", alias=7)
    assert poll(Inbox(TARGET)) == 2
    assert wait_for(bad).to_json() == {"outcome": "failed", "result": {"error": "failed", "message": "RuntimeError"}}
    assert wait_for(wrong).result["error"] == "bad arguments"
    assert "hunter2" not in str(list(Command.objects.values()))


def test_logged_before_it_is_done(obeyed: list[Any], caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(alias: str | None = None) -> dict[str, Any]:
        return {"logged": "asked for by a signed command" in caplog.text}

    monkeypatch.setitem(verbs.VERBS, "drain", verbs.Verb(look, verbs.VERBS["drain"].arguments, changes=True))  # type: ignore[arg-type]
    sent = send(TARGET, "drain")
    poll(Inbox(TARGET))
    assert wait_for(sent).result == {"logged": True}


def test_an_answer_that_was_not_written_is_written_later(obeyed: list[Any]) -> None:
    """The database goes away in between: done once, answered nevertheless."""
    inbox, sent = Inbox(TARGET), send(TARGET, "drain", alias="default")
    with pytest.MonkeyPatch.context() as patch:
        exchange = commands._exchange

        def lose(using: str, sql: str, parameters: Any = ()) -> Any:
            if sql == commands._ANSWER:
                raise DatabaseError("away")
            return exchange(using, sql, parameters)

        patch.setattr(commands, "_exchange", lose)
        with pytest.raises(DatabaseError):
            poll(inbox)
    assert result_of(sent) is None
    assert poll(inbox) == 1
    assert (wait_for(sent).outcome, obeyed) == ("done", ["default"])


def test_who_takes_an_answer_back_has_it_written_again_and_nothing_done(obeyed: list[Any]) -> None:
    inbox, sent = Inbox(TARGET), send(TARGET, "drain", alias="default")
    poll(inbox)
    for _ in range(3):
        Command.objects.update(outcome="", result="", result_signature="")
        assert poll(inbox) == 1
    assert (wait_for(sent).outcome, obeyed) == ("done", ["default"])


def test_an_answer_that_the_target_has_not_signed_is_none(obeyed: list[Any]) -> None:
    sent = send(TARGET, "drain", lifetime=0.2)
    result = signing.canonical({"drained": {"default": 7}})
    for signed in ("", "0" * 64, signing.signature("answer", TARGET, "0" * 32, "done", result)):
        Command.objects.update(outcome="done", result=result, result_signature=signed)
        assert result_of(sent) is None
    assert wait_for(sent, timeout=0).outcome == "unknown"
    Command.objects.all().delete()
    assert wait_for(sent, timeout=0).outcome == "unknown"


def test_what_expires_while_others_are_obeyed_is_not_obeyed(
    obeyed: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Whoever has sent it was told "unknown", which promises that."""
    passed = 0.0
    monkeypatch.setattr(commands, "monotonic", lambda: monotonic() + passed)
    inbox = Inbox(TARGET)
    first, late = (send(TARGET, "drain", alias=alias, lifetime=20) for alias in ("first", "late"))
    perform = commands.perform

    def slowly(*args: Any, **options: Any) -> Any:
        nonlocal passed
        passed += 20
        return perform(*args, **options)

    monkeypatch.setattr(commands, "perform", slowly)
    assert (poll(inbox), obeyed) == (1, ["first"])
    assert wait_for(first).outcome == "done"
    assert (result_of(late), commands.is_refused(late)) == (None, True)
    assert "it has expired" in caplog.text
    assert (poll(inbox), obeyed) == (0, ["first"])


def test_idle_beats_are_one_query_and_no_write(obeyed: list[Any], django_assert_num_queries: Any) -> None:
    send("f" * 16, "drain")
    with django_assert_num_queries(1):
        assert poll(Inbox(TARGET)) == 0
    assert Command.objects.filter(outcome="").count() == 1


def test_wrong_calls() -> None:
    with pytest.raises(ValueError, match="There are: cancel, drain, stack, terminate"):
        send(TARGET, "holders")
    with pytest.raises(ValueError, match="lives at most 60 s"):
        send(TARGET, "drain", lifetime=61)
    with pytest.raises(ValueError, match="too long"):
        send(TARGET, "drain", alias="x" * 5000)
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        send(TARGET, "drain")


def test_before_migrate(obeyed: list[Any], observer: psycopg.Connection[Any]) -> None:
    """Every beat of every process would write an error into the server's log."""
    inbox = Inbox(TARGET)
    observer.execute(f"ALTER TABLE {TABLE} RENAME TO away")
    try:
        assert [poll(inbox), poll(inbox)] == [0, 0]
    finally:
        observer.execute(f"ALTER TABLE away RENAME TO {TABLE}")
    inbox._not_before = 0.0
    send(TARGET, "drain")
    assert poll(inbox) == 1


def test_what_is_over_is_swept_by_the_next_who_sends(obeyed: list[Any]) -> None:
    for expires in (0, 2**62):
        Command.objects.create(**genuine(expires=expires)._asdict() | {"id": None})
    send(TARGET, "drain")
    assert Command.objects.count() == 1


@pytest.mark.django_db(databases=["default", "other"])
def test_migrations_are_complete() -> None:
    call_command("makemigrations", "django_dbpool", check=True, dry_run=True, verbosity=0)


# -- ten thousand -----------------------------------------------------------------------------------------------------


def forgeries(rng: random.Random, model: Row, others: list[Row]) -> Iterator[Row]:
    """One after the other: made up, altered, replayed, expired, for others, with other verbs."""
    while True:
        changes: dict[str, Any] = {
            "verb": rng.choice(["terminate", "cancel", "shell", "DRAIN", "drain ", "\u202edrain", ""]),
            "arguments": rng.choice(["{}", "[]", "null", '{"alias":"other"}', "[" * 1000, "x\nERROR forged", "\u202e"]),
            "nonce": rng.choice([secrets.token_hex(16), "", "0" * 32]),
            "issued": model.issued + rng.choice([-(10**6), -1, 1, 10**6, 2**60]),
            "expires": model.expires + rng.choice([-(10**6), -1, 1, 10**6, 2**60]),
            "signature": rng.choice([secrets.token_hex(32), "", "0" * 64, model.signature[::-1], "é" * 64]),
        }
        yield Row(0, TARGET, *(changes[name] for name in FIELDS[1:]))  # made up
        name = rng.choice(list(changes))
        yield model._replace(**{name: changes[name]})  # altered
        yield model  # replayed
        yield rng.choice(others)  # replayed from elsewhere, expired, of another verb: all signed
        yield rng.choice(others)._replace(target=TARGET)


@pytest.mark.parametrize("first", [True, False])
def test_ten_thousand_forged_rows_and_a_genuine_one(obeyed: list[Any], caplog: Any, first: bool) -> None:
    """None is obeyed, the genuine one is, and nobody can fill the log."""
    inbox, rng = Inbox(TARGET), random.Random(7)
    one = send(TARGET, "drain", alias="genuine")
    model = Row(*Command.objects.values_list("id", *FIELDS).get())
    assert poll(inbox) == 1 and obeyed == ["genuine"]
    now = model.issued
    others = [
        genuine(target="f" * 16, issued=now, expires=now + 30_000),
        genuine(issued=now - 50_000, expires=now - 1),
        genuine(verb="holders", issued=now, expires=now + 30_000),
        genuine(issued=now, expires=now + 3_600_000),
        genuine(issued=now + 3_600_000, expires=now + 3_610_000),
    ]
    if first:
        sent = send(TARGET, "drain", alias="second")
    rows = itertools.islice(forgeries(rng, model, others), 10_000)
    Command.objects.bulk_create([Command(**row._asdict() | {"id": None}) for row in rows], batch_size=2500)
    if not first:
        sent = send(TARGET, "drain", alias="second")
    assert 2 * AT_ONCE < 10_000, "several rounds"
    assert poll(inbox) == 1
    assert obeyed == ["genuine", "second"]
    assert wait_for(one).outcome == wait_for(sent).outcome == "done"
    assert inbox.refused > 7900, "those for other processes weren't looked at"
    assert Command.objects.filter(target=TARGET, outcome="").count() == 0
    records = [record.getMessage() for record in caplog.records if record.name == "django_dbpool.commands"]
    assert len(records) == 3 and all(record.isprintable() for record in records)
    connections["default"].close()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "verb": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=16),
                "arguments": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)
                | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5).map(json.dumps),
                "nonce": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=32),
                "issued": st.integers(-(2**63), 2**63 - 1),
                "expires": st.integers(-(2**63), 2**63 - 1),
                "signature": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=64),
            }
        ),
        max_size=20,
    )
)
def test_whatever_stands_in_the_table(obeyed: list[Any], rows: list[dict[str, Any]]) -> None:
    obeyed.clear()
    inbox = Inbox(TARGET)
    Command.objects.all().delete()
    Command.objects.bulk_create([Command(target=TARGET, **row) for row in rows])
    sent = send(TARGET, "drain", alias="genuine")
    assert poll(inbox) == 1
    assert (obeyed, wait_for(sent).outcome, inbox.refused) == (["genuine"], "done", Command.objects.count() - 1)
