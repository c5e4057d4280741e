"""``DatabaseTask``: what passes is tried again unless something is done already, and nothing is held in its hooks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult
from django.db import IntegrityError, connection, transaction

from django_dbpool.contrib.celery import DatabaseTask
from django_dbpool.errors import CommitUnknown, ConnectionLost
from tests.app.models import Log
from tests.fixtures.inner_worker import application, running
from tests.fixtures.pools import in_use
from tests.fixtures.workers import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)


Send = Callable[..., AsyncResult[Any]]


@pytest.fixture(scope="module")
def app() -> Celery:
    return application()


@pytest.fixture(scope="module")
def send(app: Celery) -> Iterator[Send]:
    with running(app) as send:
        yield send


class Soon(DatabaseTask):
    abstract = True
    retry_backoff = 0.01


def lose() -> None:
    """The server ends this session."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def lines() -> list[str]:
    return list(Log.objects.order_by("pk").values_list("key", flat=True))


@pytest.fixture
def task(app: Celery, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Decorates a task of this test's."""
    return partial(app.task, shared=False, name=request.node.name, base=Soon)


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_lost_transaction_is_done_again(send: Send, task: Any, idempotent: bool) -> None:
    @task(bind=True, idempotent=idempotent)
    def work(self: DatabaseTask) -> int:
        with transaction.atomic():
            Log.objects.create(key=f"attempt {self.request.retries}")
            if self.request.retries < 2:
                lose()
        return int(self.request.retries)

    assert send(work).get(timeout=PATIENCE) == 2
    assert lines() == ["attempt 2"]


def test_what_is_committed_is_not_done_again(send: Send, task: Any) -> None:
    """Its error says why; a task that says that this does no harm is done again."""

    def work(self: DatabaseTask) -> None:
        Log.objects.create(key=f"attempt {self.request.retries}")
        if self.request.retries < 1:
            with transaction.atomic():
                lose()

    result = send(task(bind=True, name="careful")(work))
    with pytest.raises(ConnectionLost):
        result.get(timeout=PATIENCE)
    assert "has been committed" in result.traceback
    assert lines() == ["attempt 0"]
    send(task(bind=True, name="bold", idempotent=True)(work)).get(timeout=PATIENCE)
    assert lines() == ["attempt 0"] * 2 + ["attempt 1"]


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_commit_without_an_answer_is_repeated_where_it_does_no_harm(send: Send, task: Any, idempotent: bool) -> None:
    @task(bind=True, idempotent=idempotent)
    def work(self: DatabaseTask) -> int:
        with transaction.atomic(), connection.cursor() as cursor:
            Log.objects.create(key="line")
            if not self.request.retries:
                cursor.execute("CREATE TEMP TABLE t (n int) ON COMMIT DROP")
                cursor.execute(END_AT_COMMIT)
                cursor.execute("INSERT INTO t VALUES (1)")
        return int(self.request.retries)

    if idempotent:
        assert send(work).get(timeout=PATIENCE) == 1
    else:
        with pytest.raises(CommitUnknown):
            send(work).get(timeout=PATIENCE)
    assert lines() == ["line"] * idempotent


END_AT_COMMIT = """
CREATE FUNCTION pg_temp.leave() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER leave AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION pg_temp.leave();
"""


def test_a_full_pool_is_asked_again_later(send: Send, task: Any) -> None:
    """It waits in the queue, not in the pool."""
    full, free = threading.Barrier(5), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            Log.objects.exists()
            full.wait(PATIENCE)
            free.wait(PATIENCE)
        connection.close()

    @task(bind=True)
    def work(self: DatabaseTask) -> int:
        if self.request.retries:
            free.set()
        Log.objects.exists()
        return int(self.request.retries)

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    full.wait(PATIENCE)
    assert send(work).get(timeout=PATIENCE) >= 1
    for thread in threads:
        thread.join()


def test_an_error_of_the_code_is_its_own(send: Send, task: Any) -> None:
    @task(bind=True)
    def work(self: DatabaseTask) -> None:
        if not Log.objects.exists():
            Log.objects.create(key="once")
            raise IntegrityError("mine")

    with pytest.raises(IntegrityError):
        send(work).get(timeout=PATIENCE)
    assert lines() == ["once"]


def test_it_is_not_tried_for_ever(send: Send, task: Any) -> None:
    @task(bind=True, max_retries=2, idempotent=True)
    def work(self: DatabaseTask) -> None:
        Log.objects.create(key=f"attempt {self.request.retries}")
        with transaction.atomic():
            lose()

    with pytest.raises(ConnectionLost):
        send(work).get(timeout=PATIENCE)
    assert lines() == ["attempt 0", "attempt 1", "attempt 2"]


def test_hooks_hold_nothing(send: Send, task: Any) -> None:
    """Not even what the task has pinned."""
    held: list[tuple[str, int]] = []

    class Hooked(Soon):
        abstract = True

        def before_start(self, *args: Any) -> None:
            held.append(("before_start", in_use("default")))

        def on_success(self, *args: Any) -> None:
            held.append(("on_success", in_use("default")))

        def on_failure(self, *args: Any) -> None:
            held.append(("on_failure", in_use("default")))

        def after_return(self, *args: Any) -> None:
            held.append(("after_return", in_use("default")))

    @task(base=Hooked)
    def work(fails: bool) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('app.tenant', '7', false)")
        held.append(("task", in_use("default")))
        assert not fails
        return 1

    send(work, False).get(timeout=PATIENCE)
    with pytest.raises(AssertionError):
        send(work, True).get(timeout=PATIENCE)
    hooks = ["before_start", "task", "on_success", "after_return", "before_start", "task", "on_failure", "after_return"]
    assert held == [(name, int(name == "task")) for name in hooks]


def test_called_eagerly_it_is_a_part_of_its_caller() -> None:
    app = application()
    app.conf.update(task_always_eager=True, task_eager_propagates=True)

    @app.task(shared=False, base=Soon, bind=True)
    def work(self: DatabaseTask) -> bool:
        Log.objects.create(key="inside")
        return bool(connection.in_atomic_block)

    with transaction.atomic():
        assert work.delay().get()
        assert in_use("default") == 1
        assert work()
        transaction.set_rollback(True)
    assert lines() == []
