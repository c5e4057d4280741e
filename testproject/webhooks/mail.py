"""A stand-in for the service that tells customers: slow, it needs no database, and it refuses some."""

from __future__ import annotations

import time

from testproject.webhooks.deliveries import NOBODY

SECONDS = 0.05


class Refused(Exception):
    """The service doesn't know this receiver."""


def tell(receiver: str, text: str) -> None:
    time.sleep(SECONDS)
    if receiver == NOBODY:
        raise Refused(f"no such receiver: {text}")
