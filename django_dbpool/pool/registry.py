"""
The pools of this process. A pool belongs to the process that made it: a forked child forgets those it inherits and
makes its own. It never closes them: libpq would send Terminate on the socket that the parent goes on using.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Hashable
from time import monotonic
from typing import Protocol

from ..core import events, reporter, tally
from . import background, probing, stopping, watchdog
from .managed import ManagedPool


class Forgetful(Protocol):
    """Something that holds a lease and must drop it in a forked child."""

    def forget_lease(self) -> None: ...


_pools: dict[Hashable, ManagedPool] = {}
_lock = threading.Lock()
_graveyard: list[object] = []
"""Inherited pools, kept so that no destructor touches the parent's sockets."""
_holders: weakref.WeakSet[Forgetful] = weakref.WeakSet()


def get_pool(key: Hashable, make: Callable[[], ManagedPool]) -> ManagedPool:
    """The pool for ``key``, made on first use."""
    pool = _pools.get(key)
    if pool is not None and not pool.gate.closed:
        return pool
    # Made outside of the lock, since it runs code of engines that derive from ours. Two threads may both make one; the
    # loser's has not opened anything.
    made = make()
    with _lock:
        pool = _pools.get(key)
        if pool is None or pool.gate.closed:
            pool = _pools[key] = made
    if stopping.announced is not None:  # looked at after it can be seen by whoever announces
        stopping.suspend_all()
    return pool


def pools() -> tuple[ManagedPool, ...]:
    """This process's open pools."""
    return tuple(pool for pool in tuple(_pools.values()) if not pool.gate.closed)


def close_pools(alias: str | None = None, timeout: float = 5.0) -> None:
    """Close every pool, or every pool of one alias; leased connections are closed when they come back."""
    with _lock:
        chosen = [(key, pool) for key, pool in _pools.items() if alias is None or pool.alias == alias]
        for key, _ in chosen:
            del _pools[key]
    deadline = monotonic() + timeout
    for _, pool in chosen:
        pool.close(max(0.0, deadline - monotonic()))
    probing.close(alias, max(0.0, deadline - monotonic()))


def register_holder(holder: Forgetful) -> None:
    """Have ``holder`` told to drop its lease when the process forks."""
    _holders.add(holder)


def _forget_inherited() -> None:
    """In the child of a fork, with one thread left: the one that called fork()."""
    global _lock
    _lock = threading.Lock()
    for pool in _pools.values():
        _graveyard.append((pool, list(pool.gate.free), list(pool.entries)))
        pool.forget()
    _pools.clear()
    probing.forget()
    stopping.forget()
    tally.reset_after_fork()
    events.reset_after_fork()
    reporter.reset_after_fork()
    background.reset_after_fork()
    watchdog.reset_after_fork()
    for holder in tuple(_holders):
        holder.forget_lease()


def _close_at_exit() -> None:
    stopping.stop_now()
    close_pools(timeout=1.0)
    reporter.finish(reporter.PATIENCE)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)
atexit.register(_close_at_exit)
