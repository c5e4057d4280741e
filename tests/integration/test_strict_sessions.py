"""testing.strict_sessions(): what a lease has left in its session, though its statements don't show it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.db import Error, connections, transaction
from django.db.backends.signals import connection_created
from django.test import TestCase, TransactionTestCase

from django_dbpool import transaction as dbpool_transaction
from django_dbpool.backends.acquiring import AcquiringMixin
from django_dbpool.backends.cursors import LeasedCursor, StreamingCursor
from django_dbpool.pool.managed import ManagedPool
from django_dbpool.testing import SessionStateLeaked, strict_sessions
from django_dbpool.testing.sessions import State, Watcher, _Record
from testproject.processes import wait_until
from tests.app.models import Item, Log
from tests.fixtures.pools import alive, backend, execute, in_use, value
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]
MakePool = Callable[..., str]

FUNCTIONS = {
    "set_timeout()": "PERFORM set_config('statement_timeout', '777s', false)",
    "set_tenant(tenant text)": "PERFORM set_config('strict.tenant', tenant, false)",
    "set_named(name text, it text)": "PERFORM set_config(name, it, false)",
    "set_locally(it text)": "PERFORM set_config('strict.tenant', it, true)",
    "reset_all()": "RESET ALL",
    "become()": "PERFORM set_config('role', 'dbpool_strict', false)",
    "lock()": "PERFORM pg_advisory_lock(77)",
    "temporary()": "CREATE TEMP TABLE left_behind (n int)",
    "listen()": "LISTEN strict_jobs",
    "prepare()": "EXECUTE 'PREPARE left_behind AS SELECT 1'",
    "hold()": "EXECUTE 'DECLARE left_behind CURSOR WITH HOLD FOR SELECT 1'",
}

LEFT = {
    "set_timeout()": "setting statement_timeout = '777000'",
    "set_tenant('7')": "setting strict.tenant = '7'",
    "set_named('strict.never_written', '7')": "setting strict.never_written = '7'",
    "become()": "setting role = 'dbpool_strict'",
    "lock()": "advisory lock 0:77:1 (ExclusiveLock)",
    "temporary()": "temporary relation left_behind (r)",
    "listen()": "LISTEN strict_jobs",
    "prepare()": "prepared statement left_behind",
    "hold()": "held cursor left_behind",
}


@pytest.fixture(autouse=True)
def functions(observer: Observer) -> Iterator[None]:
    observer.execute("DROP SCHEMA IF EXISTS strict CASCADE; DROP ROLE IF EXISTS dbpool_strict")
    observer.execute("CREATE SCHEMA strict; CREATE ROLE dbpool_strict")
    for name, body in FUNCTIONS.items():
        observer.execute(
            f"CREATE FUNCTION strict.{name} RETURNS int LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN 1; END $$"
        )
    yield
    observer.execute("DROP SCHEMA strict CASCADE; DROP ROLE dbpool_strict")


@pytest.mark.parametrize(("call", "left"), LEFT.items(), ids=LEFT)
def test_found_at_the_end_of_the_statement(single: str, observer: Observer, call: str, left: str) -> None:
    """It names what and by which statements; the connection is closed."""
    reached = []
    with pytest.raises(SessionStateLeaked) as caught, strict_sessions():
        pid = backend(single)
        execute(single, f"SELECT strict.{call}")
        reached.append("the next line")
    assert not reached
    error = caught.value
    assert error.state == (left,)
    assert error.alias == single
    assert error.statements == (f"SELECT strict.{call}",)
    assert left in str(error)
    assert "transaction.pin()" in str(error)
    assert wait_until(lambda: not alive(observer, pid), 5)
    assert in_use(single) == 0
    assert pickle.loads(pickle.dumps(error)).state == error.state


def test_parameters_are_not_shown(single: str) -> None:
    """A name that only a parameter tells is found; the parameter is not in the text."""
    with pytest.raises(SessionStateLeaked) as caught, strict_sessions():
        execute(single, "SELECT strict.set_named(%s, %s), %s", ["strict.told", "yes", "secret"])
    assert caught.value.state == ("setting strict.told = 'yes'",)
    assert caught.value.statements == ("SELECT strict.set_named(%s, %s), %s",)
    assert "secret" not in str(caught.value)


def test_nothing_left(make_pool: MakePool, mode: str) -> None:
    """Ordinary work, pins, and what ends with its transaction."""
    alias = make_pool(mode=mode)
    with strict_sessions():
        Item.objects.using(alias).create(name="a")
        list(Item.objects.using(alias).iterator())
        with transaction.atomic(using=alias):
            execute(alias, "SET LOCAL statement_timeout = '777s'")
            execute(alias, "SELECT strict.set_locally('7'), pg_advisory_xact_lock(1)")
            execute(alias, "SET TRANSACTION READ ONLY")
        with pytest.raises(Error):
            execute(alias, "SELECT 1 / 0")
        execute(alias, "SET statement_timeout = '777s'")
        connections[alias].close()
        with dbpool_transaction.pin(using=alias):
            execute(alias, "SELECT strict.lock()")
        assert value(alias, "SELECT 1") == 1
        connections[alias].close()


def test_transaction(single: str, observer: Observer) -> None:
    """The commit and its hooks happen; the error comes at the end of the block."""
    ran = []
    with pytest.raises(SessionStateLeaked) as caught, strict_sessions():
        with transaction.atomic(using=single):
            transaction.on_commit(lambda: ran.append(1), using=single)
            Log.objects.using(single).create(key="a")
            execute(single, "SELECT strict.set_tenant('7')")
        ran.append(2)
    assert ran == [1, 2]
    assert Log.objects.count() == 1
    assert caught.value.statements[-1] == "SELECT strict.set_tenant('7')"


def test_failed_statement_keeps_its_error(single: str) -> None:
    """What failed is raised where it failed; an advisory lock outlives the error and is reported afterwards."""
    seen = []
    with pytest.raises(SessionStateLeaked, match="advisory lock"), strict_sessions():
        with pytest.raises(Error, match="division") as caught:
            execute(single, "SELECT strict.lock(), 1 / (random() * 0)::int")
        seen.append(caught.type)
    assert len(seen) == 1


def test_swallowed(single: str) -> None:
    """Code under test that catches everything doesn't hide it."""
    with pytest.raises(SessionStateLeaked), strict_sessions(), suppress(Exception):
        execute(single, "SELECT strict.lock()")


