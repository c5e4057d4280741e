"""Readiness while a server is frozen, stopped, full, out of reach or refuses: nobody waits for it."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from time import monotonic
from typing import Any

import pytest

from django_dbpool.pool import dedicated, probing
from django_dbpool.pool.entry import PoolEntry
from testproject.postgres import EmbeddedServer, Server
from testproject.processes import wait_until
from tests.faults.health.probes import MakeDatabase, asked, of, probe_threads
from tests.faults.helpers import PATIENCE
from tests.fixtures.proxy import Proxy

pytestmark = pytest.mark.django_db(transaction=True)


def test_frozen_and_thawed(server: EmbeddedServer, make_database: MakeDatabase) -> None:
    """Once with a connection from before, once without."""
    database = make_database(server)
    assert of(database).ok
    with ExitStack() as stack:
        server.freeze()
        stack.callback(server.thaw)
        for _ in range(3):
            began = monotonic()
            found = of(database)
            assert (found.ok, found.code) == (False, "timeout")
            assert monotonic() - began < PATIENCE / 3
        # The probe has given its connection up, and hangs in making another.
        assert wait_until(lambda: not dedicated.dedicated_backends().get(database.alias), PATIENCE)
        assert of(database).code == "timeout"
        assert len([name for name in probe_threads() if name.endswith(database.alias)]) == 1
    assert wait_until(lambda: of(database).ok, PATIENCE)


def test_stopped_and_started(server: EmbeddedServer, make_database: MakeDatabase) -> None:
    database = make_database(server)
    assert of(database).ok
    server.stop("immediate")
    try:
        found = of(database)
        assert (found.ok, found.code) == (False, "unreachable")
    finally:
        server.start()
    assert wait_until(lambda: of(database).ok, PATIENCE)


def test_black_hole(proxy: Proxy, make_database: MakeDatabase) -> None:
    database = make_database(HOST=proxy.host, PORT=str(proxy.port))
    assert of(database).ok
    proxy.blackhole()
    try:
        assert of(database).code == "timeout"
        assert len([name for name in probe_threads() if name.endswith(database.alias)]) == 1
    finally:
        proxy.start()
    assert wait_until(lambda: of(database).ok, PATIENCE)


def test_a_connection_that_was_reset(
    proxy: Proxy, make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the very moment in which it is used."""
    database = make_database(HOST=proxy.host, PORT=str(proxy.port))
    assert of(database).ok
    monkeypatch.setattr(PoolEntry, "suspicious", lambda self: False)
    proxy.drop()
    assert of(database).ok


def test_a_full_server(make_database: MakeDatabase, session_server: Server) -> None:
    """It answers. Who has connections can serve, who has none can't."""
    with session_server.connect() as connection:
        connection.execute("CREATE ROLE health_limited LOGIN CONNECTION LIMIT 1")
    try:
        database = make_database(USER="health_limited", breaker=True)
        assert database.backend()
        found = of(database)
        assert (found.ok, found.code) == (True, "full")
        database.connection.close_pool()
        elsewhere = make_database(USER="health_limited")
        assert wait_until(lambda: not database.backends(), PATIENCE)
        with elsewhere.holding():
            found = of(database)
            assert (found.ok, found.code) == (False, "full")
        elsewhere.connection.close_pool()
    finally:
        probing.close(timeout=PATIENCE)
        with session_server.connect() as connection:
            assert wait_until(lambda: _dropped(connection), PATIENCE)


def _dropped(connection: Any) -> bool:
    connection.execute("DROP ROLE IF EXISTS health_limited")
    return True


def test_refused_credentials(make_database: MakeDatabase) -> None:
    database = make_database(USER="health_nobody")
    found = [of(database, fresh=False) for _ in range(3)]
    assert {each.code for each in found} == {"refused"}
    assert "health_nobody" not in json.dumps([each.to_json() for each in found])
    assert asked(database) == 1


class Vault:
    """A provider that can't be copied, as clients with a lock can't."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.error: Exception | None = None

    def password(self) -> str:
        with self._lock:
            if self.error is not None:
                raise self.error
            return "s3cret"


def test_password_as_a_function(make_database: MakeDatabase, caplog: pytest.LogCaptureFixture) -> None:
    vault = Vault()
    database = make_database(PASSWORD=vault.password)
    assert of(database).ok
    database.connection.close_pool()
    vault.error = LookupError("hvs.token")
    found = of(database)
    assert (found.ok, found.code) == (False, "no_password")
    assert "hvs.token" not in json.dumps(found.to_json())
    vault.error = None
    assert of(database).ok, "nothing was sent to the server: no reason to wait"
