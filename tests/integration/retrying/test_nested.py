"""transaction.retrying(): where it may begin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import OperationalError, connections
from django.db import transaction as djangos
from django.db.transaction import TransactionManagementError
from django.test import TestCase

from django_dbpool import transaction
from django_dbpool.errors import RetryingInsideTransaction
from tests.app.failing import RAISE
from tests.app.models import Log
from tests.fixtures.pools import execute
from tests.integration.retrying.work import NOW, ON_TWO, MakePool, Observer, Work, fail, keys

pytestmark = pytest.mark.django_db(transaction=True)


def inside_atomic(alias: str, call: Callable[[], object]) -> None:
    with djangos.atomic(using=alias):
        call()


def inside_manual(alias: str, call: Callable[[], object]) -> None:
    djangos.set_autocommit(False, using=alias)
    try:
        call()
    finally:
        djangos.rollback(using=alias)
        djangos.set_autocommit(True, using=alias)


def inside_raw(alias: str, call: Callable[[], object]) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            call()
        finally:
            cursor.execute("ROLLBACK")
    connections[alias].close()


def inside_itself(alias: str, call: Callable[[], object]) -> None:
    transaction.retrying(alias, **NOW).call(call)


@pytest.mark.parametrize(
    ("where", "atomic"),
    [(inside_atomic, True), (inside_atomic, False), (inside_manual, True), (inside_raw, True), (inside_itself, True)],
)
def test_inside_a_transaction_it_is_refused(alias: str, where: Callable[..., None], atomic: bool) -> None:
    work = Work(alias)
    with pytest.raises(RetryingInsideTransaction, match="outermost") as raised:
        where(alias, lambda: transaction.retrying(alias, atomic=atomic, **NOW).call(work))
    assert isinstance(raised.value, TransactionManagementError)
    assert work.runs == 0


def test_autocommit_off_by_settings(make_pool: MakePool) -> None:
    for entry in ({}, {"POOL": {"enabled": False}}):
        alias = make_pool(AUTOCOMMIT=False, **entry)
        with pytest.raises(RetryingInsideTransaction, match="by hand"):
            transaction.retrying(alias).call(Work(alias))
        connections[alias].close()


@ON_TWO
def test_inside_of_one_without_a_transaction(alias: str, observer: Observer) -> None:
    """The inner one repeats; when it gives up, the outer one does, if nothing was committed."""
    work = Work(alias, *[lambda: fail(alias)] * 3)
    inner = transaction.retrying(alias, attempts=2, **NOW)
    transaction.retrying(alias, atomic=False, **NOW).call(inner.call, work)
    assert (work.runs, keys(observer)) == (4, ["run 4"])

    def twice() -> None:
        inner.call(Work(alias))
        fail(alias)

    with pytest.raises(OperationalError):
        transaction.retrying(alias, atomic=False, **NOW).call(twice)
    assert keys(observer) == ["run 4", "run 1"]


class TestInTestCase(TestCase):
    """Its transaction stands for none."""

    databases = {"default", "other"}

    def test_repeated(self) -> None:
        execute("default", RAISE)
        work = Work("default", lambda: fail("default"))
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            transaction.retrying(**NOW).call(work)
        assert callbacks == []
        assert [log.key for log in Log.objects.all()] == ["run 2"]

    def test_hooks_are_the_code_s_own(self) -> None:
        ran: list[str] = []

        def work() -> None:
            with djangos.atomic():
                Log.objects.create(key="a")
                djangos.on_commit(lambda: ran.append("hook"))

        for atomic in (True, False):
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                transaction.retrying(atomic=atomic).call(work)
            assert len(callbacks) == 1
        assert ran == ["hook", "hook"]

    def test_a_block_around_it_counts(self) -> None:
        with pytest.raises(RetryingInsideTransaction), djangos.atomic():
            transaction.retrying().call(Work("default"))
