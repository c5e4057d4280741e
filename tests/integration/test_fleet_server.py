"""The server's view of the holders, strangers, and ``manage.py dbpool status``."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.test import override_settings

from django_dbpool import reports
from django_dbpool.core.process import this_process
from django_dbpool.fleet import FleetUnavailable, processes, server, server_of, snapshot, socket_server
from django_dbpool.fleet.snapshot import encoded
from django_dbpool.fleet.table import TableStore
from testproject.postgres import Server
from testproject.processes import wait_until
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.command_line import Run, run_dbpool
from tests.fixtures.pgbouncer import pgbouncer
from tests.fixtures.pools import backend, execute, hold
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])
INSTANCE = "0" * 16


@pytest.fixture
def alias(make_pool: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of two connections; it has the table of the fleet. Strangers count from the first second on."""
    monkeypatch.setattr(server, "SETTLED", 0.0)
    alias = make_pool(size=2)
    with override_settings(DBPOOL={"FLEET": {"using": alias}}):
        yield alias


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return partial(run_dbpool, capsys, "status")


def publish(alias: str, instance: str = INSTANCE, **changes: Any) -> None:
    store = TableStore(alias)
    store.put(instance, encoded({**snapshot(), "instance": instance, **changes}), delay=0, expire=30)
    store.close()


def test_each_holder_meets_its_session(
    alias: str, make_worker: Callable[[], Worker], observer: psycopg.Connection[Any]
) -> None:
    idle, busy = make_worker(), make_worker()
    in_transaction = idle(hold, alias)

    def sleep() -> None:
        with transaction.atomic(using=alias):
            backends.append(backend(alias))
            execute(alias, "SELECT pg_sleep(60), 'secret'")

    backends: list[int] = []
    asleep = busy.start(sleep)
    state = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    assert wait_until(lambda: bool(backends and observer.execute(state, backends).fetchone()), PATIENCE)
    publish(alias)
    found = server_of(alias, processes())
    held = {each.holder.backend_pid: each for each in found.held}
    assert set(held) == {in_transaction, backends[0]}
    first, second = held[in_transaction], held[backends[0]]
    assert first.session is not None
    assert second.session is not None
    assert (first.session.state, second.session.state) == ("idle in transaction", "active")
    assert (first.holder.state, second.holder.state) == ("idle in transaction", "running")
    assert first.idle_in_transaction_seconds is not None
    assert second.idle_in_transaction_seconds is None
    assert second.session.waits_for == "Timeout: PgSleep"
    assert found.connections <= found.max_connections
    assert "secret" not in json.dumps([found.to_json(), *(each.to_json() for each in processes())])
    observer.execute("SELECT pg_terminate_backend(%s)", backends)
    assert asleep.exception(PATIENCE)
    gone = {each.holder.backend_pid: each.session for each in server_of(alias, processes()).held}
    assert gone[backends[0]] is None, "it held what is no more"


def test_who_waits_for_a_lock_and_for_whom(
    alias: str, make_worker: Callable[[], Worker], observer: psycopg.Connection[Any]
) -> None:
    """Of who waits for nobody it isn't asked: that would lock the lock manager."""
    first, second = make_worker(), make_worker()
    lock = "SELECT pg_advisory_xact_lock(4711)"
    holding = first(hold, alias)
    first(execute, alias, lock)
    waits = second(hold, alias)
    waiting = second.start(execute, alias, lock)
    state = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    assert wait_until(lambda: observer.execute(state, [waits]).fetchone() is not None, PATIENCE)
    publish(alias)
    found = {each.holder.backend_pid: each.session for each in server_of(alias, processes()).held}
    blocked, blocker = found[waits], found[holding]
    assert blocked is not None
    assert blocker is not None
    assert (blocked.blocked_by, blocker.blocked_by) == ((holding,), ())
    first(transaction.rollback, using=alias)
    waiting.result(PATIENCE)


def test_strangers_of_two_aliases_of_one_server_are_told_once(
    alias: str, make_pool: Callable[..., str], session_server: Server
) -> None:
    again = make_pool()
    backend(alias)
    backend(again)
    publish(alias)
    name = connections[alias].settings_dict["NAME"]
    with session_server.connect(dbname=name, application_name="script"):
        fleet = reports.read(servers=True)
    assert {alias, again} <= {each.alias for each in fleet.servers}
    (told,) = [row for row in reports.strangers(fleet) if row.application_name == "script"]
    known = {server.alias: {each.pid for each in server.strangers} for server in fleet.servers}
    assert told.backend_pid in known[alias] & known[again]


def test_strangers_are_sessions_of_our_role_that_nobody_knows_of(alias: str, session_server: Server) -> None:
    backend(alias)
    publish(alias)
    name = connections[alias].settings_dict["NAME"]
    with (
        session_server.connect(dbname=name, application_name="psql\x1b[2J") as ours,
        session_server.connect() as elsewhere,
        transaction.atomic(using=alias),
    ):
        mine = backend(alias)
        strangers = {each.pid: each for each in server_of(alias, processes()).strangers}
        assert ours.info.backend_pid in strangers
        assert strangers[ours.info.backend_pid].application_name.isprintable()
        assert elsewhere.info.backend_pid not in strangers, "another database is none of ours"
        assert mine not in strangers
    with session_server.connect(dbname=name) as ours:
        publish(alias, "f" * 16, dedicated={alias: [ours.info.backend_pid]})
        assert ours.info.backend_pid not in {each.pid for each in server_of(alias, processes()).strangers}


def test_a_pid_that_the_server_uses_again_is_nobodys(alias: str) -> None:
    pid = backend(alias)
    holder = {
        "alias": alias, "backend_pid": pid, "thread": "t", "thread_ident": 1, "unit": None, "since_seconds": 3600.0,
        "pinned": None, "state": "idle in transaction",
    }  # fmt: skip
    publish(alias, holders=[holder])
    (held,) = server_of(alias, processes()).held
    assert held.session is None


