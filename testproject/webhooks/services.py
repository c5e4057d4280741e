"""Which services a process uses: those of the incident on the stock engine, the cured ones on ours."""

from __future__ import annotations

from testproject.webhooks import cured, naive
from testproject.webhooks.deliveries import Delivery
from testproject.webhooks.switches import has


def accept(delivery: Delivery) -> bool:
    """Whether a follow-up is to be started."""
    return cured.accept(delivery) if has("door") else naive.accept(delivery)


def start_follow_up(delivery: Delivery) -> None:
    (cured if has("threads") else naive).start_follow_up(delivery)