def test_other_thread(make_pool: MakePool, worker: Worker) -> None:
    """Raised there and here."""
    alias = make_pool()
    with pytest.raises(SessionStateLeaked, match="advisory lock"), strict_sessions():
        with pytest.raises(SessionStateLeaked):
            worker(execute, alias, "SELECT strict.lock()")
        assert value(alias, "SELECT 1") == 1


def test_session_mode(make_pool: MakePool) -> None:
    """The lease lasts longer than the block: it is looked at, and closed at the end of its unit."""
    alias = make_pool(mode="session")
    with pytest.raises(SessionStateLeaked, match=r"strict\.tenant"), strict_sessions():
        execute(alias, "SELECT strict.set_tenant('7')")
    pid = backend(alias)
    connections[alias].close()
    assert backend(alias) != pid


def test_reset_always(make_pool: MakePool) -> None:
    """The next borrower would be safe, but the borrower itself loses its state between two statements."""
    alias = make_pool(POOL={"reset": "always"})
    with strict_sessions():
        for _ in range(3):
            assert value(alias, "SELECT 1") == 1
    with pytest.raises(SessionStateLeaked, match=r"strict\.tenant"), strict_sessions():
        execute(alias, "SELECT strict.set_tenant('7')")


def test_what_receivers_set_is_no_leak(single: str) -> None:
    """The session's start is what connection_created has made of it; losing that is one."""

    def set_path(connection: Any, **kwargs: Any) -> None:
        if connection.alias == single:
            execute(single, "SET search_path = public, strict")
            execute(single, "SELECT strict.set_tenant('0')")

    connection_created.connect(set_path)
    try:
        with strict_sessions():
            assert value(single, "SELECT current_setting('strict.tenant')") == "0"
        with pytest.raises(SessionStateLeaked) as caught, strict_sessions():
            execute(single, "SELECT reset_all()")
    finally:
        connection_created.disconnect(set_path)
    assert "setting search_path, which the lease began with, was reset" in caught.value.state


def test_start_up_options_are_no_leak(make_pool: MakePool) -> None:
    alias = make_pool(OPTIONS={"options": "-c strict.given=1 -c work_mem=1MB"})
    with strict_sessions():
        assert value(alias, "SELECT current_setting('strict.given')") == "1"


