"""When a lease begins and ends, and which cursor may act on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import Error, InterfaceError, connections, transaction

from django_dbpool import transaction as dbpool_transaction
from testproject.processes import wait_until
from tests.app.models import Item
from tests.fixtures.pools import alive, backend, execute, holders, in_use, pinned, rows_of, size, value
from tests.fixtures.workers import Step, Worker

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]
MakePool = Callable[..., str]


def hold(alias: str, step: Step) -> int:
    """Occupy a connection until the test says go on; the backend that was held."""
    with transaction.atomic(using=alias):
        pid = backend(alias)
        step.wait()
    return pid


# -- begin and end ---------------------------------------------------------------------------------------------


def test_lease_ends_with_the_statement(single: str, worker: Worker) -> None:
    """Nothing is held after execute() though the cursor is open, and the neighbour gets the same connection."""
    cursor = connections[single].cursor()
    cursor.execute("SELECT pg_backend_pid() FROM generate_series(1, 3)")
    assert in_use(single) == 0
    assert worker(backend, single) == cursor.fetchone()[0]
    cursor.close()
    assert in_use(single) == 0


def test_orm_holds_nothing_between_statements(single: str) -> None:
    item = Item.objects.using(single).create(name="a")
    assert in_use(single) == 0
    rows = Item.objects.using(single).all()
    assert [row.pk for row in rows] == [item.pk]
    assert in_use(single) == 0
    item.n = 5
    item.save(using=single)
    item.delete(using=single)
    assert in_use(single) == 0
    assert not rows.all().exists()


def test_session_mode_holds_to_the_end_of_the_unit(make_pool: MakePool, worker: Worker) -> None:
    alias = make_pool(mode="session", POOL={"timeout": 0.1})
    mine = backend(alias)
    assert in_use(alias) == 1
    assert backend(alias) == mine
    with pytest.raises(Error):
        worker(backend, alias)
    connections[alias].close()
    assert worker(backend, alias) == mine


def test_result_is_complete_after_the_lease(single: str, worker: Worker) -> None:
    """fetchone, fetchmany, fetchall, iteration and metadata work while a neighbour uses the connection."""
    cursor = connections[single].cursor()
    cursor.execute("SELECT n, n * 2 AS twice FROM generate_series(1, 10) AS n")
    step = Step()
    running = worker.start(hold, single, step)
    step.reached()
    assert [column.name for column in cursor.description] == ["n", "twice"]
    assert cursor.rowcount == 10
    assert cursor.fetchone() == (1, 2)
    assert cursor.fetchmany(2) == [(2, 4), (3, 6)]
    assert len(list(cursor)) == 7
    assert cursor.fetchall() == []
    step.go_on()
    running.result(20)


def test_result_outlives_its_connection(single: str) -> None:
    cursor = connections[single].cursor()
    cursor.execute("SELECT 1")
    connections[single].close_pool()
    assert cursor.fetchall() == [(1,)]


def test_next_execute_takes_whatever_is_free(make_pool: MakePool, worker: Worker) -> None:
    """The cursor's first connection is taken by now: it goes on, with its settings, on another."""
    alias = make_pool(size=2)
    cursor = connections[alias].cursor()
    cursor.arraysize = 3
    cursor.execute("SELECT pg_backend_pid()")
    (first,) = cursor.fetchone()
    step = Step()
    running = worker.start(hold, alias, step)
    step.reached()
    cursor.execute("SELECT pg_backend_pid() FROM generate_series(1, 5)")
    rows = cursor.fetchall()
    step.go_on()
    assert running.result(20) == first
    assert rows != [(first,)] * 5
    assert len(rows) == 5
    assert in_use(alias) == 0


