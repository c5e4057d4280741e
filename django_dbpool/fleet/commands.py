"""
Commands to processes on other hosts: signed rows in a table. A process looks for its own when it publishes, obeys each
genuine one once, and signs what came of it.

A row is believed nothing that its signature doesn't cover. What is signed is the target's instance, which no other
process has or will have, a verb of a closed list, the arguments, a nonce, and the times of issue and expiry on the
server's clock. Who can write to the table can delete commands and delay them, and no more.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, NamedTuple

from django.db import ProgrammingError, connections

from ..core.commands import LONGEST_ARGUMENTS, LONGEST_RESULT, TABLE
from ..core.logs import get_logger
from ..core.process import this_process
from ..core.words import one_line
from ..transaction import atomic, deadline, reserved
from .signing import canonical, is_signed, signature
from .verbs import VERBS, NotDone, Verb, perform

logger = get_logger("django_dbpool.commands")

LONGEST_LIFE = 60.0
"""Seconds for which a command is valid at most."""

AHEAD = 1000
"""Milliseconds by which a command may seem to be from the future: after a failover it is another server's clock."""

PATIENCE = 3.0
"""Seconds for one exchange with the database."""

COMPLAIN = 60.0
"""Seconds between two log records about forged rows, and between two attempts where there is no table."""

AT_ONCE = 500
ROUNDS = 40
"""Rows that are read at a time, and how often in one beat: twenty thousand forged ones hide no genuine one."""

_ROW = ("id", "target", "verb", "arguments", "nonce", "issued", "expires", "signature")

_READ = f"""
SELECT {", ".join(_ROW)}, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
  FROM {TABLE}
 WHERE target = %s AND outcome = '' AND id > %s
 ORDER BY id
 LIMIT {AT_ONCE}
"""  # noqa: S608  # constants of ours

_ANSWER = f"UPDATE {TABLE} SET outcome = %s, result = %s, result_signature = %s WHERE id = %s"  # noqa: S608
REFUSED = "refused"
_REFUSE = f"UPDATE {TABLE} SET outcome = '{REFUSED}' WHERE id = ANY(%s)"  # noqa: S608

# Whoever sends one sweeps: what is over for an hour is of no use to anybody.
_SEND = f"""
WITH clock AS (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now),
     old AS (DELETE FROM {TABLE} USING clock WHERE expires < now - 3600000 OR expires > now + 3600000)
SELECT now FROM clock
"""  # noqa: S608

_INSERT = f"""
INSERT INTO {TABLE} ({", ".join(_ROW[1:])}, outcome, result, result_signature)
VALUES (%s, %s, %s, %s, %s, %s, %s, '', '', '')
RETURNING id
"""  # noqa: S608

_LOOK = f"SELECT outcome, result, result_signature FROM {TABLE} WHERE id = %s"  # noqa: S608


_INTERRUPTED = ("failed", '{"error":"interrupted"}')


class Row(NamedTuple):
    """What stands in the table; anybody may have written it."""

    id: int
    target: str
    verb: str
    arguments: str
    nonce: str
    issued: int
    expires: int
    signature: str

    def signed(self) -> tuple[str | int, ...]:
        return (self.target, self.verb, self.arguments, self.nonce, self.issued, self.expires)


