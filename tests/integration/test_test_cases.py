"""Django's test cases and pytest-django's fixtures on this engine."""

from __future__ import annotations

from typing import Any
from urllib.request import urlopen

import pytest
from django.db import IntegrityError, connection, transaction
from django.http import HttpRequest, HttpResponse
from django.test import LiveServerTestCase, TestCase, TransactionTestCase, override_settings
from django.urls import path

from tests.app.models import Item, Log
from tests.fixtures.pools import backend, in_use


class TestIsolation(TestCase):
    """Each test begins with the class's data and loses its own, on two databases, in whatever order they run."""

    databases = {"default", "other"}
    item: Item

    @classmethod
    def setUpTestData(cls) -> None:
        cls.item = Item.objects.create(name="class")
        Item.objects.using("other").create(name="class")

    def change_everything(self) -> None:
        assert self.item.name == "class"
        for alias in self.databases:
            assert [item.name for item in Item.objects.using(alias).all()] == ["class"]
            Item.objects.using(alias).update(name="changed")
            Item.objects.using(alias).create(name="more")
        self.item.refresh_from_db()
        self.item.delete()

    def test_one(self) -> None:
        self.change_everything()

    def test_another(self) -> None:
        self.change_everything()

    def test_after_an_error(self) -> None:
        with pytest.raises(IntegrityError), transaction.atomic():
            Item.objects.create(pk=self.item.pk, name="twice")
        self.change_everything()

    def test_one_session_for_the_whole_test(self) -> None:
        mine = backend("default")
        with transaction.atomic(), connection.chunked_cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            assert cursor.fetchone() == (mine,)
        assert backend("default") == mine
        assert (in_use("default"), in_use("other")) == (1, 1)

    def test_session_state_is_allowed(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '777ms'")
        self.change_everything()

    def test_commit_callbacks(self) -> None:
        ran: list[str] = []
        with self.captureOnCommitCallbacks(execute=True) as callbacks, transaction.atomic():
            transaction.on_commit(lambda: ran.append("hook"))
            Log.objects.create(key="a")
        assert ran == ["hook"]
        assert len(callbacks) == 1

    def test_number_of_queries(self) -> None:
        with self.assertNumQueries(3), transaction.atomic():  # with its savepoint
            list(Item.objects.all())


class TestNothingIsLeft(TestCase):
    """A TestCase without class data, after or before the one above."""

    databases = {"default", "other"}

    def test_empty(self) -> None:
        for alias in self.databases:
            assert not Item.objects.using(alias).exists()


class TestCommitted(TransactionTestCase):
    """Real commits; the tables are emptied afterwards though a test forgot its lease."""

    def write_and_pin(self) -> None:
        assert not Item.objects.exists()
        with transaction.atomic():
            Item.objects.create(name="a")
        assert in_use("default") == 0
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '10s'")
        Item.objects.create(name="b")

    def test_one(self) -> None:
        self.write_and_pin()

    def test_another(self) -> None:
        self.write_and_pin()

    def test_transaction_left_open(self) -> None:
        self.write_and_pin()
        transaction.set_autocommit(False)
        Item.objects.create(name="c")
        transaction.rollback()
        transaction.set_autocommit(True)


def count_items(request: HttpRequest) -> HttpResponse:
    Log.objects.create(key="served")
    return HttpResponse(f"{Item.objects.count()} items")


@override_settings(ROOT_URLCONF=(path("", count_items),), STATIC_URL="/static/")
class TestLiveServer(LiveServerTestCase):
    """The server's threads lease for themselves and see what the test has committed."""

    def test_requests(self) -> None:
        for n in range(5):
            Item.objects.create(name=str(n))
            with urlopen(self.live_server_url, timeout=20) as answer:
                assert answer.read() == f"{n + 1} items".encode()
            assert in_use("default") == 0
        assert Log.objects.count() == 5


def test_fixture_db(db: None, django_assert_num_queries: Any, django_capture_on_commit_callbacks: Any) -> None:
    """pytest-django's counterpart of TestCase, with its query counter and its hooks."""
    with django_assert_num_queries(2):
        item = Item.objects.create(name="a")
        Item.objects.get(pk=item.pk)
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        transaction.on_commit(lambda: Log.objects.create(key="hook"))
    assert len(callbacks) == 1
    assert Log.objects.count() == 1


def test_fixture_transactional_db(transactional_db: None) -> None:
    """pytest-django's counterpart of TransactionTestCase."""
    Item.objects.create(name="a")
    assert in_use("default") == 0


def test_database_is_blocked_without_a_fixture() -> None:
    """pytest-django stands in ensure_connection(): code that touches the database unasked is told so."""
    with pytest.raises(RuntimeError, match="Database access not allowed"):
        Item.objects.count()
    with pytest.raises(RuntimeError, match="Database access not allowed"), transaction.atomic():
        Item.objects.create(name="a")
