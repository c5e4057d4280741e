"""Runs of batches: which rows, how often, in which steps, and what is held meanwhile."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import connection, connections, transaction
from django.db.models import F
from django.test import TestCase

from django_dbpool import operations
from django_dbpool.batch import BatchProgress, BatchRefused, BatchResult, arun_batches, run_batches
from django_dbpool.models import BatchCheckpoint, BatchFailure, BatchRun
from django_dbpool.transaction import deadline
from testproject.processes import wait_until
from tests.app.models import Item, Log
from tests.fixtures.batches import assert_once, count_up, fill
from tests.fixtures.pools import execute, hold, in_use, size
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")


@pytest.mark.parametrize("name", [None, "a run"])
def test_every_row_once(name: str | None) -> None:
    fill(120)
    result = run_batches(Item.objects.all(), count_up, checkpoint=name)
    assert (result.reason, result.done, result.handled, result.batches, result.total) == ("done", 120, 120, 3, 120)
    assert result.finished
    assert_once(120)


@pytest.mark.parametrize("number", [0, 1, 49, 50, 51])
def test_edges(number: int) -> None:
    fill(number)
    result = run_batches(Item.objects.all(), count_up, checkpoint="edge")
    assert (result.reason, result.done) == ("done", number)
    assert Log.objects.count() == number
    assert BatchRun.objects.get().state == "done"


def test_a_run_that_has_ended_does_nothing_again(caplog: pytest.LogCaptureFixture) -> None:
    fill(10)
    run_batches(Item.objects.all(), count_up, checkpoint="once")
    fill(10)
    again = run_batches(Item.objects.all(), count_up, checkpoint="once")
    assert (again.reason, again.done, again.handled, again.resumed) == ("done", 10, 0, True)
    assert Log.objects.count() == 10
    assert "'once' ended before" in caplog.text


def test_rows_that_come_and_go_during_the_run() -> None:
    """Those from before the start once, if they are still there; those above the end are another run's."""
    fill(60)
    first = list(Item.objects.order_by("pk").values_list("pk", flat=True))

    def change(progress: BatchProgress) -> None:
        fill(5)
        Item.objects.filter(pk=first[progress.done + 1]).delete()

    run_batches(Item.objects.all(), count_up, size=10, on_progress=change)
    left = set(Item.objects.filter(pk__in=first).values_list("pk", flat=True))
    assert len(left) < 60
    assert set(Item.objects.filter(n=1).values_list("pk", flat=True)) == left
    assert not Item.objects.filter(n__gt=1).exists()
    assert not Log.objects.exclude(key__in=[str(pk) for pk in first]).exists()


def test_a_row_that_appears_in_a_gap_at_most_once() -> None:
    Item.objects.bulk_create(Item(pk=10 * n, name="") for n in range(1, 21))

    def insert(progress: BatchProgress) -> None:
        Item.objects.bulk_create([Item(pk=10 * progress.done + 5, name=""), Item(pk=progress.batches, name="")])

    run_batches(Item.objects.all(), count_up, size=5, on_progress=insert)
    assert Item.objects.filter(pk__in=range(10, 201, 10), n=1).count() == 20
    assert not Item.objects.filter(n__gt=1).exists()


def test_a_handler_that_changes_what_the_filter_asks_for() -> None:
    fill(100)
    result = run_batches(Item.objects.filter(n=0), count_up, size=7, checkpoint="shrinking")
    assert result.done == 100
    assert_once(100)


# -- nothing is held ------------------------------------------------------------------------------------------------


def test_nothing_is_held_between_batches(make_pool: Callable[..., str], observer: psycopg.Connection[Any]) -> None:
    """Not even what the handler has pinned; the server sees no transaction either."""
    name = "batches-hold-nothing"
    alias = make_pool(size=2, OPTIONS={"application_name": name})
    fill(30)
    seen: list[tuple[int, int]] = []

    def pinning(items: list[Item]) -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute("SET work_mem = '5MB'")
        count_up(items)

    def look(progress: BatchProgress) -> None:
        row = observer.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'", [name]
        ).fetchone()
        assert row is not None
        pinned = execute(alias, "SHOW work_mem")[0][0]
        connections[alias].close()
        assert pinned != "5MB"
        seen.append((in_use(alias), row[0]))

    run_batches(Item.objects.using(alias), pinning, size=10, on_progress=look, checkpoint="pins")
    assert seen == [(0, 0)] * 3
    assert_once(30)


