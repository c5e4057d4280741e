"""Blocks that declare something for all that they call: what the context managers of this package share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, cast

from asgiref.sync import iscoroutinefunction

from ..core.arguments import decorated_function

F = TypeVar("F", bound=Callable[..., Any])


class HasOuter(Protocol):
    @property
    def outer(self) -> Any: ...


def leave(variable: ContextVar[Any], mine: HasOuter) -> None:
    """
    End a block that has set the variable to ``mine``.

    Not ``ContextVar.reset()``: a generator may be closed in another context than it was begun in, or by the collector
    in the middle of somebody else's block. Only what began inside of this block ends with it.
    """
    inner = variable.get()
    while inner is not None and inner is not mine:
        inner = getattr(inner, "outer", None)
    if inner is mine:
        variable.set(mine.outer)


def decorated(name: str, function: F, block: Callable[[], AbstractContextManager[Any]]) -> F:
    """
    The function, sync or async, that runs in a block of its own at each call: calls overlap.

    Args:
        name: how an error calls the decorator.
        block: makes one.

    Raises:
        TypeError: it is no function, or that of a generator.
    """
    decorated_function(f"transaction.{name}()", function)
    if iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with block():
                return await function(*args, **kwargs)
    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with block():
                return function(*args, **kwargs)

    return cast("F", wrapper)
