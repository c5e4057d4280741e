"""What a sender of webhooks sends, and which of it can't be worked off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice

ORDERS = 20
NOBODY = "nobody@example.com"
"""A receiver whom the mail service refuses."""


class UnknownOrder(Exception):
    """The event is about an order that is not ours."""


@dataclass(frozen=True)
class Delivery:
    key: str
    kind: str
    order: str
    amount: int
    receiver: str

    @classmethod
    def from_json(cls, body: bytes) -> Delivery:
        return cls(**json.loads(body))

    def as_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @property
    def is_for_nobody(self) -> bool:
        """It is accepted, and what follows its answer fails."""
        return self.receiver == NOBODY

    @property
    def is_unknown(self) -> bool:
        """Its handler raises in the middle."""
        return self.order.startswith("lost-")


def number_of(order: int) -> str:
    return f"order-{order}"


def deliveries(prefix: str, count: int, *, flawed: bool = False) -> Iterator[Delivery]:
    """
    Args:
        flawed: of five events one is about an unknown order; of ten, one more is for nobody.
    """
    kinds = cycle(["payment.succeeded", "shipment.sent"])
    for number, kind in islice(enumerate(kinds), count):
        order = f"lost-{number}" if flawed and number % 5 == 1 else number_of(number % ORDERS)
        receiver = NOBODY if flawed and number % 10 == 3 else f"customer{number}@example.com"
        yield Delivery(f"{prefix}-{number}", kind, order, 100 + number, receiver)
