"""Querysets and keys that can be gone through, in whichever order the server has for them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.db.models import Count, F, Q, QuerySet
from django.db.models.functions import Lower
from django.test.utils import CaptureQueriesContext, override_settings

from django_dbpool.batch import BatchProgress, BatchRunMismatch, run_batches
from django_dbpool.models import BatchCheckpoint
from tests.app.models import Coded, Host, Item, Log, Seat, Word
from tests.fixtures.batches import assert_once, count_up, fill

pytestmark = pytest.mark.django_db(databases="__all__")  # everything works in a test's transaction, too


def nothing(items: list[Any]) -> None:
    pass


def keys_in_steps(source: Any, **arguments: Any) -> list[Any]:
    """Keys in the order in which they came, in a run that stops after each batch and goes on in another call."""
    seen: list[Any] = []
    while True:
        told: list[BatchProgress] = []
        result = run_batches(
            source,
            lambda items: seen.extend(item.pk for item in items),
            size=3,
            checkpoint="keys",
            on_progress=told.append,
            should_stop=lambda told=told: bool(told),  # type: ignore[misc]
            **arguments,
        )
        if result.finished:
            return seen


def test_uuids() -> None:
    codes = [uuid.uuid4() for _ in range(10)]
    Coded.objects.bulk_create(Coded(code=code) for code in codes)
    assert keys_in_steps(Coded.objects.all()) == list(Coded.objects.order_by("code").values_list("code", flat=True))


def test_text_with_everything_in_it() -> None:
    words = ["", "'", '"', "\\", "a", "A", "ä", "Z", "z", "%s", "日本", "a\nb", "null", "[1]", "x" * 100]
    Word.objects.bulk_create(Word(text=word) for word in words)
    assert keys_in_steps(Word.objects.all()) == list(Word.objects.order_by("text").values_list("text", flat=True))


def test_only_the_server_compares() -> None:
    """As texts, which is what Python sees, 9.0.0.1 comes after 10.0.0.1."""
    hosts = ["10.0.0.1", "9.0.0.1", "100.0.0.1", "::1", "2.0.0.1", "fe80::1", "10.0.0.2"]
    Host.objects.bulk_create(Host(address=host) for host in hosts)
    found = keys_in_steps(Host.objects.all())
    assert found == ["2.0.0.1", "9.0.0.1", "10.0.0.1", "10.0.0.2", "100.0.0.1", "::1", "fe80::1"]
    assert found != sorted(found)


def test_composite_primary_key() -> None:
    fill(4)
    items = list(Item.objects.order_by("pk"))
    Seat.objects.bulk_create(Seat(item=item, number=number) for item in items for number in (3, 1, 2))
    expected = [(item.pk, number) for item in items for number in (1, 2, 3)]
    assert keys_in_steps(Seat.objects.all()) == expected
    with CaptureQueriesContext(connection) as queries:
        run_batches(Seat.objects.all(), nothing, size=5)
    assert any('("app_seat"."item_id", "app_seat"."number") > (' in each["sql"] for each in queries)


def test_columns_in_another_order() -> None:
    fill(3)
    items = list(Item.objects.order_by("pk"))
    Seat.objects.bulk_create(Seat(item=item, number=number) for item in items for number in (3, 1, 2))
    expected = [(item.pk, number) for number in (1, 2, 3) for item in items]
    assert keys_in_steps(Seat.objects.all(), key=("number", "item")) == expected


def test_a_key_that_is_not_unique_gets_the_primary_key_behind_it() -> None:
    fill(20)
    Item.objects.update(name="same")
    run_batches(Item.objects.all(), count_up, key="name", size=3, checkpoint="same")
    assert_once(20)
    row = BatchCheckpoint.objects.get()
    assert row.last_key == ["same", Item.objects.latest("pk").pk]


def test_rows_that_a_join_repeats_come_once() -> None:
    fill(4)
    for item in Item.objects.all():
        Seat.objects.bulk_create(Seat(item=item, number=number) for number in range(5))
    result = run_batches(Item.objects.filter(seats__number__gte=1), count_up, size=3)
    assert result.done == 4
    assert_once(4)


@pytest.mark.parametrize(
    "source",
    [
        lambda: Item.objects.filter(Q(n=0) | Q(n=7)).exclude(name="x"),
        lambda: Item.objects.only("name"),
        lambda: Item.objects.defer("n"),
        lambda: Item.objects.select_for_update(),
        lambda: Item.objects.distinct(),
        lambda: Item.objects.annotate(number=Count("seats"), lower=Lower("name")).filter(number=0),
        lambda: Item.objects.prefetch_related("seats"),
        lambda: Item.objects.order_by(),
        lambda: Item.objects.using("default"),
    ],
    ids=["filter", "only", "defer", "for_update", "distinct", "annotate", "prefetch", "unordered", "using"],
)
def test_accepted(source: Callable[[], Any]) -> None:
    fill(10)
    run_batches(source(), count_up, size=3)
    assert_once(10)


class Elsewhere:
    """A router that keeps the tables of the pool away from all databases but one."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return db == "default" if app_label == "django_dbpool" else None


