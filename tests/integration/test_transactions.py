"""atomic() takes its connection at its first statement, or at entry where asked, and keeps it to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import Error, IntegrityError, ProgrammingError, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from django_dbpool.errors import PoolExhausted
from django_dbpool.transaction import atomic
from testproject.processes import wait_until
from tests.app.models import Item, Log
from tests.fixtures.pools import backend, execute, holders, in_use, rows_of, size
from tests.fixtures.workers import Step, Worker

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]
MakePool = Callable[..., str]


def write(alias: str, key: str = "row") -> None:
    Log.objects.using(alias).create(key=key)


def hold(alias: str, step: Step) -> None:
    """Occupy a connection until the test says go on."""
    with transaction.atomic(using=alias):
        execute(alias, "SELECT 1")
        step.wait()


# -- lazily ----------------------------------------------------------------------------------------------------


def test_no_connection_before_the_first_statement(single: str) -> None:
    with transaction.atomic(using=single):
        assert in_use(single) == 0
        write(single)
        assert in_use(single) == 1
        execute(single, "SELECT 1")
        assert in_use(single) == 1
    assert in_use(single) == 0


def test_no_connection_without_a_statement(make_pool: MakePool, mode: str) -> None:
    """Not even a physical one is opened for blocks without statements and questions about the transaction."""
    alias = make_pool(mode=mode)
    connection = connections[alias]
    ran = []
    with transaction.atomic(using=alias), transaction.atomic(using=alias, savepoint=False):
        assert connection.in_atomic_block
        assert not connection.get_autocommit()
        assert not transaction.get_rollback(using=alias)
        transaction.on_commit(lambda: ran.append("inside"), using=alias)
    assert connection.get_autocommit()
    assert not connection.in_atomic_block
    transaction.on_commit(lambda: ran.append("outside"), using=alias)
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
        raise ZeroDivisionError
    connection.set_autocommit(False)
    connection.commit()
    connection.rollback()
    connection.set_autocommit(True)
    assert ran == ["inside", "outside"]
    assert size(alias) == 0


def test_empty_block_while_the_pool_is_full(single: str, worker: Worker) -> None:
    """Whoever needs no connection is not stopped by their shortage."""
    step = Step()
    running = worker.start(hold, single, step)
    step.reached()
    with transaction.atomic(using=single):
        assert connections[single].in_atomic_block
    step.go_on()
    running.result(20)


def test_one_connection_for_the_whole_block(make_pool: MakePool, worker: Worker) -> None:
    """Every statement of the block meets the same backend, which no neighbour meets meanwhile."""
    alias = make_pool(size=2)
    with transaction.atomic(using=alias):
        mine = backend(alias)
        for _ in range(3):
            assert worker(backend, alias) != mine
            with transaction.atomic(using=alias):
                assert backend(alias) == mine
        assert backend(alias) == mine


def test_waiter_gets_the_connection_at_commit(single: str, worker: Worker, observer: Observer) -> None:
    """It waits as long as the block lasts and sees what the block has written."""
    with transaction.atomic(using=single):
        write(single)
        waiting = worker.start(Log.objects.using(single).count)
        assert wait_until(lambda: connections[single].pool.snapshot().waiting == 1, 5)
        assert not waiting.done()
    assert waiting.result(20) == 1


def test_shortage_inside_the_block(make_pool: MakePool, worker: Worker) -> None:
    """The first statement is refused; the block ends as after any error and the next one works."""
    alias = make_pool(POOL={"timeout": 0.1})
    step = Step()
    running = worker.start(hold, alias, step)
    step.reached()
    with pytest.raises(PoolExhausted), transaction.atomic(using=alias):
        write(alias)
    assert connections[alias].get_autocommit()
    assert not connections[alias].in_atomic_block
    step.go_on()
    running.result(20)
    with transaction.atomic(using=alias):
        write(alias)
    assert Log.objects.using(alias).count() == 1


# -- eagerly ---------------------------------------------------------------------------------------------------


def test_eager_takes_its_connection_at_entry(single: str) -> None:
    with atomic(using=single, eager=True):
        assert in_use(single) == 1
        write(single)
    assert in_use(single) == 0
    with atomic(using=single):
        assert in_use(single) == 0
    with atomic(using=single, eager=True):
        pass
    assert in_use(single) == 0


def test_eager_as_decorator(single: str) -> None:
    @atomic(using=single, eager=True)
    def leased() -> int:
        return in_use(single)

    assert [leased(), leased(), in_use(single)] == [1, 1, 0]


def test_bare_decorator(observer: Observer) -> None:
    """@atomic without parentheses is Django's as well: it works on the default database."""

    @atomic
    def failing(key: str) -> None:
        assert connections["default"].in_atomic_block
        write("default", key)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing("lost")
    assert rows_of(observer, "app_log") == 0


def test_eager_fails_before_the_block(make_pool: MakePool, worker: Worker) -> None:
    alias = make_pool(POOL={"timeout": 0.1})
    step = Step()
    running = worker.start(hold, alias, step)
    step.reached()
    entered = []
    with pytest.raises(PoolExhausted), atomic(using=alias, eager=True):
        entered.append(True)
    assert not entered
    assert not connections[alias].in_atomic_block
    step.go_on()
    running.result(20)
    with atomic(using=alias, eager=True):
        write(alias)


