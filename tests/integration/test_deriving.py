"""Engines that derive from ours get the pool's parts by themselves, and Django's hooks once per physical connection."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import psycopg
import pytest
from django.db import connections, models, transaction
from django.db.backends.postgresql import base, operations, schema
from django.test.utils import isolate_apps
from psycopg.types.string import StrDumper

from django_dbpool.backends.mixin import PooledDatabaseMixin
from django_dbpool.backends.operations import PooledOperationsMixin
from tests.fixtures.pools import backend, holders, in_use, value
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
ENGINE = "engine_of_somebody"


class Price:
    """A value that only this engine's connections can send."""


class PriceDumper(StrDumper):
    def dump(self, obj: Any) -> bytes:
        return b"12.50"


class SomebodysOperations(operations.DatabaseOperations):
    """Of an engine's own."""


class SomebodysWrapper(base.DatabaseWrapper):
    """An engine that knows nothing of pools: prepares its connections, counts them, has its own operations."""

    ops_class = SomebodysOperations
    made: list[int] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        assert not args[1:], "some look for alias in their keyword arguments"
        super().__init__(*args, **kwargs)

    def get_new_connection(self, conn_params: dict[str, Any]) -> psycopg.Connection[Any]:
        connection = super().get_new_connection(conn_params)
        connection.adapters.register_dumper(Price, PriceDumper)
        self.made.append(connection.info.backend_pid)
        return connection


class DatabaseWrapper(PooledDatabaseMixin, SomebodysWrapper):
    """The engine under test."""


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType(ENGINE), ModuleType(f"{ENGINE}.base")
    module.DatabaseWrapper = DatabaseWrapper
    package.base = module
    monkeypatch.setitem(sys.modules, ENGINE, package)
    monkeypatch.setitem(sys.modules, f"{ENGINE}.base", module)
    SomebodysWrapper.made.clear()


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_connections_are_prepared_once(make_pool: MakePool, make_worker: Callable[[], Worker], mode: str) -> None:
    alias = make_pool(size=2, mode=mode, ENGINE=ENGINE)
    worker = make_worker()
    with transaction.atomic(using=alias):
        pids = {backend(alias), worker(backend, alias)}
        assert value(alias, "SELECT %s::text", [Price()]) == "12.50"
        assert worker(value, alias, "SELECT %s::text", [Price()]) == "12.50"
    connections[alias].close()
    assert backend(alias) in pids
    assert sorted(SomebodysWrapper.made) == sorted(pids)
    connections[alias].close()


def test_operations_are_the_engines_with_ours_before(make_pool: MakePool) -> None:
    alias = make_pool(ENGINE=ENGINE)
    kind = type(connections[alias].ops)
    assert issubclass(kind, PooledOperationsMixin) and issubclass(kind, SomebodysOperations)
    with transaction.atomic(using=alias):
        assert connections[alias].ops.compose_sql("SELECT %s", [Price()]) == "SELECT '12.50'"
        assert [holder.pinned for holder in holders(alias)] == [None]
    assert in_use(alias) == 0


def test_schema_editor_quotes_with_the_adapters_of_a_connection(make_pool: MakePool) -> None:
    """In atomic() before the first statement, too, when nothing is leased yet; and without a pin."""
    alias = make_pool(ENGINE=ENGINE)
    editor: Any
    with connections[alias].schema_editor(atomic=True) as editor:
        assert isinstance(editor, schema.DatabaseSchemaEditor)
        assert editor.quote_value(Price()) == "'12.50'"
        assert [holder.pinned for holder in holders(alias)] == [None]
    assert connections[alias].SchemaEditorClass(connections[alias]).quote_value(Price()) == "'12.50'"
    assert in_use(alias) == 0


def test_migrations_with_quoted_values_do_not_pin(make_pool: MakePool) -> None:
    alias = make_pool()
    with isolate_apps("tests.app"):

        class Priced(models.Model):
            amount = models.IntegerField()

            class Meta:
                app_label = "app"

    constraint = models.CheckConstraint(condition=models.Q(amount__gte=5), name="at_least_five")
    pid = backend(alias)
    with connections[alias].schema_editor() as editor:
        editor.create_model(Priced)
        editor.add_constraint(Priced, constraint)
        editor.delete_model(Priced)
    assert backend(alias) == pid


def test_switched_off_it_is_the_engine_of_somebody(make_pool: MakePool) -> None:
    alias = make_pool(ENGINE=ENGINE, POOL={"enabled": False})
    assert value(alias, "SELECT %s::text", [Price()]) == "12.50"
    assert connections[alias].SchemaEditorClass(connections[alias]).quote_value(Price()) == "'12.50'"
    assert len(SomebodysWrapper.made) == 1
    assert connections[alias].pool is None
    connections[alias].close()


def test_connecting_to_no_database_in_particular(make_pool: MakePool) -> None:
    alias = make_pool(ENGINE=ENGINE)
    with connections[alias]._nodb_cursor() as cursor:
        parameters: list[Any] = [Price()]
        cursor.execute("SELECT %s::text", parameters)
        assert cursor.fetchone() == ("12.50",)
