"""
Publishing this process's snapshots while it works. The reporter's thread takes them, a thread of its own carries them
to the store, so that neither requests nor other reports ever wait for it.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..conf import fleet_config
from ..core import reporter
from ..core.fleet import FleetConfig
from ..core.logs import get_logger
from ..core.process import this_process
from ..core.tally import tallies
from ..pool import stopping
from ..pool.registry import pools
from . import commands, verbs
from .ring import Ring
from .snapshot import encoded, snapshot
from .stores import Store, Unusable, store_of
from .table import TableStore

logger = get_logger("django_dbpool.fleet")

JOB = "fleet"

IDLE_AFTER = reporter.IDLE_AFTER - 10.0
"""
Seconds without a lease, other than for publishing, after which a process says that it is idle, and then nothing. The
reporter, to which our leases are as good as any, must not fall asleep before it is said.
"""

IDLE_EXPIRES = 86_400.0
"""Seconds for which that is kept."""

LOOKS = 0.4
"""
Of an interval: how often a process that is at work looks for commands. Whoever has clicked on a button waits for that.
It is one indexed query, a snapshot is five round trips.
"""

SHORTEST_LOOK = 0.1

UNUSABLE_PAUSE = 60.0
"""Seconds between two attempts where there is no store, such as before ``migrate``."""

LAST_WORD = 1.5
"""Seconds that a process which ends gives to its last snapshot. One that is killed meanwhile has lost nothing."""

CLOSING = 0.5
"""Seconds that it waits for the thread to end, which as a daemon keeps nobody."""


_Item = tuple[str, str, float, float]
"""The latest state, the snapshot that has it, when it was taken, and how long it is to be kept."""

LOOK: _Item = ("", "", 0.0, 0.0)
"""Nothing is to be published; commands are to be looked for."""


class Publisher:
    """
    Of one process.

    Args:
        store: where to.
        interval: seconds between two snapshots.
        expire: seconds after which one is forgotten.
        clock: seconds; injected by tests.
    """

    def __init__(self, store: Store, *, interval: float, expire: float, clock: Callable[[], float] = monotonic) -> None:
        self.pid = os.getpid()
        self.ring = Ring(interval, clock)
        self.published = 0
        """Snapshots that the store has taken."""
        self._store = store
        self._interval = interval
        self._expire = expire
        self._clock = clock
        self._began = clock()
        self._active_at = clock()
        self._seen = -1
        self._own = 0
        """Leases that were taken for publishing."""
        self._quiet = False
        self._not_before = -1e9
        self._explained: str | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._next: _Item | None = None
        self._looking: float | None = None
        """Seconds after which the thread looks for commands; None while others are to hear nothing of this process."""
        self._busy = False
        self._closed = False

    # -- in the reporter's thread -------------------------------------------------------------------------------

    def tick(self) -> None:
        """Take a snapshot, if it is time for one, and leave it to the thread that publishes."""
        now = self._clock()
        self.ring.sample([pool.snapshot() for pool in pools()])
        if self._is_active(now):
            # A command that is over in a moment is no news.
            if this_process().role in ("command", "process") and now - self._began < self._interval:
                return
            self._offer("active", self._expire)
        elif not self._quiet and self.published:
            self._offer("idle", IDLE_EXPIRES)

    def _is_active(self, now: float) -> bool:
        readings = [tally.leases() for tally in tallies().values()]
        leases = sum(begun for begun, _ in readings) - self._own
        lent = any(out for _, out in readings)
        if not self._busy and (leases != self._seen or lent):
            self._seen, self._active_at = leases, now
        return now - self._active_at < IDLE_AFTER

    def _offer(self, state: str, expire: float) -> None:
        now = self._clock()
        if now < self._not_before:
            return
        text = encoded({**snapshot(), "state": state, "interval": self._interval, **self.ring.to_json()})
        with self._changed:
            self._next = state, text, now, expire
            self._start()
            self._changed.notify_all()

    def _start(self) -> None:
        if self._closed or (self._thread is not None and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._run, name="dbpool-fleet", daemon=True)
        self._thread.start()

    # -- in the thread that publishes ---------------------------------------------------------------------------

    def _run(self) -> None:
        stopping.finishers.add(threading.get_ident())
        try:
            self._carry()
        finally:
            stopping.finishers.discard(threading.get_ident())

    def _carry(self) -> None:
        while (item := self._take()) is not None:
            before = _leases()
            try:
                if item == LOOK:
                    self._look()
                else:
                    self._publish(*item)
            finally:
                # What others have leased meanwhile counts as ours. They will lease again, or are idle.
                self._own += _leases() - before
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _take(self) -> _Item | None:
        """What is to be published, or LOOK; None at the end."""
        with self._changed:
            while self._next is None:
                if self._closed:
                    return None
                if not self._changed.wait(self._looking):
                    break
            item, self._next = self._next or LOOK, None
            self._busy = True
            return item

    def _publish(self, state: str, text: str, taken: float, expire: float) -> None:
        self._looking = None  # unless it goes well: where nothing can be published there is nothing to be read
        try:
            try:
                delay = max(0.0, self._clock() - taken)
                self._store.put(this_process().instance, text, delay=delay, expire=expire)
                if state == "active" and isinstance(self._store, TableStore):
                    self._looking = max(SHORTEST_LOOK, LOOKS * self._interval)
                    self._obey(self._store.alias)
            finally:
                self._store.close()
        except Unusable as error:
            self._not_before = self._clock() + UNUSABLE_PAUSE
            if self._explained != str(error):
                self._explained = str(error)
                logger.info("this process publishes nothing: %s", error)
        except Exception as error:  # noqa: BLE001  # whatever the driver, a pool or a cache's client raises
            if self.ring.failed(type(error).__name__).snapshots == 1:
                logger.info("%s: nothing can be published (%s); tried again", self._store.description, _kind(error))
        else:
            self._explained = None
            self.published += 1
            self._quiet = state == "idle"
            if (outage := self.ring.succeeded()) is not None:
                logger.info("%s: published again after %d attempts", self._store.description, outage.snapshots)

    def _look(self) -> None:
        assert isinstance(self._store, TableStore)
        try:
            self._obey(self._store.alias)
        finally:
            with suppress(Exception):  # of a connection that is gone; the thread has more to do
                self._store.close()

    def _obey(self, alias: str) -> None:
        """Commands stand beside the snapshots."""
        try:
            commands.poll(alias)
        except Exception as error:  # noqa: BLE001  # as above; what is still valid then is obeyed at the next beat
            self._looking = None
            logger.info("%s: no commands can be looked for (%s)", self._store.description, _kind(error))

    # -- the end ------------------------------------------------------------------------------------------------

    def say_goodbye(self, timeout: float = LAST_WORD) -> None:
        """
        Publish a last snapshot, which says that this process ends; the others see it leave at once. Not where nobody
        knows of it, where the store doesn't answer, and not if a sleeping server had to be woken for it.
        """
        if self._closed or not self.published or self.ring.outage is not None:
            return
        if self._quiet and not any(pool.entries for pool in pools()):
            return
        self._offer("ended", self._expire)
        self.wait(timeout)

    def wait(self, timeout: float) -> bool:
        """Until what was taken has been published, or could not be."""
        return self._wait(lambda: self._next is None and not self._busy, timeout)

    def _wait(self, done: Callable[[], bool], timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(done, timeout)

    def close(self, timeout: float = CLOSING) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._next = None
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)


def _leases() -> int:
    return sum(tally.leases()[0] for tally in tallies().values())


def _kind(error: Exception) -> str:
    """Without its text, in which there may be the address of a cache, with a password."""
    cause = error.__cause__
    code = getattr(cause if cause is not None else error, "sqlstate", None)
    return f"{type(error).__name__} {code}" if code else type(error).__name__


# -- of this process ---------------------------------------------------------------------------------------------

_publisher: Publisher | None = None


def publisher(config: FleetConfig | None = None) -> Publisher | None:
    """
    This process's own; None if it has none by the settings.

    Raises:
        ImproperlyConfigured: the settings are wrong.
    """
    global _publisher
    if _publisher is None or _publisher.pid != os.getpid():
        config = fleet_config() if config is None else config
        store = store_of(config)
        if store is None:
            return None
        _publisher = Publisher(store, interval=config.interval, expire=config.expire)
    return _publisher


def own_snapshot() -> dict[str, Any]:
    """This process now, with its last minutes as far as it remembers them; what its socket tells, too."""
    mine = _publisher
    return {**snapshot(), **({} if mine is None or mine.pid != os.getpid() else mine.ring.to_json())}


verbs.snapshot_provider = own_snapshot


def tick() -> None:
    """What the reporter calls while this process works."""
    if _under_tests():
        reporter.unregister(JOB)
        return
    try:
        mine = publisher()
    except ImproperlyConfigured:
        reporter.unregister(JOB)
        logger.exception("this process publishes nothing")
        return
    if mine is None:
        reporter.unregister(JOB)
    elif stopping.announced is None:
        mine.tick()


def _under_tests() -> bool:
    """Whether Django's test environment is set up: its outbox is the one thing of it that can be seen."""
    return hasattr(sys.modules.get("django.core.mail"), "outbox")


def end() -> None:
    """The process ends in order: tell the others."""
    global _publisher
    mine, _publisher = _publisher, None
    if mine is not None and mine.pid == os.getpid():
        try:
            mine.say_goodbye()
        finally:
            mine.close()


def _at_exit() -> None:
    reporter.unregister(JOB)
    end()


def _forget_inherited() -> None:
    """In the child of a fork: the thread is the parent's, and its locks may be held."""
    global _publisher
    _publisher = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)
stopping.farewells.append(end)
atexit.register(_at_exit)
