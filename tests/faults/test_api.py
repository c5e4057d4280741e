"""The endpoints while the pool is exhausted, the server is down, or answers nobody."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.core.management import call_command
from django.db import connections
from django.test import Client, override_settings

from django_dbpool import reports, transaction
from django_dbpool.pool import probing
from django_dbpool.views import endpoint
from testproject.postgres import EmbeddedServer
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task
from tests.fixtures.aliases import Everything
from tests.fixtures.api import POOL, TOKEN, body, client_of, publish, site

# Both, because readiness asks for every alias of the settings.
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

SOON = 8.0
"""Seconds: two for a session, three for the store, on a machine with other things to do."""


class Endpoints(Everything):
    """No more is migrated than they need."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return app_label in ("auth", "contenttypes", "django_dbpool")


@pytest.fixture
def database(
    make_database: MakeDatabase, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """One connection and one in the reserve, with users."""
    server.start()
    found = make_database(server, max_size=1, reserve_size=1, timeout=PATIENCE, command_timeout=1.0)
    monkeypatch.setattr(Endpoints, "alias", found.alias)
    routers = {"DATABASE_ROUTERS": ["tests.faults.test_api.Endpoints"]}
    with override_settings(**routers), site(FLEET={"using": found.alias}):
        call_command("migrate", database=found.alias, verbosity=0)
        yield found
        connections[found.alias].close()
        connections[found.alias].close_pool()
        probing.close(timeout=PATIENCE)
        with server.connect() as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")


@pytest.fixture
def people(database: Database) -> dict[str, Client]:
    return {role: client_of(role) for role in ("superuser", "token", "anonymous")}


def ask(client: Client, path: str, within: float = SOON) -> Any:
    began = monotonic()
    response = client.get(f"/dbpool/{path}")
    took = monotonic() - began
    print(f"{path}: {response.status_code} in {took:.3f} s")
    assert took < within, path
    return response


@contextmanager
def connection_of_the_reserve(database: Database) -> Iterator[None]:
    """Another thread has it."""
    taken, release = threading.Event(), threading.Event()

    def take() -> None:
        with transaction.reserved(), transaction.atomic(using=database.alias):
            database.backend()
            taken.set()
            release.wait(PATIENCE)

    task = Task(take)
    assert taken.wait(PATIENCE)
    try:
        yield
    finally:
        release.set()
        task.result()


def test_an_exhausted_pool_shows_itself(database: Database, people: dict[str, Client]) -> None:
    with database.holding(1):
        for role in ("superuser", "token"):
            assert ask(people[role], "pools").status_code == 200
            assert ask(people[role], "holders").status_code == 200
            assert body(ask(people[role], "health/ready"))["databases"]
        assert body(ask(people["anonymous"], "health/ready")) == {"status": "ready"}
        page = ask(people["token"], "status").content.decode()
        assert "idle in transaction" in page and "1 / 1" in page
        assert ask(people["anonymous"], "health/live").status_code == 200
        assert database.pool.snapshot().waiting == 0


@pytest.mark.ci
def test_with_the_reserve_taken_too_a_token_still_works(database: Database, people: dict[str, Client]) -> None:
    with database.holding(1), connection_of_the_reserve(database):
        refused = ask(people["superuser"], "pools")
        assert (refused.status_code, refused["Retry-After"]) == (503, "5")
        assert "token" in body(refused)["detail"]
        found = body(ask(people["token"], "pools"))
        assert (found["source"], found["healthy"]) == ("process", False)
        ready = body(ask(people["token"], "health/ready"))
        assert ready["ok"], ready
        assert ask(people["anonymous"], "health/ready").status_code == 200
        assert ask(people["anonymous"], "health/live", 2.0).status_code == 200


@pytest.mark.parametrize("how", ["stop", pytest.param("freeze", marks=pytest.mark.ci)])
def test_while_the_database_is_away(
    how: str, database: Database, people: dict[str, Client], server: EmbeddedServer
) -> None:
    assert ask(people["superuser"], "pools").status_code == 200
    assert reports.remembered() is not None
    getattr(server, how)()
    try:
        for path in ("pools", "holders"):
            found = ask(people["token"], path)
            assert found.status_code == 200
            assert body(found)["remarks"], "it says why there is no more"
        refused = ask(people["superuser"], "pools")
        assert (refused.status_code, refused["Content-Type"]) == (503, "application/problem+json")
        assert "127.0.0.1" not in refused.content.decode()
        page = ask(people["token"], "status", 2.0).content.decode()
        assert "This process" in page and "Stale" in page
        for role, answer in (("anonymous", {"status": "not_ready"}), ("superuser", {"status": "not_ready"})):
            ready = ask(people[role], "health/ready", 2.5)
            assert (ready.status_code, body(ready)) == (503, answer)
        ready = ask(people["token"], "health/ready", 2.5)
        assert (ready.status_code, body(ready)["ok"]) == (503, False)
        assert ask(people["superuser"], "health/live", 2.0).status_code == 200
    finally:
        server.thaw() if how == "freeze" else server.start()
    assert ask(people["superuser"], "pools", PATIENCE).status_code == 200


def test_many_servers_that_are_frozen(
    make_database: MakeDatabase, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has three seconds, and all have them at the same time, as it were."""
    server.start()
    aliases = [make_database(server).alias for _ in range(5)]
    pools = [{**POOL, "alias": alias} for alias in aliases]
    with site(FLEET={"using": "default"}):
        publish(pools=pools, holders=[])
        server.freeze()
        try:
            monkeypatch.setattr(endpoint, "PATIENCE", 1.0)
            found = body(ask(client_of("token"), "pools?servers=true"))
        finally:
            server.thaw()
    assert all(any(repr(alias) in remark for remark in found["remarks"]) for alias in aliases)
    assert {each["alias"] for each in found["databases"]} >= set(aliases), "what was published is told all the same"


@pytest.mark.ci
def test_the_event_loop_goes_on(database: Database, people: dict[str, Client], server: EmbeddedServer) -> None:
    """Under ASGI, while as many requests as one likes wait for a frozen server."""
    server.freeze()
    ended: list[str] = []

    async def request(path: str) -> Any:
        headers = [(b"host", b"testserver"), (b"authorization", f"Bearer {TOKEN}".encode())]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": path,
            "query_string": b"", "headers": headers, "server": ("testserver", 80),
        }  # fmt: skip
        link = ApplicationCommunicator(ASGIHandler(), scope)
        await link.send_input({"type": "http.request", "body": b"", "more_body": False})
        await link.receive_output(PATIENCE)
        part = await link.receive_output(PATIENCE)
        await link.wait(PATIENCE)
        ended.append(path)
        return json.loads(part["body"])

    async def run() -> tuple[float, list[Any]]:
        slow = [asyncio.ensure_future(request("/dbpool/pools")) for _ in range(12)]
        longest, until = 0.0, monotonic() + 0.5
        while monotonic() < until:  # they are on their way
            began = monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, monotonic() - began)
        assert (await request("/dbpool/health/live"))["status"] == "ok"
        return longest, await asyncio.gather(*slow)

    try:
        longest, found = Task(asyncio.run, run()).result()
    finally:
        server.thaw()
    print(f"the loop stood still for {longest * 1000:.0f} ms at most")
    assert ended[0] == "/dbpool/health/live", "nobody waits in the loop, nor for each other"
    assert {each["source"] for each in found} == {"process"}
    assert longest < 1.0
