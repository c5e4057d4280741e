"""`manage.py dbpool terminate`: exactly those sessions that have done nothing for long within a transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction
from django.test import override_settings

from django_dbpool.acting.idle import IdleSession, end, idle_in_transaction
from django_dbpool.core.ledger import Holder
from django_dbpool.fleet import FleetUnavailable, processes
from django_dbpool.fleet.documents import parse
from django_dbpool.fleet.snapshot import snapshot
from django_dbpool.management.subcommands import terminate
from testproject.postgres import Server, free_port
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase, StartOther
from tests.faults.helpers import PATIENCE, Database
from tests.faults.others import Other, published, reachable
from tests.fixtures.command_line import Run, run_dbpool
from tests.fixtures.pgbouncer import pgbouncer
from tests.fixtures.pools import alive

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("nothing_left", "sockets")]

Connect = Callable[..., psycopg.Connection[Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """One second is long."""

    def run(*argv: str, answer: str | None = None, older_than: str = "1s") -> tuple[int, str, str]:
        words = ["terminate", "--no-color", "--using", "default", "--older-than", older_than]
        return run_dbpool(capsys, *words, *argv, answer=answer)

    return run


@pytest.fixture
def connect(session_server: Server) -> Iterator[Connect]:
    """Sessions that no process of the project knows of, in the test's database unless another is named."""
    with ExitStack() as opened:

        def connect(begin: bool = True, **options: Any) -> psycopg.Connection[Any]:
            options = {"dbname": connections["default"].settings_dict["NAME"], **options}
            conn = session_server.connect(application_name="stranger", **options)
            opened.callback(conn.close)
            conn.autocommit = not begin
            conn.execute("SELECT 1")
            return conn

        yield connect


def idle(seconds: float = 1.0, using: str = "default") -> list[IdleSession]:
    """Those of this test, with all that is known of them."""
    return list(idle_in_transaction(using, seconds, processes()))


def waited(*conns: psycopg.Connection[Any]) -> None:
    """Until all of them have been idle for a second."""
    pids = {conn.info.backend_pid for conn in conns}
    assert wait_until(lambda: pids <= {each.pid for each in idle()}, PATIENCE), idle()


def row_of(out: str) -> list[str]:
    """The words of the one session that is listed."""
    return out.splitlines()[1].split()


# -- strangers --------------------------------------------------------------------------------------------------------


def test_dry_run_lists_and_does_nothing(run: Run, connect: Connect, observer: psycopg.Connection[Any]) -> None:
    assert run() == (0, "No session has been idle in a transaction for more than 1 s.\n", "")
    pid = (conn := connect()).info.backend_pid
    waited(conn)
    code, out, err = run()
    assert (code, err) == (1, "Nothing was done. Say --yes to end them.\n")
    heads, _, summary = out.splitlines()
    assert heads == "idle for  transaction for  database  backend  who                  process  application"
    assert row_of(out)[4:] == ["default", str(pid), "no", "process", "knows", "it", "-", "stranger"]
    assert summary == "1 session has been idle in a transaction for more than 1 s."
    code, out, _ = run("--json")
    (session,) = json.loads(out)["sessions"]
    assert (code, session["pid"], session["holder"], session["acted"]) == (1, pid, None, None)
    assert run("--dry-run", answer="y\n")[0] == 1
    for answer in ("n\n", "", "yesterday\n"):
        assert run(answer=answer)[0] == 1
    assert alive(observer, pid)
    assert run("--yes", older_than="10min")[0] == 0, "it is younger"
    assert alive(observer, pid)
    code, out, _ = run(answer="y\n")
    assert (code, out.splitlines()[-1]) == (
        0,
        (
            f"End 1 session? [y/N] backend {pid}: done. The session was ended and its transaction rolled back. "
            "Ended on the server."
        ),
    )
    assert wait_until(lambda: not alive(observer, pid), PATIENCE)


