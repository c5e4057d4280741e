"""
The time limit of statements on the client's side, ``POOL["command_timeout"]``: it works when the server doesn't.

One daemon thread per process, started by the first statement that has a limit. It sleeps until the earliest deadline
of the statements that run; a statement wakes it only if its own is earlier still. Without statements it sleeps on.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from time import monotonic
from typing import Any

import psycopg
from psycopg import Connection

from ..core.blocks import shortened
from ..core.logs import get_logger
from . import command as commands
from .command import Command
from .entry import PoolEntry

logger = get_logger("django_dbpool.pool")

watching = False
"""Whether any pool has a limit or any task can be cancelled. What a statement asks before anything else here."""

LOOK_AGAIN = 0.02
"""Seconds after which a command that is late, but not at the server's, is looked at again; later ever less often."""

# When the thread will look next. Statements with an earlier deadline wake it.
_wakes_at = math.inf
_wake: queue.SimpleQueue[None] = queue.SimpleQueue()
_thread: threading.Thread | None = None
_starting = threading.Lock()


def enable() -> None:
    """Have statements announced from now on."""
    global watching
    watching = True


def begin(entry: PoolEntry, limit: float | None, scope: object = None) -> None:
    """Before a statement on ``entry`` that may take ``limit`` seconds; ``command.end(entry)`` follows."""
    command = entry.command = Command(entry, limit, scope)
    commands.running.add(command)
    # After the add: either the thread sees the command in its present round, or it has said already when it wakes.
    if command.deadline < _wakes_at:
        _wake_up()


@contextmanager
def limited(entry: PoolEntry, limit: float | None) -> Iterator[None]:
    """Round trips of our own."""
    limit = shortened(limit)
    if limit is None:
        yield
        return
    begin(entry, limit)
    try:
        yield
    finally:
        commands.end(entry)


InTime = Callable[[], AbstractContextManager[None]]
"""Gives the limit of a round trip. Asked for only by those that make one: it takes a thread."""


@contextmanager
def connecting(conn: Connection[Any], limit: float) -> Iterator[None]:
    """
    The same on a connection that is nobody's yet.

    Raises:
        ConnectionTimeout: the limit was exceeded.
    """
    entry = PoolEntry(conn, monotonic(), math.inf)
    cause: psycopg.Error | None = None
    try:
        begin(entry, limit)
        yield
    except psycopg.Error as error:
        cause = error
    finally:
        stopped = commands.end(entry) is not None
    if stopped:
        raise psycopg.errors.ConnectionTimeout("connection timeout expired: no answer after connecting") from cause
    if cause is not None:
        raise cause


def _wake_up() -> None:
    global _thread
    if _thread is None or not _thread.is_alive():
        with _starting:
            if _thread is None or not _thread.is_alive():
                _thread = threading.Thread(target=_run, name="dbpool-watchdog", daemon=True)
                _thread.start()
    _wake.put(None)


def _run() -> None:
    global _wakes_at
    pid = os.getpid()
    while os.getpid() == pid:
        _wakes_at = math.inf
        soonest = math.inf
        try:
            soonest = _look(monotonic())
        except Exception:
            logger.exception("the watchdog of time limits failed")
        _wakes_at = soonest
        with suppress(queue.Empty):
            _wake.get(timeout=None if soonest == math.inf else max(0.0, soonest - monotonic()))


def _look(now: float) -> float:
    """Cancel what is late; when the next is due."""
    soonest = math.inf
    for command in tuple(commands.running):
        if command.over():
            commands.running.discard(command)
            continue
        if command.cancellation is not None:
            continue
        if now >= command.deadline:
            if command.active():
                if (cancellation := commands.announce(command, timed_out=True)) is not None:
                    cancellation.start()
                continue
            command.deadline = now + max(LOOK_AGAIN, now - command.began - command.limit)
        soonest = min(soonest, command.deadline)
    return soonest


def reset_after_fork() -> None:
    """The thread did not survive the fork."""
    global _thread, _wake, _starting, _wakes_at
    _thread = None
    _wake = queue.SimpleQueue()
    _starting = threading.Lock()
    _wakes_at = math.inf
    commands.reset_after_fork()
