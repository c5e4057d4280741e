"""What alerts learn from the server, asked by one process of all: connections taken, and strangers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from django_dbpool import advice, asking, fleet
from django_dbpool import server_counts as counts
from django_dbpool.alerts import providers
from django_dbpool.alerts.service import Service, service, stop
from django_dbpool.core import reporter
from django_dbpool.fleet import server
from testproject.postgres import Server
from testproject.processes import wait_until
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import execute
from tests.fixtures.workers import PATIENCE

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.ci]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(asking, "_pid", 0)
    monkeypatch.setattr(asking, "INTERVAL", 0.2)
    monkeypatch.setattr(providers, "_defaults", {})
    yield
    counts.unwatch("alerts")


def ask(name: str, alias: str) -> Any:
    counts.look()
    execute(alias, "SELECT 1")
    return providers.ask(name, alias)


def test_the_server_is_asked_for_its_connections(make_pool: Callable[..., str], session_server: Server) -> None:
    alias = make_pool()
    execute(alias, "SELECT 1")
    asking.begin()
    asking.begin()
    assert wait_until(lambda: ask("server_connections", alias) is not None, PATIENCE)
    with session_server.connect() as observer, session_server.connect(), session_server.connect():

        def counted() -> tuple[int, int]:
            row = observer.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
            return int((row.fetchone() or (0,))[0]), 200

        # Those of the tests before this one may still be going.
        assert wait_until(lambda: ask("server_connections", alias) == counted(), PATIENCE)
        assert counted()[0] >= 5
    assert providers.ask("activity") is not None


def test_others_are_told(make_pool: Callable[..., str]) -> None:
    """And what they are told is what `manage.py dbpool advise` understands."""
    alias = make_pool()
    try:
        asking.begin()
        service().look()
        execute(alias, "SELECT 1")
        service().look()
        document = fleet.snapshot()
        assert document["sections"]["alerts"] == []
        (load,) = advice.loads_in([document])
        assert load.aliases == advice.own_load().aliases
        assert load.process == advice.own_load().process
    finally:
        stop()


def test_nobody_is_asked_where_nobody_wants_to_know() -> None:
    nothing = dict.fromkeys(("server_connections", "strangers", "batch_stuck", "batch_failures"))
    with override_settings(DBPOOL={"ALERTS": nothing}):
        asking.begin()
    assert counts.JOB not in reporter._jobs


def test_strangers_are_counted(
    make_pool: Callable[..., str], session_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = make_pool()
    execute(alias, "SELECT 1")
    monkeypatch.setattr(server, "SETTLED", 0.0)
    monkeypatch.setattr(fleet, "processes", lambda: ())
    dbname = connections[alias].settings_dict["NAME"]
    found = asking.Strangers()
    with session_server.connect(dbname=dbname), session_server.connect(dbname=dbname):
        found.ask(alias)
        assert found(alias) is not None
        assert int(found(alias) or 0) >= 2


def test_strangers_that_can_t_be_counted_are_not_known(make_pool: Callable[..., str]) -> None:
    alias = make_pool()
    found = asking.Strangers()
    found.ask(alias)  # nothing is published in tests
    assert found(alias) is None


def test_where_the_fleet_has_no_table_it_is_not_asked_every_minute(
    make_alias: MakeAlias, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question would be an error in the server's log."""
    alias = make_alias()  # a database that was never migrated
    monkeypatch.setattr(counts, "latest", lambda alias: object())
    found = asking.Strangers()
    with override_settings(DBPOOL={"FLEET": {"using": alias}}):
        found.ask(alias)
    monkeypatch.setattr(asking, "INTERVAL", 0.0)
    asked: list[str] = []
    monkeypatch.setattr(found, "ask", asked.append, raising=False)
    assert found(alias) is None
    assert not asked


def test_the_leader_asks_once_in_a_while(make_pool: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    alias = make_pool()
    asked: list[str] = []
    monkeypatch.setattr(counts, "latest", lambda alias: object())
    monkeypatch.setattr(asking, "INTERVAL", 60.0)
    monkeypatch.setattr(asking.Strangers, "ask", lambda self, alias: asked.append(alias))
    found = asking.Strangers()
    for _ in range(3):
        assert found(alias) is None
    assert wait_until(lambda: asked == [alias], PATIENCE)


def test_a_look_begins_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Service()
    try:
        watch.look()
    finally:
        watch.close()
    assert "server_connections" not in providers._defaults
