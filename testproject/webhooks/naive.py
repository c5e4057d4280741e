"""
The services as they were when the incident happened: each goes around the managed connections in its own way.

`manage.py dbpool audit testproject/webhooks` reports each line that ends in the id of a rule, and no other.
"""

from __future__ import annotations

import threading
from typing import Any

import psycopg
from django.db import connection

from testproject.webhooks import mail
from testproject.webhooks.deliveries import Delivery, UnknownOrder
from testproject.webhooks.models import Event, Notice, Order

Raw = psycopg.Connection[tuple[Any, ...]]

_free: list[Raw] = []
_lent: dict[str, Raw] = {}
"""By the key of the event."""


def accept(delivery: Delivery) -> bool:
    if Event.objects.filter(key=delivery.key).exists():
        return False
    raw = _take(delivery.key)
    raw.execute(
        'INSERT INTO webhooks_event (key, kind, "order", receiver, amount, state, error, received_at)'
        " VALUES (%s, %s, %s, %s, %s, 'received', '', now())",
        (delivery.key, delivery.kind, delivery.order, delivery.receiver, delivery.amount),
    )
    _book(delivery)
    _give_back(delivery.key)  # but not on an error
    return True


def start_follow_up(delivery: Delivery) -> None:
    threading.Thread(target=_follow_up, args=(delivery,), name=f"follow-up {delivery.key}").start()  # DBP201


def remind(delivery: Delivery, seconds: float) -> None:
    """Look again at what has not been settled."""
    threading.Timer(seconds, lambda: _follow_up(delivery)).start()  # DBP201


def _take(key: str) -> Raw:
    """A pool of their own: unlimited, and nobody looks whether what it gives out is still connected."""
    _lent[key] = _free.pop(0) if _free else psycopg.connect(_conninfo(), autocommit=True)  # DBP101
    return _lent[key]


def _give_back(key: str) -> None:
    _free.append(_lent.pop(key))


def _conninfo() -> str:
    parameters = connection.get_connection_params()
    names = {"dbname", "host", "port", "user", "password", "application_name"}
    return psycopg.conninfo.make_conninfo("", **{name: parameters[name] for name in names & parameters.keys()})


def _book(delivery: Delivery) -> None:
    connection.ensure_connection()
    cursor = connection.connection.cursor()  # DBP102
    cursor.execute("BEGIN")
    cursor.execute("INSERT INTO webhooks_booking (event, amount) VALUES (%s, %s)", (delivery.key, delivery.amount))
    cursor.execute("UPDATE webhooks_order SET paid = paid + %s WHERE number = %s", (delivery.amount, delivery.order))
    if not cursor.rowcount:
        raise UnknownOrder(delivery.order)  # the transaction stays open, and Django knows of none
    cursor.execute("COMMIT")


def _follow_up(delivery: Delivery) -> None:
    order = Order.objects.get(number=delivery.order)
    mail.tell(delivery.receiver, f"{delivery.kind} for {order}")
    Notice.objects.create(event=delivery.key)
    Event.objects.filter(key=delivery.key).update(state=Event.State.DONE)
