"""The dashboard when it is needed: pools exhausted, a store that is away, a large fleet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from django_dbpool import reports
from tests.fixtures.counting import calls
from tests.fixtures.dashboard import PAGES, client_of, site, url
from tests.fixtures.fleets import many
from tests.fixtures.pools import hold
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def operator() -> Client:
    return client_of("operator")


@pytest.fixture
def exhausted(operator: Client) -> Iterator[None]:
    """Others hold every ordinary connection, and a caller waits."""
    connections["default"].close()
    workers = [Worker(f"holder-{number}") for number in range(settings.DATABASES["default"]["POOL"]["max_size"])]
    try:
        for worker in workers:
            worker(hold, "default")
        yield
    finally:
        with ExitStack() as stack:
            for worker in workers:
                stack.callback(worker.stop)
                worker(lambda: connections["default"].close())


@pytest.mark.usefixtures("exhausted")
@pytest.mark.parametrize("atomic", [False, True], ids=["autocommit", "atomic requests"])
def test_pages_and_actions_work_while_the_pool_is_exhausted(
    atomic: bool, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log-in, the fleet's table, a session that is saved with each answer, the history of actions."""
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", atomic)
    with (
        site(),
        override_settings(
            SESSION_SAVE_EVERY_REQUEST=True, MESSAGE_STORAGE="django.contrib.messages.storage.session.SessionStorage"
        ),
    ):
        began = time.monotonic()
        for page in PAGES:
            answer = operator.get(url(page))
            assert answer.status_code == 200, page
        with site(FLEET=None):
            row = next(row for row in reports.holders(reports.own()).items if row.who.startswith("thread holder-0"))
            answer = operator.post(url("action"), {"terminate": row.key})
            assert answer.status_code == 200
            answer = operator.post(url("action"), {"terminate": row.key, "confirmed": "yes"})
            assert answer.status_code == 302
            assert "Done." in str(*operator.get(answer["Location"]).context["messages"])
        timeout = settings.DATABASES["default"]["POOL"]["timeout"]
        assert time.monotonic() - began < 10 * timeout, "nobody has waited for an ordinary connection"


def test_operators_can_log_in_while_the_pool_is_exhausted(
    operator: Client, request: pytest.FixtureRequest, client: Client
) -> None:
    """Where their log-in has the reserve: the user is found, the session is made, and it is saved behind the view."""
    User.objects.create_superuser("root", password="a password")
    request.getfixturevalue("exhausted")
    with site():
        form = {"username": "root", "password": "a password", "next": url("changelist", "operators")}
        for address, status in (("/operators/login/", 302), ("/admin/login/", 503)):
            client.raise_request_exception = False
            assert client.post(address, form).status_code == status
            connections["default"].close()
        assert client.get(url("changelist", "operators")).status_code == 200


def test_large_fleet_is_a_quick_and_small_page(operator: Client) -> None:
    """200 processes, 5,000 holders: less than 300 KB, as many queries as of one process, work that grows with them."""
    queries: dict[tuple[int, str], int] = {}
    work: dict[tuple[int, str], int] = {}
    with site():
        for page in PAGES:
            operator.get(url(page))  # templates are read once
        for number in (1, 20, 200):
            _insert(many(number, 25))
            for page in PAGES:
                with CaptureQueriesContext(connections["default"]) as captured, calls() as counted:
                    answer = operator.get(url(page))
                assert answer.status_code == 200
                assert len(answer.content) < 300 * 1024, page
                queries[number, page] = len(captured)
                work[number, page] = counted.number
        for page in PAGES:
            began = time.thread_time()
            size = len(operator.get(url(page)).content)
            print(f"200 processes, {page}: {time.thread_time() - began:.2f} s of processor time, {size} bytes")
        _insert([])
    assert len(set(queries.values())) == 1, queries
    for page in PAGES:
        assert work[200, page] < 11 * work[20, page], (page, work)


def _insert(documents: list[dict[str, Any]]) -> None:
    from django_dbpool.fleet.snapshot import encoded

    with connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM django_dbpool_process")
        for document in documents:
            cursor.execute(
                "INSERT INTO django_dbpool_process VALUES (%s, now(), now() + interval '1 minute', %s)",
                [document["instance"], encoded(document)],
            )
    connections["default"].close()