def test_nobody_else(run: Run, connect: Connect, observer: psycopg.Connection[Any]) -> None:
    """Not those that are idle outside of a transaction, or are of another database or role; not this process's own."""
    observer.execute("CREATE ROLE terminate_other LOGIN SUPERUSER")
    mine = Database("default", "", observer)
    try:
        spared = [connect(begin=False), connect(dbname="postgres"), connect(user="terminate_other")]
        with mine.holding(1) as (held,), transaction.atomic():
            own = mine.backend()
            victims = [connect(), connect()]
            with pytest.raises(psycopg.errors.SyntaxError):
                victims[1].execute("SELEC")  # a failed transaction holds as much
            waited(*victims)
            code, out, _ = run("--yes", "--json")
            ended = [(each["pid"], each["acted"]["outcome"]) for each in json.loads(out)["sessions"]]
            assert sorted(ended) == sorted((conn.info.backend_pid, "done") for conn in victims)
            assert code == 0
            assert all(alive(observer, pid) for pid in (held, own, *(conn.info.backend_pid for conn in spared)))
        for conn in spared:
            conn.close()
    finally:
        assert wait_until(lambda: _sessions_of(observer, "terminate_other") == 0, PATIENCE)
        observer.execute("DROP ROLE terminate_other")


def _sessions_of(observer: psycopg.Connection[Any], role: str) -> int:
    row = observer.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", [role]).fetchone()
    return int(row[0]) if row else 0


def test_one_that_has_worked_meanwhile_is_spared(connect: Connect, observer: psycopg.Connection[Any]) -> None:
    """Still idle in the same transaction, by now; and one that has begun another."""
    one, other = connect(), connect()
    waited(one, other)
    listed = {each.pid: each for each in idle()}
    one.execute("SELECT 2")
    other.rollback()
    other.execute("SELECT 2")
    for conn in (one, other):
        acted = end(listed[conn.info.backend_pid], actor="test")
        assert (acted.outcome, acted.way) == ("already over", "server")
        assert conn.execute("SELECT 3").fetchone() == (3,)


@pytest.mark.ci
def test_behind_a_pooler_nobody_is_taken_for_another(
    make_database: MakeDatabase, session_server: Server, connect: Connect, observer: psycopg.Connection[Any]
) -> None:
    """The process ids of holders are the pooler's: one that is a session's, too, is no proof of anything."""
    with pgbouncer(session_server) as front:
        name = connections["default"].settings_dict["NAME"]
        database = make_database(front, NAME=name)
        conn = connect()
        waited(conn)
        pid = conn.info.backend_pid
        holder = Holder(database.alias, pid, "t", 1, "GET /innocent/", 60.0, None, "idle in transaction", generation=1)
        process = replace(parse(snapshot()), holders=(holder,))
        (listed,) = idle_in_transaction("default", 1, [process])
        assert listed.holder is None, "of another server"
        (listed,) = idle_in_transaction(database.alias, 1, [process])
        assert (listed.pid, listed.process, listed.holder) == (pid, None, None)
        acted = end(listed, actor="test")
        assert (acted.outcome, acted.way) == ("done", "server")
        assert wait_until(lambda: not alive(observer, pid), PATIENCE)
        connections[database.alias].close_pool()


# -- those of the fleet -----------------------------------------------------------------------------------------------


@pytest.fixture
def holder(start_other: StartOther, sockets: Path) -> tuple[Other, int]:
    """A process that has been idle in a transaction for a second, and its backend."""
    other = start_other()
    pid = int(other.lease("hold")["backend_pid"])
    assert wait_until(lambda: reachable(sockets, other) and published(other), PATIENCE)
    assert wait_until(lambda: pid in {each.pid for each in idle() if each.holder is not None}, PATIENCE)
    return other, pid


@pytest.mark.ci
def test_a_holder_is_ended_through_its_process(run: Run, holder: tuple[Other, int]) -> None:
    other, pid = holder
    code, out, _ = run()
    assert code == 1
    assert [*f"default {pid} thread holder-hold".split(), f"{other.identity['host']}:{other.pid}"] == row_of(out)[4:-1]
    code, out, _ = run("--yes")
    assert code == 0
    assert f"backend {pid}: done. The session was ended and its transaction rolled back. Asked by its socket.\n" in out
    assert other.go_on()["ended"] == "ConnectionLost"


