"""The dashboard where a server takes what is sent to it and answers nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from django_dbpool.admin import model_admin
from testproject.postgres import EmbeddedServer
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task
from tests.fixtures.aliases import Everything
from tests.fixtures.dashboard import client_of, site, url

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def database(
    make_database: MakeDatabase, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """With no time limit of its own."""
    server.start()
    found = make_database(server, max_size=2, reserve_size=1, timeout=PATIENCE)
    monkeypatch.setattr(Everything, "alias", found.alias)
    routers = {"DATABASE_ROUTERS": ["tests.fixtures.aliases.Everything"]}
    with override_settings(**routers), site(FLEET={"using": found.alias}):
        call_command("migrate", database=found.alias, verbosity=0)
        yield found
        connections[found.alias].close()
        connections[found.alias].close_pool()
        with server.connect() as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")


@pytest.mark.parametrize(("page", "limit"), [("changelist", "PATIENCE"), ("action", "PATIENCE_OF_ACTIONS")])
def test_no_page_waits_for_a_frozen_server(
    page: str, limit: str, database: Database, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script asks again every few seconds, and each of them would have a thread until the server thaws."""
    client = client_of("superuser")
    client.raise_request_exception = False
    monkeypatch.setattr(model_admin, limit, 0.5)
    assert client.get(url(page)).status_code in (200, 302)
    server.freeze()
    try:
        answer = Task(client.get, url(page)).result(PATIENCE)
    finally:
        server.thaw()
    assert answer.status_code == 503
    assert client.get(url(page)).status_code in (200, 302)
