"""Wait for a socket, in a way that lets other greenlets run."""

from __future__ import annotations

import select


def readable(fileno: int, seconds: float) -> bool:
    """Whether it has something to read, or will within that time."""
    # Looked up each time, unlike entry.make_poll(): under gevent this has to be the one that lets others run.
    if not hasattr(select, "poll"):
        return bool(select.select([fileno], (), (), seconds)[0])
    poller = select.poll()
    poller.register(fileno, select.POLLIN)
    return bool(poller.poll(max(1, int(seconds * 1000))))