def test_ignore(single: str) -> None:
    with strict_sessions(ignore=["strict.Tenant"]):
        execute(single, "SELECT strict.set_tenant('7')")
    with pytest.raises(SessionStateLeaked), strict_sessions():
        execute(single, "SELECT strict.set_tenant('8')")


def test_declared_session_variables_are_no_leak(single: str) -> None:
    """What the engine itself keeps set on a connection, by the entry's own account."""

    after: State = {("setting", "strict.tenant"): "7", ("setting", "strict.other"): "7"}
    connections[single].ensure_connection()
    pgconn = connections[single]._entry.pgconn
    entry: Any = SimpleNamespace(pgconn=pgconn, session=SimpleNamespace(values={"strict.tenant": "7"}))
    assert list(Watcher()._differences(entry, _Record({}), after)) == ["setting strict.other = '7'"]
    execute(single, "SELECT 1")


def test_prepared_statements_of_psycopg_are_no_leak(make_pool: MakePool) -> None:
    alias = make_pool(OPTIONS={"prepare_threshold": 0, "server_side_binding": True})
    with strict_sessions():
        for _ in range(3):
            assert value(alias, "SELECT %s::int", [1]) == 1
    assert value(alias, "SELECT count(*) FROM pg_prepared_statements") >= 1


def test_decorator(single: str) -> None:
    @strict_sessions()
    def work() -> None:
        execute(single, "SELECT strict.lock()")

    for _ in range(2):
        with pytest.raises(SessionStateLeaked):
            work()


def test_blocks_inside_each_other(single: str) -> None:
    """The inner one tells its own."""
    with strict_sessions():
        with pytest.raises(SessionStateLeaked), strict_sessions():
            execute(single, "SELECT strict.lock()")
        assert value(single, "SELECT 1") == 1


def test_leaves_the_engine_as_it_was(single: str) -> None:
    """Off again, the engine's own functions run."""
    places = [
        (AcquiringMixin, "_use"),
        (ManagedPool, "release"),
        (LeasedCursor, "_execute"),
        (StreamingCursor, "_execute"),
    ]
    before = [cls.__dict__[name] for cls, name in places]
    with strict_sessions():
        assert [cls.__dict__[name] for cls, name in places] != before
    assert [cls.__dict__[name] for cls, name in places] == before
    execute(single, "SELECT strict.lock()")  # the documented limit
    connections[single].close_pool()


def test_kill_switch(make_pool: MakePool) -> None:
    alias = make_pool(POOL={"enabled": False})
    with strict_sessions():
        execute(alias, "SELECT strict.lock()")
    connections[alias].close()


class InsideTestCase(TestCase):
    """Whose transaction doesn't end before the test."""

    def setUp(self) -> None:
        Item.objects.create(name="leases")

    def test_found(self) -> None:
        for call in ("set_tenant('7')", "lock()", "temporary()", "become()"):
            with pytest.raises(SessionStateLeaked) as caught, strict_sessions(), transaction.atomic():
                execute("default", f"SELECT strict.{call}")
            assert f"SELECT strict.{call}" in caught.value.statements

    def test_first_statement_leases(self) -> None:
        with pytest.raises(SessionStateLeaked), strict_sessions():
            execute("default", "SELECT strict.set_tenant('7')")

    def test_local_is_not_reported(self) -> None:
        with strict_sessions(), transaction.atomic():
            execute("default", "SET LOCAL statement_timeout = '776s'")
            execute("default", "SELECT set_config(%s, %s, true)", ["strict.tenant", "6"])
            execute("default", "SELECT pg_advisory_xact_lock(78)")
            Item.objects.select_for_update().get()

    def test_ordinary_work(self) -> None:
        with strict_sessions():
            Item.objects.update(n=1)
            assert Item.objects.get().n == 1

    def test_enter_context(self) -> None:
        self.enterContext(strict_sessions())
        Item.objects.update(n=1)


class InsideTransactionTestCase(TransactionTestCase):
    def test_local_of_a_function(self) -> None:
        """Here the transaction ends, and with it what is local."""
        with strict_sessions(), transaction.atomic():
            execute("default", "SELECT strict.set_locally('7')")
