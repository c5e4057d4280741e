"""``POOL["commit_status"]``: a lost COMMIT is resolved where the server can tell, and never guessed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from django_dbpool.errors import CommitUnknown, ConnectionLost, LeaseTimedOut
from django_dbpool.pool.commit_status import outcome, transaction_id
from django_dbpool.transaction import pin
from testproject.postgres import EmbeddedServer, Server
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task
from tests.fixtures.proxy import Proxy

ON = {"commit_status": True, "retry": True}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with Server.embedded({"max_connections": "30"}) as server:
        yield server


@pytest.fixture
def running(server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    server.start()
    install(server)
    yield server
    server.start()


@pytest.fixture
def slow(session_server: Server) -> Iterator[Server]:
    install(session_server)
    yield session_server
    with session_server.connect() as connection:
        # Of a test that failed in the middle.
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 99")
        connection.execute("DROP TABLE slow_commits; DROP FUNCTION wait_in_commit")


def install(server: Server) -> None:
    """A table whose rows are committed when nobody holds an advisory lock."""
    with server.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS slow_commits")
        connection.execute("CREATE TABLE slow_commits (key text)")
        connection.execute(
            "CREATE OR REPLACE FUNCTION wait_in_commit() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_advisory_xact_lock_shared(99); RETURN NEW; END $$"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON slow_commits DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION wait_in_commit()"
        )
        connection.execute("CHECKPOINT")  # or a crash takes it with it


class Committing:
    """A thread in the middle of the COMMIT of one row, with a commit hook."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.hooks: list[bool] = []
        database.observer.execute("SELECT pg_advisory_lock(99)")
        self.task = Task(self._commit)
        query = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 99 AND NOT granted"
        assert wait_until(lambda: database.observer.execute(query).fetchone() is not None, PATIENCE)
        row = database.observer.execute(query).fetchone()
        assert row is not None
        self.backend = int(row[0])

    def _commit(self) -> None:
        alias = self.database.alias
        try:
            with transaction.atomic(using=alias):
                with connections[alias].cursor() as cursor:
                    cursor.execute("INSERT INTO slow_commits VALUES ('a')")
                transaction.on_commit(lambda: self.hooks.append(True), using=alias)
        finally:
            connections[alias].close()

    def let_go(self) -> None:
        self.database.observer.execute("SELECT pg_advisory_unlock_all()")

    def terminate(self) -> None:
        self.database.observer.execute("SELECT pg_terminate_backend(%s, 5000)", [self.backend])


def rows(server: Server) -> int:
    with server.connect() as connection:
        row = connection.execute("SELECT count(*) FROM slow_commits").fetchone()
    assert row is not None
    return int(row[0])


def through(proxy: Proxy, make_database: MakeDatabase, server: Server | None = None, **pool: Any) -> Database:
    return make_database(server, HOST=proxy.host, PORT=str(proxy.port), **{**ON, **pool})


def close(database: Database) -> None:
    database.connection.close()
    database.connection.close_pool()


def test_committed(make_database: MakeDatabase, slow: Server, proxy: Proxy) -> None:
    """The answer is lost, the server goes on: in progress, then committed. The block succeeds, its hooks run."""
    database = through(proxy, make_database)
    committing = Committing(database)
    proxy.drop()
    committing.task.join(0.3)
    assert committing.task.is_alive(), "nothing is known yet"
    committing.let_go()
    committing.task.result()
    assert committing.hooks == [True]
    assert rows(slow) == 1
    database.assert_whole()
    close(database)


def test_aborted(make_database: MakeDatabase, slow: Server) -> None:
    database = make_database(**ON)
    committing = Committing(database)
    committing.terminate()
    error = committing.task.error()
    committing.let_go()
    assert type(error) is ConnectionLost
    assert not error.maybe_committed
    assert "was not committed" in str(error)
    assert (committing.hooks, rows(slow)) == ([], 0)
    database.assert_whole()


def test_off_by_default(make_database: MakeDatabase, slow: Server) -> None:
    database = make_database(retry=True)
    committing = Committing(database)
    committing.terminate()
    assert type(committing.task.error()) is CommitUnknown
    committing.let_go()


