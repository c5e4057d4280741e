"""Who goes first, and who counts against which limit, when a pool is full."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

from ..core.admission import Admission, admission

F = TypeVar("F", bound=Callable[..., Any])


class Marked:
    """A block or function, sync or async, whose calls for connections are marked. Blocks nest."""

    def __init__(self, **mark: Any) -> None:
        self._mark = mark
        self._entered: list[Admission] = []

    def __enter__(self) -> None:
        outer = admission.get()
        mine = replace(outer, outer=outer, **self._mark)
        self._entered.append(mine)
        admission.set(mine)

    def __exit__(self, *exc_info: object) -> None:
        # Not ContextVar.reset(): a generator may be closed in another context than it was begun in, or in the middle
        # of somebody else's block. Only what began inside of this block ends with it.
        mine = self._entered.pop()
        inner: Admission | None = admission.get()
        while inner is not None and inner is not mine:
            inner = inner.outer
        if inner is mine and mine.outer is not None:
            admission.set(mine.outer)

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            # Its body runs piece by piece, in between its consumer's code, which would be marked too.
            raise TypeError(f"{type(self).__name__} can't decorate a generator function: use a block inside of it.")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                with Marked(**self._mark):  # one of its own for each call: calls overlap
                    return await function(*args, **kwargs)
        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with Marked(**self._mark):
                    return function(*args, **kwargs)

        return cast("F", wrapper)


def reserved() -> Marked:
    """
    Let a block or function use the reserve: ``POOL["reserve_size"]`` connections beside ``max_size``.

    For what has to work when the pool is full: health checks, the dashboard of the operators, a kill switch. Its
    calls go before all others, are neither refused in an overload nor counted against a group's limit, and take a
    connection of the reserve only if no ordinary one is free. The mark goes where the context goes:
    ``sync_to_async`` carries it along, a thread that is started by hand doesn't have it.

    Raises:
        TypeError: as a decorator of a generator function.

    Example:
        @transaction.reserved()
        def health(request):
            Site.objects.exists()
    """
    return Marked(reserved=True)


def priority() -> Marked:
    """
    Let a block or function go before ordinary callers, as commit hooks do. For little work that matters more than the
    rest: the payment, not the catalogue. It is not refused in an overload, so if much is marked, all of that waits.

    Raises:
        TypeError: as a decorator of a generator function.
    """
    return Marked(priority=True)


def group(name: str) -> Marked:
    """
    Count what a block or function takes against the limit of this group in ``POOL["groups"]``, whatever the setting's
    ``by`` would say. Without effect on aliases that have no limit for the name.

    Raises:
        TypeError: as a decorator of a generator function, or if the name is no string.

    Example:
        with transaction.group("batch"):
            rebuild_index()
    """
    if not isinstance(name, str):
        raise TypeError(f"transaction.group() takes the name of a group, not {type(name).__name__}.")
    return Marked(group=name)
