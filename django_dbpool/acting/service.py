"""One call for whoever acts: the admin's pages, the command line, a script."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from django.db import connections

from ..core import arguments as given
from ..core.logs import get_logger
from ..core.words import one_line
from ..fleet.signing import canonical
from ..fleet.verbs import VERBS, NotDone, read_arguments
from ..transaction import deadline, reserved
from .acted import FAILED, UNKNOWN, Acted, Answer, words_for
from .ways import COMMAND, OWN, SOCKET, NoWay, Order, by_command, by_socket, own

logger = get_logger("django_dbpool.commands")

ACTIONS = frozenset(name for name, verb in VERBS.items() if verb.for_other_hosts)

NOTE = 2.0
"""Seconds that the caller's note may take of the databases."""

GRACE = 1.0
"""Seconds beyond the caller's time for those who find out that it is up to say so in their own words."""

_WAYS = ((OWN, own), (SOCKET, by_socket), (COMMAND, by_command))


def act(
    instance: str,
    verb: str,
    *,
    actor: str,
    note: Callable[[], object] | None = None,
    timeout: float = 6.0,
    **arguments: Any,
) -> Acted:
    """
    Have one process of the fleet do something: this one directly, one of this host by its socket, any other by a
    signed command. If one way fails the next is tried; ``text`` says which.

    It is logged at WARNING before anything is done. It needs no connection of the caller's and none of the pool
    except for signed commands, for which the reserve is used, so it works while the pool is exhausted and, on this
    host, while the database is away. From async code call it with ``sync_to_async``: it waits.

    Args:
        instance: of the process, as it publishes it.
        verb: "drain", "cancel", "terminate" or "stack", with their arguments, see docs/commands.md.
        actor: who wants it, for the log.
        note: called before anything is done, to write it down elsewhere, with the reserve and two seconds. What it
            raises is logged, and it is acted nevertheless.
        timeout: seconds. What was not begun until then is not begun any more.
        arguments: of the verb.

    Raises:
        ValueError: there is no such verb, its arguments are wrong, or instance is none.
        TypeError: timeout is no number.

    Example:
        acted = act(holder.instance, "cancel", actor=request.user.get_username(), alias=holder.alias,
                    backend_pid=holder.backend_pid, generation=holder.generation)
        print(acted.outcome, acted.text)
    """
    began = monotonic()
    _check(instance, verb, arguments)
    seconds = given.seconds("act", "timeout", timeout, least=0.1, most=60.0)
    actor = one_line(str(actor), 150) or "nobody"
    logger.warning("%s of process %s %s, asked for by %s", verb, instance, one_line(canonical(arguments)), actor)
    if note is not None:
        note_before(note)
    order = Order(instance, verb, arguments, actor, monotonic() + seconds)
    answer, failures = _Attempt(order).outcome()
    text = " ".join([words_for(verb, answer), *_of_way(answer), *failures])
    acted = Acted(answer.outcome, text, monotonic() - began, answer.way, answer.result)
    logger.info("%s of process %s, asked for by %s: %s", verb, instance, actor, acted.outcome)
    return acted


def _check(instance: object, verb: object, arguments: dict[str, Any]) -> None:
    if not isinstance(verb, str) or verb not in ACTIONS:
        raise ValueError(f"act(verb={_shown(verb)}): there is no such action. There are: {', '.join(sorted(ACTIONS))}.")
    if not isinstance(instance, str) or not re.fullmatch(r"[0-9a-f]{16}", instance):
        raise ValueError(f"act(instance={_shown(instance)}): a process's instance has 16 hexadecimal digits.")
    try:
        read_arguments(VERBS[verb], arguments)
    except NotDone as error:
        raise ValueError(f"act(verb={verb!r}): {error.message}") from None


def _shown(value: object) -> str:
    return one_line(repr(value), 60)


def note_before(note: Callable[[], object]) -> None:
    """A table that is locked, or a server that is frozen, must not keep anybody from acting on just that."""
    try:
        with reserved(), deadline(NOTE):
            note()
    except Exception:
        logger.exception("an action could not be noted; it is done all the same")


def _of_way(answer: Answer) -> list[str]:
    return {OWN: ["In this process."], SOCKET: ["Asked by its socket."], COMMAND: ["Asked by a signed command."]}.get(
        answer.way, []
    )


class _Attempt:
    """
    In a thread of its own: whatever hangs there, the caller has its answer in time; it may be in a transaction, in
    which a command would be sent with its COMMIT, too late; and a Ctrl-C reaches it at once.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._answer: Answer | None = None
        self._failures: list[str] = []
        self._thread = threading.Thread(target=self._run, name="dbpool-act", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads: better here than not at all
            self._act()

    def outcome(self) -> tuple[Answer, list[str]]:
        try:
            if self._thread.ident is not None:
                self._thread.join(self._order.left() + GRACE)
        finally:
            self._order.given_up.set()
        return self._answer or Answer("", UNKNOWN), list(self._failures)

    def _run(self) -> None:
        try:
            self._act()
        finally:
            with suppress(Exception):
                connections.close_all()

    def _act(self) -> None:
        try:
            self._answer = self._by_the_first_way()
        except Exception as error:
            logger.exception("an action failed")
            self._answer = Answer("", FAILED, message=f"{type(error).__name__}; see the log.")

    def _by_the_first_way(self) -> Answer:
        for name, way in _WAYS:
            try:
                return way(self._order)
            except NoWay as reason:
                if str(reason):
                    self._failures.append(f"Not by {name}: {one_line(str(reason), 500).rstrip('.')}.")
        return Answer("", FAILED, message="Nobody could be asked.")