def test_in_progress_for_too_long(make_database: MakeDatabase, slow: Server, proxy: Proxy) -> None:
    """As behind a cut network: nobody can tell, and nobody claims anything."""
    database = through(proxy, make_database, timeout=0.5)
    committing = Committing(database)
    proxy.drop()
    error = committing.task.error()
    assert type(error) is CommitUnknown
    assert rows(slow) == 0
    committing.let_go()
    assert wait_until(lambda: rows(slow) == 1, PATIENCE)
    assert committing.hooks == []
    close(database)


def test_time_limit_of_the_client(make_database: MakeDatabase, slow: Server, proxy: Proxy) -> None:
    """A COMMIT that was cut off by command_timeout is asked about in the same way."""
    database = through(proxy, make_database, command_timeout=1.0, connect_timeout=2, tcp_user_timeout=0)
    committing = Committing(database)
    proxy.blackhole()
    assert wait_until(lambda: not database.pool.in_use, PATIENCE)  # cut off
    committing.let_go()
    proxy.start()
    committing.task.result()
    assert (committing.hooks, rows(slow)) == ([True], 1)
    close(database)


def test_time_limit_and_the_server_says_no(make_database: MakeDatabase, slow: Server) -> None:
    """The server accepts the request to cancel: an answer, which leaves no doubt."""
    database = make_database(command_timeout=0.5, **ON)
    committing = Committing(database)
    error = committing.task.error()
    assert isinstance(error, LeaseTimedOut)
    assert not error.maybe_committed
    committing.let_go()
    assert rows(slow) == 0


def test_other_server(make_database: MakeDatabase, slow: Server, proxy: Proxy, running: EmbeddedServer) -> None:
    """A failover in the middle: what the new server says of an id is said of another transaction."""
    database = through(proxy, make_database)
    committing = Committing(database)
    proxy._target = (running.host, running.port)
    proxy.drop()
    assert type(committing.task.error()) is CommitUnknown
    committing.let_go()
    assert wait_until(lambda: rows(slow) == 1, PATIENCE)
    close(database)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("how", "kind"), [("fast", ConnectionLost), ("immediate", CommitUnknown), ("kill", CommitUnknown)]
)
def test_restart(make_database: MakeDatabase, running: EmbeddedServer, how: str, kind: type[Exception]) -> None:
    """After a clean restart the server still knows; after a crash it may have given the id to somebody else."""
    database = make_database(running, **ON)
    committing = Committing(database)
    if how == "kill":
        running.kill()
    else:
        running.stop(how)
    running.start()
    assert type(committing.task.error()) is kind
    assert rows(running) == 0
    database.observer = running.connect(application_name="observer")
    database.assert_whole()
    database.observer.close()


def test_an_id_is_given_twice(make_database: MakeDatabase, running: EmbeddedServer) -> None:
    """Why a crash ends all knowledge: the server says of a transaction that it killed that it was committed."""
    database = make_database(running, **ON)
    history = xid = ""
    with pytest.raises(ConnectionLost), transaction.atomic(using=database.alias):
        insert(database)
        entry = database.connection._entry
        history, xid = entry.history, transaction_id(entry) or ""
        running.kill()
        running.start()
    with running.connect() as other:
        assert wait_until(lambda: int(other.execute("SELECT pg_current_xact_id()::text").fetchone()[0]) > int(xid), 10)  # type: ignore[index]
        assert other.execute("SELECT pg_xact_status(%s::text::xid8)", [xid]).fetchone() == ("committed",)
    assert rows(running) == 0
    assert outcome(database.pool, history, xid) == "unknown"
    close(database)
    database.observer.close()


@pytest.fixture
def at_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Database, Callable[[], None]], None]:
    """A function: have something happen right before COMMIT is sent."""

    def install(database: Database, action: Callable[[], None]) -> None:
        db = database.connection
        before = db._in_time

        def in_time(entry: Any, call: Any, what: str) -> None:
            if what == "COMMIT":
                action()
            before(entry, call, what)

        monkeypatch.setattr(db, "_in_time", in_time)

    return install


def test_nothing_was_written(
    make_database: MakeDatabase, at_commit: Callable[[Database, Callable[[], None]], None]
) -> None:
    """A transaction without an id can't have changed anything."""
    database = make_database(**ON)
    at_commit(database, lambda: terminate(database))
    with pytest.raises(OperationalError) as raised, transaction.atomic(using=database.alias):
        database.fetch("SELECT 1")
    assert type(raised.value) is ConnectionLost
    assert not raised.value.maybe_committed
    assert "had changed nothing" in str(raised.value)
    database.assert_whole()


