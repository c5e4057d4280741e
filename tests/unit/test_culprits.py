"""Who it is: those whose end would help, and nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from django_dbpool.fleet import HeldSession, Process, Server, Session
from django_dbpool.management.remedies import remedy_for
from django_dbpool.reports import Fleet, culprits
from django_dbpool.reports.culprits import kind_of_thread
from tests.fixtures.fleets import fleet, holder, pool, process

IDLE = "idle in transaction"


def session(pid: int, **values: Any) -> Session:
    given = {
        "pid": pid, "application_name": "site", "state": "active", "waits_for": None, "age": 100.0,
        "transaction_age": 50.0, "state_age": 50.0, **values,
    }  # fmt: skip
    return Session(**given)


def lock(pid: int, *blockers: int) -> Session:
    return session(pid, waits_for="Lock: transactionid", blocked_by=blockers)


def with_server(*processes: Process, sessions: list[Session], strangers: tuple[Session, ...] = ()) -> Fleet:
    by_pid = {each.pid: each for each in sessions}
    held = tuple(HeldSession(each, held, by_pid.get(held.backend_pid)) for each in processes for held in each.holders)
    server = Server("default", True, 10, 100, 3, (*sessions, *strangers), held, strangers)
    return fleet(*processes, servers=(server,))


def idle(pid: int, seconds: float = 30.0, **values: Any) -> dict[str, Any]:
    return holder(backend_pid=pid, since_seconds=seconds, state=IDLE, **values)


def test_nobody_where_all_is_short() -> None:
    assert culprits(fleet(process(holders=[holder(), idle(12, 3.0)]))) == ()


def test_leases_of_one_route_are_one() -> None:
    """Of all processes; the oldest tells what it does."""
    found = culprits(fleet(process(1, holders=[idle(1), idle(2, 40.0)]), process(2, holders=[idle(3, 20.0)])))
    (one,) = found
    assert (one.kind, one.count, one.oldest, one.youngest, one.backends) == ("holder", 3, 40.0, 20.0, (2, 1, 3))
    assert one.processes == ("web-1:101", "web-1:102")
    assert "GET /a/<int:pk>/ holds 3 connections to database 'default', the longest for 40 s" in one.text
    assert "waits for something that is not the database" in one.text


def test_where_callers_wait_two_seconds_are_long() -> None:
    waiting = process(pools=[pool(in_use=4, waiting=3)], holders=[idle(1, 3.0), holder(backend_pid=2, name="b/")])
    assert [each.name for each in culprits(fleet(waiting))] == ["GET /a/<int:pk>/", "GET /a/<int:pk>/"]
    assert [each.state for each in culprits(fleet(waiting))] == [IDLE, "running"], "who does nothing comes first"


def test_the_server_knows_better_than_what_was_published_before() -> None:
    held = [{**idle(1), "state": "running"}, {**idle(2), "name": "b/", "unit": "GET /b/"}]
    sessions = [session(1, state=IDLE), session(2, state="active")]
    found = culprits(with_server(process(holders=held), sessions=sessions))
    assert [(each.backends, each.state) for each in found] == [((1,), IDLE), ((2,), "running")]
    assert "it is idle in transaction" in found[0].text


def test_the_command_counts_from_the_last_statement_as_it_does_itself() -> None:
    """Else it would find nobody: a lease of ten minutes may have executed something a moment ago."""
    held = [idle(pid, 600.0) for pid in (1, 2, 3)]
    sessions = [session(pid, state=IDLE, state_age=age) for pid, age in ((1, 0.1), (2, 30.0), (3, 500.0))]
    (one,) = culprits(with_server(process(holders=held), sessions=sessions))
    assert (one.oldest, one.youngest) == (600.0, 30.0)
    assert remedy_for(one).commands == ("manage.py dbpool terminate --using default --older-than 27s",)
    busy = culprits(with_server(process(holders=held[:1]), sessions=sessions[:1]))
    assert remedy_for(busy[0]).commands == ("manage.py dbpool terminate --using default --older-than 1s",)


def test_threads_of_one_kind_are_one() -> None:
    held = [idle(pid, unit=None, name=None, thread=f"Thread-{pid} (follow)") for pid in (1, 2)]
    (one,) = culprits(fleet(process(holders=held)))
    assert (one.name, one.count) == ("thread follow()", 2)
    assert "spawn()" in remedy_for(one).cure
    assert kind_of_thread("ThreadPoolExecutor-0_12") == "thread ThreadPoolExecutor-N_N"


def test_who_is_waited_for_is_the_first_and_who_waits_is_none() -> None:
    """Though it holds for less time than another."""
    held = [idle(1, 12.0, name="first/"), idle(2, 900.0, name="other/")]
    held += [holder(backend_pid=pid, since_seconds=11.0) for pid in (3, 4)]
    sessions = [session(1, state=IDLE), session(2, state=IDLE), lock(3, 1), lock(4, 3)]
    found = culprits(with_server(process(holders=held), sessions=sessions))
    assert [(each.backends, each.blocks) for each in found] == [((1,), 2), ((2,), 0)]
    assert "2 others wait for its locks" in found[0].text


def test_who_is_waited_for_may_have_another_alias_of_the_same_server() -> None:
    """It is a lease that can be named, and no session of which nothing is known."""
    one = process(holders=[idle(1, 12.0, alias="other", name="first/"), holder(backend_pid=2, since_seconds=11.0)])
    sessions = [session(1, state=IDLE), lock(2, 1)]
    there = [
        Server(alias, True, 10, 100, 3, tuple(sessions), (HeldSession(one, one.holders[place], sessions[place]),), ())
        for alias, place in (("other", 0), ("default", 1))
    ]
    for servers in (there, there[1:]):
        found = culprits(fleet(one, servers=tuple(servers)))
        assert [(each.kind, each.alias, each.backends, each.blocks) for each in found] == [("holder", "other", (1,), 1)]


def test_a_young_lease_that_is_waited_for_is_one() -> None:
    held = [idle(1, 0.5, name="first/"), holder(backend_pid=2, since_seconds=0.4)]
    found = culprits(with_server(process(holders=held), sessions=[session(1, state=IDLE), lock(2, 1)]))
    assert [each.backends for each in found] == [(1,)]


def test_a_deadlock_has_no_end_that_would_be_one() -> None:
    held = [holder(backend_pid=pid, since_seconds=11.0) for pid in (1, 2)]
    assert culprits(with_server(process(holders=held), sessions=[lock(1, 2), lock(2, 1)])) == ()


@pytest.mark.parametrize(("blocked", "expected"), [(True, 1), (False, 0)])
def test_a_stranger(blocked: bool, expected: int) -> None:
    """One that sits in a transaction; one that is busy only if somebody waits for it."""
    held = [holder(backend_pid=1, since_seconds=11.0), idle(2, 90.0, name="idle/")]
    sessions = [lock(1, 99) if blocked else session(1), session(2, state=IDLE)]
    script = session(99, application_name="nightly", state=IDLE if blocked else "active")
    found = culprits(with_server(process(holders=held), sessions=sessions, strangers=(script,)))
    strangers = [each for each in found if each.kind == "stranger"]
    assert len(strangers) == expected
    if blocked:
        assert found[0] is strangers[0], "before one that nobody waits for"
        assert strangers[0].text.startswith("application 'nightly', which no process of the project knows of, has a")
        assert remedy_for(strangers[0]).commands == ("manage.py dbpool terminate --using default --older-than 45s",)


def test_a_blocker_of_whom_nothing_is_known() -> None:
    held = [holder(backend_pid=1, since_seconds=11.0)]
    found = culprits(with_server(process(holders=held), sessions=[lock(1, 77)]))
    assert [(each.kind, each.backends, each.blocks) for each in found] == [("session", (77,), 1)]
    (command,) = remedy_for(found[0]).commands
    assert command == 'manage.py dbshell --database default -- -c "SELECT pg_terminate_backend(77)"'
    prepared = culprits(with_server(process(holders=held), sessions=[lock(1, 0)]))
    assert "pg_prepared_xacts" in prepared[0].text
    assert "pg_prepared_xacts" in remedy_for(prepared[0]).commands[0]


def test_what_is_kept_on_purpose_is_none() -> None:
    """A listener on a connection of its own; this package's own threads; a young pin; what the server has ended."""
    own = holder(backend_pid=3, since_seconds=20.0, thread="dbpool-strangers", unit=None, name=None)
    held = [idle(1, 900.0), holder(backend_pid=2, since_seconds=20.0, pinned="LISTEN", state="idle"), own]
    assert culprits(fleet(process(holders=held, dedicated={"default": [1]}))) == ()
    assert culprits(with_server(process(holders=[idle(5)]), sessions=[])) == (), "nobody can end it once more"


def test_what_is_kept_on_purpose_in_another_database_is_another() -> None:
    """Backends of two servers may have the same number."""
    held = [idle(1, 900.0), holder("other", backend_pid=1, since_seconds=900.0, state="idle", name="listen")]
    (one,) = culprits(fleet(process(holders=held, dedicated={"other": [1]})))
    assert (one.alias, one.backends) == ("default", (1,))


def test_a_statement_is_cancelled_not_terminated() -> None:
    (one,) = culprits(fleet(process(holders=[holder(since_seconds=60.0)])))
    assert remedy_for(one).commands == ('manage.py dbshell --database default -- -c "SELECT pg_cancel_backend(11)"',)
