"""
Has anything been written? Asked by whoever wants to run a piece of code a second time.

What counts is what can't be taken back: a statement outside of a transaction that isn't known as a read, and the COMMIT
of a transaction that had one. What is unknown counts as a write.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Self

watching = False
"""Whether anybody has ever asked. What a statement looks at before anything else here."""


def watch() -> None:
    """From now on statements are noted."""
    global watching
    watching = True


class Writes:
    """
    Notes what the code of its block writes, in threads and tasks too that inherit the block's context.

    Example:
        with Writes() as writes:
            ...
        if not writes.happened:
            ...
    """

    __slots__ = ("_outer", "_pending", "happened")

    def __init__(self) -> None:
        self.happened = False
        self._pending = False
        """A transaction had a statement that may write; a rollback leaves it true, which costs a repetition at most."""
        self._outer: Writes | None = None

    def __enter__(self) -> Self:
        watch()
        self._outer = _current.get()
        _current.set(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        _current.set(self._outer)


_current: ContextVar[Writes | None] = ContextVar("dbpool_writes", default=None)


def forget() -> None:
    """What follows in this context is none of its beginner's doing."""
    _current.set(None)


def note_statement(in_transaction: bool) -> None:
    """One that may write is about to be sent."""
    writes = _current.get()
    while writes is not None:
        if in_transaction:
            writes._pending = True
        else:
            writes.happened = True
        writes = writes._outer


def note_commit() -> None:
    """A transaction was committed, or nobody knows whether it was."""
    writes = _current.get()
    while writes is not None:
        writes.happened = writes.happened or writes._pending
        writes = writes._outer
