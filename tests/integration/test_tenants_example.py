"""The example of docs/multi-tenancy.md: two tenants, by schema and by policy, as a role to which policies apply."""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.core.management import call_command
from django.db import Error, IntegrityError, ProgrammingError, connection, connections, transaction
from django.test import Client, override_settings

from django_dbpool.transaction import session
from testproject.tenants import settings as example
from testproject.tenants.models import Invoice, Note
from testproject.tenants.tasks import count_invoices
from testproject.tenants.tenancy import TENANTS, migrate_schema, variables_of
from tests.fixtures.celery_state import celery_of_its_own
from tests.fixtures.pools import size, value

pytestmark = pytest.mark.django_db(transaction=True)

RED, BLUE = TENANTS
ROLE = (Path(example.__file__).parent / "role.sql").read_text()


@pytest.fixture
def owner(transactional_db: None, observer: psycopg.Connection[Any]) -> Iterator[None]:
    """Schemas and rows, made as the owner of the tables, who is a superuser here."""
    observer.execute(ROLE)
    try:
        for tenant in TENANTS.values():
            migrate_schema(tenant)
            with session(**variables_of(tenant)):
                Note.objects.create(text=f"note of {tenant}")
                Invoice.objects.bulk_create(Invoice(number=10 * tenant + n) for n in range(3))
        yield
    finally:
        observer.execute("DROP SCHEMA IF EXISTS tenant_1, tenant_2 CASCADE; DROP OWNED BY shop_app; DROP ROLE shop_app")


@pytest.fixture
def as_application(owner: None) -> Iterator[None]:
    connection.close_pool()
    before = connection.settings_dict["USER"]
    connection.settings_dict["USER"] = "shop_app"
    yield
    connection.close_pool()
    connection.settings_dict["USER"] = before


@pytest.fixture
def site(as_application: None) -> Iterator[None]:
    with override_settings(
        ROOT_URLCONF=example.ROOT_URLCONF,
        ALLOWED_HOSTS=example.ALLOWED_HOSTS,
        MIDDLEWARE=["django_dbpool.middleware.SessionVariablesMiddleware"],
        DBPOOL=example.DBPOOL,
    ):
        yield


def get(path: str, host: str) -> Any:
    response = Client().get(path, headers={"host": host})
    assert response.status_code == 200
    return response.json()


# -- requests -------------------------------------------------------------------------------------------------------


def test_tenants_are_apart(site: None, client: Client) -> None:
    assert client.get("/invoices/", headers={"host": "red.localhost"}).json() == {"invoices": [10, 11, 12]}
    assert client.get("/invoices/", headers={"host": "blue.localhost"}).json() == {"invoices": [20, 21, 22]}


def test_each_tenant_sees_its_own(site: None, pins: list[str]) -> None:
    for _ in range(2):
        assert get("/notes/", RED) == {"notes": ["note of 1"]}
        assert get("/notes/", BLUE) == {"notes": ["note of 2"]}
        assert get("/invoices/", RED) == {"invoices": [10, 11, 12]}
        assert get("/invoices/", BLUE) == {"invoices": [20, 21, 22]}
    assert pins == []
    assert size("default") == 1


def test_rows_are_written_for_the_tenant_of_the_request(site: None) -> None:
    client = Client(headers={"host": RED})
    assert client.post("/notes/", {"text": "new"}).json() == {"notes": ["note of 1", "new"]}
    assert client.post("/invoices/", {"number": "13"}).json() == {"invoices": [10, 11, 12, 13]}
    assert get("/notes/", BLUE) == {"notes": ["note of 2"]}
    assert get("/invoices/", BLUE) == {"invoices": [20, 21, 22]}


def test_two_tenants_may_use_the_same_number_and_none_may_write_for_the_other(site: None) -> None:
    with session(**variables_of(1)):
        Invoice.objects.create(number=20)
        with pytest.raises(IntegrityError):
            Invoice.objects.create(number=20)
        with pytest.raises(ProgrammingError, match="row-level security"):
            Invoice.objects.create(number=99, tenant=2)
        assert Invoice.objects.filter(tenant=2).update(number=0) == 0
        assert Invoice.objects.filter(tenant=2).delete()[0] == 0


def test_streamed_body(site: None) -> None:
    response = Client().get("/export/", headers={"host": BLUE})
    assert response.getvalue() == b"20\n21\n22\n"  # type: ignore[attr-defined]


async def get_async(path: str, host: str) -> Any:
    """AsyncClient can't choose its host: it sends ``testserver`` besides."""
    application = ASGIHandler()
    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", host.encode())], "query_string": b""}
    communicator = ApplicationCommunicator(application, scope)
    await communicator.send_input({"type": "http.request", "body": b""})
    assert (await communicator.receive_output())["status"] == 200
    return json.loads((await communicator.receive_output())["body"])


