"""One run in several parts."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from django_dbpool.batch import BatchProgress, BatchRefused, BatchRunMismatch, Origin, arun_batches, run_batches, split
from django_dbpool.models import BatchCheckpoint, BatchRun
from tests.app.models import Coded, Item, Seat
from tests.fixtures.batches import assert_once, count_up, fill
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")


def states() -> list[tuple[bool, str]]:
    return list(BatchCheckpoint.objects.order_by("part").values_list("finished", "reason"))


def run_part(part: int, source: Any = None, handler: Any = count_up, **options: Any) -> Any:
    source = Item.objects.all() if source is None else source
    return run_batches(source, handler, size=10, checkpoint="divided", part=part, **options)


def test_every_row_once_by_several_runners(make_worker: Callable[[], Worker]) -> None:
    fill(103)
    assert split(Item.objects.all(), 4, checkpoint="divided") == 4
    together = threading.Barrier(4)

    def go(part: int) -> Any:
        together.wait(PATIENCE)
        return run_part(part)

    futures = [make_worker().start(partial(go, part)) for part in range(4)]
    results = [future.result(PATIENCE) for future in futures]
    assert [(each.reason, each.handled, each.total) for each in results] == [
        ("done", 25, 25),
        ("done", 26, 26),
        ("done", 26, 26),
        ("done", 26, 26),
    ]
    assert_once(103)
    run = BatchRun.objects.get()
    assert (run.state, run.total, run.parts) == ("done", 103, 4)


def test_the_run_ends_with_its_last_part() -> None:
    fill(20)
    split(Item.objects.all(), 2, checkpoint="divided")
    run_part(1)
    assert BatchRun.objects.get().state == "open"
    again = run_part(1)
    assert (again.reason, again.handled) == ("done", 0)
    run_part(0)
    run = BatchRun.objects.get()
    assert run.state == "done" and run.ended is not None
    assert_once(20)


@pytest.mark.parametrize(
    ("rows", "wanted", "made"), [(0, 3, 1), (1, 3, 1), (2, 3, 2), (3, 3, 3), (7, 3, 3), (5, 1, 1), (1000, 7, 7)]
)
def test_numbers(rows: int, wanted: int, made: int) -> None:
    fill(rows)
    assert split(Item.objects.all(), wanted, checkpoint="divided") == made
    handled = [run_part(part).handled for part in range(made)]
    assert sum(handled) == rows
    assert max(handled) - min(handled) <= 1
    assert_once(rows) if rows else None
    assert BatchRun.objects.get().state == "done"


def test_skewed_keys() -> None:
    """Parts of the same number of rows, however the keys lie."""
    Item.objects.bulk_create(Item(pk=2 ** (n // 2) + n, name=str(n)) for n in range(60))
    split(Item.objects.all(), 3, checkpoint="divided")
    assert [run_part(part).handled for part in range(3)] == [20, 20, 20]
    assert_once(60)


def test_only_rows_of_the_filter_count() -> None:
    fill(90)
    first = Item.objects.order_by("pk")[59].pk
    source = Item.objects.filter(pk__gt=first)
    split(source, 3, checkpoint="divided")
    assert [run_part(part, source).handled for part in range(3)] == [10, 10, 10]


def test_composite_key() -> None:
    items = Item.objects.bulk_create(Item(name=str(n)) for n in range(3))
    Seat.objects.bulk_create(Seat(item=item, number=n) for item in items for n in range(11))

    def handler(seats: list[Any]) -> None:
        for seat in seats:
            Seat.objects.filter(pk=seat.pk).update(n=F("n") + 1)

    split(Seat.objects.all(), 2, checkpoint="divided")
    handled = [run_part(part, Seat.objects.all(), handler).handled for part in range(2)]
    assert handled == [16, 17]
    assert set(Seat.objects.values_list("n", flat=True)) == {1}


def test_keys_that_only_the_server_can_order() -> None:
    Coded.objects.bulk_create(Coded(code=uuid.uuid4()) for _ in range(50))

    def handler(rows: list[Any]) -> None:
        Coded.objects.filter(pk__in=[row.pk for row in rows]).update(n=F("n") + 1)

    split(Coded.objects.all(), 3, checkpoint="divided")
    assert sum(run_part(part, Coded.objects.all(), handler).handled for part in range(3)) == 50
    assert set(Coded.objects.values_list("n", flat=True)) == {1}


def test_by_another_key() -> None:
    Item.objects.bulk_create(Item(name="same" if n < 40 else f"item {n}") for n in range(60))
    split(Item.objects.all(), 3, key="name", checkpoint="divided")
    assert [run_part(part, key="name").handled for part in range(3)] == [20, 20, 20]
    assert_once(60)


def test_stops_and_goes_on_by_part() -> None:
    fill(60)
    split(Item.objects.all(), 2, checkpoint="divided")
    run_part(1, deadline=0)
    batches: list[BatchProgress] = []
    stopped = run_part(0, on_progress=batches.append, should_stop=lambda: len(batches) == 2)
    assert (stopped.reason, stopped.done, stopped.total, stopped.resumed) == ("stopped", 20, 30, False)
    assert batches[-1].total == 30
    resumed = run_part(0)
    assert (resumed.reason, resumed.done, resumed.handled, resumed.resumed) == ("done", 30, 10, True)
    run_part(1)
    assert_once(60)


def test_cancelled_in_parts() -> None:
    """One part has come to its end before; the run was cancelled all the same."""
    fill(40)
    split(Item.objects.all(), 3, checkpoint="divided")
    run_part(2)
    BatchRun.objects.update(wanted="cancel")
    assert run_part(0).reason == "cancelled"
    assert BatchRun.objects.get().state == "open"
    assert run_part(0).reason == "cancelled"
    assert run_part(1).reason == "cancelled"
    assert BatchRun.objects.get().state == "cancelled"
    assert states() == [(True, "cancelled"), (True, "cancelled"), (True, "done")]


def test_made_twice() -> None:
    """The second one, also another number, changes nothing."""
    fill(50)
    assert split(Item.objects.all(), 2, checkpoint="divided") == 2
    run_part(0)
    fill(50)
    assert split(Item.objects.all(), 5, checkpoint="divided") == 2
    assert run_part(1).total == 25
    assert BatchRun.objects.get().state == "done"


def test_made_at_the_same_moment(make_worker: Callable[[], Worker]) -> None:
    fill(100)
    together = threading.Barrier(3)

    def go(number: int) -> int:
        together.wait(PATIENCE)
        return split(Item.objects.all(), number, checkpoint="divided")

    made = {future.result(PATIENCE) for future in [make_worker().start(partial(go, n)) for n in (2, 3, 4)]}
    assert len(made) == 1 and made == {BatchRun.objects.get().parts}
    assert BatchCheckpoint.objects.count() == made.pop()


def test_parts_that_there_are_not() -> None:
    fill(10)
    with pytest.raises(BatchRunMismatch, match=r"no batch run 'divided'.*part 1.*split\(\)"):
        run_part(1)
    split(Item.objects.all(), 2, checkpoint="divided")
    with pytest.raises(BatchRunMismatch, match="has 2 parts"):
        run_part(2)
    with pytest.raises(BatchRunMismatch, match="has 2 parts"):
        run_batches(Item.objects.all(), count_up, checkpoint="divided")
    with pytest.raises(BatchRunMismatch, match=r"about app\.Item by id"):
        split(Item.objects.all(), 2, key="name", checkpoint="divided")
    with pytest.raises(BatchRefused), transaction.atomic():
        split(Item.objects.all(), 2, checkpoint="another")
    assert BatchRun.objects.count() == 1


def test_origin() -> None:
    fill(10)
    origin = Origin("shop.letters", {"args": [7], "kwargs": {"a": "b"}})
    split(Item.objects.all(), 2, checkpoint="divided", origin=origin, takeover_after=5)
    run_batches(Item.objects.all(), count_up, checkpoint="whole", origin=origin, takeover_after=7)
    for name, takeover_after in (("divided", 5), ("whole", 7)):
        run = BatchRun.objects.get(name=name)
        assert (run.task, run.arguments) == ("shop.letters", {"args": [7], "kwargs": {"a": "b"}})
        assert run.takeover_after == takeover_after
    run_part(0, takeover_after=9)
    assert BatchRun.objects.get(name="divided").takeover_after == 9


def test_async() -> None:
    fill(20)
    split(Item.objects.all(), 2, checkpoint="divided")

    async def both() -> list[int]:
        rows = Item.objects.all()
        results = [await arun_batches(rows, count_up, checkpoint="divided", part=part) for part in range(2)]
        return [result.handled for result in results]

    assert asyncio.run(both()) == [10, 10]


def test_statements_do_not_grow_with_the_rows() -> None:
    fill(100)
    with CaptureQueriesContext(connection) as few:
        split(Item.objects.all(), 3, checkpoint="few")
    fill(1900)
    with CaptureQueriesContext(connection) as many:
        split(Item.objects.all(), 3, checkpoint="many")
    assert len(many) == len(few)