def test_nothing_is_held_in_the_pause(make_pool: Callable[..., str], make_worker: Callable[[], Worker]) -> None:
    """A pool of one serves somebody else while the run rests; the next batch then waits for its turn."""
    alias = make_pool(size=1)
    fill(20)
    rests = threading.Event()
    stop = threading.Event()

    def run_it() -> BatchResult:
        rows = Item.objects.using(alias)
        return run_batches(
            rows, count_up, size=10, pause=3600, on_progress=lambda _: rests.set(), should_stop=stop.is_set
        )

    run = make_worker().start(run_it)
    assert rests.wait(PATIENCE)
    assert wait_until(lambda: in_use(alias) == 0, PATIENCE)
    other = make_worker()
    other(hold, alias)
    assert in_use(alias) == 1
    stop.set()
    result = run.result(PATIENCE)
    assert (result.reason, result.done) == ("stopped", 10)


def test_memory_does_not_grow() -> None:
    """What is kept does not depend on how many rows there were before. (A million of them: `python -m benchmarks`.)"""
    fill(8000)
    taken: list[int] = []

    def look(progress: BatchProgress) -> None:
        if progress.done in (2000, 8000):
            taken.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        run_batches(Item.objects.all(), len, checkpoint="memory", size=100, on_progress=look)
    finally:
        tracemalloc.stop()
    first, last = taken
    assert last - first < 100_000  # 6000 rows would be millions, their keys alone some hundred thousand


def test_the_call_is_an_operation_with_progress() -> None:
    fill(30)
    seen: list[operations.Operation] = []

    def look(progress: BatchProgress) -> None:
        seen.extend(each for each in operations.running() if each.name == "batches named")

    run_batches(Item.objects.all(), count_up, size=10, checkpoint="named", on_progress=look)
    assert [each.progress.done for each in seen if each.progress] == [10, 20, 30]
    assert {each.progress.total for each in seen if each.progress} == {30}
    assert dict(seen[0].tags) == {"model": "app.Item", "database": "default"}
    assert "batches named" not in [each.name for each in operations.running()]


def test_progress() -> None:
    fill(30)
    told: list[BatchProgress] = []
    run_batches(Item.objects.all(), count_up, size=20, on_progress=told.append)
    assert [(each.done, each.total, each.batches) for each in told] == [(20, 30, 1), (30, 30, 2)]
    assert told[0].rate > 0
    assert told[0].seconds_left is not None and told[0].seconds_left > 0
    assert told[1].seconds_left == 0


# -- where it may run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["default", "other"])
def test_refused_in_a_transaction(alias: str) -> None:
    with transaction.atomic(using=alias), pytest.raises(BatchRefused, match=f"transaction on database '{alias}'"):
        run_batches(Item.objects.all(), count_up)


def test_refused_with_a_connection_that_would_be_held() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(1)")
    with pytest.raises(BatchRefused, match="is pinned"):
        run_batches(Item.objects.all(), count_up)
    connection.close()
    fill(3)
    rows = Item.objects.iterator(chunk_size=1)
    next(rows)
    with pytest.raises(BatchRefused, match="iterator"):
        run_batches(Item.objects.all(), count_up)
    rows.close()


class TestInTestCase(TestCase):
    """Where nothing is ever committed, and everything works as if it were."""

    def test_run(self) -> None:
        fill(25)
        with self.captureOnCommitCallbacks() as callbacks:
            result = run_batches(
                Item.objects.all(), count_up, size=10, checkpoint="in a test", statement_timeout=5, pause=0.001
            )
        assert callbacks == []
        assert result.done == 25
        assert_once(25)
        assert BatchRun.objects.get().state == "done"
        assert execute("default", "SHOW statement_timeout") == [("0",)]

    def test_poisoned(self) -> None:
        fill(25)
        bad = Item.objects.order_by("pk")[7].pk

        def handler(items: list[Item]) -> None:
            count_up(items)
            if any(item.pk == bad for item in items):
                Item.objects.create(name=None)  # type: ignore[misc]

        result = run_batches(Item.objects.all(), handler, size=10, checkpoint="in a test", on_error="skip")
        assert (result.done, result.failed) == (24, 1)
        assert BatchFailure.objects.get().key == [bad]
        assert Log.objects.count() == 24

    def test_refused_in_a_transaction_of_its_own(self) -> None:
        with transaction.atomic(), pytest.raises(BatchRefused):
            run_batches(Item.objects.all(), count_up)


