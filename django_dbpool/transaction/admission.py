"""Who goes first, and who counts against which limit, when a pool is full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, overload

from ..core.admission import Admission, admission
from ..core.readers import shown
from .declared import decorated, leave

F = TypeVar("F", bound=Callable[..., Any])


class Marked:
    """A block or function, sync or async, whose calls for connections are marked. Blocks nest."""

    def __init__(self, name: str, /, **mark: Any) -> None:
        self._name = name
        self._mark = mark
        self._entered: list[Admission] = []

    def __enter__(self) -> None:
        outer = admission.get()
        mine = replace(outer, outer=outer, **self._mark)
        self._entered.append(mine)
        admission.set(mine)

    def __exit__(self, *exc_info: object) -> None:
        leave(admission, self._entered.pop())

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()

    def __call__(self, function: F) -> F:
        return decorated(self._name, function, lambda: Marked(self._name, **self._mark))


@overload
def reserved(function: F, /) -> F: ...
@overload
def reserved() -> Marked: ...
def reserved(function: Any = None, /) -> Any:
    """
    Let a block or function use the reserve: ``POOL["reserve_size"]`` connections beside ``max_size``.

    For what has to work when the pool is full: health checks, the dashboard of the operators, a kill switch. Its
    calls go before all others, are neither refused in an overload nor counted against a group's limit, and take a
    connection of the reserve only if no ordinary one is free. The mark goes where the context goes:
    ``sync_to_async`` carries it along, a thread that is started by hand doesn't have it.

    Args:
        function: to decorate without parentheses; sync or async.

    Raises:
        TypeError: as a decorator of a generator function or a class.

    Example:
        @transaction.reserved
        def health(request):
            Site.objects.exists()
    """
    mark = Marked("reserved", reserved=True)
    return mark if function is None else mark(function)


@overload
def priority(function: F, /) -> F: ...
@overload
def priority() -> Marked: ...
def priority(function: Any = None, /) -> Any:
    """
    Let a block or function go before ordinary callers, as commit hooks do. For little work that matters more than the
    rest: the payment, not the catalogue. It is not refused in an overload, so if much is marked, all of that waits.

    Args:
        function: to decorate without parentheses; sync or async.

    Raises:
        TypeError: as a decorator of a generator function or a class.
    """
    mark = Marked("priority", priority=True)
    return mark if function is None else mark(function)


def group(name: str) -> Marked:
    """
    Count what a block or function takes against the limit of this group in ``POOL["groups"]``, whatever the setting's
    ``by`` would say. Without effect on aliases that have no limit for the name.

    Raises:
        TypeError: as a decorator of a generator function or a class, or if the name is no string.

    Example:
        with transaction.group("batch"):
            rebuild_index()
    """
    if not isinstance(name, str):
        given = shown(name)  # type: ignore[unreachable]  # not for callers without a type checker
        raise TypeError(f'transaction.group() takes the name of a group, as in group("batch"), not {given}.')
    return Marked("group", group=name)