def test_async_view(site: None) -> None:
    async def four() -> list[Any]:
        return list(await asyncio.gather(*(get_async("/invoices-async/", host) for host in (RED, BLUE, RED, BLUE))))

    assert asyncio.run(four()) == [{"invoices": [10, 11, 12]}, {"invoices": [20, 21, 22]}] * 2


def test_unknown_host_has_nothing(site: None) -> None:
    get("/invoices/", RED)
    assert get("/invoices/", "nobody.localhost") == {"invoices": []}
    with pytest.raises(ProgrammingError, match="tenants_note"):
        get("/notes/", "nobody.localhost")
    with pytest.raises(ProgrammingError, match="row-level security"):
        Client().post("/invoices/", {"number": "1"}, headers={"host": "nobody.localhost"})


# -- elsewhere ------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_celery() -> Iterator[None]:
    with celery_of_its_own():
        yield


def test_task(site: None, own_celery: None) -> None:
    with session(**variables_of(1)):
        Invoice.objects.create(number=13)
    assert count_invoices.apply(args=[1]).get() == 4
    assert count_invoices.apply(args=[2]).get() == 3


def test_commands(owner: None, site: None) -> None:
    out = io.StringIO()
    call_command("tenant_report", 2, stdout=out)
    assert out.getvalue() == "tenant 2: 3 invoices, 1 notes\n"


def test_schemas_migrate_again_without_effect(owner: None, observer: psycopg.Connection[Any]) -> None:
    call_command("tenant_schema", 1)
    tables = observer.execute(
        "SELECT schemaname, tablename FROM pg_tables WHERE tablename ~ '^(tenants_|django_migrations)' ORDER BY 1, 2"
    ).fetchall()
    assert tables == [
        ("public", "django_migrations"),
        ("public", "tenants_invoice"),
        ("tenant_1", "django_migrations"),
        ("tenant_1", "tenants_note"),
        ("tenant_2", "django_migrations"),
        ("tenant_2", "tenants_note"),
    ]


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_migrations_are_complete() -> None:
    call_command("makemigrations", "tenants", check=True, dry_run=True, verbosity=0)


# -- traps ----------------------------------------------------------------------------------------------------------


def test_superusers_see_everything(owner: None) -> None:
    with session(**variables_of(1)):
        assert Invoice.objects.count() == 6


def test_owners_are_subject_to_the_policy_only_if_it_is_forced(owner: None, observer: psycopg.Connection[Any]) -> None:
    observer.execute("ALTER TABLE tenants_invoice OWNER TO shop_app")

    def seen() -> int:
        with connections["default"].cursor() as cursor, transaction.atomic():
            cursor.execute("SET LOCAL ROLE shop_app")
            cursor.execute("SELECT count(*) FROM tenants_invoice")
            return int(cursor.fetchone()[0])

    try:
        assert seen() == 0
        observer.execute("ALTER TABLE tenants_invoice NO FORCE ROW LEVEL SECURITY")
        assert seen() == 6
    finally:
        observer.execute("ALTER TABLE tenants_invoice FORCE ROW LEVEL SECURITY")
        observer.execute("ALTER TABLE tenants_invoice OWNER TO CURRENT_USER")


def test_without_a_tenant_the_variable_is_null_and_later_empty(site: None) -> None:
    current = "SELECT current_setting('app.tenant', true)"
    assert value("default", current) is None
    with session(**{"app.tenant": 1}):
        assert value("default", current) == "1"
    assert value("default", current) == ""
    with pytest.raises(Error, match="invalid input syntax"):
        value("default", "SELECT current_setting('app.tenant', true)::integer")


def in_thread(function: Callable[[], Any]) -> Any:
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(function())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return answers[0]


def test_threads_started_by_hand_need_the_context(site: None) -> None:
    with session(**variables_of(1)):
        assert in_thread(Invoice.objects.count) == 0
        context = contextvars.copy_context()
        assert in_thread(lambda: context.run(Invoice.objects.count)) == 3


def test_lists_are_quoted_and_strings_are_not(site: None) -> None:
    show = "SELECT current_setting('search_path')"
    with session(search_path=["tenant_1, pg_temp", "public"]):
        assert value("default", show) == '"tenant_1, pg_temp", "public"'
    with session(search_path="tenant_1, pg_temp"):
        assert value("default", "SELECT current_schemas(false)") == ["tenant_1"]


def test_lazy_querysets_run_where_they_are_read(site: None) -> None:
    with session(**variables_of(1)):
        invoices = Invoice.objects.all()
    assert list(invoices) == []
