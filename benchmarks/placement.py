"""Client and server on one core, for the cases where a difference of a microsecond must show.

Left to itself the scheduler puts a backend now beside the client and now on another core, and a round trip
takes 30 or 90 µs accordingly: many times the difference to be measured. On one core it always takes the short
time. That makes the ratios steady, and stricter: the same cost is compared with a smaller whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from django.db import connections

from testproject.postgres import EmbeddedServer, Server


def possible(server: Server) -> bool:
    """Only Linux can do it, and only with a server that is ours."""
    return hasattr(os, "sched_setaffinity") and isinstance(server, EmbeddedServer)


@contextmanager
def one_core(server: Server) -> Iterator[None]:
    cores = os.sched_getaffinity(0)
    place(server, {max(cores)})
    try:
        yield
    finally:
        place(server, cores)


def place(server: Server, cores: set[int]) -> None:
    """Move this thread and all of the server: what starts later inherits from what is moved here."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity")
        backends = [int(pid) for (pid,) in cursor.fetchall()]
    assert isinstance(server, EmbeddedServer) and server.pid is not None
    for pid in (0, server.pid, *backends):
        with suppress(ProcessLookupError):  # a background worker may have ended meanwhile
            os.sched_setaffinity(pid, cores)