def test_eager_inside_atomic_and_its_parameters(single: str, observer: Observer) -> None:
    """The inner eager block is a savepoint; durable and savepoint mean what they mean in Django."""
    with transaction.atomic(using=single):
        with pytest.raises(ZeroDivisionError), atomic(using=single, eager=True):
            write(single, "lost")
            raise ZeroDivisionError
        with pytest.raises(RuntimeError, match="durable"), atomic(using=single, durable=True, eager=True):
            pass
        write(single, "kept")
    assert [key for (key,) in observer.execute("SELECT key FROM app_log")] == ["kept"]


# -- ATOMIC_REQUESTS -------------------------------------------------------------------------------------------


@pytest.fixture
def site(make_pool: MakePool, settings: Any) -> str:
    """A site of three views with ATOMIC_REQUESTS; the alias of its database."""
    alias = make_pool(ATOMIC_REQUESTS=True)

    def plain(request: HttpRequest) -> HttpResponse:
        assert connections[alias].in_atomic_block
        return HttpResponse(str(size(alias)))

    def writing(request: HttpRequest) -> HttpResponse:
        write(alias)
        return HttpResponse(str(in_use(alias)))

    def failing(request: HttpRequest) -> HttpResponse:
        write(alias)
        raise ZeroDivisionError

    settings.ROOT_URLCONF = (path("plain/", plain), path("writing/", writing), path("failing/", failing))
    settings.ALLOWED_HOSTS = ["testserver"]
    return alias


def test_atomic_requests(site: str, observer: Observer) -> None:
    """A view without statements opens no connection; one that writes commits; one that fails rolls back."""
    client = Client()
    assert client.get("/plain/").content == b"0"
    assert client.get("/writing/").content == b"1"
    with pytest.raises(ZeroDivisionError):
        client.get("/failing/")
    assert in_use(site) == 0
    assert rows_of(observer, "app_log") == 1


# -- ends that are not a plain commit --------------------------------------------------------------------------


def test_commit_that_fails(make_pool: MakePool, mode: str, observer: Observer) -> None:
    """A deferred constraint refuses COMMIT: the error comes out, nothing is kept, the connection is fit for use."""
    alias = make_pool(mode=mode)
    observer.execute("CREATE TABLE deferred (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    try:
        with pytest.raises(IntegrityError), transaction.atomic(using=alias):
            execute(alias, "INSERT INTO deferred VALUES (1), (1)")
        if mode == "transaction":
            assert in_use(alias) == 0
        write(alias)
        assert rows_of(observer, "deferred") == 0
        assert rows_of(observer, "app_log") == 1
    finally:
        connections[alias].close()
        observer.execute("DROP TABLE deferred")


def test_error_caught_inside_the_block(make_pool: MakePool, mode: str) -> None:
    """After an error the block refuses statements, as on the stock engine, and holds its connection to its end."""
    alias = make_pool(mode=mode)
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
        write(alias)
        with pytest.raises(Error):
            execute(alias, "SELECT 1 / 0")
        (holder,) = holders(alias)
        assert holder.state == "failed transaction"
        with pytest.raises(Error):
            execute(alias, "SELECT 1")
        raise ZeroDivisionError
    assert Log.objects.using(alias).count() == 0


def test_set_rollback(single: str) -> None:
    with transaction.atomic(using=single):
        write(single)
        transaction.set_rollback(True, using=single)
        with pytest.raises(transaction.TransactionManagementError):
            write(single)
    assert in_use(single) == 0
    assert Log.objects.using(single).count() == 0


@pytest.mark.parametrize("pool", [{}, {"mode": "session"}, {"enabled": False}], ids=["transaction", "session", "stock"])
@pytest.mark.parametrize("statement_before", [True, False])
def test_close_inside_atomic(make_pool: MakePool, pool: dict[str, Any], statement_before: bool) -> None:
    """What was done is lost, a further statement is refused, and the unit after that works: as on the stock engine."""
    alias = make_pool(POOL=pool)
    connection = connections[alias]
    with transaction.atomic(using=alias):
        if statement_before:
            write(alias)
        connection.close()
        assert connection.closed_in_transaction
        with pytest.raises(Error):
            write(alias)
    assert not connection.in_atomic_block
    assert Log.objects.using(alias).count() == 0
    write(alias)
    assert Log.objects.using(alias).count() == 1
    connection.close()


def test_cursor_refused_after_close_inside_atomic(single: str) -> None:
    with pytest.raises(ProgrammingError, match="Cannot open a new connection"), transaction.atomic(using=single):
        connections[single].close()
        connections[single].needs_rollback = False
        connections[single].ensure_connection()


def test_two_databases_in_nested_blocks(make_pool: MakePool, observer: Observer) -> None:
    """Each alias has its own lease and its own outcome."""
    one, two = make_pool(), make_pool()
    with transaction.atomic(using=one):
        write(one, "one")
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=two):
            write(two, "two")
            assert (in_use(one), in_use(two)) == (1, 1)
            raise ZeroDivisionError
        assert (in_use(one), in_use(two)) == (1, 0)
    assert [key for (key,) in observer.execute("SELECT key FROM app_log")] == ["one"]


def test_select_for_update_needs_atomic(single: str) -> None:
    Item.objects.create(name="a")
    with pytest.raises(transaction.TransactionManagementError):
        Item.objects.using(single).select_for_update().get()
    with transaction.atomic(using=single):
        Item.objects.using(single).select_for_update().get()
    assert in_use(single) == 0