def test_a_server_that_is_away_is_said(make_alias: MakeAlias) -> None:
    away = make_alias(HOST="127.0.0.1", PORT="1", POOL={"retry": False, "timeout": 1})
    with pytest.raises(FleetUnavailable, match="can't be asked"):
        server_of(away, ())


# -- dbpool status -----------------------------------------------------------------------------------------------


def test_all_is_well(alias: str, run: Run) -> None:
    backend(alias)
    publish(alias, host="web-1", pid=4711, role="web")
    code, out, err = run()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["process", "role", "version", "seen", "state", "database", "use", "waiting", "circuit"]
    (row,) = [line for line in lines if f" {alias} " in line]
    assert f"{alias}" in row and "0/2+1" in row and row.split()[-2:] == ["0", "closed"]
    assert any(line.startswith("web-1:4711") for line in lines)
    assert any(line.startswith(f"{alias}: the server has ") for line in lines)
    assert lines[-1] == "ok"


def test_pools_of_several_processes_are_added_up(alias: str, run: Run) -> None:
    """Each row is of one process; whoever looks for how full the whole is need not add."""
    backend(alias)
    publish(alias, host="web-1", pid=4711)
    publish(alias, "f" * 16, host="web-2", pid=1)
    rows = [line.split() for line in run()[1].splitlines() if f" {alias} " in line]
    assert [row[row.index(alias) :] for row in rows[:2]] == [[alias, "0/2+1", "0", "closed"]] * 2
    assert rows[2] == ["all", "2", "together", alias, "0/4+2", "0"]


def test_holders_and_what_is_wrong(
    alias: str, run: Run, make_worker: Callable[[], Worker], observer: psycopg.Connection[Any]
) -> None:
    pids = [make_worker()(hold, alias) for _ in range(2)]
    publish(alias, host="web-1", pid=4711)
    publish(alias, "f" * 16, host="web-2", pid=1, pools=[], holders=[], missed={"snapshots": 3})
    observer.execute("UPDATE django_dbpool_process SET taken = now() - interval '20 s' WHERE instance LIKE 'f%'")
    code, out, _ = run()
    assert code == 1
    for pid in pids:
        (row,) = [line for line in out.splitlines() if f" {pid} " in line]
        assert "web-1:4711" in row
        assert "idle in transaction for " in row
    assert f"web-1:4711: all 2 connections to database '{alias}' are in use" in out
    assert "web-2:1 has not published for 20 s" in out
    assert "web-2:1 could not publish for some time" in out
    assert "and 1 more" in run("--holders", "1")[1]


def test_json(alias: str, run: Run, make_worker: Callable[[], Worker]) -> None:
    pid = make_worker()(hold, alias)
    publish(alias)
    code, out, _ = run("--json")
    document = json.loads(out)
    assert code == 0
    assert document["source"] == "fleet"
    (process,) = document["processes"]
    assert process["pid"] == os.getpid()
    assert [holder["backend_pid"] for holder in process["holders"]] == [pid]
    (of_alias,) = [each for each in document["servers"] if each["alias"] == alias]
    assert of_alias["held"][0]["session"]["state"] == "idle in transaction"
    assert run("--json", "--no-server")[0] == 0


def test_nobody_is_there(alias: str, run: Run) -> None:
    code, out, _ = run()
    assert code == 0
    assert "none is at work" in out


def test_it_cannot_be_told(make_alias: MakeAlias, run: Run) -> None:
    with override_settings(DBPOOL={"FLEET": {"using": make_alias()}}):
        code, out, err = run()
        assert (code, out) == (2, "")
        assert "has no table django_dbpool_process; run manage.py migrate django_dbpool --database" in err
        assert json.loads(run("--json")[1])["source"] is None
    with override_settings(DBPOOL={"FLEET": {"using": "nowhere"}}):
        assert "is no database with this engine" in run()[2]


def test_the_processes_of_this_host_are_asked_where_the_store_is_away(make_alias: MakeAlias, run: Run) -> None:
    with tempfile.TemporaryDirectory(prefix="dbp") as directory:
        away = make_alias(HOST="127.0.0.1", PORT="1", POOL={"retry": False, "timeout": 1})
        with override_settings(DBPOOL={"FLEET": {"using": away}, "SOCKET": directory}):
            assert run("--no-server")[0] == 2
            socket_server.ensure_running()
            try:
                code, out, _ = run("--no-server")
            finally:
                socket_server.stop()
    assert f"{this_process().host}:{os.getpid()} " in out
    assert "can't be read" in out
    assert code in (1, 2), "others may be in trouble that this host knows nothing of"


@pytest.mark.ci
def test_behind_a_pooler_nothing_is_joined(session_server: Server, make_alias: MakeAlias, run: Run) -> None:
    """Also where nobody has said that there is one."""
    direct = make_alias()
    call_command("migrate", "django_dbpool", database=direct, verbosity=0)
    try:
        with pgbouncer(session_server) as front:
            through = make_alias(front, POOL={"max_size": 2, "timeout": 5})
            assert server_of(direct, ()).joined
            with override_settings(DBPOOL={"FLEET": {"using": direct}}), transaction.atomic(using=through):
                backend(through)
                publish(direct)
                found = server_of(through, processes())
                assert (found.joined, found.strangers, len(found.held)) == (False, (), 1)
                assert found.held[0].session is None
                assert "behind a pooler nobody can say" in run()[1]
    finally:
        call_command("migrate", "django_dbpool", "zero", database=direct, verbosity=0)
        execute(direct, "DROP TABLE django_migrations")
