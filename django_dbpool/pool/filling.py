"""Opening connections for nobody in particular, up to ``min_size``: several at once, spread out, within a limit."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .managed import ManagedPool

AT_ONCE = 4
"""Connections opened at the same time. A handshake with TLS over a distance takes 100 ms, ten in a row a second."""

SPREAD = 0.05
"""Seconds within which they begin: processes that start together shall not knock together."""


def fill(pool: ManagedPool) -> Exception | None:
    """
    Open what is missing. One connection is opened in the calling thread, more by threads of their own beside it.

    Returns:
        Why it ended before ``min_size`` was reached; None if nothing failed.
    """
    failures: list[Exception] = []

    def work() -> None:
        try:
            while not failures and pool.open_idle():
                pass
        except Exception as error:  # noqa: BLE001  # also what a provider of credentials raises; told to the caller
            failures.append(error)

    pause = threading.Event()

    def helper() -> None:
        pause.wait(random.uniform(0, SPREAD))  # noqa: S311
        work()

    missing = min(pool.min_size - pool.gate.size, AT_ONCE)
    helpers = [
        threading.Thread(target=helper, name=f"dbpool-fill-{pool.alias}", daemon=True) for _ in range(missing - 1)
    ]
    for thread in helpers:
        thread.start()
    work()
    for thread in helpers:
        thread.join()  # each ends with its attempt to connect, which has a limit
    return failures[0] if failures else None
