"""What docs/migration.md says of the other engines and of poolers, seen on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction
from psycopg_pool import PoolTimeout

from django_dbpool.errors import PoolExhausted
from django_dbpool.transaction import session
from testproject.postgres import Server
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pgbouncer import pgbouncer
from tests.fixtures.pools import execute, value
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

OURS, STOCK, OTHER = "django_dbpool.backends.postgresql", "django.db.backends.postgresql", "django_pg_real_pool"
POOL = {"min_size": 0, "max_size": 1, "timeout": 2}


@pytest.fixture
def engine(make_alias: MakeAlias) -> Callable[[str], str]:
    def make(name: str) -> str:
        pytest.importorskip(name)
        return make_alias(ENGINE=name, OPTIONS={"pool": POOL})

    return make


def held(alias: str) -> bool:
    """Whether this thread keeps the pool's only connection from others."""
    stats = connections[alias].pool.get_stats()
    return bool(stats["pool_size"] - stats["pool_available"])


class Seen:
    """What one engine does in each row of the table."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.connection = connections[alias]

    def cursor(self) -> bool:
        cursor = self.connection.cursor()
        cursor.execute("SELECT 1")
        cursor.fetchall()
        return held(self.alias)

    def autocommit(self) -> bool:
        value(self.alias, "SELECT 1")
        self.connection.set_autocommit(False)
        value(self.alias, "SELECT 1")
        self.connection.commit()
        self.connection.ensure_connection()
        on = self.connection.get_autocommit()
        self.connection.set_autocommit(True)
        return bool(on)

    def state(self) -> tuple[Any, Any]:
        """Right after SET, and for the next unit of work."""
        execute(self.alias, "SET work_mem = '5MB'")
        own = value(self.alias, "SHOW work_mem")
        self.connection.close()
        return own, value(self.alias, "SHOW work_mem")

    def block(self) -> bool:
        with transaction.atomic(using=self.alias):
            return held(self.alias)

    def hook(self) -> bool:
        seen = []
        with transaction.atomic(using=self.alias):
            value(self.alias, "SELECT 1")
            transaction.on_commit(lambda: seen.append(held(self.alias)), using=self.alias)
        return seen[0]


ROWS = {"cursor": (True, False), "autocommit": (True, False), "block": (True, False), "hook": (True, False)}


@pytest.mark.parametrize("row", ROWS)
def test_table_of_differences(engine: Callable[[str], str], row: str) -> None:
    for name, expected in zip((OTHER, OURS), ROWS[row], strict=True):
        alias = engine(name)
        value(alias, "SELECT 1")  # the pools are open
        connections[alias].close()
        assert getattr(Seen(alias), row)() is expected, name
        connections[alias].close()


def test_session_state(engine: Callable[[str], str]) -> None:
    """There the next borrower finds it; here its own user does, and nobody else."""
    own, next_one = Seen(engine(OTHER)).state()
    assert (own, next_one) == ("5MB", "5MB")
    assert Seen(engine(OURS)).state() == ("5MB", "4MB")


@pytest.mark.parametrize("name", [STOCK, OURS])
def test_full_pool(engine: Callable[[str], str], worker: Worker, name: str) -> None:
    """The same handler for OperationalError; another class or cause."""
    alias = engine(name)
    connections[alias].settings_dict["OPTIONS" if name == STOCK else "POOL"] |= (
        {"pool": {**POOL, "timeout": 0.2}} if name == STOCK else {**POOL, "timeout": 0.2}
    )
    with transaction.atomic(using=alias):
        value(alias, "SELECT 1")
        with pytest.raises(OperationalError) as caught:
            worker(value, alias, "SELECT 1")
    assert isinstance(caught.value, PoolExhausted) == (name == OURS)
    assert isinstance(caught.value.__cause__, PoolTimeout) == (name == STOCK)
    connections[alias].close()


# -- PgBouncer ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared_server_session(session_server: Server) -> Iterator[Server]:
    """Transaction pooling with one server connection for all clients."""
    with pgbouncer(session_server, pool_mode="transaction", default_pool_size="1") as front:
        yield front


@pytest.mark.ci
def test_variables_are_shared_behind_transaction_pooling(shared_server_session: Server, make_alias: MakeAlias) -> None:
    """Why there are no tenants there: what one client declares, another finds; SET LOCAL it doesn't."""
    red, other = (make_alias(shared_server_session, POOL={"max_size": 1, "timeout": 5}) for _ in range(2))
    current = "SELECT current_setting('app.tenant', true)"
    assert value(other, current) is None
    with transaction.atomic(using=red):
        execute(red, "SELECT set_config('app.tenant', '7', true)")
        assert value(red, current) == "7"
    assert value(other, current) in (None, "")
    with session(red, **{"app.tenant": 7}):
        assert value(red, current) == "7"
        assert value(other, current) == "7"


@pytest.mark.ci
def test_variables_work_behind_session_pooling(session_server: Server, make_alias: MakeAlias) -> None:
    with pgbouncer(session_server, pool_mode="session") as front:
        red, other = (make_alias(front, POOL={"max_size": 1, "timeout": 5, "pooler": "session"}) for _ in range(2))
        current = "SELECT current_setting('app.tenant', true)"
        with session(red, **{"app.tenant": 7}):
            assert value(red, current) == "7"
            assert value(other, current) is None
