"""Who holds and who waits, by name; where each lease was begun; and what is said of those that take too long."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections, transaction
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path, register_converter, resolve

from django_dbpool.backends import sampler
from django_dbpool.core import callers, reporter
from django_dbpool.core.ledger import begin_unit, end_unit
from django_dbpool.errors import PoolExhausted
from django_dbpool.statements import Activity, activity
from testproject.processes import wait_until
from tests.fixtures.pools import execute, hold, holders
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]


class Shop:
    """As projects have them: what is in the path is looked up in the database."""

    regex = "[a-z]+"
    alias: str
    asked = 0

    def to_python(self, value: str) -> str:
        Shop.asked += 1
        execute(Shop.alias, "SELECT 1")
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(Shop, "shop_of_activity")
urlpatterns = [
    path("reports/<int:pk>/", lambda request, pk: HttpResponse()),
    path("shops/<shop_of_activity:shop>/", lambda request, shop: HttpResponse()),
]


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    sampler.reset()
    with override_settings(ROOT_URLCONF=__name__):
        resolve("/reports/1/")
        yield
    sampler.reset()


def row(alias: str, name: str | None) -> Activity:
    return next(row for row in activity() if (row.alias, row.name) == (alias, name))


def work_for(request: str, call: Callable[..., object], *args: Any) -> None:
    begin_unit({"REQUEST_METHOD": "GET", "PATH_INFO": request})
    try:
        call(*args)
    finally:
        end_unit()


def test_who_holds_a_full_pool_is_named_without_asking_the_database(
    make_pool: MakePool, make_worker: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter that does would wait for a connection of the pool whose holders are being named."""
    alias = make_pool(size=1, POOL={"timeout": 0.2})
    monkeypatch.setattr(Shop, "alias", alias, raising=False)
    holder, waiter = make_worker(), make_worker()
    holder(begin_unit, {"REQUEST_METHOD": "GET", "PATH_INFO": "/shops/ann/"})
    holder(hold, alias)
    monkeypatch.setattr(Shop, "asked", 0)
    error = waiter.start(execute, alias, "SELECT 1").exception(PATIENCE)
    sampler.look()
    assert isinstance(error, PoolExhausted)
    assert [(each.name, each.unit) for each in error.holders] == [
        ("shops/<shop_of_activity:shop>/", "GET /shops/<shop_of_activity:shop>/")
    ]
    assert row(alias, "shops/<shop_of_activity:shop>/").held.minute >= 0
    assert Shop.asked == 0
    holder(connections.close_all)
    holder(end_unit)


def test_holders_and_waiters_by_route(make_pool: MakePool, make_worker: Callable[[], Worker]) -> None:
    alias = make_pool(size=1, POOL={"timeout": 20})
    other = make_pool(size=1)
    worker, waiter = make_worker(), make_worker()
    worker(begin_unit, {"REQUEST_METHOD": "GET", "PATH_INFO": "/reports/7/"})
    worker(hold, alias)
    hold(other)
    waiting = waiter.start(work_for, "/reports/8/", execute, alias, "SELECT 1")
    assert wait_until(lambda: connections[alias].pool.snapshot().waiting == 1, PATIENCE)
    sampler.look()
    sampler.look()
    route = row(alias, "reports/<int:pk>/")
    assert route.held.minute == pytest.approx(1)
    assert route.waiting.minute == pytest.approx(1)
    assert row(other, None).held.minute == pytest.approx(1)
    worker(transaction.rollback, using=alias)
    worker(transaction.set_autocommit, True, using=alias)
    worker(end_unit)
    waiting.result(PATIENCE)
    sampler.look()
    route = row(alias, "reports/<int:pk>/")
    sampler.look()
    assert 0 < row(alias, "reports/<int:pk>/").held.minute < 1
    transaction.rollback(using=other)
    transaction.set_autocommit(True, using=other)


def test_the_job_ends_itself_under_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as outside:
        outside.delattr("django.core.mail.outbox")
        sampler.start()
        reporter.flush()
        assert sampler.JOB in reporter._jobs
    reporter.flush()
    assert sampler.JOB not in reporter._jobs


# -- where it was leased ----------------------------------------------------------------------------------------------