def test_other_database() -> None:
    fill(5, using="other")
    run_batches(Item.objects.using("other"), count_up, checkpoint="there")
    assert_once(5, using="other")
    assert BatchRun.objects.using("other").get().state == "done"
    assert not BatchRun.objects.exists()


def test_without_the_pool(make_alias: Callable[..., str]) -> None:
    fill(30)
    alias = make_alias(NAME=connections["default"].settings_dict["NAME"], POOL={"enabled": False})
    run_batches(Item.objects.using(alias), count_up, size=10, checkpoint="stock")
    assert_once(30)


# -- how it ends ----------------------------------------------------------------------------------------------------


def test_stop_and_resume() -> None:
    fill(100)
    handled = []
    for runs in range(1, 20):
        until = 20 * runs
        result = run_batches(
            Item.objects.all(),
            count_up,
            size=10,
            checkpoint="stops",
            should_stop=lambda until=until: Log.objects.count() >= until,  # type: ignore[misc]
        )
        handled.append(result.handled)
        assert result.done == sum(handled)
        assert result.resumed is (runs > 1)
        if result.finished:
            break
        assert result.reason == "stopped"
    assert handled == [20] * 5 + [0]  # the last one finds that there is nothing more
    assert_once(100)


def test_deadline() -> None:
    fill(20)
    result = run_batches(Item.objects.all(), count_up, size=10, checkpoint="late", deadline=0)
    assert (result.reason, result.done) == ("deadline", 0)
    result = run_batches(Item.objects.all(), count_up, size=10, checkpoint="late", deadline=60, pause=3600)
    assert (result.reason, result.done) == ("deadline", 10)
    assert result.seconds < 30
    with deadline(60):  # of the code around it
        result = run_batches(Item.objects.all(), count_up, size=5, checkpoint="late", pause=3600)
    assert (result.reason, result.done) == ("deadline", 15)
    run_batches(Item.objects.all(), count_up, size=10, checkpoint="late")
    assert_once(20)


@pytest.mark.parametrize(("wanted", "state"), [("pause", "open"), ("cancel", "cancelled")])
def test_flags_in_the_row(wanted: str, state: str) -> None:
    fill(30)

    def press(progress: BatchProgress) -> None:
        BatchRun.objects.filter(name="flagged").update(wanted=wanted)

    result = run_batches(Item.objects.all(), count_up, size=10, checkpoint="flagged", on_progress=press)
    assert result.reason == {"pause": "paused", "cancel": "cancelled"}[wanted]
    assert result.done == 10  # no handler is called after that
    assert BatchRun.objects.get().state == state
    again = run_batches(Item.objects.all(), count_up, checkpoint="flagged")
    assert (again.reason, again.handled) == (result.reason, 0)
    BatchRun.objects.update(wanted="run")
    run_batches(Item.objects.all(), count_up, checkpoint="flagged")
    assert Log.objects.count() == (30 if wanted == "pause" else 10)


def test_an_error_saves_what_was_done() -> None:
    fill(30)

    def fails(progress: BatchProgress) -> None:
        raise RuntimeError("of on_progress")

    with pytest.raises(RuntimeError):
        run_batches(Item.objects.all(), count_up, size=10, checkpoint="fails", on_progress=fails)
    assert BatchCheckpoint.objects.get().reason == "failed: RuntimeError"
    run_batches(Item.objects.all(), count_up, size=10, checkpoint="fails")
    assert_once(30)