def test_raw_cursor_settings_move_with_the_cursor(make_pool: MakePool, worker: Worker) -> None:
    alias = make_pool(size=2)
    cursor = connections[alias].cursor()
    cursor.cursor.arraysize = 3
    cursor.cursor.row_factory = psycopg.rows.dict_row
    cursor.execute("SELECT 1 AS n")
    step = Step()
    running = worker.start(hold, alias, step)
    step.reached()
    cursor.execute("SELECT n FROM generate_series(1, 5) AS n")
    step.go_on()
    running.result(20)
    assert cursor.fetchmany() == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_unused_cursor_connects_and_its_lease_ends_with_the_next_statement(single: str) -> None:
    """Loops that wait for a database only call cursor(); whatever comes next ends that lease."""
    unused = connections[single].cursor()
    assert in_use(single) == 1
    execute(single, "SELECT 1")
    assert in_use(single) == 0
    with connections[single].cursor():
        assert in_use(single) == 1
    assert in_use(single) == 0
    unused.execute("SELECT 1")
    assert unused.fetchone() == (1,)


def test_ensure_connection_leases_until_the_next_statement(single: str) -> None:
    """CaptureQueriesContext calls it, which must not pin."""
    connections[single].ensure_connection()
    assert pinned(single) is None
    execute(single, "SELECT 1")
    assert in_use(single) == 0


def test_failed_statements_hold_nothing(single: str) -> None:
    """Errors of the server, of the driver and of the arguments."""
    with connections[single].cursor() as cursor:
        for arguments in (("SELECT 1 / 0",), ("SELEC",), ("SELECT %s", []), ("SELECT %s", [object()]), (5,)):
            with pytest.raises((Error, TypeError)):
                cursor.execute(*arguments)
            connections[single].close()  # an unknown statement pins
            assert in_use(single) == 0
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_closed_cursor_refuses_and_holds_nothing(make_pool: MakePool, worker: Worker) -> None:
    """On its own connection and when that is taken."""
    alias = make_pool(size=2)
    cursor = connections[alias].cursor()
    cursor.execute("SELECT 1")
    cursor.close()
    with pytest.raises(InterfaceError, match="cursor is closed"):
        cursor.execute("SELECT 1")
    assert in_use(alias) == 0
    step = Step()
    running = worker.start(hold, alias, step)
    step.reached()
    with pytest.raises(InterfaceError, match="cursor is closed"):
        cursor.execute("SELECT 1")
    assert in_use(alias) == 1
    step.go_on()
    running.result(20)


# -- generations -----------------------------------------------------------------------------------------------


def test_cursor_of_an_earlier_lease_does_not_end_a_later_one(single: str) -> None:
    """Same thread, same connection, another lease: the old cursor's close() is none of its business."""
    old = connections[single].cursor()
    old.execute("SELECT 1")
    connections[single].ensure_connection()
    old.close()
    assert in_use(single) == 1
    connections[single].close()


def test_old_cursor_joins_the_lease_it_executes_in(single: str) -> None:
    """A cursor made before atomic() takes part in the transaction when it is used there."""
    old = connections[single].cursor()
    old.execute("SELECT 1")
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=single):
        old.execute("INSERT INTO app_log (key) VALUES ('a')")
        assert in_use(single) == 1
        old.close()
        assert in_use(single) == 1
        raise ZeroDivisionError
    assert value(single, "SELECT count(*) FROM app_log") == 0


def test_cursor_used_after_the_connection_was_closed(make_pool: MakePool, mode: str) -> None:
    """connection.close() ends the unit, not the usefulness of a client cursor."""
    alias = make_pool(mode=mode)
    cursor = connections[alias].cursor()
    cursor.execute("SELECT 1")
    connections[alias].close()
    assert in_use(alias) == 0
    cursor.execute("SELECT 2")
    assert cursor.fetchone() == (2,)


# -- pins ------------------------------------------------------------------------------------------------------


def test_pin_keeps_one_connection_and_closes_it(make_pool: MakePool, worker: Worker, observer: Observer) -> None:
    """Statements of the block share a session; the next borrower gets another."""
    alias = make_pool(size=2)
    worker(backend, alias)
    with dbpool_transaction.pin(using=alias):
        mine = backend(alias)
        assert worker(backend, alias) != mine
        assert backend(alias) == mine
        with transaction.atomic(using=alias):
            assert backend(alias) == mine
        assert pinned(alias) == "transaction.pin()"
    assert in_use(alias) == 0
    assert wait_until(lambda: not alive(observer, mine), 5)


