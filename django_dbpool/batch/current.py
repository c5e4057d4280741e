"""What a handler may ask of the batch that it works on."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from django.db import models

from .keys import Key


@dataclass(frozen=True, slots=True)
class Batch:
    name: str | None
    key: Key


current_batch: ContextVar[Batch | None] = ContextVar("dbpool_batch", default=None)


def idempotency_key(item: models.Model, purpose: str = "") -> str:
    """
    A key for an effect outside of the database that one item of this run has: the same in every attempt, whichever
    process makes it, and another one for each item, run and purpose. Give it to the receiver, who can then tell a
    repetition: ``Idempotency-Key`` of a payment, ``Message-ID`` of a mail.

    Args:
        item: of the batch that the calling handler works on.
        purpose: of several effects of one item, which one.

    Returns:
        40 hexadecimal digits.

    Raises:
        RuntimeError: outside of a handler, or the run has no name (``checkpoint``) that an attempt in another process
            would know it by.

    Example:
        requests.post(URL, json=order.as_json(), headers={"Idempotency-Key": idempotency_key(order)})
    """
    batch = current_batch.get()
    if batch is None or batch.name is None:
        where = "outside of a handler" if batch is None else "in a run without a name"
        raise RuntimeError(
            f"idempotency_key() {where}: it is derived from the run's name, so that each attempt finds the same. Call "
            'it in a handler of run_batches(..., checkpoint="name").'
        )
    values: list[Any] = [getattr(item, name) for name in batch.key.names]
    return batch.key.digest(f"{batch.name}\0{purpose}", tuple(values))
