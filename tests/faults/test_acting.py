"""Telling a process what to do, from wherever: the way that works is found, and what is said of it is true."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connections
from django.test import override_settings

from django_dbpool import transaction
from django_dbpool.acting import Acted, act, service
from django_dbpool.core.ledger import Holder
from django_dbpool.core.process import this_process
from django_dbpool.errors import PoolExhausted
from django_dbpool.fleet import verbs
from django_dbpool.fleet.commands import Inbox
from django_dbpool.fleet.snapshot import snapshot
from django_dbpool.fleet.table import TableStore
from django_dbpool.models import Command
from testproject.postgres import EmbeddedServer, free_port
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task
from tests.fixtures.pools import alive

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("nothing_left", "sockets")]


def here(verb: str, **arguments: Any) -> Acted:
    return act(this_process().instance, verb, actor="test", **arguments)


def target(holder: Holder) -> dict[str, Any]:
    return {"alias": holder.alias, "backend_pid": holder.backend_pid, "generation": holder.generation}


@pytest.fixture
def sleeper(database: Database) -> Iterator[tuple[Task, Holder]]:
    """A thread in a statement that takes long, and its lease."""
    task = Task(database.fetch, "SELECT pg_sleep(600)")
    holder = database.holder()
    active = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
    assert wait_until(lambda: bool(database.observer.execute(active, [holder.backend_pid]).fetchone()), PATIENCE)
    yield task, holder
    if task.is_alive():
        database.observer.execute("SELECT pg_terminate_backend(%s)", [holder.backend_pid])
    task.error()


# -- in this process --------------------------------------------------------------------------------------------------


def test_cancel_in_this_process(sleeper: tuple[Task, Holder]) -> None:
    task, holder = sleeper
    acted = here("cancel", **target(holder))
    assert (acted.outcome, acted.way, acted.done) == ("done", "own process", True), acted
    assert acted.text == "The statement was cancelled. In this process."
    error = task.error()
    assert isinstance(error, OperationalError)
    assert getattr(error.__cause__, "sqlstate", None) == "57014"
    again = here("cancel", **target(holder))
    assert again.outcome == "already over"
    assert again.text.startswith("Nothing was done: that lease is over")


def test_terminate_from_within_a_transaction(database: Database, sleeper: tuple[Task, Holder]) -> None:
    task, holder = sleeper
    with transaction.atomic(using="default"), connections["default"].cursor() as cursor:
        cursor.execute("SELECT 1")
        assert here("terminate", **target(holder)).outcome == "done"
    assert isinstance(task.error(), OperationalError)
    assert wait_until(lambda: not alive(database.observer, holder.backend_pid), PATIENCE)


def test_without_a_thread_it_is_done_here(
    database: Database, sleeper: tuple[Task, Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no more threads; the caller's connection and its transaction stay his."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    task, holder = sleeper
    with transaction.atomic(using=database.alias):
        before = database.backend()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            acted = here("terminate", **target(holder))
        assert database.backend() == before
    assert acted.done, acted.text
    assert task.error() is not None


def test_the_stack_of_a_lease(sleeper: tuple[Task, Holder]) -> None:
    _, holder = sleeper
    acted = here("stack", **target(holder))
    assert acted.outcome == "done"
    calls = acted.result["calls"]
    assert any(call.startswith("django_dbpool/backends/") for call in calls), calls
    assert any("tests/faults/helpers.py:" in call and call.endswith(" in Database.fetch") for call in calls), calls
    assert not any("pg_sleep" in call for call in calls)
    assert acted.result["thread"] == holder.thread
    assert here("stack", **{**target(holder), "generation": holder.generation + 1}).outcome == "already over"


def test_what_is_wrong_is_refused_before_anything_is_said(caplog: pytest.LogCaptureFixture) -> None:
    good = {"alias": "default", "backend_pid": 1, "generation": 0}
    wrong: list[tuple[str, Any, str, dict[str, Any]]] = [
        (
            r"act\(verb='shell'\): there is no such action. There are: cancel, drain, stack, terminate.",
            None,
            "shell",
            {},
        ),
        (r"there is no such action", None, "status", {}),
        (r"16 hexadecimal digits", "f" * 15, "drain", {}),
        (r"16 hexadecimal digits", "F" * 16, "drain", {}),
        (r"act\(instance='\\n", "\n" * 16, "drain", {}),
        (r"backend_pid, generation is missing", None, "cancel", {"alias": "default"}),
        (r"generation", None, "stack", {**good, "generation": "1"}),
        (r"unknown key 'xact_start'", None, "stack", {**good, "xact_start": 1.0}),
        (r"timeout must be 0.1 or more", None, "drain", {"timeout": 0}),
        (r"timeout must be", None, "drain", {"timeout": float("nan")}),
    ]
    for message, instance, verb, arguments in wrong:
        with pytest.raises(ValueError, match=message):
            act(instance or this_process().instance, verb, actor="test", **arguments)
    with pytest.raises(TypeError, match="timeout must be a number"):
        here("drain", timeout="6")
    assert [record for record in caplog.records if record.name == "django_dbpool.commands"] == []


def test_it_is_logged_and_noted_before_it_is_done(caplog: pytest.LogCaptureFixture, database: Database) -> None:
    """Whatever somebody is called: no line of the log is his."""
    pid = database.backend()
    seen: list[Any] = []

    def note() -> None:
        (record,) = [record for record in caplog.records if record.name == "django_dbpool.commands"]
        seen.append((record.levelname, record.getMessage(), {entry.backend_pid for entry in database.pool.entries}))

    actor = "eve\nERROR all is lost\x1b[2J\u202e"
    acted = act(this_process().instance, "drain", actor=actor, note=note, alias=database.alias)
    assert (acted.outcome, acted.result) == ("done", {"drained": {database.alias: 1}})
    ((level, line, before),) = seen
    assert (level, before) == ("WARNING", {pid})
    assert "asked for by eve\\nERROR all is lost\\x1b[2J\\u202e" in line
    assert line.startswith(f"drain of process {this_process().instance} ")
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert here("drain", alias="nowhere").text == "It has no such connections. In this process."


def test_a_note_that_fails_stops_nothing(sleeper: tuple[Task, Holder], caplog: pytest.LogCaptureFixture) -> None:
    task, holder = sleeper

    def note() -> None:
        raise RuntimeError("the table is away")

    assert act(this_process().instance, "cancel", actor="test", note=note, **target(holder)).outcome == "done"
    assert isinstance(task.error(), OperationalError)
    assert "an action could not be noted; it is done all the same" in caplog.text


def test_a_note_that_takes_too_long_stops_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, sleeper: tuple[Task, Holder]
) -> None:
    """The table is locked, by the very session that is to be ended, perhaps."""
    monkeypatch.setattr(service, "NOTE", 0.3)
    task, holder = sleeper
    acted = act(
        this_process().instance,
        "cancel",
        actor="test",
        note=lambda: database.fetch("SELECT pg_sleep(60)"),
        **target(holder),
    )
    assert acted.outcome == "done"
    assert isinstance(task.error(), OperationalError)


def test_a_note_that_is_interrupted_stops_it(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    pid = database.backend()

    def note() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        act(this_process().instance, "drain", actor="test", note=note, alias=database.alias)
    assert database.backend() == pid


def test_while_the_pool_is_exhausted(make_database: MakeDatabase) -> None:
    database = make_database(max_size=1, timeout=0.2)
    task = Task(database.fetch, "SELECT pg_sleep(600)")
    holder = database.holder()
    with transaction.reserved(), transaction.atomic(using=database.alias):
        database.backend()  # the reserve, too
        with pytest.raises(PoolExhausted):
            Task(database.backend).result()
        assert here("stack", **target(holder)).outcome == "done"
        assert here("terminate", **target(holder)).outcome == "done"
    assert isinstance(task.error(), OperationalError)


@pytest.mark.ci
def test_while_the_server_is_frozen(make_database: MakeDatabase, server: EmbeddedServer) -> None:
    """What needs no server is done, of the rest it is said in time that it isn't known."""
    database = make_database(server, max_size=2)
    task = Task(database.fetch, "SELECT pg_sleep(600)")
    holder = database.holder()
    server.freeze()
    try:
        assert here("stack", **target(holder)).outcome == "done"
        assert here("drain", alias=database.alias).outcome == "done"
        began = monotonic()
        acted = here("cancel", timeout=0.5, **target(holder))
        assert acted.outcome == "unknown"
        assert acted.text.startswith("It is not known whether it was done: there was no answer in time.")
        assert monotonic() - began < 5
    finally:
        server.thaw()
    assert isinstance(task.error(), OperationalError)