@override_settings(DATABASE_ROUTERS=[Elsewhere()])
def test_checkpoint_is_refused_where_its_table_is_not() -> None:
    fill(1, using="other")
    with pytest.raises(ImproperlyConfigured, match="DATABASE_ROUTERS"):
        run_batches(Item.objects.using("other"), nothing, checkpoint="apart")
    assert run_batches(Item.objects.using("other"), nothing).done == 1


def test_tables_that_are_missing(make_alias: Callable[..., str]) -> None:
    alias = make_alias()  # another database of the server, where nothing was migrated
    with pytest.raises(ImproperlyConfigured, match=f"migrate --database={alias}"):
        run_batches(Item.objects.using(alias), nothing, checkpoint="unmigrated")


def test_a_name_means_one_thing() -> None:
    fill(3)
    run_batches(Item.objects.all(), nothing, checkpoint="mine", deadline=0)
    with pytest.raises(BatchRunMismatch, match=r"app\.Item by id, not app\.Log by id"):
        run_batches(Log.objects.all(), nothing, checkpoint="mine")
    with pytest.raises(BatchRunMismatch):
        run_batches(Item.objects.all(), nothing, key="name", checkpoint="mine")


def test_the_handler_sees_rows_of_now() -> None:
    """Read in the transaction of the batch, not when the run began."""
    fill(4)
    seen: list[int] = []

    def handler(items: list[Item]) -> None:
        seen.extend(item.n for item in items)
        Item.objects.update(n=F("n") + 1)

    run_batches(Item.objects.all(), handler, size=1)
    assert seen == [0, 1, 2, 3]


def test_the_read_is_compiled_once_a_run() -> None:
    """Also what the queryset brings along, and with rows that were changed meanwhile."""
    compiled: list[str] = []

    class Counting(Lower):
        def as_sql(self, *args: Any, **kwargs: Any) -> Any:
            compiled.append("once")
            return super().as_sql(*args, **kwargs)

    fill(40)
    source = Item.objects.annotate(lower=Counting("name"))
    seen: list[str] = []
    run_batches(source, lambda items: seen.extend(item.lower for item in items), size=2)
    assert seen == list(Item.objects.order_by("pk").values_list("name", flat=True))
    assert len(compiled) <= 5  # the end, the number, the first batch, all the others


def test_querysets_that_are_evaluated_in_another_way() -> None:
    evaluated: list[int] = []

    class Own(QuerySet[Item]):
        def _fetch_all(self) -> None:
            evaluated.append(1)
            super()._fetch_all()  # type: ignore[misc]

    fill(10)
    run_batches(Own(Item), count_up, size=2)
    assert len(evaluated) >= 5
    assert_once(10)


def test_related_objects_come_along() -> None:
    items = Item.objects.bulk_create(Item(name=str(n)) for n in range(6))
    Seat.objects.bulk_create(Seat(item=item, number=n) for item in items for n in range(2))
    found: list[tuple[str, int]] = []

    def handler(seats: list[Any]) -> None:
        with CaptureQueriesContext(connection) as queries:
            found.extend((seat.item.name, len(seat.item.seats.all())) for seat in seats)
        assert not queries.captured_queries

    run_batches(Seat.objects.select_related("item").prefetch_related("item__seats"), handler, size=5)
    assert found == [(str(n // 2), 2) for n in range(12)]
