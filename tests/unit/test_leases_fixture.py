"""The check that runs after every test must see what it looks for, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connection, connections, transaction
from django.test import TestCase

from tests.app.models import Item
from tests.fixtures import leases
from tests.fixtures.aliases import MakeAlias


@contextmanager
def thread_in_transaction(alias: str) -> Iterator[threading.Thread]:
    """A thread that holds a lease until the end of the block."""
    holding, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1")
            holding.set()
            enough.wait(30)
        connections[alias].close()

    thread = threading.Thread(target=hold, name="keeps one")
    thread.start()
    try:
        assert holding.wait(10)
        yield thread
    finally:
        enough.set()
        thread.join()


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "GRACE", 0.05)


def test_a_lease_of_another_thread_is_found(make_alias: MakeAlias) -> None:
    alias = make_alias()
    with thread_in_transaction(alias):
        (left,) = leases.leases_left()
        assert (left.alias, left.thread) == (alias, "keeps one")
    assert leases.leases_left() == ()


@pytest.mark.django_db(transaction=True)
def test_a_lease_of_the_test_itself_is_closed_not_reported() -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    connection.set_autocommit(False)
    list(Item.objects.all())
    assert leases.leases_left() == ()


class TestTransactionsOfTestCase(TestCase):
    """The transaction around a class lives on between its tests."""

    def test_is_not_reported(self) -> None:
        Item.objects.create(name="rolled back")
        assert connection.in_atomic_block
        assert leases.leases_left() == ()
        assert Item.objects.count() == 1

    def test_another_thread_is_reported_all_the_same(self) -> None:
        with thread_in_transaction("default"):
            (left,) = leases.leases_left()
            assert left.thread == "keeps one"
