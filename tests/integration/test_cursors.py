"""What still reads from the connection holds it: server-side cursors, COPY, stream()."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import DataError, Error, IntegrityError, InterfaceError, connections, transaction

from testproject.processes import wait_until
from tests.app.models import Item, Log
from tests.fixtures.pools import backend, execute, in_use, rows_of, value
from tests.fixtures.workers import Worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    # psycopg's word on cursors that are dropped unclosed, which some tests do.
    pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning"),
]

Observer = psycopg.Connection[Any]
MakePool = Callable[..., str]

HOLDABLE = "SELECT count(*) FROM pg_cursors WHERE is_holdable"


@pytest.fixture
def items() -> None:
    Item.objects.bulk_create(Item(name=f"item {n}", n=n) for n in range(10))


def iterate(alias: str, chunk_size: int = 2) -> Iterator[Item]:
    return iter(Item.objects.using(alias).order_by("n").iterator(chunk_size=chunk_size))


# -- server-side cursors ---------------------------------------------------------------------------------------


def test_iterator_holds_until_it_is_exhausted(single: str, items: None) -> None:
    rows = iterate(single)
    assert in_use(single) == 0
    for n, _ in enumerate(rows):
        assert in_use(single) == 1, n
    assert in_use(single) == 0


def test_iterator_holds_until_it_is_closed_or_dropped(single: str, items: None) -> None:
    for end in ("close", "drop", "break"):
        rows = iterate(single)
        next(rows)
        assert in_use(single) == 1, end
        if end == "close":
            rows.close()  # type: ignore[attr-defined]
        elif end == "break":
            for _ in rows:
                break
        del rows
        assert in_use(single) == 0, end


def test_two_iterators_share_a_lease(make_pool: MakePool, items: None) -> None:
    """The lease ends with the second one, whichever it is."""
    alias = make_pool(size=2)
    first, second = iterate(alias), iterate(alias)
    next(first)
    next(second)
    assert in_use(alias) == 1
    assert len(list(second)) == 9
    assert in_use(alias) == 1
    execute(alias, "SELECT 1")
    assert len(list(first)) == 9
    assert in_use(alias) == 0


def test_iterator_survives_a_rollback_in_its_loop(single: str, items: None) -> None:
    """Its cursor is WITH HOLD: neither COMMIT nor ROLLBACK of a block in the loop ends it."""
    seen = []
    for item in iterate(single):
        seen.append(item.n)
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=single):
            Item.objects.using(single).filter(pk=item.pk).update(n=-1)
            raise ZeroDivisionError
    assert seen == list(range(10))
    assert not Item.objects.filter(n=-1).exists()


def test_iterator_without_server_side_cursors(make_pool: MakePool, items: None) -> None:
    """With DISABLE_SERVER_SIDE_CURSORS the whole result has come with the first row: nothing is held."""
    alias = make_pool(DISABLE_SERVER_SIDE_CURSORS=True)
    rows = iterate(alias)
    next(rows)
    assert in_use(alias) == 0
    assert len(list(rows)) == 9


def test_chunked_cursor(single: str, items: None) -> None:
    """The public cursor: all ways to fetch, iteration in chunks, scroll, close."""
    with connections[single].chunked_cursor() as cursor:
        cursor.execute("SELECT n FROM app_item ORDER BY n")
        assert cursor.fetchone() == (0,)
        assert cursor.fetchmany(2) == [(1,), (2,)]
        execute(single, "SELECT 1")
        assert in_use(single) == 1
        assert list(cursor) == [(n,) for n in range(3, 10)]
        assert cursor.fetchall() == []
    assert in_use(single) == 0
    cursor.close()
    assert value(single, HOLDABLE) == 0


def test_chunked_cursor_with_server_side_binding(make_pool: MakePool, items: None) -> None:
    alias = make_pool(OPTIONS={"server_side_binding": True})
    assert len(list(iterate(alias))) == 10
    assert [item.n for item in Item.objects.using(alias).filter(n__gte=8).iterator(chunk_size=1)] == [8, 9]
    assert in_use(alias) == 0


def test_error_while_streaming(single: str, items: None) -> None:
    """The query fails at a later row: the error comes out and the lease ends."""
    with connections[single].chunked_cursor() as cursor, pytest.raises(DataError):
        cursor.execute("SELECT 1 / (n - 5) FROM app_item ORDER BY n")
        cursor.fetchall()
    assert in_use(single) == 0
    assert value(single, HOLDABLE) == 0


def test_server_side_cursor_that_can_not_be_made(single: str) -> None:
    cursor = connections[single].chunked_cursor()
    with pytest.raises(Error):
        cursor.execute("SELECT nonsense")
    cursor.close()
    assert in_use(single) == 0


def test_server_side_cursor_after_close(make_pool: MakePool, mode: str, items: None, worker: Worker) -> None:
    """The connection is somebody else's by now: a clear error, and nothing happens to the neighbour."""
    alias = make_pool(mode=mode)
    rows = iterate(alias)
    next(rows)
    connections[alias].close()
    assert in_use(alias) == 0
    worker(backend, alias)
    worker(connections.close_all)
    with pytest.raises(InterfaceError, match="server-side cursor was released"):
        list(rows)
    cursor = connections[alias].chunked_cursor()
    connections[alias].close()
    with pytest.raises(InterfaceError, match="server-side cursor was released"):
        cursor.execute("SELECT 1")
    cursor.close()
    assert in_use(alias) == 0


