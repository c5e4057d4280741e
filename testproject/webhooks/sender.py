"""The payment service and the carrier: who send an event again until it is answered 200, but not for ever."""

from __future__ import annotations

import http.client
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Self

from testproject.harness.load import HttpClient
from testproject.webhooks.deliveries import Delivery

SENDERS = 8
ATTEMPTS = 4
PAUSE = 0.25
"""Seconds before an event is sent again; real senders wait for minutes, and go on for days."""


@dataclass
class Sent:
    deliveries: list[Delivery] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    """Keys of events that were answered 200."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Other answers, by what they were; an event may have had several."""

    def __iadd__(self, other: Sent) -> Self:
        self.deliveries += other.deliveries
        self.acknowledged |= other.acknowledged
        self.refusals += other.refusals
        return self


def send(host: str, port: int, deliveries: Iterable[Delivery], senders: int = SENDERS) -> Sent:
    """Deliver all, so many at the same time."""
    todo = list(deliveries)
    shares = [todo[number::senders] for number in range(senders)]
    sent = Sent()
    with ThreadPoolExecutor(senders) as executor:
        for one in executor.map(lambda share: _send_share(host, port, share), shares):
            sent += one
    return sent


def _send_share(host: str, port: int, deliveries: list[Delivery]) -> Sent:
    sent = Sent(deliveries)
    with closing(HttpClient(host, port)) as client:
        for delivery in deliveries:
            for attempt in range(ATTEMPTS):
                if attempt:
                    time.sleep(PAUSE)
                refusal = _post(client, delivery)
                if refusal is None:
                    sent.acknowledged.add(delivery.key)
                    break
                sent.refusals[refusal] += 1
    return sent


def _post(client: HttpClient, delivery: Delivery) -> str | None:
    try:
        response = client.post("/webhooks/", delivery.as_json(), **{"Content-Type": "application/json"})
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    return None if response.status == 200 else f"HTTP {response.status}"
