"""The ticket shop on every engine, and what its orders are counted with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from testproject.harness.environment import environment, manage
from testproject.harness.interrupts import Interrupts
from testproject.postgres import Server
from testproject.tickets.shop import Audit, Shop, ShopError, count_orders
from tests.fixtures.databases import seeded_database

ASKED = [str(UUID(int=number)) for number in range(1, 5)]
ALL = {"asked": ASKED, "confirmed": ASKED}
EXACT = Audit(asked=4, confirmed=4, saved=4, lost=0, unknown=0, seats_off=0)


@pytest.mark.parametrize("engine", ["stock-pool", "dbpool"])
def test_tests_of_the_shop(session_server: Server, engine: str) -> None:
    """As a project's own tests are run when it changes its ENGINE."""
    env = environment(session_server, engine, {"max_size": 4})
    manage({**env, "PYTHONWARNINGS": "error"}, "test", "testproject.tickets", "--noinput")


def test_migrations_are_complete(session_server: Server) -> None:
    manage(environment(session_server, "dbpool"), "makemigrations", "tickets", "--check", "--dry-run")


@pytest.fixture(scope="module")
def shop(session_server: Server) -> Iterator[Server]:
    """A database with the shop's tables and events."""
    with seeded_database(session_server, "tickets") as own:
        yield own


@pytest.fixture
def orders(shop: Server) -> Iterator[psycopg.Connection[Any]]:
    """Four orders of two seats each, as they should be."""
    with shop.connect() as connection:
        for key in ASKED:
            connection.execute(
                "INSERT INTO tickets_order (key, event_id, seats, placed_at) "
                "SELECT %s, min(id), 2, now() FROM tickets_event",
                [key],
            )
        connection.execute("UPDATE tickets_event SET sold = 8 WHERE id = (SELECT min(id) FROM tickets_event)")
        yield connection
        connection.execute("DELETE FROM tickets_order")
        connection.execute("UPDATE tickets_event SET sold = 0")


def test_exact(shop: Server, orders: psycopg.Connection[Any]) -> None:
    assert count_orders(shop, ALL) == EXACT
    assert EXACT.exact


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("DELETE FROM tickets_order WHERE key = %s", {"saved": 3, "lost": 1, "seats_off": 2}),
        ("UPDATE tickets_order SET key = gen_random_uuid() WHERE key = %s", {"lost": 1, "unknown": 1}),
        ("UPDATE tickets_event SET sold = sold + 2 WHERE sold > 0 AND %s <> ''", {"seats_off": 2}),
        ("UPDATE tickets_event SET sold = sold - 2 WHERE sold > 0 AND %s <> ''", {"seats_off": -2}),
    ],
)
def test_not_exact(shop: Server, orders: psycopg.Connection[Any], statement: Any, found: dict[str, int]) -> None:
    """An order that is gone, one that nobody knows, and one that took its seats twice or not at all."""
    orders.execute(statement, [ASKED[0]])
    counted = count_orders(shop, ALL)
    assert vars(counted) == {**vars(EXACT), **found}
    assert not counted.exact


def test_not_confirmed(shop: Server, orders: psycopg.Connection[Any]) -> None:
    """An order whose buyer has had no answer yet may be there; all is settled only when it was confirmed."""
    counted = count_orders(shop, {"asked": ASKED, "confirmed": ASKED[1:]})
    assert (counted.confirmed, counted.lost, counted.unknown) == (3, 0, 0)
    assert not counted.exact


def test_a_shop_that_cannot_open_says_why(session_server: Server) -> None:
    with (
        pytest.raises(ShopError, match="DBPOOL_ENGINE is 'nonsense'"),
        Shop("nonsense", session_server, environment(session_server, "nonsense"), Interrupts()),
    ):
        pass
