"""Operations that say themselves when they begin and end, and how far they are."""

from __future__ import annotations

import asyncio
import functools
from _thread import get_ident
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction

from ..core import operations
from ..core.arguments import decorated_function
from ..core.ledger import running_unit
from ..core.names import amount, clean_name, clean_tags
from ..core.operations import Running

F = TypeVar("F", bound=Callable[..., Any])


class track_operation:  # noqa: N801  # used as a statement, like contextlib.suppress
    """
    A piece of work that somebody may want to watch: a context manager, sync and async, and a decorator.

    While it runs it is in ``running()``, leases are labelled with it, and a shutdown waits for it as for a request.
    Afterwards it is in ``recent()``. Operations nest; requests, tasks and commands are operations without this.

    Args:
        name: of the kind of work, not of the single case, which belongs into the tags. What can't be shown on one line
            is replaced, what is too long is cut.
        total: how many there are to do, of whatever ``advance()`` counts.
        tags: what tells this one from others of its name, texts by name; at most 20.

    Raises:
        TypeError: an argument is of the wrong type, or a generator function is decorated.
        ValueError: the name is empty, the total negative or not finite, or there are too many tags.

    Example:
        with track_operation("import prices", total=len(rows), tags={"supplier": supplier.slug}) as operation:
            for row in rows:
                save(row)
                operation.advance()
    """

    def __init__(self, name: str, *, total: float | None = None, tags: Mapping[str, str] | None = None) -> None:
        self._name = clean_name("track_operation", name)
        self._total = None if total is None else amount("track_operation", "total", total)
        self._tags = clean_tags("track_operation", tags)
        self._entered: list[Running] = []

    def __enter__(self) -> Running:
        outer = running_unit()
        running = Running(
            self._name,
            "operation",
            tags=self._tags,
            total=self._total,
            outer=outer,
            parent=outer.id if isinstance(outer, Running) else None,
            in_thread=asyncio._get_running_loop() is None,
        )
        self._entered.append(running)
        operations.begin(running)
        return running

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        running = self._leave()
        if kind is None:
            operations.end(running, "done", None)
        else:
            cancelled = issubclass(kind, (asyncio.CancelledError, GeneratorExit))
            operations.end(running, "cancelled" if cancelled else "failed", kind.__qualname__)

    def _leave(self) -> Running:
        """
        The operation that ends here. Where several threads or tasks use one object at once it is the caller's own, not
        the last one that was begun.
        """
        running = operations.current()
        if running is None or running not in self._entered:
            begun_here = (each for each in reversed(self._entered) if each.ident == get_ident())
            running = next(begun_here, self._entered[-1])
        self._entered.remove(running)
        return running

    async def __aenter__(self) -> Running:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: F) -> F:
        """At each call an operation of its own; ``advance()`` of this module counts for it."""
        decorated_function("track_operation()", function)
        again = functools.partial(track_operation, self._name, total=self._total, tags=self._tags)
        if iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                with again():
                    return await function(*args, **kwargs)
        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with again():
                    return function(*args, **kwargs)

        return cast("F", wrapper)


def advance(n: float = 1, total: float | None = None) -> None:
    """
    Say that the operation which this code is part of, the innermost one, has done ``n`` more. Outside of any it does
    nothing, so that library code may call it.

    Args:
        n: of whatever the operation counts.
        total: how many there are, if that is known only now, or has changed.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite, or negative.
    """
    running = operations.current()
    if running is not None:
        running.advance(n, total)
