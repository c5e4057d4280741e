"""Declared session variables together with the engine's other parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

import psycopg
import pytest
from django.db import InterfaceError, OperationalError, connections, models
from django.db.models import Func
from django.db.transaction import atomic, on_commit

from django_dbpool.testing import strict_sessions
from django_dbpool.transaction import pin, session
from testproject.processes import wait_until
from tests.app.models import Item
from tests.fixtures.pools import backend, execute, in_use, pinned, value
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
Observer = psycopg.Connection[Any]
TENANT = "SELECT current_setting('app.tenant', true)"
MODES: dict[str, dict[str, Any]] = {"transaction": {}, "session": {"mode": "session"}, "off": {"enabled": False}}


def tenant(alias: str) -> str | None:
    """None and an empty text are one: that is what a reset leaves of a variable of one's own."""
    return value(alias, TENANT) or None


def raw_tenant(alias: str) -> str | None:
    row = connections[alias].connection.execute(TENANT).fetchone()
    return row[0] or None


@pytest.fixture(params=MODES.values(), ids=list(MODES))
def alias(request: pytest.FixtureRequest, make_pool: MakePool) -> str:
    """One connection, in each mode."""
    return make_pool(POOL=request.param)


# -- raw access -----------------------------------------------------------------------------------------------------


def test_raw_connection(make_pool: MakePool, mode: str) -> None:
    """Also where no statement was executed before on a cursor of Django's."""
    alias = make_pool(mode=mode)
    connection = connections[alias]
    with session(alias, **{"app.tenant": 7}):
        connection.ensure_connection()
        assert raw_tenant(alias) == "7"
        with session(alias, **{"app.tenant": 8}):
            assert raw_tenant(alias) == "8"
        assert raw_tenant(alias) == "7"
    assert raw_tenant(alias) is None
    assert tenant(alias) is None
    connection.close()


def test_raw_cursors(make_pool: MakePool, mode: str) -> None:
    alias = make_pool(mode=mode)
    connection = connections[alias]
    with session(alias, **{"app.tenant": 7}):
        connection.ensure_connection()
        with connection.connection.cursor() as cursor:
            assert cursor.execute(TENANT).fetchone() == ("7",)
        with connection.cursor() as cursor:
            assert cursor.cursor.execute(TENANT).fetchone() == ("7",)
    connection.close()


def test_raw_connection_of_django(make_pool: MakePool) -> None:
    """With the pool off it is psycopg's own, which sees what the last statement on a cursor of Django's has found."""
    alias = make_pool(POOL={"enabled": False})
    with session(alias, **{"app.tenant": 7}):
        assert tenant(alias) == "7"
        assert raw_tenant(alias) == "7"


@pytest.mark.xfail(reason="with the pool off nothing stands between the caller and psycopg's connection")
def test_raw_connection_of_django_in_the_next_block(make_pool: MakePool) -> None:
    alias = make_pool(POOL={"enabled": False})
    with session(alias, **{"app.tenant": 7}):
        assert tenant(alias) == "7"
    with session(alias, **{"app.tenant": 8}):
        assert raw_tenant(alias) == "8"


# -- POOL["reset"] = "always", watched --------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
def test_reset_always(make_pool: MakePool, mode: str, worker: Worker, outcome: str) -> None:
    """A reset takes the variables with it; the next statement has its own, on the same connection."""
    alias = make_pool(mode=mode, POOL={"reset": "always", "session": {"app.region": "north", "app.tenant": "nobody"}})
    both = "SELECT current_setting('app.region', true), current_setting('app.tenant', true)"

    def own_block(number: int) -> list[tuple[Any, ...]]:
        with session(alias, **{"app.tenant": number}):
            seen = execute(alias, both)
            try:
                with atomic(alias):
                    seen += execute(alias, both)
                    with session(alias, **{"app.region": "south"}):
                        seen += execute(alias, both)
                    if outcome == "rollback":
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            seen += execute(alias, both)
        connections[alias].close()
        return seen

    with strict_sessions():
        pid = backend(alias)
        connections[alias].close()
        for number in (1, 2):
            worker(own_block, number)  # and again with the same values, which the reset has taken away
            tenant_of_it = str(number)
            assert worker(own_block, number) == [
                ("north", tenant_of_it),
                ("north", tenant_of_it),
                ("south", tenant_of_it),
                ("north", tenant_of_it),
            ]
            assert execute(alias, both) == [("north", "nobody")]
            assert backend(alias) == pid
            connections[alias].close()