def test_stale_server_side_cursor_does_not_touch_a_later_lease(single: str, items: None) -> None:
    """Same thread, later lease: closing the old iterator ends neither the lease nor the transaction."""
    rows = iterate(single)
    next(rows)
    connections[single].close()
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=single):
        Log.objects.using(single).create(key="a")
        rows.close()  # type: ignore[attr-defined]
        assert in_use(single) == 1
        Log.objects.using(single).create(key="b")
        raise ZeroDivisionError
    assert Log.objects.count() == 0


# -- abandoned -------------------------------------------------------------------------------------------------


def test_abandoned_server_side_cursor_is_not_lent_on(
    make_pool: MakePool, mode: str, worker: Worker, items: None
) -> None:
    """Collected unclosed: the next borrower finds neither the cursor nor its connection."""
    alias = make_pool(mode=mode)
    cursor = connections[alias].chunked_cursor()
    cursor.execute("SELECT * FROM app_item")
    mine = backend(alias)
    assert value(alias, HOLDABLE) == 1
    del cursor
    gc.collect()
    if mode == "session":
        connections[alias].close()
    else:
        execute(alias, "SELECT 1")  # the statement after it ends the lease
    assert in_use(alias) == 0
    assert worker(value, alias, HOLDABLE) == 0
    assert worker(backend, alias) != mine


def test_cursor_abandoned_at_the_end_of_a_unit(single: str, worker: Worker, items: None) -> None:
    cursor = connections[single].chunked_cursor()
    cursor.execute("SELECT * FROM app_item")
    del cursor
    gc.collect()
    connections[single].close()
    assert in_use(single) == 0
    assert worker(value, single, HOLDABLE) == 0


def test_cursor_abandoned_beside_one_in_use(single: str, items: None) -> None:
    """The lease lasts as long as somebody reads, and its connection is not lent on afterwards."""
    kept = connections[single].chunked_cursor()
    kept.execute("SELECT n FROM app_item ORDER BY n")
    abandoned = connections[single].chunked_cursor()
    abandoned.execute("SELECT n FROM app_item ORDER BY n")
    mine = backend(single)
    del abandoned
    gc.collect()
    execute(single, "SELECT 1")
    assert len(kept.fetchall()) == 10
    kept.close()
    assert in_use(single) == 0
    assert backend(single) != mine


def test_iterator_closed_by_another_thread(single: str, worker: Worker, items: None) -> None:
    """The other thread may not use this thread's connection; it only marks the cursor as left."""
    rows = [iterate(single)]
    next(rows[0])
    worker(rows.clear)
    execute(single, "SELECT 1")
    assert in_use(single) == 0
    assert worker(value, single, HOLDABLE) == 0


def test_iterator_abandoned_in_atomic(single: str, worker: Worker, items: None) -> None:
    """The transaction goes on to its commit, and its connection to no neighbour."""
    cursor = connections[single].chunked_cursor()
    cursor.execute("SELECT * FROM app_item")
    with transaction.atomic(using=single):
        Log.objects.using(single).create(key="a")
        del cursor
        gc.collect()
        Log.objects.using(single).create(key="b")
    assert in_use(single) == 0
    assert Log.objects.count() == 2
    assert worker(value, single, HOLDABLE) == 0


@pytest.mark.filterwarnings("ignore:.* was deleted while still open:ResourceWarning")
def test_cursor_abandoned_in_a_raw_transaction(single: str, items: None) -> None:
    """The lease of an abandoned cursor ends after the COMMIT, not in the middle of the transaction."""
    execute(single, "BEGIN")
    execute(single, "INSERT INTO app_log (key) VALUES ('a')")
    cursor = connections[single].chunked_cursor()
    cursor.execute("SELECT * FROM app_item")
    del cursor
    gc.collect()
    execute(single, "INSERT INTO app_log (key) VALUES ('b')")
    execute(single, "COMMIT")
    assert Log.objects.count() == 2
    assert in_use(single) == 0


