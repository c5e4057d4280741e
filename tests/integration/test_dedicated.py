"""transaction.dedicated(): a connection outside of the pool, for LISTEN loops and leader locks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db import transaction as djangos
from django.test import TestCase
from psycopg.rows import dict_row

from django_dbpool.errors import DatabaseUnavailable
from django_dbpool.pool.dedicated import dedicated_holders
from django_dbpool.transaction import dedicated
from testproject.processes import wait_until
from tests.faults.helpers import Child
from tests.fixtures.pools import alive, execute, holders, in_use, size, value
from tests.fixtures.workers import Step, Worker

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]
MakePool = Callable[..., str]

PID = "SELECT pg_backend_pid()"


def asked(connection: psycopg.Connection[Any], sql: str) -> Any:
    row = connection.execute(sql).fetchone()
    assert row is not None
    return row[0]


def test_listen_and_notify(single: str) -> None:
    """What one connection announces, another one's loop receives; a pooled one may send it."""
    with dedicated(single) as listener, dedicated(single) as speaker:
        listener.execute("LISTEN jobs")
        speaker.execute("NOTIFY jobs, 'first'")
        execute(single, "NOTIFY jobs, 'second'")
        received = [note.payload for note in listener.notifies(timeout=20, stop_after=2)]
        assert asked(listener, PID) != asked(speaker, PID)
    assert received == ["first", "second"]


def test_listener_thread(make_pool: MakePool, worker: Worker) -> None:
    """The loop of a thread gets what others write, while the pool's connections are used by them."""
    alias = make_pool(size=1)
    ready, received = Step(), list[str]()

    def listen() -> None:
        with dedicated(alias, row_factory=dict_row) as connection:
            connection.execute("LISTEN jobs")
            ready.wait()
            received.extend(note.payload for note in connection.notifies(timeout=20, stop_after=3))

    loop = worker.start(listen)
    ready.reached()
    for number in range(3):
        with djangos.atomic(using=alias):
            execute(alias, "SELECT pg_notify('jobs', %s)", [str(number)])
    ready.go_on()
    loop.result(20)
    assert received == ["0", "1", "2"]
    assert size(alias) == 1


def test_leader_lock(single: str, observer: Observer) -> None:
    """Held as long as the block, and gone with it."""
    with dedicated(single) as leader:
        assert asked(leader, "SELECT pg_try_advisory_lock(4711)")
        with dedicated(single) as candidate:
            assert not asked(candidate, "SELECT pg_try_advisory_lock(4711)")
        pid = asked(leader, PID)
    assert wait_until(lambda: not alive(observer, pid), 5)
    with dedicated(single) as candidate:
        assert asked(candidate, "SELECT pg_try_advisory_lock(4711)")


def test_not_counted_and_visible(single: str) -> None:
    """Neither lease nor connection of the pool; reports know who has it, since when, and which backend it is."""
    assert value(single, "SELECT 1") == 1
    with dedicated(single) as connection:
        assert (in_use(single), size(single)) == (0, 1)
        assert holders(single) == ()
        (holder,) = dedicated_holders(single)
        assert holder.alias == single
        assert holder.thread_ident == threading.get_ident()
        assert holder.backend_pid == asked(connection, PID)
        assert holder.since_seconds >= 0
        assert holder in dedicated_holders() or len(dedicated_holders()) >= 1
        assert dedicated_holders("default") == ()
    assert dedicated_holders(single) == ()


def test_exhausted_pool(single: str, worker: Worker) -> None:
    """It doesn't wait for anybody."""
    worker(execute, single, "BEGIN")
    with dedicated(single) as connection:
        assert asked(connection, "SELECT 1") == 1
    worker(execute, single, "COMMIT")


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_closed_whatever_happens(single: str, observer: Observer, error: type[BaseException]) -> None:
    with pytest.raises(error), dedicated(single, autocommit=False) as connection:
        pid = asked(connection, PID)
        connection.execute("INSERT INTO app_log (key) VALUES ('lost')")
        raise error
    assert connection.closed
    assert wait_until(lambda: not alive(observer, pid), 5)
    assert dedicated_holders(single) == ()
    assert value(single, "SELECT count(*) FROM app_log") == 0


def test_running_statement_is_stopped(single: str, observer: Observer) -> None:
    """The server doesn't go on with what was sent."""
    with pytest.raises(ZeroDivisionError), dedicated(single) as connection:
        pid = connection.info.backend_pid
        connection.pgconn.send_query(b"SELECT pg_sleep(600)")
        raise ZeroDivisionError
    assert wait_until(lambda: not alive(observer, pid), 10)


