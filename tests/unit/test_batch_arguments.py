"""What ``run_batches()`` refuses, before it asks any database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils.connection import ConnectionDoesNotExist

from django_dbpool.batch import Origin, run_batches, split
from tests.app.models import Item, Seat


def nothing(items: list[Any]) -> None:
    pass


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (lambda: Item.objects.all()[:10], "is sliced"),
        (lambda: Item.objects.order_by("-n"), "an order of its own"),
        (lambda: Item.objects.reverse(), "an order of its own"),
        (lambda: Item.objects.values("pk"), "gives values"),
        (lambda: Item.objects.values_list("pk", flat=True), "gives values"),
        (lambda: Item.objects.union(Item.objects.all()), r"union\(\)"),
        (lambda: Item.objects.order_by("name").distinct("name"), "distinct"),
    ],
    ids=["slice", "order", "reverse", "values", "values_list", "union", "distinct"],
)
def test_refused_querysets(source: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        run_batches(source(), nothing)


@pytest.mark.parametrize("source", [Item, Item.objects, [1], None], ids=["model", "manager", "list", "none"])
def test_no_queryset(source: Any) -> None:
    with pytest.raises(TypeError, match="takes a QuerySet"):
        run_batches(source, nothing)


@pytest.mark.parametrize(
    ("key", "kind", "text"),
    [
        (7, TypeError, "key must be the name"),
        ([], TypeError, "key must be the name"),
        ("taken", ValueError, "may be NULL"),
        ("-number", ValueError, "Descending"),
        ("item__name", ValueError, "is no field"),
        ("nothing", ValueError, "is no field"),
    ],
)
def test_refused_keys(key: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        run_batches(Seat.objects.all(), nothing, key=key)


def test_refused_key_that_is_not_a_column() -> None:
    with pytest.raises(ValueError, match="no column"):
        run_batches(Item.objects.all(), nothing, key="seats")


def test_refused_key_that_is_not_loaded() -> None:
    with pytest.raises(ValueError, match="leave out 'name'"):
        run_batches(Item.objects.only("n"), nothing, key="name")
    with pytest.raises(ValueError, match="leave out 'name'"):
        run_batches(Item.objects.defer("name"), nothing, key="name")


async def coroutine(items: list[Any]) -> None: ...


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"handler": None}, TypeError, "handler"),
    ({"handler": coroutine}, TypeError, "coroutine function"),
    ({"size": 0}, ValueError, "size"),
    ({"size": "50"}, TypeError, "size"),
    ({"pause": -1}, ValueError, "pause"),
    ({"deadline": "soon"}, TypeError, "deadline"),
    ({"checkpoint": 7}, TypeError, "checkpoint"),
    ({"checkpoint": ""}, ValueError, "name must not be empty"),
    ({"checkpoint": "a\nb"}, ValueError, "checkpoint"),
    ({"checkpoint": "x" * 201}, ValueError, "checkpoint"),
    ({"on_progress": 1}, TypeError, "on_progress"),
    ({"should_stop": 1}, TypeError, "should_stop"),
    ({"should_stop": coroutine}, TypeError, "should_stop"),
    ({"on_error": "ignore"}, ValueError, "on_error"),
    ({"on_error": None}, TypeError, "on_error"),
    ({"on_error": coroutine}, TypeError, "on_error"),
    ({"dry_run": 1}, TypeError, "dry_run"),
    ({"statement_timeout": 0}, ValueError, "statement_timeout"),
    ({"busy_above": 2}, ValueError, "busy_above"),
    ({"busy_above": "half"}, TypeError, "busy_above"),
    ({"patience": -1}, ValueError, "patience"),
    ({"takeover_after": 0}, ValueError, "takeover_after"),
    ({"max_failures": 0}, ValueError, "max_failures"),
    ({"using": 7}, TypeError, "using"),
    ({"using": "elsewhere"}, ConnectionDoesNotExist, "elsewhere"),
]


@pytest.mark.parametrize(
    ("arguments", "kind", "name"),
    REFUSED,
    ids=[f"{next(iter(arguments))}-{number}" for number, (arguments, *_) in enumerate(REFUSED)],
)
def test_refused_arguments(arguments: dict[str, Any], kind: type[Exception], name: str) -> None:
    with pytest.raises(kind, match=name):
        run_batches(Item.objects.all(), **{"handler": nothing, **arguments})


def test_rows_and_checkpoint_on_one_database() -> None:
    with pytest.raises(ValueError, match="reads from database 'other'"):
        run_batches(Item.objects.using("other"), nothing, using="default", checkpoint="apart")


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"part": True, "checkpoint": "x"}, TypeError, "part must be a whole number"),
        ({"part": -1, "checkpoint": "x"}, ValueError, "part must be 0 or more"),
        ({"part": 0}, ValueError, "needs checkpoint"),
        ({"origin": "task"}, TypeError, "must be an Origin"),
        ({"origin": Origin("t" * 400)}, ValueError, "more than 300"),
    ],
)
def test_refused_parts(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        run_batches(Item.objects.all(), nothing, **options)


def test_refused_splits() -> None:
    with pytest.raises(ValueError, match="n must be 1 or more"):
        split(Item.objects.all(), 0, checkpoint="x")
    with pytest.raises(TypeError, match="takeover_after"):
        split(Item.objects.all(), 2, checkpoint="x", takeover_after="7")  # type: ignore[arg-type]
