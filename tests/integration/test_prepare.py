"""POOL["prepare"]: statements prepared on the server, by whom, how many, and when the tables change under them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import NotSupportedError, connections, transaction

from tests.app.models import Item
from tests.fixtures.pools import alive, backend, execute, value
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True, databases=["default"])

BINDING = {"server_side_binding": True}
MakePool = Callable[..., str]


@pytest.fixture
def make(make_pool: MakePool) -> MakePool:
    def make(after: int = 2, most: int = 10, size: int = 1, **entry: Any) -> str:
        prepare = {"prepare": {"after": after, "max": most}, **entry.pop("POOL", {})}
        return make_pool(size=size, OPTIONS=BINDING, POOL=prepare, **entry)

    return make


def prepared(alias: str) -> list[str]:
    """What the connection of this thread's next lease has prepared, in order; looking prepares nothing."""
    query = "SELECT statement FROM pg_prepared_statements ORDER BY prepare_time, name"
    with transaction.atomic(using=alias):
        execute(alias, "SELECT 1 /* leases */")
        rows = connections[alias]._entry.conn.execute(query, prepare=False).fetchall()
    return [row[0] for row in rows if "/* leases */" not in row[0]]


def items(alias: str, name: str = "x") -> list[Item]:
    return list(Item.objects.using(alias).filter(name=name))


def test_a_query_of_the_orm_is_prepared_after_so_many_executions(make: MakePool) -> None:
    alias = make(after=2)
    for _ in range(2):
        items(alias)
        assert prepared(alias) == []
    items(alias, "other parameters")
    (statement,) = prepared(alias)
    assert "app_item" in statement and "$1" in statement


def test_zero_prepares_at_once_and_survives_leases(make: MakePool) -> None:
    alias = make(after=0)
    Item.objects.using(alias).create(name="x")
    for _ in range(5):
        assert [item.name for item in items(alias)] == ["x"]
    selects = [statement for statement in prepared(alias) if statement.startswith("SELECT")]
    assert len(selects) == 1, "each lease used the same one"
    uses = value(
        alias,
        "SELECT max(generic_plans + custom_plans) FROM pg_prepared_statements WHERE statement LIKE %s",
        ['SELECT "app_item"%'],
    )
    assert uses == 5


def test_without_the_setting_nothing_is_prepared(make_pool: MakePool) -> None:
    alias = make_pool(OPTIONS=BINDING)
    for _ in range(20):
        items(alias)
    assert prepared(alias) == []


def test_max_is_kept(make: MakePool) -> None:
    alias = make(after=0, most=3)
    for number in range(8):
        execute(alias, f"SELECT %s, {number}", [1])
    statements = prepared(alias)
    assert len(statements) <= 3
    assert any("7" in statement for statement in statements), "the last ones stay"


def test_each_connection_has_its_own(make: MakePool, worker: Worker) -> None:
    alias = make(after=0, size=2)
    with transaction.atomic(using=alias):
        items(alias)
        mine = backend(alias)
        assert worker(backend, alias) != mine
        assert not [text for text in worker(prepared, alias) if "app_item" in text]
    assert [text for text in prepared(alias) if "app_item" in text] or backend(alias) != mine


def test_another_search_path_reads_another_table(make: MakePool, observer: psycopg.Connection[Any]) -> None:
    for schema in ("one", "two"):
        observer.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.place (name text)")
        observer.execute(f"INSERT INTO {schema}.place VALUES ('{schema}')")
    try:
        alias = make(after=0)
        for schema in ("one", "two", "one", "two"):
            with transaction.atomic(using=alias):
                execute(alias, f"SET LOCAL search_path TO {schema}")
                assert value(alias, "SELECT name FROM place WHERE name <> %s", [""]) == schema
    finally:
        observer.execute("DROP SCHEMA one, two CASCADE")


@pytest.fixture
def changing(observer: psycopg.Connection[Any]) -> Any:
    observer.execute("CREATE TABLE changing (n integer); INSERT INTO changing VALUES (1)")
    yield "changing"
    observer.execute("DROP TABLE changing")


def number(alias: str) -> Any:
    return value(alias, "SELECT n FROM changing LIMIT %s", [1])


