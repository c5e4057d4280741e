"""What the property test has found, in the fewest steps."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from tests.app.models import Item, Log
from tests.fixtures.aliases import MakeAlias

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alias(make_alias: MakeAlias) -> str:
    Item.objects.bulk_create([Item(name="seed", n=n) for n in range(7)])
    return make_alias(NAME=connections["default"].settings_dict["NAME"], POOL={"max_size": 1, "timeout": 0.1})


def begun_iterator(alias: str) -> Any:
    iterator = Item.objects.using(alias).order_by("n").values_list("n", flat=True).iterator(chunk_size=3)
    assert next(iterator) == 0
    return iterator


def in_use(alias: str) -> int:
    size: int = connections[alias].pool.snapshot().in_use
    return size


@pytest.mark.parametrize("commit", [True, False])
def test_block_after_a_connection_was_closed_inside_one(alias: str, commit: bool) -> None:
    """Django's engine connects when the next block asks for autocommit, and so begins afresh."""
    block = transaction.atomic(alias)
    block.__enter__()
    Log.objects.using(alias).create(key="gone")
    connections[alias].close()
    if commit:
        block.__exit__(None, None, None)
    else:
        block.__exit__(ValueError, ValueError(), None)
    for n in range(2):
        with transaction.atomic(alias):
            Log.objects.using(alias).create(key=str(n))
        assert not connections[alias].in_atomic_block
    assert sorted(Log.objects.values_list("key", flat=True)) == ["0", "1"]


def test_iterator_of_an_earlier_transaction_does_not_break_a_later_one(alias: str) -> None:
    """Its cursor is gone: CLOSE would fail, and the COMMIT after it would be a rollback that nobody reports."""
    with transaction.atomic(alias):
        iterator = begun_iterator(alias)
    with transaction.atomic(alias):
        Log.objects.using(alias).create(key="kept")
        del iterator
    assert list(Log.objects.values_list("key", flat=True)) == ["kept"]
    assert in_use(alias) == 0


def test_iterator_of_a_savepoint_that_was_rolled_back_does_not_break_the_transaction(alias: str) -> None:
    with transaction.atomic(alias):
        Log.objects.using(alias).create(key="kept")
        inner = transaction.atomic(alias)
        inner.__enter__()
        iterator = begun_iterator(alias)
        inner.__exit__(ValueError, ValueError(), None)
        del iterator
    assert list(Log.objects.values_list("key", flat=True)) == ["kept"]
    assert in_use(alias) == 0


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_dead_connection_of_a_finished_iterator_is_let_go(
    make_alias: MakeAlias, observer: Any, alias: str, mode: str
) -> None:
    alias = make_alias(NAME=connections["default"].settings_dict["NAME"], POOL={"max_size": 1, "mode": mode})
    iterator = begun_iterator(alias)
    observer.execute("SELECT pg_terminate_backend(%s, 10000)", [connections[alias].pool.holders()[0].backend_pid])
    with pytest.raises(OperationalError):
        list(iterator)
    assert in_use(alias) == 0
    assert Item.objects.using(alias).count() == 7


def test_kept_cursor_on_a_dead_pinned_connection_raises_djangos_error(alias: str, observer: Any) -> None:
    def kill(pid: int) -> None:
        observer.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])

    connection = connections[alias]
    kept = connection.cursor()
    kept.execute("SELECT pg_backend_pid()")
    kill(kept.fetchone()[0])  # idle in the pool: replaced, and the kept cursor is of another connection then
    with connection.cursor() as cursor:
        cursor.execute("SET application_name = 'pinned'")
        kill(connection.pool.holders()[0].backend_pid)
        with pytest.raises(OperationalError):
            cursor.execute("SELECT 1")
    with pytest.raises(OperationalError):
        kept.execute("SELECT 1")
    connection.close()