def test_pins_nest_and_end_with_errors(single: str) -> None:
    with pytest.raises(ZeroDivisionError), dbpool_transaction.pin(using=single):
        mine = backend(single)
        with dbpool_transaction.pin(using=single):
            assert backend(single) == mine
        assert backend(single) == mine
        raise ZeroDivisionError
    assert in_use(single) == 0
    assert backend(single) != mine


def test_pin_inside_atomic_lasts_to_the_end_of_the_unit(single: str) -> None:
    with transaction.atomic(using=single):
        with dbpool_transaction.pin(using=single):
            mine = backend(single)
        assert backend(single) == mine
    assert backend(single) == mine
    connections[single].close()
    assert backend(single) != mine


def test_pin_does_not_end_what_it_did_not_begin(single: str, observer: Observer) -> None:
    """An iterator and a raw transaction around the block go on; the pin lasts as long as they."""
    Item.objects.bulk_create(Item(name=str(n), n=n) for n in range(6))
    seen = []
    for item in Item.objects.using(single).order_by("n").iterator(chunk_size=2):
        with dbpool_transaction.pin(using=single):
            seen.append(item.n)
    assert seen == list(range(6))
    connections[single].close()
    execute(single, "BEGIN")
    execute(single, "INSERT INTO app_log (key) VALUES ('raw')")
    with dbpool_transaction.pin(using=single):
        execute(single, "INSERT INTO app_log (key) VALUES ('raw')")
    execute(single, "COMMIT")
    assert rows_of(observer, "app_log") == 2


def test_pin_on_the_stock_engine_does_nothing(make_pool: MakePool) -> None:
    """Code with pin() works with the kill switch on."""
    alias = make_pool(POOL={"enabled": False})
    with dbpool_transaction.pin(using=alias) as connection:
        mine = backend(alias)
    assert connection is connections[alias]
    assert backend(alias) == mine
    connection.close()


@pytest.mark.parametrize("read", ["connection", "cursor"])
def test_raw_connection_pins(single: str, read: str) -> None:
    """Using it pins, whichever way it was got; nobody sees what is done with it."""
    assert connections[single].connection is None
    with connections[single].cursor() as cursor:
        raw = cursor.connection if read == "cursor" else connections[single].connection
        assert isinstance(raw, psycopg.Connection)
        raw.execute("SET statement_timeout = 777")
    assert pinned(single) == "connection.connection was used"
    assert value(single, "SHOW statement_timeout") == "777ms"
    connections[single].close()
    assert value(single, "SHOW statement_timeout") != "777ms"


def test_pin_of_one_alias_is_not_another_ones(make_pool: MakePool) -> None:
    one, two = make_pool(), make_pool()
    execute(one, "SET statement_timeout = 777")
    execute(two, "SELECT 1")
    assert (in_use(one), in_use(two)) == (1, 0)


# -- what the pool says about it -------------------------------------------------------------------------------


def test_holder_names_its_thread(single: str, worker: Worker) -> None:
    step = Step()
    running = worker.start(hold, single, step)
    step.reached()
    (holder,) = holders(single)
    assert holder.thread.startswith("worker-1")
    assert holder.thread_ident == worker.ident
    assert holder.alias == single
    step.go_on()
    assert running.result(20) == holder.backend_pid


def test_most_recently_used_connection_goes_out_first(make_pool: MakePool, worker: Worker) -> None:
    """So that the surplus grows old: after a burst one thread keeps meeting the same connection."""
    alias = make_pool(size=3)
    step = Step()
    running = worker.start(hold, alias, step)
    step.reached()
    mine = backend(alias)
    assert size(alias) == 2
    step.go_on()
    last = running.result(20)
    assert last != mine
    assert [backend(alias) for _ in range(4)] == [last] * 4
