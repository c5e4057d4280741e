"""
The ways to a process: within it, by its socket, by a signed command. Each either brings an answer or says why it leads
nowhere, and then the next is tried. All verbs may come twice: aimed ones know their lease, and a drain is over at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError

from ..conf import fleet_config, project_config
from ..core.process import this_process
from ..fleet import protocol
from ..fleet.commands import CommandResult, Sent, is_refused, result_of, send
from ..fleet.documents import Malformed, Process, parse
from ..fleet.reading import first_line
from ..fleet.snapshot import LARGEST
from ..fleet.socket_client import LocalAnswer, ask_local, locate
from ..fleet.stores import Unusable, overdue_after, store_of
from ..fleet.table import TableStore
from ..fleet.verbs import NotDone, perform
from .acted import GONE, OVER, UNKNOWN, Answer, failed, understood

OWN = "own process"
SOCKET = "socket"
COMMAND = "signed command"

LOOK = 0.2
"""Seconds between two looks for the answer to a signed command."""

LOCATE = 1.0
"""Seconds in which a process of this host says on its socket that it is the one, or is not."""


class NoWay(Exception):
    """This way leads nowhere; the text says why."""


@dataclass(frozen=True, slots=True)
class Order:
    """What one process is to do, until when (of ``monotonic``)."""

    instance: str
    verb: str
    arguments: Mapping[str, Any]
    actor: str
    until: float
    given_up: threading.Event = field(default_factory=threading.Event)
    """Nobody waits for it any more."""

    def left(self) -> float:
        return 0.0 if self.given_up.is_set() else max(0.0, self.until - monotonic())


def own(order: Order) -> Answer:
    """In this process."""
    if order.instance != this_process().instance:
        raise NoWay
    try:
        return understood(OWN, order.verb, perform(order.verb, order.arguments))
    except NotDone as error:
        return failed(OWN, error.error, error.message)


# -- on this host -------------------------------------------------------------------------------------------------


def by_socket(order: Order) -> Answer:
    """
    First every process of this host is asked whether it is the one, briefly, so that one which is frozen doesn't use
    up the time that a signed command needs.
    """
    if project_config().socket is False:
        raise NoWay('DBPOOL["SOCKET"] is False')
    found = locate(order.instance, timeout=min(LOCATE, order.left()))
    if found.answer is None:
        raise NoWay("; ".join([*_of_silent(found.silent), *found.refused]) or "none of this host is that process")
    answers = ask_local(
        order.verb,
        pid=found.answer.pid,
        timeout=order.left(),
        process=order.instance,
        until=time.time() + order.left(),
        actor=order.actor,
        **order.arguments,
    ).answers
    if not answers:
        raise NoWay(f"process {found.answer.pid} has ended")
    (answer,) = answers
    if answer.ok:
        return understood(SOCKET, order.verb, answer.result)
    if answer.error in _NOT_EVEN_TRIED:
        raise NoWay(f"process {answer.pid}: {answer.message}")
    if answer.error in ("no answer", "bad answer"):
        return Answer(SOCKET, UNKNOWN, message=f"Process {answer.pid}: {answer.message}")
    return failed(SOCKET, answer.error, answer.message)


_NOT_EVEN_TRIED = ("no connection", "not trusted", "busy", protocol.NOT_ME, protocol.TOO_LATE)


def _of_silent(silent: tuple[LocalAnswer, ...]) -> list[str]:
    return [f"process {answer.pid}: {answer.message}" for answer in silent]


# -- on other hosts -----------------------------------------------------------------------------------------------


def by_command(order: Order) -> Answer:
    """By a row in the fleet's table, for whose answer we look until the time is up."""
    store = _table()
    process = _known(store, order.instance)
    if process is None:
        return Answer(COMMAND, GONE)
    if process.state == "ended":
        return Answer(COMMAND, OVER if order.verb != "drain" else GONE, message=f"Process {process.name} has ended.")
    try:
        sent = send(
            order.instance,
            order.verb,
            using=store.alias,
            lifetime=max(0.1, min(60.0, order.left())),
            actor=order.actor,
            **order.arguments,
        )
    except DatabaseError as error:
        raise NoWay(_of_database(store, error)) from error
    result = _answer_to(sent, store, order)
    if result is None:
        return Answer(COMMAND, UNKNOWN, message=_why_silent(process, sent, store))
    if result.outcome != "done":
        return failed(COMMAND, result.result.get("error"), result.result.get("message"))
    return understood(COMMAND, order.verb, result.result)


def _table() -> TableStore:
    try:
        store = store_of(fleet_config())
    except ImproperlyConfigured as error:
        raise NoWay(first_line(error)) from error
    if not isinstance(store, TableStore):
        raise NoWay('processes publish into no database (DBPOOL["FLEET"]), so they look for no commands there')
    return store


def _known(store: TableStore, instance: str) -> Process | None:
    """As it last said. A process that can't publish does not look for commands either."""
    try:
        row = store.find(instance, LARGEST)
    except Unusable as error:
        raise NoWay(str(error)) from error
    except DatabaseError as error:
        raise NoWay(_of_database(store, error)) from error
    if row is None:
        return None
    try:
        found = parse(row.document, age=row.age)
    except Malformed as error:
        raise NoWay(f"what it has published is not understood: {error}") from error
    return found


def _answer_to(sent: Sent, store: TableStore, order: Order) -> CommandResult | None:
    while True:
        try:
            result = result_of(sent, using=store.alias)
        except DatabaseError:
            result = None  # it may be back in time
        if result is not None or not order.left():
            return result
        sleep(min(LOOK, order.left() + 0.01))


def _why_silent(process: Process, sent: Sent, store: TableStore) -> str:
    told = f"Process {process.name} "
    try:
        if is_refused(sent, using=store.alias):
            return told + 'seems not to believe the command: is its SECRET_KEY or DBPOOL["SECRET"] another one?'
    except DatabaseError as error:
        return told + f"may have answered, but {_of_database(store, error)}."
    if process.state == "active" and process.age > overdue_after(fleet_config()):
        return told + f"has not published for {process.age:.0f} s: it hangs, or was killed."
    if process.state == "idle":
        return told + "is idle, and looks for commands when it works again."
    return told + "has not answered."


def _of_database(store: TableStore, error: Exception) -> str:
    return f"{store.description} can't be used: {first_line(error)}"
