"""What a connection that ended in use means for the statement that ran on it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
from django.db import Error as DjangosError
from psycopg.pq import ConnStatus

from ..core.errors import Loss, Moment
from ..core.logs import get_logger
from ..errors import CommitUnknown, ConnectionLost, LeaseTimedOut, PoolError, withdraw
from ..pool.commit_status import outcome
from ..pool.entry import INERROR, INTRANS, UNKNOWN
from ..pool.session_state import GAP, text_of, without_leading_comments

if TYPE_CHECKING:
    from ..pool.entry import PoolEntry
    from ..pool.managed import ManagedPool

logger = get_logger("django_dbpool.backends")

_FATAL = frozenset({"FATAL", "PANIC"})
"""Severities of errors that end the session: https://www.postgresql.org/docs/current/runtime-config-logging.html"""

# Whatever else begins a statement may write, also a word that is not known here.
_READING = re.compile(
    r"(?:SELECT|VALUES|TABLE|SHOW|SET|RESET|FETCH|MOVE|DECLARE|CLOSE|BEGIN|START|SAVEPOINT|RELEASE|ROLLBACK|ABORT|LOCK"
    r"|LISTEN|UNLISTEN)\b(?!.*\bINTO\b)"
    r"|COPY\b(?!.*\b(?:INSERT|UPDATE|DELETE|MERGE|STDIN)\b).*\bTO\s+STDOUT\b",
    re.IGNORECASE | re.DOTALL,
)
_CALL = re.compile(rf"""([\w$."\x80-\U0010ffff]+){GAP}*\(""", re.DOTALL)
# fmt: off
_HARMLESS = frozenset([
    # Words that stand before a bracket and call nothing.
    "all", "and", "any", "array", "as", "between", "by", "copy", "cross", "cube", "distinct", "else", "except",
    "exists", "filter", "format", "from", "grouping", "having", "in", "intersect", "is", "join", "lateral", "like",
    "limit", "not", "offset", "on", "or", "over", "row", "rollup", "select", "sets", "some", "then", "union",
    "using", "values", "when", "where", "with",
    # Functions that change nothing.
    "abs", "age", "array_agg", "avg", "bool_and", "bool_or", "cast", "ceil", "char_length", "coalesce", "concat",
    "count", "current_setting", "date", "date_part", "date_trunc", "dense_rank", "extract", "first_value", "floor",
    "generate_series", "greatest", "json_agg", "json_build_object", "jsonb_agg", "jsonb_build_object", "lag",
    "last_value", "lead", "least", "left", "length", "lower", "max", "min", "mod", "now", "nullif",
    "pg_backend_pid", "pg_cancel_backend", "pg_is_in_recovery", "pg_sleep", "pg_terminate_backend", "position",
    "rank", "replace", "right", "round", "row_number", "row_to_json", "split_part", "string_agg", "substr",
    "substring", "sum", "to_char", "to_date", "to_json", "to_jsonb", "to_timestamp", "trim", "unnest", "upper",
    "version",
])
# fmt: on
_COMMITS = re.compile(
    r"(?:^|;)\s*(?:COMMIT(?!\s+PREPARED)\b|PREPARE\s+TRANSACTION|END(?:\s+(?:WORK|TRANSACTION))?\s*(?:$|;|AND\b))",
    re.IGNORECASE,
)
_GOES_ON_AFTER_ROLLBACK = re.compile(r"\b(?:ROLLBACK|ABORT)\b[^;]*;\s*\S", re.IGNORECASE)
_QUOTED_BODY = re.compile(r"\$(\w*)\$.*?\$\1\$", re.DOTALL)


def driver_error(error: BaseException) -> psycopg.Error | None:
    """Psycopg's error, raised as it is or as the cause of Django's own; not of one that somebody made of that."""
    driver = error.__cause__ if isinstance(error, DjangosError) else error
    return driver if isinstance(driver, psycopg.Error) else None