def insert(database: Database) -> None:
    with database.connection.cursor() as cursor:
        cursor.execute("INSERT INTO slow_commits VALUES ('a')")


def terminate(database: Database) -> None:
    database.observer.execute("SELECT pg_terminate_backend(%s, 5000)", [database.connection._entry.backend_pid])


def test_no_connection_to_ask_on(
    make_database: MakeDatabase, slow: Server, at_commit: Callable[[Database, Callable[[], None]], None]
) -> None:
    """The only connection is the lost one, which its pin keeps; the waiting has an end."""
    database = make_database(max_size=1, timeout=0.5, **ON)
    at_commit(database, lambda: terminate(database))
    with pin(database.alias), pytest.raises(CommitUnknown), transaction.atomic(using=database.alias):
        insert(database)
    database.assert_whole()


def test_lost_while_it_is_prepared(
    make_database: MakeDatabase, slow: Server, at_commit: Callable[[Database, Callable[[], None]], None]
) -> None:
    """Before COMMIT was sent there is no doubt."""
    database = make_database(**ON)
    with pytest.raises(ConnectionLost) as raised, transaction.atomic(using=database.alias):
        insert(database)
        terminate(database)
    assert not raised.value.maybe_committed
    assert rows(slow) == 0


def test_what_it_costs(make_database: MakeDatabase, slow: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round trip for each transaction with a statement, none for statements of their own."""
    database = make_database(max_size=1, **ON)
    seen: list[str] = []
    db = database.connection
    before = db._in_time
    database.fetch("SELECT 1")

    def in_time(entry: Any, call: Any, what: str) -> None:
        seen.append(what)
        before(entry, call, what)

    monkeypatch.setattr(db, "_in_time", in_time)
    database.fetch("SELECT 1")
    with transaction.atomic(using=database.alias):
        pass
    assert seen == []
    with transaction.atomic(using=database.alias):
        database.fetch("SELECT 1")
        with transaction.atomic(using=database.alias):
            database.fetch("SELECT 1")
    assert seen == ["SELECT", "COMMIT"]
    with pytest.raises(OperationalError), transaction.atomic(using=database.alias):
        database.fetch("SELECT 1")
        raise OperationalError
    assert seen == ["SELECT", "COMMIT", "ROLLBACK"]


def test_server_that_can_not_be_asked(make_database: MakeDatabase, session_server: Server, slow: Server) -> None:
    """Without the right to know which server it is no answer is trusted; everything else works."""
    with session_server.connect() as connection:
        connection.execute("CREATE ROLE ignorant LOGIN")
        connection.execute("GRANT INSERT, SELECT ON slow_commits TO ignorant")
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    try:
        database = make_database(USER="ignorant", **ON)
        committing = Committing(database)
        committing.terminate()
        assert type(committing.task.error()) is CommitUnknown
        committing.let_go()
        assert database.fetch("SELECT count(*) FROM slow_commits") == 0
        close(database)
    finally:
        with session_server.connect() as connection:
            connection.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
            connection.execute("DROP OWNED BY ignorant")
            connection.execute("DROP ROLE ignorant")


def test_many_at_once(make_database: MakeDatabase, slow: Server, proxy: Proxy) -> None:
    """Four COMMITs lose their answers together; each is found to be done, none waits for another's connection."""
    database = through(proxy, make_database)
    database.observer.execute("SELECT pg_advisory_lock(99)")
    hooks: list[int] = []

    def commit(number: int) -> None:
        try:
            with transaction.atomic(using=database.alias):
                with connections[database.alias].cursor() as cursor:
                    cursor.execute("INSERT INTO slow_commits VALUES (%s)", [str(number)])
                transaction.on_commit(lambda: hooks.append(number), using=database.alias)
        finally:
            connections[database.alias].close()

    tasks = [Task(commit, number) for number in range(4)]
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 99 AND NOT granted"
    assert wait_until(lambda: database.observer.execute(query).fetchone() == (4,), PATIENCE)
    proxy.drop()
    threading.Event().wait(0.1)
    database.observer.execute("SELECT pg_advisory_unlock_all()")
    for task in tasks:
        task.result()
    assert (sorted(hooks), rows(slow)) == ([0, 1, 2, 3], 4)
    database.assert_whole()
    close(database)