# -- COPY and stream() -----------------------------------------------------------------------------------------


def test_copy_holds_until_its_block_ends(single: str, observer: Observer) -> None:
    with connections[single].cursor() as cursor:
        with cursor.copy("COPY app_log (key) FROM STDIN") as copy:
            assert in_use(single) == 1
            for n in range(3):
                copy.write_row([f"row {n}"])
        assert in_use(single) == 0
        assert rows_of(observer, "app_log") == 3
        with cursor.copy("COPY app_log (key) TO STDOUT") as copy:
            assert next(iter(copy.rows())) == ("row 0",)
            assert in_use(single) == 1
        assert in_use(single) == 0
        with cursor.copy("COPY (SELECT %s::int) TO STDOUT", [5]) as copy:
            assert b"".join(copy) == b"5\n"


def test_copy_that_fails(single: str, observer: Observer) -> None:
    """An error of ours and one of the server's: nothing is written, nothing held, the connection works."""
    with connections[single].cursor() as cursor:
        with pytest.raises(ZeroDivisionError), cursor.copy("COPY app_log (key) FROM STDIN") as copy:
            copy.write_row(["lost"])
            raise ZeroDivisionError
        assert in_use(single) == 0
        with pytest.raises(DataError), cursor.copy("COPY app_item (name, n) FROM STDIN") as copy:
            copy.write_row(["a", "no number"])
        assert in_use(single) == 0
        cursor.execute("SELECT count(*) FROM app_log")
        assert cursor.fetchone() == (0,)


def test_copy_inside_atomic(single: str, observer: Observer) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=single):
        with connections[single].cursor() as cursor, cursor.copy("COPY app_log (key) FROM STDIN") as copy:
            copy.write_row(["lost"])
        assert in_use(single) == 1
        raise ZeroDivisionError
    assert in_use(single) == 0
    assert rows_of(observer, "app_log") == 0


def test_stream_holds_until_it_ends(single: str, items: None) -> None:
    """Exhausted, closed early, dropped, and failing."""
    cursor = connections[single].cursor()
    rows = cursor.stream("SELECT n FROM app_item ORDER BY n")
    for n, row in enumerate(rows):
        assert row == (n,)
        assert in_use(single) == 1
    assert in_use(single) == 0
    for end in ("close", "drop"):
        rows = cursor.stream("SELECT n FROM app_item WHERE n >= %s ORDER BY n", [5])
        assert next(rows) == (5,)
        if end == "close":
            rows.close()
        rows = None
        gc.collect()
        assert in_use(single) == 0
    with pytest.raises(DataError):
        list(cursor.stream("SELECT 1 / (n - 5) FROM app_item ORDER BY n"))
    assert in_use(single) == 0
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)


# -- the rest of a cursor --------------------------------------------------------------------------------------


def test_executemany(single: str, observer: Observer) -> None:
    with connections[single].cursor() as cursor:
        cursor.executemany("INSERT INTO app_item (name, n) VALUES (%s, %s)", [("a", 1), ("b", 2)])
        assert in_use(single) == 0
        assert cursor.rowcount == 2
        with pytest.raises(IntegrityError):
            cursor.executemany("INSERT INTO app_item (id, name, n) VALUES (%s, '', 0)", [(90,), (90,)])
        assert in_use(single) == 0
    assert rows_of(observer, "app_item") == 2  # psycopg sends the sets of one call as a pipeline: all or none


def test_callproc(single: str) -> None:
    with connections[single].cursor() as cursor:
        assert cursor.callproc("lower", ["ABC"]) == ["ABC"]
        assert cursor.fetchone() == ("abc",)
        assert in_use(single) == 0
        with pytest.raises(Error):
            cursor.callproc("no_such_function", [1])
        assert in_use(single) == 0


def test_raw_queryset_and_several_results(single: str, items: None) -> None:
    assert len(list(Item.objects.using(single).raw("SELECT * FROM app_item WHERE n < %s", [3]))) == 3
    with connections[single].cursor() as cursor:
        cursor.execute("SELECT 1; SELECT 2")
        assert cursor.fetchone() == (1,)
        assert cursor.nextset()
        assert cursor.fetchone() == (2,)
    assert in_use(single) == 0


def test_thread_that_drops_a_cursor_and_ends(single: str, make_worker: Callable[[], Worker], items: None) -> None:
    """No unit end, no close: the slot comes back and the cursor is gone."""
    import threading

    threads = [threading.Thread(target=lambda: next(iterate(single))) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    assert wait_until(lambda: in_use(single) == 0, 5)
    assert make_worker()(value, single, HOLDABLE) == 0
