"""Code that says of itself that running it twice is the same as running it once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from ..core.blocks import Declaration, current_idempotence, use_idempotence
from .declared import decorated, leave

F = TypeVar("F", bound=Callable[..., Any])


class Idempotent:
    """A block or a decorator, sync or async; see ``idempotent``."""

    def __init__(self) -> None:
        self._entered: list[Declaration] = []

    def __enter__(self) -> None:
        use_idempotence()
        mine = Declaration(current_idempotence.get())
        self._entered.append(mine)
        current_idempotence.set(mine)

    def __exit__(self, *exc_info: object) -> None:
        leave(current_idempotence, self._entered.pop())

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()

    def __call__(self, function: F) -> F:
        return decorated("idempotent", function, Idempotent)


@overload
def idempotent(function: F, /) -> F: ...
@overload
def idempotent() -> Idempotent: ...
def idempotent(function: Any = None, /) -> Any:
    """
    Say that to run this code twice is the same as to run it once, as that of a read, of ``SET n = 7``, of an upsert.

    What is executed as raw SQL outside of a transaction (``cursor.execute``) then runs again when its connection is
    lost, as reads of the ORM always do, as often as ``POOL["retry"]["attempts"]`` says. And ``retrying()`` repeats
    also what may have been committed by statements outside of a transaction. Nothing changes inside of a transaction,
    nor for rows that are fetched, copied or streamed piece by piece. Needs the pool; with the pool switched off only
    ``retrying()`` takes notice.

    Args:
        function: to decorate without parentheses; sync or async.

    Raises:
        TypeError: as a decorator of a generator function or a class.

    Example:
        with transaction.idempotent(), connection.cursor() as cursor:
            cursor.execute("SELECT * FROM report(%s)", [year])
    """
    return Idempotent() if function is None else Idempotent()(function)
