"""
What an engine costs a process that has just been started, as one JSON object: `python -m benchmarks.footprint`, with an
entry of DATABASES as JSON on standard input. One process for each measurement: nothing is left over from another.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

CONNECTIONS = 60
WARM_UP = 20
"""The first ones use memory that start-up has freed."""
LEASES = 2000


def resident() -> float:
    """KiB of this process in memory; where that can't be asked, the most there have been."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 1024
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 1024 if sys.platform == "darwin" else most


def main() -> None:
    database: dict[str, Any] = json.load(sys.stdin)
    print(json.dumps(measured(database)))


def measured(database: dict[str, Any]) -> dict[str, float]:
    found = importing(database)
    from django.db import connections

    connection: Any = connections["default"]

    def query() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()

    query()
    found["process"] = resident()
    found["connection"] = per_connection(connection)  # before tracing: it would use what that has freed
    query()
    found["lease"] = kept_by(query)
    if hasattr(connection, "close_pool"):
        connection.close()
        connection.close_pool()
    return found


def importing(database: dict[str, Any]) -> dict[str, float]:
    """Milliseconds and modules from the bare interpreter to a Django that could connect."""
    modules, start = len(sys.modules), time.perf_counter()
    import django
    from django.conf import settings

    apps = ["django_dbpool"] if database["ENGINE"].startswith("django_dbpool.") else []
    settings.configure(DATABASES={"default": database}, INSTALLED_APPS=apps, USE_TZ=True, SECRET_KEY="footprint")
    django.setup()
    from django.db import connections

    assert connections["default"].vendor == "postgresql"
    return {"import": 1000 * (time.perf_counter() - start), "modules": len(sys.modules) - modules}


def kept_by(query: Callable[[], None]) -> float:
    """Bytes of Python objects that one lease leaves behind; 0 but for rounding."""
    tracemalloc.start()
    try:
        query()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(LEASES):
            query()
        return max(0.0, (tracemalloc.get_traced_memory()[0] - before) / LEASES)
    finally:
        tracemalloc.stop()


def per_connection(connection: Any) -> float:
    """KiB for one more physical connection and the database wrapper that a thread has for it."""
    wrappers = []
    backends = set()

    def one_more() -> None:
        wrapper = connection.copy()
        wrappers.append(wrapper)
        wrapper.set_autocommit(False)
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            backends.add(cursor.fetchone()[0])

    for _ in range(WARM_UP):
        one_more()
    before = resident()
    for _ in range(CONNECTIONS):
        one_more()
    grown = resident() - before
    for wrapper in wrappers:
        wrapper.rollback()
        wrapper.close()
    assert len(backends) == len(wrappers), "each has a connection of its own"
    return grown / CONNECTIONS


if __name__ == "__main__":
    sys.stdout.flush()
    main()
    sys.stdout.flush()
    os._exit(0)  # what threads of a pool do at the end is not measured
