"""What a scenario counts while it runs: pins, and what is left when it ends."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.db import connections

from django_dbpool.pool import registry


class PinLog(logging.Handler):
    """Collects the reason of every pin in this process."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.reasons: list[str] = []
        logger = logging.getLogger("django_dbpool.backends")
        logger.addHandler(self)
        logger.setLevel(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        if "pinned" in str(record.msg):
            self.reasons.append(str(record.args[1]) if isinstance(record.args, tuple) else "?")


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Each thread ends its own lease, as a request does."""

    def one(number: int) -> Any:
        try:
            return work(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def leases_left() -> int:
    return sum(len(pool.holders()) for pool in registry.pools())


def report(**found: Any) -> None:
    """The scenario's last line, for the test that started it."""
    print(json.dumps({**found, "leases_left": leases_left()}))