@pytest.mark.ci
def test_a_holder_that_has_worked_meanwhile_is_spared(holder: tuple[Other, int]) -> None:
    _other, _ = holder
    (listed,) = idle()
    moment = f"{float(listed.state_change) - 0.5:.6f}"
    earlier = IdleSession(**{name: getattr(listed, name) for name in listed.__slots__} | {"state_change": moment})
    acted = end(earlier, actor="test")
    assert (acted.outcome, acted.way) == ("already over", "socket"), acted
    assert [each.state_change for each in idle()] == [listed.state_change]


@pytest.mark.ci
def test_processes_are_known_by_their_sockets(run: Run, holder: tuple[Other, int], sockets: Path) -> None:
    """Where nothing is published, or the table is away."""
    other, pid = holder
    with override_settings(DBPOOL={"SOCKET": str(sockets), "FLEET": None}):
        code, out, err = run("--yes")
    assert (code, f"backend {pid}: done." in out) == (0, True), out + err
    assert "thread holder-hold" in out
    assert (
        err == 'Nothing is published: DBPOOL["FLEET"] is off, or no database uses the engine; only processes of '
        "this host are known.\n"
    )
    assert other.go_on()["ended"] == "ConnectionLost"


@pytest.mark.ci
def test_its_process_is_frozen(holder: tuple[Other, int], observer: psycopg.Connection[Any]) -> None:
    """It can't be told, so the server is; when it goes on it finds its session gone and nothing is done twice."""
    other, pid = holder
    other.freeze()
    try:
        (listed,) = idle()
        acted = end(listed, actor="test", timeout=0.5)
        assert (acted.outcome, acted.way) == ("done", "server"), acted
        assert "Before that: It is not known whether it was done" in acted.text
        assert wait_until(lambda: not alive(observer, pid), PATIENCE)
    finally:
        other.thaw()
    assert other.go_on()["ended"] == "ConnectionLost"


def test_interrupted_between_two(
    run: Run, connect: Connect, observer: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how far it has come."""
    conns = [connect(), connect(), connect()]
    waited(*conns)
    ended: list[int] = []

    def interrupted(session: IdleSession, **arguments: Any) -> Any:
        if ended:
            raise KeyboardInterrupt
        ended.append(session.pid)
        return end(session, **arguments)

    monkeypatch.setattr(terminate, "end", interrupted)
    code, _, err = run("--yes")
    assert code == 130
    assert err.endswith(" was ended is not known; 1 session left alone.\n")
    assert [alive(observer, conn.info.backend_pid) for conn in conns].count(True) >= 2


# -- what can't be asked ----------------------------------------------------------------------------------------------


def test_a_server_that_is_away(make_database: MakeDatabase, run: Run) -> None:
    database = make_database(HOST="127.0.0.1", PORT=str(free_port()))
    with pytest.raises(FleetUnavailable, match="can't be asked"):
        idle_in_transaction(database.alias, 1)
    code, _, err = run("--using", database.alias, "--yes")
    assert code == 2
    assert f"the server of database {database.alias!r} can't be asked" in err
    code, out, _ = run("--using", database.alias, "--yes", "--json")
    assert (code, json.loads(out)["sessions"]) == (2, [])


@pytest.mark.ci
def test_what_processes_say_where_the_server_is_away(
    run: Run, holder: tuple[Other, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise FleetUnavailable("the server of database 'default' can't be asked: gone")

    monkeypatch.setattr(terminate, "idle_in_transaction", away)
    other, pid = holder
    code, out, _ = run("--yes")
    assert code == 2
    assert f":{other.pid}: holder-hold has held backend {pid} of database 'default' for" in out


def test_wrong_usage(run: Run) -> None:
    code, out, err = run("--using", "nowhere")
    assert (code, out) == (2, "")
    assert "no database of this engine is called 'nowhere'; there are: default" in err
    code, _, err = run("--yes", "--dry-run")
    assert code == 2 and "not allowed with" in err
    code, _, err = run(older_than="soon")
    assert code == 2 and "'soon' is no time between 1 s and 30 days; write 90, 90s, 5min or 2h" in err