def test_closed_by_hand(single: str) -> None:
    with dedicated(single) as connection:
        connection.close()
    assert dedicated_holders(single) == ()


def test_alias_settings_apply(make_pool: MakePool, observer: Observer) -> None:
    """Time zone, role and options of the alias, beside what is given; no limits of the pool's own."""
    observer.execute("CREATE ROLE dbpool_listener")
    try:
        alias = make_pool(
            TIME_ZONE="Asia/Tokyo",
            OPTIONS={
                "assume_role": "dbpool_listener",
                "options": "-c work_mem=1MB",
                "isolation_level": psycopg.IsolationLevel.SERIALIZABLE,
            },
            POOL={"statement_timeout": 5, "lock_timeout": 5, "idle_in_transaction_timeout": 5},
        )
        with dedicated(alias, application_name="listener", options="-c geqo=off", row_factory=dict_row) as connection:
            found = connection.execute(
                "SELECT current_user AS role, current_setting('TimeZone') AS zone, current_setting('work_mem') AS mem, "
                "current_setting('geqo') AS geqo, current_setting('application_name') AS name, "
                "current_setting('statement_timeout') || current_setting('lock_timeout') || "
                "current_setting('idle_in_transaction_session_timeout') AS limits"
            ).fetchone()
            assert connection.autocommit
            assert connection.isolation_level is psycopg.IsolationLevel.SERIALIZABLE
    finally:
        observer.execute("DROP ROLE dbpool_listener")
    assert found == {
        "role": "dbpool_listener",
        "zone": "Asia/Tokyo",
        "mem": "1MB",
        "geqo": "off",
        "name": "listener",
        "limits": "000",
    }


def test_without_autocommit(single: str) -> None:
    """Committed by hand, as with psycopg."""
    with dedicated(single, autocommit=False) as connection:
        connection.execute("INSERT INTO app_log (key) VALUES ('a')")
        connection.commit()
        connection.execute("INSERT INTO app_log (key) VALUES ('b')")
    assert execute(single, "SELECT key FROM app_log") == [("a",)]


def test_server_away(make_alias: Callable[..., str], free_port: int) -> None:
    alias = make_alias(HOST="127.0.0.1", PORT=str(free_port))
    with pytest.raises(DatabaseUnavailable) as caught, dedicated(alias):
        pass
    assert caught.value.alias == alias
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert dedicated_holders(alias) == ()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    "entry", [{"POOL": {"enabled": False}}, {"POOL": False}, {"OPTIONS": {"pool": False}}], ids=repr
)
def test_kill_switch(make_alias: Callable[..., str], entry: dict[str, Any]) -> None:
    alias = make_alias(**entry)
    with dedicated(alias) as connection:
        assert asked(connection, "SELECT 1") == 1
        assert len(dedicated_holders(alias)) == 1
    assert connections[alias].connection is None


def test_stock_engine(make_alias: Callable[..., str]) -> None:
    alias = make_alias(ENGINE="django.db.backends.postgresql")
    with pytest.raises(ImproperlyConfigured, match=f"{alias}.*django.db.backends.postgresql"):
        dedicated(alias)


class InsideTestCase(TestCase):
    def test_sees_the_test_database(self) -> None:
        """A session of its own: what the test case hasn't committed is not seen."""
        execute("default", "INSERT INTO app_log (key) VALUES ('mine')")
        with dedicated() as connection:
            assert asked(connection, "SELECT current_database()") == connections["default"].settings_dict["NAME"]
            assert asked(connection, "SELECT count(*) FROM app_log") == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_not_inherited_through_fork(single: str) -> None:
    """The child neither ends the parent's session nor speaks on it, whether it leaves the block or not."""
    with dedicated(single) as connection:
        pid = asked(connection, PID)
        block = dedicated(single)
        other = block.__enter__()

        def child() -> object:
            try:
                connection.execute("SELECT 1")
            except psycopg.OperationalError as error:
                refused = str(error)
            block.__exit__(None, None, None)
            connection.close()
            del connection.pgconn
            return refused, len(dedicated_holders()), connection is other

        assert Child(child).result() == ("the connection is closed", 0, False)
        assert asked(connection, PID) == pid
        assert asked(other, "SELECT 1") == 1
        assert len(dedicated_holders(single)) == 2
        block.__exit__(None, None, None)
