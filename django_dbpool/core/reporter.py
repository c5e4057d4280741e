"""
What is looked at from time to time: one daemon thread, started with the first lease of a process.

While nobody leases nothing is called, so that an idle process stays idle and makes no traffic.
"""

from __future__ import annotations

import os
import threading
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

from .logs import get_logger
from .tally import tallies

logger = get_logger("django_dbpool.reporter")

IDLE_AFTER = 30.0
"""Seconds without a lease after which the process counts as idle."""

IDLE_LOOK = 5.0
"""Seconds between two looks whether an idle process has work again."""

SHORTEST = 0.05
"""Seconds between two rounds at least, whatever jobs ask for."""

COMPLAIN = 60.0
"""Seconds between two log records of the same job's failures."""

PATIENCE = 1.0
"""Seconds that ``flush`` waits for a call of a job that is under way."""


@dataclass(eq=False, slots=True)
class _Job:
    name: str
    call: Callable[[], object]
    interval: float
    idle: bool = False
    last: bool = False
    due: float = 0.0
    complained: float = -COMPLAIN
    running: threading.Lock = field(default_factory=threading.Lock)

    def run(self, patience: float = 0.0, survive: type[BaseException] = Exception) -> None:
        if not self.running.acquire(timeout=patience):
            return  # another thread is at it
        try:
            self.call()
        except survive as error:
            if monotonic() - self.complained >= COMPLAIN:
                self.complained = monotonic()
                logger.error("job %r failed", self.name, exc_info=error)
        finally:
            self.running.release()


_jobs: dict[str, _Job] = {}
_thread: threading.Thread | None = None
_starting = threading.Lock()
_wake = threading.Event()
_began = False


def register(name: str, job: Callable[[], object], *, interval: float, idle: bool = False, last: bool = False) -> None:
    """
    Have something done again and again while this process uses its databases.

    Args:
        name: another job of that name is replaced.
        job: must not take long; input and output belong in a thread of its own. What it raises is logged at most once
            a minute.
        interval: seconds.
        idle: call it also while nobody leases, now and then. Only for what makes no traffic.
        last: call it once more at the end of the process, so that what it tells is whole. It must start no thread: at
            the end of an interpreter none can be.
    """
    _jobs[name] = _Job(name, job, interval, idle, last)
    if _began:
        start()


def unregister(name: str) -> None:
    _jobs.pop(name, None)
    _wake.set()


def begin() -> None:
    """
    With the first lease, and whenever a pool is looked after: once the thread runs this takes no lock. A destructor may
    be at it, in the middle of whatever its thread does.
    """
    if not _began or _thread is None or not _thread.is_alive():
        start()


def start() -> None:
    """Jobs that are registered after the first lease start the thread by themselves."""
    global _thread, _began
    _began = True
    if not _jobs:
        return
    with _starting:  # a thread that has found no job is about to end, though it is alive
        if _thread is not None and _thread.is_alive():
            _wake.set()
        else:
            thread = threading.Thread(target=_run, name="dbpool-reporter", daemon=True)
            with suppress(RuntimeError):  # no more threads: whoever leases needs none of this, and the next one tries
                thread.start()
                _thread = thread


def flush() -> None:
    """Call every job once, now, in the calling thread: for tests."""
    _call(tuple(_jobs.values()))


def _call(jobs: Iterable[_Job]) -> None:
    # First those that make no traffic: at the end of a process there may be no time for all.
    for job in sorted(jobs, key=lambda job: not job.idle):
        job.run(PATIENCE)  # a call that is under way has not seen all


def finish(timeout: float) -> None:
    """
    At the end of a process: those jobs once more that want it. One that hangs holds the end up for no longer than this
    many seconds.
    """
    jobs = [job for job in _jobs.values() if job.last]
    if not jobs:
        return
    done = allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            _call(jobs)
        finally:
            done.release()

    try:
        # Not a threading.Thread: its start() waits for locks of the module, which whoever shuts down may hold.
        start_new_thread(run, ())
    except RuntimeError:  # the interpreter is about to end and starts no threads
        run()
    done.acquire(timeout=timeout)


def reset_after_fork() -> None:
    """The jobs stay, the thread did not survive."""
    global _thread, _starting, _wake, _began
    _thread = None
    _starting = threading.Lock()
    _wake = threading.Event()
    _began = False
    for job in tuple(_jobs.values()):
        job.running = threading.Lock()
        job.due = 0.0


def _run() -> None:
    pid, leases, active, was_idle = os.getpid(), -1, monotonic(), False
    while _goes_on(pid):
        now = monotonic()
        seen, lent = _leases()
        if seen != leases or lent:
            leases, active = seen, now
        idle = now - active >= IDLE_AFTER
        for job in tuple(_jobs.values()):
            # All of them once more when the process becomes idle: what they would have told at their next time.
            if (now >= job.due and (job.idle or not idle)) or (idle and not was_idle):
                job.due = now + job.interval
                job.run(survive=BaseException)  # SystemExit would end this thread, and with it all other jobs
        was_idle = idle
        _wake.wait(IDLE_LOOK if idle else _pause(monotonic()))
        _wake.clear()


def _goes_on(pid: int) -> bool:
    global _thread
    if os.getpid() != pid:
        return False
    with _starting:
        if not _jobs:
            _thread = None  # whoever registers a job from here on starts another
        return bool(_jobs)


def _pause(now: float) -> float:
    due = min((job.due for job in tuple(_jobs.values())), default=now)
    return max(SHORTEST, due - now)


def _leases() -> tuple[int, bool]:
    """How many were asked for, and whether any is out now."""
    counts = [tally.leases() for tally in tallies().values()]
    return sum(begun for begun, _ in counts), any(lent for _, lent in counts)
