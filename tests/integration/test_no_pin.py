"""What leaves no session state costs nothing: no pin, and the connection is lent on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import connections, models, transaction
from django.db.models import F, Func, Value
from django.test.utils import isolate_apps

from tests.app.models import Item, Log
from tests.fixtures.pools import backend, execute, holders, in_use, rows_of, size, value
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]
Action = Callable[[str], object]

TRAPS = "SET ROLE x; LISTEN y; SELECT nextval('z'); CREATE TEMP TABLE t; DECLARE c CURSOR WITH HOLD"


def statement(text: str, params: list[object] | None = None) -> Action:
    return lambda alias: execute(alias, text, params)


def in_transaction(*texts: str) -> Action:
    def run(alias: str) -> None:
        with transaction.atomic(using=alias):
            for text in texts:
                execute(alias, text)

    return run


def orm_with_telling_names(alias: str) -> None:
    rows = Item.objects.using(alias).annotate(temp=F("n"), hold=F("n"), nextval=F("name"), set_config=F("id"))
    rows = rows.annotate(currval=Func(F("name"), Value("lastval("), Value(""), function="REPLACE"))
    list(rows.filter(nextval="SELECT setseed(1)").values_list("temp", "hold", "nextval", "set_config", "currval"))


def orm_with_telling_values(alias: str) -> None:
    item = Item.objects.using(alias).create(name=TRAPS[:100])
    Log.objects.using(alias).bulk_create([Log(key=TRAPS), Log(key="'; SET ROLE x; --")])
    list(Item.objects.using(alias).filter(name__contains="SET ROLE").iterator())
    Item.objects.using(alias).filter(pk=item.pk).update(name="SELECT pg_advisory_lock(1)")
    Item.objects.using(alias).get_or_create(name="CALL f()", defaults={"n": 1})
    Item.objects.using(alias).all().delete()


@isolate_apps("tests.app")
def orm_with_telling_columns(alias: str) -> None:
    class Trap(models.Model):
        temp = models.IntegerField()
        hold = models.TextField(db_column="with hold")
        nextval = models.IntegerField()
        declare = models.IntegerField(db_column="currval")

        class Meta:
            app_label = "app"
            db_table = "temp"

    execute(alias, 'CREATE TABLE "temp" (id bigserial, temp int, "with hold" text, nextval int, currval int)')
    try:
        rows = Trap._default_manager.using(alias)
        rows.create(temp=1, hold="a", nextval=2, declare=3)
        list(rows.filter(temp=1, hold="a", nextval=2).order_by("declare"))
        rows.update(temp=F("nextval"))
    finally:
        execute(alias, 'DROP TABLE "temp"')


def raw_transaction(alias: str) -> None:
    for text in ("BEGIN", "INSERT INTO app_log (key) VALUES ('raw')", "SAVEPOINT a", "ROLLBACK TO a", "COMMIT"):
        execute(alias, text)


ACTIONS = {
    "SET LOCAL": in_transaction("SET LOCAL statement_timeout = '777ms'", "SELECT 1"),
    "SET TRANSACTION": in_transaction("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT 1"),
    "SET CONSTRAINTS": in_transaction("SET CONSTRAINTS ALL IMMEDIATE"),
    "set_config local": in_transaction("SELECT set_config('app.tenant', '7', true)"),
    "set_config local, with parameters": statement("SELECT set_config(%s, %s, true)", ["app.tenant", "7"]),
    "transaction-level lock": in_transaction("SELECT pg_advisory_xact_lock(1)", "SELECT pg_try_advisory_xact_lock(2)"),
    "advisory unlock": statement("SELECT pg_advisory_unlock_all()"),
    "cursor without hold": in_transaction("DECLARE c CURSOR FOR SELECT 1", "FETCH ALL FROM c", "CLOSE c"),
    "literals in parameters": statement("SELECT %s, %s", [TRAPS, "SELECT nextval('s')"]),
    "VACUUM": statement("VACUUM app_item"),
    "ANALYZE": statement("ANALYZE"),
    "NOTIFY": statement("NOTIFY jobs, 'SET ROLE x'"),
    "EXPLAIN": lambda alias: Item.objects.using(alias).explain(),
    "COPY": statement("COPY app_item TO '/dev/null'"),
    "several neutral statements": statement("SELECT 1; SELECT 2; -- done"),
    "bytes": statement(b"SELECT 1"),  # type: ignore[arg-type]
    "ORM, telling names": orm_with_telling_names,
    "ORM, telling values": orm_with_telling_values,
    "ORM, telling columns": orm_with_telling_columns,
    "raw BEGIN and COMMIT": raw_transaction,
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_connection_is_lent_on(single: str, worker: Worker, action: Action) -> None:
    """The lease ends with the statement or transaction, and the neighbour gets the same, unclosed, connection."""
    first = worker(backend, single)
    action(single)
    assert in_use(single) == 0
    assert worker(backend, single) == first
    assert size(single) == 1


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_connection_survives_its_unit_in_session_mode(make_pool: Callable[..., str], action: Action) -> None:
    """In session mode the lease lasts, and its end does not close the connection either."""
    alias = make_pool(mode="session")
    first = backend(alias)
    action(alias)
    (holder,) = holders(alias)
    assert holder.pinned is None
    connections[alias].close()
    assert backend(alias) == first


def test_what_was_local_is_gone(single: str, worker: Worker) -> None:
    """SET LOCAL and its kin end with the transaction by the server's own rules."""
    before = worker(value, single, "SHOW statement_timeout")
    with transaction.atomic(using=single):
        execute(single, "SET LOCAL statement_timeout = '777ms'")
        execute(single, "SELECT set_config('app.tenant', '7', true), pg_advisory_xact_lock(1)")
        assert value(single, "SHOW statement_timeout") == "777ms"
        assert value(single, "SELECT current_setting('app.tenant')") == "7"
    assert worker(value, single, "SHOW statement_timeout") == before
    assert not worker(value, single, "SELECT current_setting('app.tenant', true)")
    assert worker(value, single, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


def test_raw_transaction_keeps_its_connection(
    make_pool: Callable[..., str], worker: Worker, observer: Observer
) -> None:
    """From a BEGIN in raw SQL to its COMMIT every statement meets the same connection, and nobody else does."""
    alias = make_pool(size=2)
    worker(backend, alias)
    execute(alias, "BEGIN")
    mine = backend(alias)
    assert in_use(alias) == 1
    execute(alias, "INSERT INTO app_log (key) VALUES ('raw')")
    assert worker(backend, alias) != mine
    assert rows_of(observer, "app_log") == 0
    assert backend(alias) == mine
    execute(alias, "COMMIT")
    assert in_use(alias) == 0
    assert rows_of(observer, "app_log") == 1


def test_raw_transaction_left_open_is_rolled_back_and_reported(
    single: str, worker: Worker, observer: Observer, caplog: pytest.LogCaptureFixture
) -> None:
    """The unit ends without COMMIT: its writes are not another borrower's to commit."""
    execute(single, "BEGIN")
    execute(single, "INSERT INTO app_log (key) VALUES ('raw')")
    connections[single].close()
    worker(execute, single, "INSERT INTO app_log (key) VALUES ('neighbour')")
    assert rows_of(observer, "app_log") == 1
    assert "still open" in caplog.text