# -- lost connections -------------------------------------------------------------------------------------------------


def kill(observer: Observer, pid: int) -> None:
    assert observer.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]).fetchone() == (True,)


def test_next_statement_after_a_loss(alias: str, observer: Observer) -> None:
    with session(alias, **{"app.tenant": 7}):
        first = backend(alias)
        kill(observer, first)
        try:
            assert tenant(alias) == "7"
        except (OperationalError, InterfaceError):
            connections[alias].close()  # held: nobody could replace it unseen
        assert tenant(alias) == "7"
        assert backend(alias) != first
    assert tenant(alias) is None


def test_after_a_loss_in_a_transaction(alias: str, observer: Observer) -> None:
    """Those of the block, and what an inner block has set in the lost transaction is gone."""
    with session(alias, **{"app.tenant": "outer"}):
        with (
            pytest.raises((OperationalError, InterfaceError)),
            atomic(alias),
            session(alias, **{"app.tenant": "inner"}),
        ):
            assert tenant(alias) == "inner"
            kill(observer, backend(alias))
            tenant(alias)
        connections[alias].close()
        assert tenant(alias) == "outer"
    assert tenant(alias) is None


class TenantOf(Func):
    """The variable as the read sees it, once somebody has let go of an advisory lock."""

    function = "dbpool_tenant"
    output_field = models.TextField()


@pytest.fixture
def function(observer: Observer) -> Iterator[None]:
    observer.execute(
        "CREATE FUNCTION dbpool_tenant(n int) RETURNS text LANGUAGE plpgsql VOLATILE AS $$ BEGIN"
        " PERFORM pg_advisory_xact_lock_shared(78); RETURN current_setting('app.tenant', true); END $$"
    )
    yield
    observer.execute("SELECT pg_advisory_unlock_all()")
    observer.execute("DROP FUNCTION dbpool_tenant")


def kill_waiting(observer: Observer) -> None:
    query = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 78 AND NOT granted"
    assert wait_until(lambda: observer.execute(query).fetchone() is not None, PATIENCE)
    row = observer.execute(query).fetchone()
    assert row is not None
    kill(observer, row[0])


@pytest.mark.usefixtures("function")
@pytest.mark.parametrize("streamed", [False, True])
def test_repeated_read(make_pool: MakePool, mode: str, observer: Observer, worker: Worker, streamed: bool) -> None:
    """It runs again on a connection on which nothing is set yet."""
    alias = make_pool(mode=mode)
    Item.objects.using(alias).create(name="a", n=1)
    connections[alias].close()

    def read() -> list[str]:
        with session(alias, **{"app.tenant": 7}):
            found = Item.objects.using(alias).values_list(TenantOf("n"), flat=True)
            return list(found.iterator() if streamed else found)

    observer.execute("SELECT pg_advisory_lock(78)")
    future: Future[list[str]] = worker.start(read)
    for _ in range(2):
        kill_waiting(observer)
    observer.execute("SELECT pg_advisory_unlock(78)")
    assert future.result(PATIENCE) == ["7"]
    assert worker(tenant, alias) is None
    worker(lambda: connections[alias].close())


# -- pins -------------------------------------------------------------------------------------------------------------


def test_pin_inside_of_a_block(make_pool: MakePool, mode: str) -> None:
    alias = make_pool(mode=mode)
    with session(alias, **{"app.tenant": 7}):
        with pin(alias):
            first = backend(alias)
            assert tenant(alias) == "7"
            assert pinned(alias) == "transaction.pin()"
        assert in_use(alias) == 0
        assert (tenant(alias), backend(alias) == first) == ("7", False)
    assert tenant(alias) is None


def test_pin_around_blocks(make_pool: MakePool, mode: str) -> None:
    """The variables change on the one connection, which is not lent on."""
    alias = make_pool(mode=mode)
    with pin(alias):
        first = backend(alias)
        for number in ("1", "2"):
            with session(alias, **{"app.tenant": number}):
                assert (tenant(alias), backend(alias)) == (number, first)
        assert (tenant(alias), backend(alias)) == (None, first)
        with atomic(alias), session(alias, **{"app.tenant": 3}):
            assert tenant(alias) == "3"
        assert tenant(alias) is None
    assert (tenant(alias), backend(alias) == first) == (None, False)


