"""
``django_dbpool.shutdown()``: what has begun is finished, what is new is refused, then every pool is closed.

The work is done by a thread of its own, and whoever calls looks at it from time to time. A signal handler runs in the
middle of anything, perhaps of a few lines under a pool's lock; it may not take a lock itself, and not wait for a thread
that waits for what it has interrupted.
"""

from __future__ import annotations

import _thread
import time
from collections.abc import Callable

from ..core import ledger, reporter
from ..core.ledger import Holder
from ..core.logs import get_logger
from ..core.stopping import Shutdown, ShutdownResult, Stopping
from . import reporting

logger = get_logger("django_dbpool.pool")

LOOK = 0.01
"""Seconds between two looks at what still runs."""

CLOSING = 0.8
"""Seconds, beyond the timeout, that closing may take; with a frozen server it could take longer."""

announced: Shutdown | None = None
"""Of this process, once there is one. Read by every lease that has to wait or to connect."""

farewells: list[Callable[[], object]] = []
"""Called when all work has ended, before the pools close; each within a second or two."""

finishers: set[int] = set()
"""Idents of the threads that may lease for that; it isn't waited for them."""

_first: dict[str, _Work] = {}


class _Work:
    """One shutdown and the thread that does it."""

    def __init__(self, shutdown: Shutdown) -> None:
        self.shutdown = shutdown
        self.result: ShutdownResult | None = None
        self._taken = _thread.allocate_lock()

    def start(self) -> None:
        if not self._taken.acquire(blocking=False):
            return
        try:
            # Not a threading.Thread: its start() waits, without limit, for locks of the module.
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # the interpreter is about to end and starts no threads
            self._run()

    def _run(self) -> None:
        try:
            suspend_all()
            while self.shutdown.clock() < self.shutdown.deadline and (_leasing() or self.shutdown.running()):
                time.sleep(LOOK)
                _reclaim_lost()
            self._close()
        except Exception:
            logger.exception("the shutdown of the pools failed")

    def _close(self) -> None:
        from .registry import close_pools

        shutdown = self.shutdown
        result = _what_is_left(shutdown)
        if result.clean:
            for farewell in farewells:
                try:
                    farewell()
                except Exception:  # the pools are to be closed all the same
                    logger.exception("a last message of this process failed")
        shutdown.over = True
        if not result.clean:
            logger.warning(
                "shutdown: %d leases and %d requests or tasks have not ended after %.1f s%s",
                len(result.held),
                len(result.unfinished),
                result.seconds,
                "".join(f"\n  {each}" for each in (*result.held, *result.unfinished)),
            )
        close_pools(timeout=CLOSING)
        reporter.finish(reporter.PATIENCE)  # the last numbers, and that nothing is open any more
        self.result = result

    def wait(self, deadline: float) -> ShutdownResult:
        """Until it is done, or can't be before the calling thread has ended its own work, or it is too late."""
        mine = {_thread.get_ident()}
        while self.result is None and self.shutdown.clock() < min(deadline, self.shutdown.deadline) + CLOSING:
            others = (_leasing() | self.shutdown.running().keys()) - mine
            if not others and (mine & _leasing() or mine & self.shutdown.running().keys()):
                break
            time.sleep(LOOK)
        return self.result or _what_is_left(self.shutdown)


def shutdown(timeout: float) -> ShutdownResult:
    """See ``django_dbpool.shutdown``."""
    global announced
    now = time.monotonic()
    # One bytecode, so that of several callers, one perhaps on top of another, one is the first.
    work = _first.setdefault("", _Work(Shutdown(now + timeout, _leasing)))
    announced = work.shutdown
    announced.hurry(now + timeout)
    work.start()
    return work.wait(now + timeout)


def check(*, finishing: bool) -> None:
    """
    Before a lease that has to wait or to connect; called only when a shutdown is announced.

    Raises:
        Stopping: there is none for this caller.
    """
    finishing = finishing or _thread.get_ident() in finishers
    if announced is not None and not announced.admits(finishing=finishing):
        raise Stopping


def suspend_all() -> None:
    """Send every lease the slow way, where ``check`` is called."""
    from .registry import pools

    for pool in pools():
        pool.gate.suspend(True)


def stop_now() -> None:
    """At the end of the interpreter: no new pools for the daemon threads that go on."""
    global announced
    if announced is None:
        announced = Shutdown(time.monotonic(), _leasing)
    announced.over = True


def forget() -> None:
    """In a forked child: it is its parent that ends."""
    global announced, _first
    announced = None
    _first = {}
    finishers.clear()
    ledger.forget_other_threads()


def resume() -> None:
    """Lend again, in a process in which a server ends and another starts (tests, reloaders)."""
    global announced, _first
    from .registry import close_pools

    announced = None
    _first = {}
    close_pools(timeout=CLOSING)  # made meanwhile, and suspended


def _leasing() -> set[int]:
    """The threads that hold, wait for or open a connection, and have to be waited for."""
    from .registry import pools

    return {ident for pool in pools() for ident in reporting.threads(pool)} - finishers


def _reclaim_lost() -> None:
    from .registry import pools

    for pool in pools():
        pool.housekeeping.reclaim_lost()


def _what_is_left(shutdown: Shutdown) -> ShutdownResult:
    from .registry import pools

    held: list[Holder] = [
        holder for pool in pools() for holder in pool.holders() if holder.thread_ident not in finishers
    ]
    return ShutdownResult(
        seconds=shutdown.clock() - shutdown.began,
        held=tuple(sorted(held, key=lambda holder: -holder.since_seconds)),
        unfinished=tuple(_label(unit) for unit in shutdown.running().values()),
    )


def _label(unit: object) -> str:
    try:
        # Not its repr(): of a request that would be all its headers.
        return ledger.label_of(unit) or f"<{type(unit).__name__}>"
    except Exception:  # noqa: BLE001  # a URLconf that can't be imported any more
        return f"<{type(unit).__name__}>"
