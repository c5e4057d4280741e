"""Behind a pooler that refuses or ignores start-up options, time zone and role are set after connecting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections, transaction

from testproject.postgres import Server
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pgbouncer import pgbouncer

pytestmark = pytest.mark.ci


@pytest.fixture
def role(session_server: Server) -> Iterator[str]:
    """A role with a name that needs quoting."""
    with session_server.connect() as connection:
        connection.execute('CREATE ROLE "Reporting Role"')
        yield "Reporting Role"
        connection.execute('DROP ROLE "Reporting Role"')


def session(alias: str) -> tuple[Any, ...]:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT current_user::text, current_setting('TimeZone')")
        row: tuple[Any, ...] = cursor.fetchone()
        return row


@pytest.mark.parametrize(
    "settings",
    [{}, {"ignore_startup_parameters": "options"}],
    ids=["refuses start-up options", "ignores start-up options"],
)
def test_time_zone_and_role_are_set_after_connecting(
    session_server: Server, make_alias: MakeAlias, role: str, settings: dict[str, str]
) -> None:
    """The connection has the role and zone of the settings although the start-up packet did not bring them."""
    with pgbouncer(session_server, **settings) as front:
        alias = make_alias(
            front, TIME_ZONE="Asia/Tokyo", OPTIONS={"assume_role": role}, POOL={"max_size": 2, "timeout": 5}
        )
        assert session(alias) == (role, "Asia/Tokyo")


def test_transactions_through_a_transaction_pooler(session_server: Server, make_alias: MakeAlias) -> None:
    """Statements, transactions, savepoints and their errors work when each may meet another backend."""
    with pgbouncer(session_server, pool_mode="transaction", default_pool_size="2") as front:
        alias = make_alias(front, POOL={"max_size": 2, "timeout": 5}, DISABLE_SERVER_SIDE_CURSORS=True)
        with connections[alias].cursor() as cursor:
            cursor.execute("CREATE TABLE through_pooler (n int)")
        try:
            with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
                cursor.execute("INSERT INTO through_pooler VALUES (1)")
                with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
                    cursor.execute("INSERT INTO through_pooler VALUES (2)")
                    raise ZeroDivisionError
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT n FROM through_pooler")
                assert cursor.fetchall() == [(1,)]
        finally:
            with connections[alias].cursor() as cursor:
                cursor.execute("DROP TABLE through_pooler")
