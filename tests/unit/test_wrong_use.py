"""Mistakes in calls of public functions: refused where they are made, with a text that says what to write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, markcoroutinefunction

import django_dbpool
from django_dbpool import transaction
from django_dbpool.asgi import lifespan
from django_dbpool.core.admission import admission
from django_dbpool.decorators import fallback, replayable


def rows() -> Iterator[int]:
    yield 1


async def rows_later() -> AsyncIterator[int]:
    yield 1


def function(*args: Any) -> int:
    return 1


class Something:
    pass


DECORATORS: dict[str, Any] = {
    "retrying": transaction.retrying,
    "retrying()": transaction.retrying(),
    "idempotent": transaction.idempotent,
    "idempotent()": transaction.idempotent(),
    "deadline": transaction.deadline(1),
    "session": transaction.session(search_path="public"),
    "reserved": transaction.reserved,
    "reserved()": transaction.reserved(),
    "priority": transaction.priority,
    "group": transaction.group("batch"),
    "fallback": fallback(function),
    "replayable": replayable,
    "replayable()": replayable(),
}


@pytest.mark.parametrize("name", DECORATORS)
@pytest.mark.parametrize(
    ("decorated", "says"),
    [
        (rows, "can't wrap a generator function"),
        (rows_later, "can't wrap a generator function"),
        (Something, "can't decorate the class Something.*method_decorator"),
        (staticmethod(function), "must stand below @staticmethod"),
        (7, "decorates a function, not 7|takes a database alias, not 7"),
    ],
    ids=["generator", "asynchronous generator", "class", "staticmethod", "number"],
)
def test_what_is_no_function_is_not_decorated(name: str, decorated: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says) as caught:
        DECORATORS[name](decorated)
    assert name.removesuffix("()") in str(caught.value)


@pytest.mark.parametrize("call", [transaction.retrying(), transaction.retrying(atomic=False)])
def test_a_result_is_no_function(call: Any) -> None:
    with pytest.raises(TypeError, match=r"write call\(function, argument\)"):
        call.call(function(7))
    with pytest.raises(TypeError, match="generator"):
        call.call(rows)


def test_a_with_block_runs_once() -> None:
    with pytest.raises(TypeError, match="for attempt in transaction"):
        transaction.retrying().__enter__()  # type: ignore[attr-defined]


def test_a_fallback_is_named() -> None:
    with pytest.raises(TypeError, match=r"@fallback\(use\)"):
        fallback(function)("a request")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"@fallback\(use\)"):
        fallback([])  # type: ignore[arg-type]


def lives(**arguments: Any) -> Any:
    return lifespan(function, **arguments)  # type: ignore[arg-type]


SECONDS: list[tuple[Callable[..., Any], str]] = [
    (transaction.deadline, "seconds"),
    (transaction.retrying, "total"),
    (transaction.retrying, "max_delay"),
    (replayable, "within"),
    (django_dbpool.warm, "timeout"),
    (lives, "warm_timeout"),
    (lives, "shutdown_timeout"),
]


@pytest.mark.parametrize(("call", "name"), SECONDS)
@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        ("3", TypeError, "a number of seconds"),
        (None, TypeError, "a number of seconds"),
        (True, TypeError, "a number of seconds"),
        (timedelta(seconds=3), TypeError, "total_seconds"),
        (-1, ValueError, "0 or more"),
        (float("nan"), ValueError, "finite"),
        (float("inf"), ValueError, "at most"),
        (10**400, ValueError, "at most"),
    ],
    ids=["text", "None", "True", "timedelta", "negative", "nan", "inf", "huge"],
)
def test_seconds(call: Any, name: str, value: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=rf"{name}=.*: {name} must be .*{says}|{name} must be a number of seconds.*{says}"):
        call(**{name: value})


def test_a_shutdown_takes_what_is_left_of_a_budget_but_no_text() -> None:
    for value in ("3", None):
        with pytest.raises(TypeError, match="timeout must be a number of seconds"):
            django_dbpool.shutdown(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout must be a number"):
        django_dbpool.shutdown(float("nan"))


@pytest.mark.parametrize(
    ("call", "arguments", "error", "says"),
    [
        (transaction.retrying, {"attempts": "3"}, TypeError, "attempts must be a whole number"),
        (transaction.retrying, {"attempts": 0}, ValueError, "attempts must be 1 or more"),
        (transaction.retrying, {"atomic": "no"}, TypeError, "atomic must be True or False"),
        (transaction.retrying, {"on": [ValueError]}, TypeError, "on must be a class .* or a tuple"),
        (replayable, {"attempts": "3"}, TypeError, "attempts must be a whole number"),
        (replayable, {"attempts": 0}, ValueError, "attempts must be 1 or more"),
        (fallback, {"use": function, "on": [ValueError]}, TypeError, "on must be a class .* or a tuple"),
        (fallback, {"use": function, "on": KeyboardInterrupt}, TypeError, "derives from Exception"),
        (transaction.group, {"name": function}, TypeError, "takes the name of a group"),
        (django_dbpool.warm, {"using": 7}, TypeError, "using must be a database alias"),
        (lifespan, {"application": "shop.asgi"}, TypeError, "takes an ASGI application"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(next(iter(value))),  # no addresses: processes compare ids
)
def test_other_arguments(call: Any, arguments: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call(**arguments)


@pytest.mark.parametrize("mark", [transaction.reserved, transaction.priority], ids=["reserved", "priority"])
def test_marks_decorate_with_and_without_parentheses(mark: Any) -> None:
    @mark
    def bare() -> Any:
        return admission.get()

    @mark()
    def called() -> Any:
        return admission.get()

    assert bare().reserved or bare().priority
    assert (called().reserved, called().priority) == (bare().reserved, bare().priority)
    assert not (admission.get().reserved or admission.get().priority)


def test_what_is_only_marked_as_a_coroutine_function_is_awaited_inside_of_the_mark() -> None:
    """What ``as_view()`` of a view with asynchronous methods returns."""

    async def answer() -> bool:
        return admission.get().reserved

    def view() -> Any:
        return answer()

    marked = transaction.reserved(markcoroutinefunction(view))
    assert iscoroutinefunction(marked)
    assert asyncio.run(marked())

    async def block() -> tuple[bool, bool]:
        async with transaction.reserved():
            inside = await answer()
        return inside, await answer()

    assert asyncio.run(block()) == (True, False)
