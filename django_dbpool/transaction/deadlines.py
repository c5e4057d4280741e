"""One time limit for everything that a block asks of its databases."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from ..core import arguments
from ..core.blocks import Deadline, current_deadline, use_deadlines
from ..pool import watchdog
from .declared import decorated, leave

F = TypeVar("F", bound=Callable[..., Any])


class deadline:  # noqa: N801  # a context manager, as atomic
    """
    A block or a function, sync or async, that has to be done with its databases in time.

    The time counts from the beginning of the block, or of each call of the function, for everything together: waiting
    for a connection, connecting and its repetitions, those of ``retrying()``, and statements, which are cancelled as
    by ``POOL["command_timeout"]``: on the server and, if it doesn't answer, by cutting the connection. A statement
    that would begin too late is not sent. Nor is a COMMIT, so that the transaction is rolled back; one that was sent in
    time is not cancelled, but cut if it isn't answered within half a second after the deadline. Python code between
    the statements is not interrupted.

    Blocks nest, the earliest deadline holds. It is carried by ``sync_to_async`` and ``asyncio.to_thread``, not by
    threads that are started by hand. With the pool switched off it bounds only the repetitions of ``retrying()`` and
    refuses statements.

    Args:
        seconds: from now on; 0 refuses everything.

    Raises:
        TypeError: as a decorator of a generator function or a class; seconds is no number.
        ValueError: seconds is negative or not finite.
        PoolExhausted: in the block: no connection came free in time.
        DatabaseUnavailable: in the block: connecting did not succeed in time.
        LeaseTimedOut: in the block: a statement was not done or could not begin in time; ``setting`` is "deadline".

    Example:
        with transaction.deadline(2.5):
            report = build_report()
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = arguments.seconds("transaction.deadline", "seconds", seconds)
        self._entered: list[Deadline] = []

    def __enter__(self) -> None:
        use_deadlines()
        watchdog.enable()
        mine = Deadline(current_deadline.get(), self.seconds)
        self._entered.append(mine)
        current_deadline.set(mine)

    def __exit__(self, *exc_info: object) -> None:
        leave(current_deadline, self._entered.pop())

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()

    def __call__(self, function: F) -> F:
        return decorated("deadline", function, partial(deadline, self.seconds))
