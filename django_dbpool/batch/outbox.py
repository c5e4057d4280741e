"""
Effects outside of the database, written down in the transaction that they belong to, and carried out once that is
committed: at least once, by whoever comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models.functions import Now
from django.db.transaction import TransactionManagementError

from ..core import arguments
from ..core.logs import get_logger
from ..core.words import one_line
from ..models import BatchMessage
from ..transaction.retrying import retrying
from .book import text_of
from .holding import refuse_held, release_all

logger = get_logger("django_dbpool.batch")

LONGEST_BACKOFF = 3600.0


@dataclass(frozen=True, slots=True)
class Message:
    topic: str
    key: str
    """For the receiver, to tell a repetition by."""
    payload: Any
    attempts: int
    """With this one."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one call of ``deliver()`` has done."""

    delivered: int
    failed: int


def put(topic: str, payload: Any, *, key: str, using: str | None = None) -> None:
    """
    Write a message in the transaction at hand; of several with the same topic and key there is one.

    Args:
        topic: what ``deliver()`` asks for.
        payload: what JSON can say.
        key: ``idempotency_key(item)``, or one of your own.
        using: database alias, that of the transaction.

    Raises:
        TransactionManagementError: there is no transaction whose fate it could share.
        TypeError, ValueError: topic or key is no string, empty or too long.

    Example:
        outbox.put("receipt", {"order": order.pk}, key=idempotency_key(order))
    """
    alias = using or DEFAULT_DB_ALIAS
    topic, key = _word("topic", topic, 100), _word("key", key, 200)
    if not connections[alias].in_atomic_block:
        raise TransactionManagementError(
            f"outbox.put() outside of a transaction on database {alias!r}: what it tells of could fail while the "
            "message stays. Call it in the handler of run_batches(), or in atomic()."
        )
    message = BatchMessage(topic=topic, key=key, payload=payload)
    BatchMessage.objects.using(alias).bulk_create([message], ignore_conflicts=True)


def deliver(
    topic: str,
    receiver: Callable[[Message], object],
    *,
    using: str | None = None,
    limit: int = 1000,
    claim: float = 60,
) -> Delivery:
    """
    Call the receiver with each message that is due, one after the other, and forget those that it takes without an
    error. Others are tried again after a pause that doubles, from one second to an hour. No connection is held during
    a call. Several processes may do this at the same time.

    Args:
        limit: messages at most.
        claim: seconds that one call may take. After that another process may try the same message.

    Raises:
        BatchRefused: in a transaction: others would wait for the receiver.

    Example:
        outbox.deliver("receipt", lambda message: mail(message.payload["order"], message_id=message.key))
    """
    alias = using or DEFAULT_DB_ALIAS
    topic = _word("topic", topic, 100)
    arguments.count("outbox.deliver", "limit", limit)
    seconds = arguments.seconds("outbox.deliver", "claim", claim, least=0.1)
    refuse_held()
    delivered = failed = 0
    while delivered + failed < limit:
        found = retrying(alias).call(_claim, alias, topic, seconds)
        release_all(shared_thread=False)
        if found is None:
            break
        message = Message(found.topic, found.key, found.payload, found.attempts)
        try:
            receiver(message)
        except Exception as error:  # noqa: BLE001  # it is written down and tried again
            failed += 1
            logger.warning("outbox %r: message %d failed: %s", topic, found.pk, type(error).__qualname__)
            _postpone(alias, found, error)
        else:
            delivered += 1
            _claimed(alias, found).delete()
        release_all(shared_thread=False)
    return Delivery(delivered, failed)


def _claim(alias: str, topic: str, seconds: float) -> BatchMessage | None:
    rows = BatchMessage.objects.using(alias).select_for_update(skip_locked=True)
    found = rows.filter(topic=topic, due__lte=Now()).order_by("due", "pk").first()
    if found is None:
        return None
    found.attempts += 1
    BatchMessage.objects.using(alias).filter(pk=found.pk).update(
        due=Now() + timedelta(seconds=seconds), attempts=found.attempts
    )
    return found


def _claimed(alias: str, message: BatchMessage) -> Any:
    """Unless somebody else tries it by now, because this took too long."""
    return BatchMessage.objects.using(alias).filter(pk=message.pk, attempts=message.attempts)


def _postpone(alias: str, message: BatchMessage, error: Exception) -> None:
    backoff = min(LONGEST_BACKOFF, 2.0 ** min(message.attempts - 1, 20))
    with transaction.atomic(using=alias):
        _claimed(alias, message).update(due=Now() + timedelta(seconds=backoff), error=text_of(error))


def _word(name: str, value: object, longest: int) -> str:
    if not isinstance(value, str):
        raise TypeError(f"outbox: {name} must be a string, not {type(value).__name__}.")
    if not value.strip() or one_line(value, longest) != value:
        raise ValueError(f"outbox: {name} must be printable and not empty, at most {longest} characters.")
    return value