def test_a_statement_pins_inside_of_a_block(make_pool: MakePool, mode: str) -> None:
    """What code sets by hand over a declared variable stays until another value is declared."""
    alias = make_pool(mode=mode)
    with session(alias, **{"app.tenant": 7}):
        execute(alias, "SET app.tenant = 'by hand'")
        assert tenant(alias) == "by hand"
        with session(alias, **{"app.tenant": 8}):
            assert tenant(alias) == "8"
        assert tenant(alias) == "7"
    connections[alias].close()
    assert tenant(alias) is None


# -- two databases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_two_aliases(make_pool: MakePool, mode: str) -> None:
    """A block is for one alias; the other's variables and its own defaults are left alone."""
    one = make_pool(POOL={**MODES[mode], "session": {"app.tenant": "one"}})
    two = make_pool(POOL=MODES[mode])

    def seen() -> tuple[str | None, str | None]:
        return tenant(one), tenant(two)

    assert seen() == ("one", None)
    with session(two, **{"app.tenant": 2}):
        assert seen() == ("one", "2")
        with session(one, **{"app.tenant": 1}), atomic(one), atomic(two):
            assert seen() == ("1", "2")
            with session(two, **{"app.tenant": None}):
                assert seen() == ("1", None)
            assert seen() == ("1", "2")
        assert seen() == ("one", "2")
    assert seen() == ("one", None)


# -- commit hooks -----------------------------------------------------------------------------------------------------


def test_hooks_have_the_variables_of_where_the_transaction_ends(alias: str) -> None:
    """Not of where they were registered."""
    seen: list[str | None] = []
    with session(alias, **{"app.tenant": "around"}):
        with atomic(alias), session(alias, **{"app.tenant": "registered here"}):
            assert tenant(alias) == "registered here"
            on_commit(lambda: seen.append(tenant(alias)), using=alias)
        assert seen == ["around"]
    with session(alias, **{"app.tenant": "ended"}), atomic(alias):
        execute(alias, "SELECT 1")
        on_commit(lambda: seen.append(tenant(alias)), using=alias)
    assert seen == ["around", "ended"]
    with atomic(alias), session(alias, **{"app.tenant": "ended before"}):
        execute(alias, "SELECT 1")
        on_commit(lambda: seen.append(tenant(alias)), using=alias)
    assert seen == ["around", "ended", None]


def test_hooks_that_keep_the_variables_of_their_registration(alias: str) -> None:
    """Decorated with a block of their own, or run in a copy of the context."""
    seen: list[str | None] = []

    def look() -> None:
        seen.append(tenant(alias))

    with atomic(alias), session(alias, **{"app.tenant": 7}):
        execute(alias, "SELECT 1")
        context = copy_context()
        on_commit(session(alias, **{"app.tenant": "decorated"})(look), using=alias)
        on_commit(lambda: context.run(look), using=alias)
        on_commit(look, using=alias)
    assert seen == ["decorated", "7", None]


# -- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_threads(make_pool: MakePool, make_worker: Callable[[], Worker], mode: str) -> None:
    """A thread has none, a copy of the context those of where it was copied, whatever happens there afterwards."""
    alias = make_pool(size=3, POOL=MODES[mode])
    bare, carrying = make_worker(), make_worker()

    def in_a_block_of_its_own() -> tuple[str | None, str | None]:
        with session(alias, **{"app.tenant": "inner"}):
            inner = tenant(alias)
        return inner, tenant(alias)

    with session(alias, **{"app.tenant": 7}):
        context = copy_context()
        with atomic(alias):
            assert tenant(alias) == "7"
            assert bare(tenant, alias) is None
            assert carrying(context.run, in_a_block_of_its_own) == ("inner", "7")
        with session(alias, **{"app.tenant": 8}):
            assert carrying(context.run, tenant, alias) == "7"
            assert bare(tenant, alias) is None
            assert tenant(alias) == "8"
    assert carrying(context.run, tenant, alias) == "7"
    assert carrying(tenant, alias) is None
    assert tenant(alias) is None