async def _from_async(holder: Holder) -> Acted:
    return await sync_to_async(here, thread_sensitive=False)("stack", **target(holder))


def test_from_async_code(sleeper: tuple[Task, Holder]) -> None:
    _, holder = sleeper
    assert asyncio.run(_from_async(holder)).outcome == "done"

    async def directly() -> Acted:
        return here("stack", **target(holder))

    assert asyncio.run(directly()).outcome == "done", "it holds the loop up, but works"


# -- rows, without a process ------------------------------------------------------------------------------------------


class Ghost:
    """A process that has published, and answers as the test wants."""

    def __init__(self, state: str = "active") -> None:
        self.instance = secrets.token_hex(8)
        self.inbox = Inbox(self.instance)
        self.publish(state)

    def publish(self, state: str, delay: float = 0.0) -> None:
        document = {**snapshot(), "instance": self.instance, "state": state, "interval": 5.0}
        TableStore("default").put(self.instance, json.dumps(document), delay=delay, expire=30)

    @contextmanager
    def polling(self, poll: Callable[[str], object]) -> Iterator[None]:
        """As often as it can, while the block runs."""
        over = threading.Event()

        def run() -> None:
            try:
                while not over.wait(0.02):
                    poll("default")
            finally:
                connections.close_all()

        task = Task(run)
        try:
            yield
        finally:
            over.set()
            task.result()


