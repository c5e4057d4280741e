"""Those who use the shop all the time: each in a thread of its own, one call after the other."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID, uuid4

from django.db import close_old_connections

from testproject.reports.errors import name_of
from testproject.tickets.maintenance import vacuum_analyze
from testproject.tickets.models import Event
from testproject.tickets.operations import Operation
from testproject.tickets.orders import PlaceOrder, place_order
from testproject.tickets.repository import EventRepository

PAUSE = 0.03
"""Seconds between two calls of a customer."""


def timed(kind: str, act: Callable[[], object]) -> Operation:
    """Call as a request or a task does: old connections are let go of before it and after it."""
    began = time.monotonic()
    error = retry_after = None
    try:
        close_old_connections()
        act()
    except Exception as failure:
        error, retry_after = name_of(failure), getattr(failure, "retry_after", None)
    finally:
        with suppress(Exception):
            close_old_connections()
    return Operation(kind, began, time.monotonic(), error, retry_after)


class Customer(threading.Thread):
    def __init__(self, kind: str, act: Callable[[], object], stop: threading.Event) -> None:
        super().__init__(name=kind, daemon=True)
        self.operations: list[Operation] = []
        self.served_at = 0.0
        """When its last call was answered."""
        self._act = act
        self._kind = kind
        self._stop_asked = stop

    def run(self) -> None:
        while not self._stop_asked.wait(PAUSE):
            operation = timed(self._kind, self._act)
            self.operations.append(operation)
            if operation.error is None:
                self.served_at = operation.ended


class Buyer:
    """Repeats an order, with its key, until somebody has confirmed it."""

    def __init__(self, number: int, events: list[int]) -> None:
        self._chance = random.Random(number)
        self._events = events
        self._open: PlaceOrder | None = None
        self.asked: list[UUID] = []
        self.confirmed: list[UUID] = []

    def buy(self) -> None:
        if self._open is None:
            self._open = PlaceOrder(uuid4(), self._chance.choice(self._events), self._chance.randint(1, 4))
            self.asked.append(self._open.key)
        place_order(self._open)
        self.confirmed.append(self._open.key)
        self._open = None


class Crowd:
    """Readers, buyers, one slow report and the maintenance; they come and go together."""

    def __init__(self, readers: int, buyers: int) -> None:
        events = list(Event.objects.values_list("pk", flat=True))
        repository = EventRepository()
        self.buyers = [Buyer(number, events) for number in range(buyers)]
        self._acts: list[tuple[str, Callable[[], object]]] = [
            *itertools.repeat(("reads", repository.on_sale), readers),
            *itertools.repeat(("reads", lambda: repository.seats_sold(seconds=0.5)), 2),
            *(("orders", buyer.buy) for buyer in self.buyers),
            ("vacuums", vacuum_analyze),
        ]
        self._stop = threading.Event()
        self._customers: list[Customer] = []

    def come(self) -> None:
        self._stop = threading.Event()
        self._customers = [Customer(kind, act, self._stop) for kind, act in self._acts]
        for customer in self._customers:
            customer.start()

    def leave(self) -> list[Operation]:
        """Let everybody finish the call that runs; what they have done since they came."""
        self._stop.set()
        for customer in self._customers:
            customer.join()
        return [operation for customer in self._customers for operation in customer.operations]

    def wait_served(self, timeout: float) -> bool:
        """Wait until everybody has been answered at least once from now on."""
        now = time.monotonic()
        while not all(customer.served_at > now for customer in self._customers):
            if time.monotonic() > now + timeout:
                return False
            time.sleep(0.01)
        return True
