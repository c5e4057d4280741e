"""
The one background thread of a process. It starts with the first lease in that process, is a daemon, and sleeps until
something is due: an idle process neither runs nor talks to the server.
"""

from __future__ import annotations

import os
import queue
import threading

from ..core import reporter
from ..core.logs import get_logger
from .entry import PoolEntry

logger = get_logger("django_dbpool.pool")

LONGEST_SLEEP = 60.0

# A SimpleQueue because its put() may be called from destructors, whatever lock this thread holds:
# https://docs.python.org/3/library/queue.html#queue.SimpleQueue.put
_abandoned: queue.SimpleQueue[tuple[object, PoolEntry, int] | None] = queue.SimpleQueue()
_thread: threading.Thread | None = None
_starting = threading.Lock()


def start() -> None:
    """Make sure that the thread runs in this process."""
    global _thread
    reporter.begin()
    if _thread is not None and _thread.is_alive():
        _abandoned.put(None)
        return
    with _starting:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_run, name="dbpool-background", daemon=True)
            _thread.start()


def abandon(pool: object, entry: PoolEntry, generation: int) -> None:
    """From a destructor: the holder of this lease was collected."""
    _abandoned.put((pool, entry, generation))


def reset_after_fork() -> None:
    """The thread did not survive the fork, and its queue may hold the parent's connections."""
    global _thread, _abandoned, _starting
    _thread = None
    _abandoned = queue.SimpleQueue()
    _starting = threading.Lock()


def _run() -> None:
    pid = os.getpid()
    sleep = 0.05
    while os.getpid() == pid:
        try:
            item = _abandoned.get(timeout=sleep)
            if item is not None:
                _reclaim(*item)
                sleep = 0.0
                continue
        except queue.Empty:
            pass
        sleep = _tick()


def _reclaim(pool: object, entry: PoolEntry, generation: int) -> None:
    from .managed import ManagedPool

    assert isinstance(pool, ManagedPool)
    try:
        pool.housekeeping.reclaim(entry, generation)
    except Exception:
        logger.exception("reclaiming an abandoned lease failed")


def _tick() -> float:
    from .registry import pools

    sleep = LONGEST_SLEEP
    for pool in pools():
        try:
            sleep = min(sleep, pool.housekeeping.tick())
        except Exception:
            # One bad pool must not stop the upkeep of the others.
            logger.exception("upkeep of database %r failed", pool.alias)
    return sleep