def unnamed(error: BaseException) -> psycopg.Error | None:
    """The same, for who gives errors their names; None behind one that has its name already."""
    return None if isinstance(error, PoolError) else driver_error(error)


def was_lost(error: psycopg.Error | None, entry: PoolEntry) -> bool:
    """
    Whether this error of a statement means that its connection has ended, and not by this process's doing.

    To be asked before the connection is cleaned up, which closes it.
    """
    if error is None:
        return False
    if error.sqlstate is not None:
        # Another error stays what it is, though the connection may have ended right behind it.
        return (error.diag.severity_nonlocalized or error.diag.severity) in _FATAL
    if not isinstance(error, psycopg.OperationalError) and type(error) is not psycopg.DatabaseError:
        return False  # psycopg's own complaint about how it was called
    if entry.pgconn.status == ConnStatus.OK:
        # psycopg reports a closed socket while libpq still calls the connection good.
        return entry.suspicious()
    return entry.conn.broken  # else somebody here has called close()


@dataclass(frozen=True, slots=True)
class Question:
    """What became of this transaction?"""

    pool: ManagedPool
    history: str
    xid: str | None
    """None: it had changed nothing."""


def was_committed(question: Question, error: BaseException) -> bool:
    """
    Whether the transaction whose COMMIT raised this was committed all the same. False: that is not known, or the error
    says it already.

    Raises:
        ConnectionLost, LeaseTimedOut: it was not committed.
    """
    if not isinstance(error, (CommitUnknown, LeaseTimedOut)) or not error.maybe_committed:
        return False
    found = "unwritten" if question.xid is None else outcome(question.pool, question.history, question.xid)
    if found == "unknown":
        return False
    withdraw(error)
    if found == "committed":
        logger.warning("database %r: the answer to a COMMIT was lost, it was committed", question.pool.alias)
        return True
    if isinstance(error, LeaseTimedOut):
        raise LeaseTimedOut(error.refusal, replace(error.expiry, maybe_committed=False)) from error.__cause__
    raise ConnectionLost(error.refusal, Loss("aborted" if found == "aborted" else "unwritten")) from error.__cause__


def moment_of(statement: Any, before: int, *, in_transaction: bool, read: bool = False) -> Moment:
    """
    What is known of a statement without an answer.

    Args:
        statement: its text, or whatever was given to ``execute``; None if nothing was sent.
        before: the transaction's state when it began.
        in_transaction: by Django's account, which begins one with its first statement.
        read: it is known to be a read of the ORM.
    """
    if statement is None or before == UNKNOWN:
        return "unsent"
    inside = in_transaction or before in (INTRANS, INERROR)
    text = None if read else simplified(statement)
    if text is not None:
        commit = _COMMITS.search(text)
        if commit is not None and (before == INTRANS or commit.start() > 0):
            return "commit"
        if _GOES_ON_AFTER_ROLLBACK.search(text) or (commit is not None and ";" in text):
            return "write"
        if commit is not None:
            read = True  # without a transaction it does nothing, and one that has failed it rolls back
    if inside:
        return "transaction"
    return "read" if read or (text is not None and only_reads(text)) else "write"


def simplified(statement: Any) -> str | None:
    """From its first word on, without the bodies of functions; None if it can't be known."""
    try:
        text = text_of(statement)
    except Exception:  # noqa: BLE001  # foreign code, of an object that stands for a statement
        return None
    return _QUOTED_BODY.sub("", without_leading_comments(text)).rstrip("; \t\r\n")


def only_reads(text: str) -> bool:
    """
    Of a simplified text: whether it changes nothing.

    What a function does is not seen in a SELECT that calls it: one that isn't known may write. What a view, an operator
    or a cast of one's own calls is not seen at all.
    """
    if ";" in text or _READING.match(text) is None:
        return False
    return all(call[1].lower().removeprefix("pg_catalog.") in _HARMLESS for call in _CALL.finditer(text))
