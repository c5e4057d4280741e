"""Where a lease or a statement was asked for: the project's own line, and nothing that keeps its variables alive."""

from __future__ import annotations

import gc
import threading
import types
import weakref
from typing import Any

from django_dbpool.core import callers
from django_dbpool.core.ledger import place_of


class Secret:
    pass


def inside(name: str, function: Any) -> Any:
    """The function as if it stood in a module of that name."""
    return types.FunctionType(function.__code__, {**function.__globals__, "__name__": name}, function.__name__)


def relay(call):
    return call()


def test_the_line_is_the_first_outside_of_django_and_us() -> None:
    plumbing = inside("django.db.models.query", inside("django_dbpool.backends.cursors", relay))
    here = plumbing(callers.line_now)
    file, _, rest = here.partition(":")
    assert file == __file__
    assert rest.endswith(" in test_the_line_is_the_first_outside_of_django_and_us")
    # A package whose name only begins like Django's is the project's.
    assert inside("django_shop.views", relay)(callers.line_now).endswith("in relay")


def test_the_stack_begins_there_and_is_bounded() -> None:
    def deep(levels: int) -> callers.Calls:
        return deep(levels - 1) if levels else inside("psycopg.cursor", relay)(callers.calls_now)

    calls = deep(100)
    assert len(calls) == callers.DEEPEST
    assert calls[0][0].co_name == "deep"
    assert "test_callers.py" in place_of(calls[0])
    assert {type(code) for code, _ in calls} == {types.CodeType}


def look(found: list) -> None:
    found.append(callers.line_now())
    found.append(callers.calls_now())


def test_a_stack_of_plumbing_alone() -> None:
    """As in a thread that a package starts by itself: better that than nothing."""
    found: list = []
    thread = threading.Thread(target=inside("django.tasks", look), args=[found])
    thread.start()
    thread.join()
    line, calls = found
    assert line == "no line of the project"
    assert calls[0][0].co_name == "look"


def test_no_variable_is_kept() -> None:
    def borrow() -> tuple[callers.Calls, weakref.ref[Secret]]:
        password = Secret()
        return relay(callers.calls_now), weakref.ref(password)

    calls, password = borrow()
    gc.collect()
    assert calls[1][0].co_name == "borrow"
    assert password() is None
    assert not [found for found in gc.get_referents(calls) if isinstance(found, types.FrameType)]