def test_a_commit_hook_that_fails() -> None:
    """Its batch is committed, and done again by nobody."""
    fill(30)
    failing = [True]

    def hook() -> None:
        if failing:
            failing.clear()
            raise ValueError("of a hook")

    def handler(items: list[Item]) -> None:
        count_up(items)
        transaction.on_commit(hook)

    with pytest.raises(ValueError, match="of a hook") as caught:
        run_batches(Item.objects.all(), handler, size=10, checkpoint="hooks", on_error="skip")
    assert "on_commit hook" in caught.value.__notes__[0]
    assert Log.objects.count() == 10
    run_batches(Item.objects.all(), handler, size=10, checkpoint="hooks")
    assert_once(30)


def test_dry_run() -> None:
    fill(30)
    told: list[BatchProgress] = []
    result = run_batches(Item.objects.all(), count_up, size=20, checkpoint="dry", dry_run=True, on_progress=told.append)
    assert (result.done, result.batches, result.dry_run) == (30, 2, True)
    assert len(told) == 2
    assert not Log.objects.exists()
    assert not BatchRun.objects.exists()


# -- asynchronous ---------------------------------------------------------------------------------------------------


def test_async() -> None:
    fill(30)
    told: list[int] = []

    async def tell(progress: BatchProgress) -> None:
        await asyncio.sleep(0)
        told.append(progress.done)

    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        result = await arun_batches(
            Item.objects.all(), count_up, size=10, pause=0.05, checkpoint="async", on_progress=tell
        )
        ticking.cancel()
        assert (result.reason, result.done) == ("done", 30)
        assert ticks > 5

    asyncio.run(main())
    assert told == [10, 20, 30]
    assert_once(30)


def test_async_cancelled_in_a_batch() -> None:
    """It ends after that batch, which is saved and not begun again."""
    fill(30)
    in_batch = threading.Event()
    go_on = threading.Event()

    def slow(items: list[Item]) -> None:
        in_batch.set()
        go_on.wait(PATIENCE)
        count_up(items)

    async def main() -> None:
        task = asyncio.create_task(arun_batches(Item.objects.all(), slow, size=10, checkpoint="cancelled"))
        await asyncio.to_thread(in_batch.wait, PATIENCE)
        task.cancel()
        await asyncio.sleep(0.01)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert Log.objects.count() == 10
    row = BatchCheckpoint.objects.get()
    assert (row.token, row.reason) == ("", "stopped")
    run_batches(Item.objects.all(), count_up, checkpoint="cancelled")
    assert_once(30)


# -- pages come first -----------------------------------------------------------------------------------------------


def test_waits_while_the_pool_is_busy(make_pool: Callable[..., str], make_worker: Callable[[], Worker]) -> None:
    alias = make_pool(size=2)
    fill(20)
    other = make_worker()
    begun = threading.Event()

    def handler(items: list[Item]) -> None:
        begun.set()
        count_up(items)

    assert size(alias) == 0
    other(hold, alias)
    run = make_worker().start(lambda: run_batches(Item.objects.using(alias), handler, size=10, busy_above=0.5))
    assert not begun.wait(0.3)
    other(lambda: transaction.rollback(using=alias))
    other(lambda: transaction.set_autocommit(True, using=alias))
    assert run.result(PATIENCE).done == 20
    assert_once(20)


def test_does_not_wait_for_ever(make_pool: Callable[..., str], make_worker: Callable[[], Worker]) -> None:
    alias = make_pool(size=2)
    fill(10)
    make_worker()(hold, alias)
    result = run_batches(Item.objects.using(alias), count_up, busy_above=0.5, patience=0.1)
    assert result.done == 10


def test_batches_have_a_group(make_pool: Callable[..., str]) -> None:
    from django_dbpool.core.admission import admission

    fill(1)
    seen: list[str | None] = []
    run_batches(Item.objects.all(), lambda items: seen.append(admission.get().group))
    assert seen == ["batch"]
    assert admission.get().group is None


def test_update_of_f_expression_is_really_there() -> None:
    """That the other tests' handler can fail: twice is seen."""
    fill(3)
    count_up(list(Item.objects.all()))
    assert_once(3)
    Item.objects.update(n=F("n") + 1)
    with pytest.raises(AssertionError):
        assert_once(3)