def test_a_new_column_harms_nothing(make: MakePool, changing: str, observer: psycopg.Connection[Any]) -> None:
    alias = make(after=0)
    assert number(alias) == 1
    observer.execute("ALTER TABLE changing ADD COLUMN more text DEFAULT 'm'")
    assert number(alias) == 1


def test_a_column_of_another_type_costs_one_error_not_one_per_connection(
    make: MakePool, changing: str, observer: psycopg.Connection[Any], worker: Worker
) -> None:
    """The statement was not executed, but nothing is repeated here: that it failed must be the caller's to know."""
    alias = make(after=0, size=2)
    with transaction.atomic(using=alias):
        assert number(alias) == 1
        other = worker(lambda: (number(alias), backend(alias))[1])
        mine = backend(alias)
    observer.execute("ALTER TABLE changing ALTER COLUMN n TYPE text")
    with pytest.raises(NotSupportedError, match="cached plan must not change result type"):
        number(alias)
    assert number(alias) == "1"
    assert worker(number, alias) == "1"
    assert not alive(observer, mine) and not alive(observer, other)


def test_inside_a_transaction_the_connection_is_replaced_after_its_end(
    make: MakePool, changing: str, observer: psycopg.Connection[Any]
) -> None:
    alias = make(after=0)
    assert number(alias) == 1
    mine = backend(alias)
    observer.execute("ALTER TABLE changing ALTER COLUMN n TYPE text")
    with pytest.raises(NotSupportedError), transaction.atomic(using=alias):
        number(alias)
    assert number(alias) == "1"
    assert backend(alias) != mine


def test_other_unsupported_features_replace_nothing(make: MakePool) -> None:
    alias = make(after=0)
    mine = backend(alias)
    with pytest.raises(NotSupportedError):
        execute(alias, "SELECT count(*) FROM pg_class FOR UPDATE")
    assert backend(alias) == mine


def test_a_pinned_connection_takes_its_statements_with_it(make: MakePool, observer: psycopg.Connection[Any]) -> None:
    alias = make(after=0)
    items(alias)
    execute(alias, "SET work_mem = '1MB'")
    pinned = backend(alias)
    connections[alias].close()
    assert [text for text in prepared(alias) if "app_item" in text] == []
    assert not alive(observer, pinned)


def test_a_rollback_makes_psycopg_forget_them(make: MakePool) -> None:
    """As documented: it can't know which tables of the statements the rollback has taken away."""
    alias = make(after=0)
    items(alias)
    with transaction.atomic(using=alias):
        items(alias)
        transaction.set_rollback(True, using=alias)
    assert [text for text in prepared(alias) if "app_item" in text] == []
    assert items(alias) == []


# -- where it can't work -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "more", "text"),
    [
        ({}, {}, 'Set OPTIONS["server_side_binding"] = True, or remove prepare.'),
        ({"server_side_binding": 1}, {}, 'Set OPTIONS["server_side_binding"] = True, or remove prepare.'),
        (BINDING, {"pooler": "transaction"}, "Remove prepare, or use a pooler in session mode"),
        ({**BINDING, "prepare_threshold": 5}, {}, 'Remove OPTIONS["prepare_threshold"].'),
    ],
    ids=["client-side binding", "truthy", "pooler", "twice"],
)
def test_refused_where_it_cannot_work(
    make_pool: MakePool, options: dict[str, Any], more: dict[str, Any], text: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=re.escape(text)):
        backend(make_pool(OPTIONS=options, POOL={"prepare": {"after": 2}, **more}))


@pytest.mark.parametrize(
    "settings",
    [
        {"POOL": {"prepare": None}},
        {"POOL": {"enabled": False, "prepare": {"after": 2}}},
        {"POOL": {"prepare": {"after": 2}, "pooler": "session"}, "OPTIONS": BINDING},
        {"OPTIONS": {"prepare_threshold": 5}},
    ],
    ids=str,
)
def test_nothing_is_wrong_with(make_pool: MakePool, settings: dict[str, Any]) -> None:
    assert backend(make_pool(**settings))


def test_client_side_binding_never_prepares(make_pool: MakePool) -> None:
    """Why it is refused: psycopg's client-side cursors don't prepare, whatever the threshold."""
    alias = make_pool(OPTIONS={"prepare_threshold": 0})
    for _ in range(5):
        items(alias)
    assert prepared(alias) == []
