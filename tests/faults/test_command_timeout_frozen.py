"""Statements end in time though the server doesn't answer."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from django_dbpool.errors import LeaseTimedOut
from django_dbpool.transaction import session
from testproject.postgres import EmbeddedServer
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task
from tests.faults.timeouts import (
    LATEST,
    LIMIT,
    NAP,
    WORKS,
    alone,
    execute,
    in_savepoint,
    iterated,
    too_late,
)
from tests.fixtures.proxy import Proxy

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def frozen(server: EmbeddedServer, make_database: MakeDatabase) -> Iterator[Callable[..., Database]]:
    """
    A function that makes an alias on the module's own server, which runs again when the test is over. The server looks
    after its clients: else it would go on with what it was doing when it was frozen, having nobody to tell.
    """
    session = {"client_connection_check_interval": "200ms"}

    def make(**pool: Any) -> Database:
        pool = {"command_timeout": LIMIT, "max_size": 8, "connect_timeout": 2, "session": session, **pool}
        return make_database(server, **pool)

    yield make
    server.thaw()


def on_frozen_server(server: EmbeddedServer, database: Database, work: Callable[[], Any], count: int = 1) -> list[Any]:
    """
    Have ``count`` threads work, freeze the server in the middle of their statements.

    Returns:
        Each one's error and the seconds that its statement was allowed to take.
    """
    ends: list[Any] = []

    def run() -> None:
        began = monotonic()
        try:
            work()
        except BaseException as error:
            ends.append((error, monotonic() - began))
        else:
            ends.append((None, monotonic() - began))
        finally:
            connections[database.alias].close()

    tasks = [Task(run) for _ in range(count)]
    assert wait_until(
        lambda: (
            database.observer.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event = 'PgSleep'",
                [database.application],
            ).fetchone()
            == (count,)
        ),
        PATIENCE,
    )
    server.freeze()
    for task in tasks:
        task.result()
    return ends


@pytest.mark.ci
@pytest.mark.parametrize("work", WORKS)
def test_frozen_server(server: EmbeddedServer, frozen: Callable[..., Database], work: Callable[[str], None]) -> None:
    """Ended within a second after the limit, and back in service when the server is."""
    database = frozen(max_size=2)
    database.serve_at_once(2)
    ((error, seconds),) = on_frozen_server(server, database, lambda: work(database.alias))
    assert isinstance(error, LeaseTimedOut), repr(error)
    assert LIMIT <= seconds <= LATEST
    assert "did not answer" in str(error)
    assert database.pool.snapshot().in_use == 0
    server.thaw()
    database.assert_whole()


@pytest.mark.ci
def test_eight_at_once(server: EmbeddedServer, frozen: Callable[..., Database]) -> None:
    """All statements of a frozen server are due together; none waits for another's end."""
    database = frozen()
    database.serve_at_once(8)
    ends = on_frozen_server(server, database, lambda: execute(database.alias, NAP), count=8)
    assert [type(error) for error, _ in ends] == [LeaseTimedOut] * 8
    assert max(seconds for _, seconds in ends) <= LATEST
    assert database.pool.snapshot().in_use == 0
    server.thaw()
    database.assert_whole()


@pytest.mark.ci
@pytest.mark.parametrize(("sql", "doubt"), [("INSERT INTO {} SELECT 'x' FROM pg_sleep(600)", True), (NAP, False)])
def test_what_is_not_known(server: EmbeddedServer, frozen: Callable[..., Database], sql: str, doubt: bool) -> None:
    """A write outside of a transaction that was cut off may have happened; a SELECT has nothing to happen."""
    database = frozen()
    execute(database.alias, "CREATE TABLE IF NOT EXISTS doubtful (key text)")
    ((error, _),) = on_frozen_server(server, database, lambda: execute(database.alias, sql.format("doubtful")))
    assert isinstance(error, LeaseTimedOut)
    assert error.maybe_committed is doubt
    assert ("may have been committed" in str(error)) is doubt


@pytest.mark.ci
@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_frozen_at_the_end_of_a_transaction(
    server: EmbeddedServer, frozen: Callable[..., Database], ending: str
) -> None:
    """COMMIT says that its outcome is unknown. ROLLBACK needs no outcome: the error that led to it comes through."""
    database = frozen()
    began = 0.0
    with pytest.raises((LeaseTimedOut, ZeroDivisionError)) as raised, transaction.atomic(using=database.alias):
        execute(database.alias, "SELECT 1")
        server.freeze()
        began = monotonic()
        if ending == "ROLLBACK":
            raise ZeroDivisionError
    seconds = monotonic() - began
    assert seconds <= LATEST
    if ending == "COMMIT":
        assert isinstance(raised.value, LeaseTimedOut)
        assert raised.value.maybe_committed
    else:
        assert raised.type is ZeroDivisionError
    assert database.pool.snapshot().in_use == 0
    server.thaw()
    assert database.fetch("SELECT 1") == 1
    database.assert_whole()


@pytest.mark.ci
def test_frozen_backend_alone(server: EmbeddedServer, frozen: Callable[..., Database]) -> None:
    """The server takes the request to cancel, but the process that it is for does not react."""
    database = frozen()
    pid = database.backend()
    os.kill(pid, signal.SIGSTOP)
    try:
        with too_late() as found:
            execute(database.alias, "SELECT 1")
        assert found[1] <= LATEST
    finally:
        os.kill(pid, signal.SIGCONT)
    database.assert_whole()


@pytest.mark.ci
def test_frozen_while_an_idle_connection_is_checked(server: EmbeddedServer, frozen: Callable[..., Database]) -> None:
    """The round trip before a lease has the same limit; then connecting has its own."""
    database = frozen(check_idle=0, connect_timeout=1)
    database.backend()
    server.freeze()
    began = monotonic()
    with pytest.raises(OperationalError):
        database.backend()
    assert monotonic() - began <= LATEST + 2.0
    server.thaw()
    database.assert_whole()


@pytest.mark.ci
@pytest.mark.parametrize("work", [alone, iterated, in_savepoint])
def test_frozen_while_session_variables_are_set(
    server: EmbeddedServer, frozen: Callable[..., Database], work: Callable[[str], None]
) -> None:
    """The round trip that tells the server of them has the same limit."""
    database = frozen()
    database.backend()
    server.freeze()
    with too_late() as found, session(database.alias, **{"app.tenant": 7}):
        work(database.alias)
    assert found[1] <= LATEST
    assert not found[0].maybe_committed
    connections[database.alias].close()
    server.thaw()
    database.assert_whole()


@pytest.mark.ci
def test_black_hole(make_database: MakeDatabase, proxy: Proxy) -> None:
    """Nothing comes back, nothing is refused, no socket ends."""
    database = make_database(
        command_timeout=LIMIT, max_size=2, connect_timeout=2, tcp_user_timeout=0, HOST=proxy.host, PORT=str(proxy.port)
    )
    database.backend()
    proxy.blackhole()
    with too_late() as found:
        execute(database.alias, "SELECT 1")
    assert found[1] <= LATEST
    assert database.pool.snapshot().in_use == 0
    proxy.start()
    database.assert_whole()
