"""
What was counted in the last quarter of an hour. Counters go on for as long as a process lives, and what was slow last
week says nothing of now: so they are written down twice a minute, and what was added since is told.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

from ..core.tally import Histogram
from ..pool.measures import Measures, measures

SPAN = 900.0
INTERVAL = 30.0


class _Counted(NamedTuple):
    """Of one alias at one moment."""

    leases: int
    use: Histogram
    wait: Histogram
    connect: Histogram
    refused: dict[str, int]
    failed: int
    lost: int


_NOTHING = _Counted(0, Histogram(), Histogram(), Histogram(), {}, 0, 0)


class Recent:
    """
    Of one process.

    Args:
        clock: seconds that only go forward; injected by tests.
        read: the measures of every alias.
    """

    def __init__(
        self, clock: Callable[[], float] = monotonic, read: Callable[[], tuple[Measures, ...]] = measures
    ) -> None:
        self._clock = clock
        self._read = read
        self._began = clock()
        self._samples: deque[tuple[float, dict[str, _Counted]]] = deque(maxlen=int(SPAN / INTERVAL) + 2)

    def sample(self) -> None:
        """Write down where the counters are. Called while the process works; while it is idle nothing is counted."""
        now = self._clock()
        # However often this is called, so many samples have to reach back for a quarter of an hour.
        if not self._samples or now - self._samples[-1][0] >= INTERVAL - 1:
            self._samples.append((now, {each.alias: _counted(each) for each in self._read()}))

    def to_json(self) -> dict[str, Any]:
        """By alias what was added in the last quarter of an hour, or since the process began."""
        now = self._clock()
        older = [sample for sample in tuple(self._samples) if now - sample[0] >= SPAN]
        began, before = older[-1] if older else (self._began, {})
        return {
            each.alias: {"seconds": round(min(SPAN, now - began), 1), **_added(_counted(each), before.get(each.alias))}
            for each in self._read()
        }


def _counted(measured: Measures) -> _Counted:
    return _Counted(
        measured.leases,
        measured.use,
        measured.wait,
        measured.connect,
        dict(measured.refused),
        measured.failed,
        measured.lost,
    )


def _added(now: _Counted, before: _Counted | None) -> dict[str, Any]:
    if before is None or before.leases > now.leases:  # begun afresh, which only tests have done
        before = _NOTHING
    return {
        "leases": now.leases - before.leases,
        "use": now.use.since(before.use).to_json(),
        "wait": now.wait.since(before.wait).to_json(),
        "connect": now.connect.since(before.connect).to_json(),
        "refused": {
            error: count - before.refused.get(error, 0)
            for error, count in now.refused.items()
            if count > before.refused.get(error, 0)
        },
        "failed": now.failed - before.failed,
        "lost": now.lost - before.lost,
    }


_recents: dict[int, Recent] = {}


def recent() -> Recent:
    """Of this process; a forked child has its own."""
    pid = os.getpid()
    found = _recents.get(pid)
    return found if found is not None else _recents.setdefault(pid, Recent())


def sample() -> None:
    recent().sample()


def section() -> dict[str, Any] | None:
    """As JSON values, for a snapshot."""
    return recent().to_json() or None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_recents.clear)