class Forged(Exception):
    """A row that is not obeyed; the text says why, in our words only."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A command on its way."""

    id: int
    nonce: str
    target: str
    verb: str
    lifetime: float


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What came of a command."""

    outcome: str
    """
    ``done``; ``failed``: the process has tried, ``result`` says what was wrong; ``unknown``: it has not answered, and
    won't obey any more.
    """
    result: Any = None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"outcome": self.outcome, "result": self.result}


# -- sending ------------------------------------------------------------------------------------------------------


def send(target: str, verb: str, *, using: str = "default", lifetime: float = 30.0, **arguments: Any) -> Sent:
    """
    Tell a process on another host to do something. It hears of it when it next publishes.

    Args:
        target: the process's ``instance``, as it publishes it.
        verb: "drain", "cancel", "terminate" or "stack".
        using: alias of the database that the table is in.
        lifetime: seconds after which it won't be obeyed any more; at most 60.
        arguments: of the verb.

    Raises:
        ValueError: there is no such verb for other hosts, or the command would be too long or live too long.

    Example:
        sent = send("0f3a9c51d2e87b64", "drain", alias="default")
        print(wait_for(sent).outcome)
    """
    found = VERBS.get(verb)
    if found is None or not found.for_other_hosts:
        verbs = ", ".join(name for name, each in sorted(VERBS.items()) if each.for_other_hosts)
        raise ValueError(f"send(verb={verb!r}): there is no such command. There are: {verbs}.")
    if not 0 < lifetime <= LONGEST_LIFE:
        raise ValueError(f"send(lifetime={lifetime!r}): a command lives at most {LONGEST_LIFE:g} s.")
    text = canonical(arguments)
    if len(text) > LONGEST_ARGUMENTS:
        raise ValueError(f"send(): the arguments are too long, {len(text)} characters of at most {LONGEST_ARGUMENTS}.")
    nonce = secrets.token_hex(16)
    # On its own: nobody hears of it before the COMMIT.
    with atomic(using=using, durable=True):
        ((now,),) = _exchange(using, _SEND)
        signed = (target, verb, text, nonce, now, now + round(lifetime * 1000))
        ((number,),) = _exchange(using, _INSERT, [*signed, signature("command", *signed)])
    return Sent(number, nonce, target, verb, lifetime)


def wait_for(
    sent: Sent, *, using: str = "default", timeout: float | None = None, interval: float = 0.5
) -> CommandResult:
    """
    Wait for the answer.

    Args:
        timeout: seconds; as long as the command may be obeyed when None, and a little longer.
    """
    until = monotonic() + (sent.lifetime + PATIENCE if timeout is None else timeout)
    while True:
        found = result_of(sent, using=using)
        if found is not None:
            return found
        if monotonic() >= until:
            return CommandResult("unknown")
        sleep(interval)


def result_of(sent: Sent, *, using: str = "default") -> CommandResult | None:
    """
    What its target has answered; None while it hasn't. An answer that it has not signed is none: whoever may write to
    the table could say that all is done.
    """
    for outcome, result, signed in _exchange(using, _LOOK, [sent.id]):
        if outcome and is_signed(signed, "answer", sent.target, sent.nonce, outcome, result):
            return CommandResult(outcome, json.loads(result))
    return None


def is_refused(sent: Sent, *, using: str = "default") -> bool:
    """
    Whether the command is marked as one that was not believed, as a process with another secret does. No signature
    covers that mark, so it is a hint and no answer.
    """
    return [outcome for outcome, *_ in _exchange(using, _LOOK, [sent.id])] == [REFUSED]


def _exchange(using: str, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """One statement, also while the pool is full, and never for long; its rows."""
    connection: Any = connections[using]
    with reserved(), deadline(PATIENCE):
        if not (connection.in_atomic_block or connection.get_autocommit()):
            connection.set_autocommit(True)
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall()) if cursor.description else []


# -- obeying ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Known:
    """A genuine command that this process has seen."""

    row: int
    expires: int
    answer: tuple[str, str] | None = None
    """Outcome and result."""


class Inbox:
    """
    The commands to one process. Used by one thread.

    Args:
        instance: of the process.
    """

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.refused = 0
        """Rows that were not obeyed."""
        self._known: dict[str, _Known] = {}
        """By nonce, until they expire. Only who knows the secret can make it larger."""
        self._now = 0
        self._told = -COMPLAIN
        self._not_before = 0.0

    def poll(self, using: str) -> int:
        """
        Obey the genuine commands in the table; how many there were. One query where there is none.

        Raises:
            Exception: whatever the database does. What was obeyed is not obeyed again at the next call, only answered.
        """
        if monotonic() < self._not_before:
            return 0
        genuine, last = 0, -(2**63)
        for _ in range(ROUNDS):
            asked = monotonic()
            rows, now = self._read(using, last)
            for row in self._sort_out(using, rows, now):
                # Again: those before it may have taken their time, or this process was stopped meanwhile.
                if self._sort_out(using, [row], now + round(1000 * (monotonic() - asked))):
                    self._answer(using, row)
                    genuine += 1
            if len(rows) < AT_ONCE:
                break
            last = rows[-1].id
        return genuine

    def _read(self, using: str, last: int) -> tuple[list[Row], int]:
        try:
            found = _exchange(using, _READ, [self.instance, last])
        except ProgrammingError:  # before `migrate`
            self._not_before = monotonic() + COMPLAIN
            return [], 0
        return [Row(*columns) for *columns, _ in found], max((now for *_, now in found), default=0)

    def _sort_out(self, using: str, rows: list[Row], now: int) -> list[Row]:
        """The genuine ones; the others are marked, so that they aren't looked at again and again."""
        genuine, forged = [], []
        for row in rows:
            try:
                self.judge(row, now)
            except Forged as error:
                forged.append(row.id)
                self._tell(row, str(error))
            else:
                genuine.append(row)
        if forged:
            _exchange(using, _REFUSE, [forged])
        return genuine

    def judge(self, row: Row, now: int) -> None:
        """
        Whether to obey it, or to repeat its answer.

        Args:
            now: milliseconds of unix time on the server's clock. Of several the latest counts: a clock that goes back
                makes no command valid again.

        Raises:
            Forged: it is nothing for us.
        """
        self._now = now = max(now, self._now)
        if not is_signed(row.signature, "command", *row.signed()):
            raise Forged("it is not signed with our secret")
        if row.target != self.instance:
            raise Forged("it is for another process")
        if not (0 < row.expires - row.issued <= LONGEST_LIFE * 1000 and row.issued <= now + AHEAD):
            raise Forged("its times are impossible")
        if row.expires <= now:
            raise Forged("it has expired")
        verb = VERBS.get(row.verb)
        if verb is None or not verb.for_other_hosts:
            raise Forged("there is no such command")
        self._known = {nonce: known for nonce, known in self._known.items() if known.expires > now}
        if self._known.setdefault(row.nonce, _Known(row.id, row.expires)).row != row.id:
            raise Forged("it has been obeyed already")

    def _answer(self, using: str, row: Row) -> None:
        known = self._known[row.nonce]
        if known.answer is None:
            known.answer = _INTERRUPTED  # if what follows is broken off, it is not begun again
            known.answer = self._obey(row)
        outcome, result = known.answer
        signed = signature("answer", self.instance, row.nonce, outcome, result)
        _exchange(using, _ANSWER, [outcome, result, signed, row.id])

    def _tell(self, row: Row, reason: str) -> None:
        """Once a minute: who can write to the table must not be able to flood the log."""
        self.refused += 1
        if monotonic() - self._told >= COMPLAIN:
            self._told = monotonic()
            logger.warning("a command in table %s (row %s) is not obeyed: %s", TABLE, row.id, reason)

    def _obey(self, row: Row) -> tuple[str, str]:
        """Outcome and result."""

        def log(name: str, verb: Verb) -> None:
            level = logging.WARNING if verb.changes else logging.INFO
            logger.log(level, "%s %s, asked for by a signed command (row %s)", name, one_line(row.arguments), row.id)

        try:
            arguments = json.loads(row.arguments)
            if not isinstance(arguments, dict):
                raise NotDone("bad arguments", "They are no object.")
            result = canonical(perform(row.verb, arguments, before=log))
        except NotDone as error:
            return "failed", canonical({"error": error.error, "message": error.message})
        except Exception as error:
            logger.exception("a signed command failed")
            return "failed", canonical({"error": "failed", "message": type(error).__name__})
        return "done", result if len(result) <= LONGEST_RESULT else canonical({"error": "too long"})


_inbox: Inbox | None = None


def poll(using: str) -> int:
    """
    Obey what this process is told in the table of this database. Called by whoever publishes, with each beat and in
    the same thread; the number of commands that were obeyed.
    """
    global _inbox
    instance = this_process().instance
    if _inbox is None or _inbox.instance != instance:
        _inbox = Inbox(instance)
    return _inbox.poll(using)