@pytest.fixture
def recording() -> Iterator[None]:
    with override_settings(DBPOOL={"LEAK_STACKS": True}):
        yield


class Document:
    pass


def borrow(alias: str) -> weakref.ref[Document]:
    document = Document()
    transaction.set_autocommit(False, using=alias)
    execute(alias, "SELECT 1")
    return weakref.ref(document)


def give_back(alias: str) -> None:
    transaction.rollback(using=alias)
    transaction.set_autocommit(True, using=alias)


def here(call: Callable[..., Any], *args: Any) -> Any:
    return call(*args)


def test_each_lease_says_where_it_began(single: str, recording: None, make_worker: Callable[[], Worker]) -> None:
    """The first lease, which opens a connection, one that finds one free, and one of another thread."""
    execute(single, "SELECT 1")  # so that this thread's next lease is one of the hot path
    for who in (make_worker(), here, make_worker()):
        document = who(borrow, single)
        (holder,) = holders(single)
        assert "tests/fixtures/pools.py" in holder.leased_at[0] and " in execute: " in holder.leased_at[0]
        assert any(" in borrow: execute(alias" in call for call in holder.leased_at)
        assert any(" in here: " in call for call in holder.leased_at) == (who is here)
        assert not any("django_dbpool/backends" in call for call in holder.leased_at)
        assert len(holder.leased_at) <= callers.DEEPEST
        who(give_back, single)
        assert document() is None


def test_no_variable_of_a_caller_is_kept(single: str, recording: None) -> None:
    document = borrow(single)
    gc.collect()
    assert holders(single)[0].leased_at
    assert document() is None
    give_back(single)


def test_errors_carry_it(make_pool: MakePool, recording: None, worker: Worker) -> None:
    single = make_pool(POOL={"timeout": 0.2})
    worker(borrow, single)
    with pytest.raises(PoolExhausted) as caught:
        execute(single, "SELECT 1")
    assert any(" in borrow: " in call for call in caught.value.holders[0].leased_at)
    assert "borrow" not in str(caught.value)
    worker(give_back, single)


def test_switched_off(single: str) -> None:
    with override_settings(DBPOOL={"LEAK_STACKS": True}):
        borrow(single)
    assert not callers.recording
    assert holders(single)[0].leased_at == ()
    give_back(single)
    borrow(single)
    assert holders(single)[0].leased_at == ()
    give_back(single)


def test_overdue_and_back_again(
    make_pool: MakePool, recording: None, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning with the place, one notice with the time it took."""
    caplog.set_level(logging.INFO, "django_dbpool.pool")
    alias = make_pool(POOL={"leak_after": 0.05})
    worker(borrow, alias)

    def said(words: str) -> list[logging.LogRecord]:
        return [record for record in caplog.records if words in record.getMessage()]

    def reported() -> bool:
        connections[alias].pool.housekeeping.tick()
        return bool(said("is held for long"))

    assert wait_until(reported, PATIENCE)
    connections[alias].pool.housekeeping.tick()
    (overdue,) = said("is held for long")
    lines = overdue.getMessage().splitlines()
    assert overdue.levelname == "WARNING"
    assert lines[1] == "Leased at, innermost call first:"
    assert any(" in borrow: " in line for line in lines[2:])
    assert said("came back") == []
    worker(give_back, alias)
    (returned,) = said("came back")
    assert returned.levelname == "INFO"
    worker(borrow, alias)
    worker(give_back, alias)
    assert len(said("came back")) == 1


def test_a_log_that_raises_keeps_no_connection(
    make_pool: MakePool, break_log: Callable[[str], None], caplog: pytest.LogCaptureFixture, worker: Worker
) -> None:
    alias = make_pool(POOL={"leak_after": 0.05})
    worker(borrow, alias)
    pool = connections[alias].pool
    (entry,) = pool.entries

    def reported() -> bool:
        pool.housekeeping.tick()
        return bool(entry.reported == entry.generation)

    assert wait_until(reported, PATIENCE)
    caplog.set_level(logging.INFO, "django_dbpool.pool")
    break_log("django_dbpool.pool")
    worker(give_back, alias)
    assert holders(alias) == ()
    assert pool.gate.free
