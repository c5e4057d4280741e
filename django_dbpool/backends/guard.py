"""Noticing the end of a thread that still holds a lease."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..pool import background
from ..pool.entry import PoolEntry

if TYPE_CHECKING:
    from .acquiring import AcquiringMixin


class ThreadGuard:
    """
    Lives in a thread's local storage, so that its destructor runs when the thread ends, however it ends. The thread
    no longer exists for ``threading`` then, and logging would make a dummy one: reclaiming is the background's work.
    """

    def __init__(self) -> None:
        self.token = object()
        self.wrappers: weakref.WeakSet[AcquiringMixin] = weakref.WeakSet()
        self.pid = os.getpid()
        self.main = threading.current_thread() is threading.main_thread()

    def __del__(
        self,
        getpid: Callable[[], int] = os.getpid,
        is_finalizing: Callable[[], bool] = sys.is_finalizing,
        abandon: Callable[[object, PoolEntry, int], None] = background.abandon,
    ) -> None:
        # A fork clears the locals of the other threads in the child before any hook runs: without the pid this would
        # close the parent's sockets.
        if self.main or self.pid != getpid() or is_finalizing():
            return
        for wrapper in tuple(self.wrappers):
            entry, pool = wrapper._entry, wrapper._pool
            if entry is not None and pool is not None and not wrapper._thread_sharing_count:
                wrapper._entry = None
                abandon(pool, entry, entry.generation)


_this_thread = threading.local()


def watch(wrapper: AcquiringMixin, known: object) -> object:
    """
    Have the end of this thread end the wrapper's lease.

    Args:
        known: what the last call returned, so that a wrapper that is watched already costs nothing.
    """
    guard = getattr(_this_thread, "guard", None)
    if guard is None:
        guard = _this_thread.guard = ThreadGuard()
    # The token, not the guard, is handed out: the guard must go with its thread, whoever still knows the wrapper.
    if known is not guard.token:
        guard.wrappers.add(wrapper)
    return guard.token