def test_a_row_is_signed_obeyed_and_answered_in_a_full_pool(database: Database) -> None:
    """Sender and target have nothing but the reserve, one after the other."""
    ghost = Ghost()
    database.backend()
    size = connections["default"].pool.config.max_size
    full = threading.Barrier(size + 1)
    over = threading.Event()

    def hold() -> None:
        with transaction.atomic(), connections["default"].cursor() as cursor:
            cursor.execute("SELECT 1")
            full.wait(PATIENCE)
            over.wait(PATIENCE)

    tasks = [Task(hold) for _ in range(size)]
    full.wait(PATIENCE)
    try:
        with ghost.polling(ghost.inbox.poll):
            acted = act(ghost.instance, "drain", actor="test", alias=database.alias)
    finally:
        over.set()
        for task in tasks:
            task.result()
    assert (acted.outcome, acted.way, acted.result) == ("done", "signed command", {"drained": {database.alias: 1}})


def forge(outcome: str, result: str) -> Callable[[str], object]:
    def poll(_: str) -> None:
        Command.objects.update(outcome=outcome, result=result, result_signature="0" * 64)

    return poll


def test_a_forged_answer_is_none() -> None:
    ghost = Ghost()
    with ghost.polling(forge("done", '{"drained":{"default":1}}')):
        acted = act(ghost.instance, "drain", actor="test", timeout=0.5)
    assert (acted.outcome, acted.result) == ("unknown", None)
    assert "has not answered" in acted.text


def test_a_command_that_is_marked_as_refused() -> None:
    """As a process with another secret does. No proof, but worth a hint."""
    ghost = Ghost()
    with ghost.polling(forge("refused", "")):
        acted = act(ghost.instance, "drain", actor="test", timeout=0.5)
    assert acted.outcome == "unknown"
    assert 'is its SECRET_KEY or DBPOOL["SECRET"] another one?' in acted.text


def test_a_process_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ghost = Ghost()

    def fail(alias: str | None = None) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setitem(verbs.VERBS, "drain", verbs.Verb(fail, verbs.VERBS["drain"].arguments, changes=True))  # type: ignore[arg-type]
    with ghost.polling(ghost.inbox.poll):
        acted = act(ghost.instance, "drain", actor="test")
    assert acted.outcome == "failed"
    assert acted.text.startswith("It was not done. It says: failed: RuntimeError. Asked by a signed command.")


@pytest.mark.parametrize(
    ("state", "delay", "hint"),
    [("active", 20, "has not published for 20 s"), ("idle", 0, "is idle, and looks for commands when it works again")],
)
def test_one_that_does_not_answer(state: str, delay: float, hint: str) -> None:
    ghost = Ghost()
    ghost.publish(state, delay)
    acted = act(ghost.instance, "drain", actor="test", timeout=0.3)
    assert (acted.outcome, hint in acted.text) == ("unknown", True), acted.text
    (row,) = Command.objects.all()
    assert row.expires - row.issued <= 300, "it is not obeyed when nobody waits for it any more"


def test_one_that_has_ended(database: Database) -> None:
    ghost = Ghost("ended")
    lease: dict[str, Any] = {"alias": database.alias, "backend_pid": 1, "generation": 1}
    assert act(ghost.instance, "cancel", actor="test", **lease).outcome == "already over"
    assert act(ghost.instance, "drain", actor="test").outcome == "no such process"
    assert act("f" * 16, "drain", actor="test").outcome == "no such process"
    assert not Command.objects.exists()


def test_nobody_can_be_asked(sockets: Path) -> None:
    settings = {"SOCKET": False, "FLEET": None}
    with override_settings(DBPOOL=settings):
        acted = act("f" * 16, "drain", actor="test")
    assert acted.outcome == "failed"
    assert acted.text == (
        'It was not done. Nobody could be asked. Not by socket: DBPOOL["SOCKET"] is False. Not by signed command: '
        'processes publish into no database (DBPOOL["FLEET"]), so they look for no commands there.'
    )
    sockets.chmod(0o777)
    with override_settings(DBPOOL={"SOCKET": str(sockets), "FLEET": {"using": "nowhere"}}):
        acted = act("f" * 16, "drain", actor="test")
    assert acted.outcome == "failed"
    assert acted.text.isprintable()


def test_where_the_table_is_away(make_database: MakeDatabase, sockets: Path) -> None:
    database = make_database(HOST="127.0.0.1", PORT=str(free_port()), NAME="secretname")
    with override_settings(DBPOOL={"SOCKET": str(sockets), "FLEET": {"using": database.alias}}):
        acted = act("f" * 16, "drain", actor="test")
    assert (acted.outcome, "can't be used:" in acted.text) == ("failed", True), acted.text


def test_interrupted_while_it_waits() -> None:
    """At once, not when the time is up."""
    ghost = Ghost()
    began = monotonic()

    def interrupt() -> None:
        assert wait_until(Command.objects.exists, PATIENCE)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        connections.close_all()

    task = Task(interrupt)
    with pytest.raises(KeyboardInterrupt):
        act(ghost.instance, "drain", actor="test", timeout=4.0)
        task.join()
    task.result()
    assert monotonic() - began < 3.5
    Command.objects.update(outcome="x")
