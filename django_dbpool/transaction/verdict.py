"""Whether a failed attempt may be repeated: what is known of the error, and of what the attempt has done."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from ..backends.losses import driver_error, only_reads, simplified
from ..core import sqlstate
from ..core.blocks import is_idempotent
from ..errors import (
    CircuitOpen,
    CommitUnknown,
    ConnectionLost,
    DatabaseUnavailable,
    PoolError,
    RetryingInsideTransaction,
    ServerConnectionsExhausted,
)
from ..pool.connecting import code_of

ErrorTypes = type[Exception] | tuple[type[Exception], ...]

# What changes nothing that a transaction would keep, and may be done twice without anybody's noticing.
_MAINTENANCE = re.compile(r"(?:VACUUM|ANALYZE|CHECKPOINT)\b[^;]*$", re.IGNORECASE)


def is_harmless(connection: BaseDatabaseWrapper, sql: Any) -> bool:
    """Of a statement outside of a transaction: whether it may run twice."""
    if sql is not None and sql is getattr(connection, "_read", None):
        return True  # the ORM's, whatever functions it calls
    text = simplified(sql)
    return text is not None and (only_reads(text) or _MAINTENANCE.match(text) is not None)


def was_refused(error: BaseException) -> bool:
    """Whether it is certain that the statement or COMMIT which raised this did nothing."""
    if isinstance(error, PoolError):
        return not getattr(error, "maybe_committed", False)
    driver = driver_error(error)
    # A session that is ended (FATAL) may have been so after the work was done and before it was reported.
    return driver is not None and driver.diag.severity_nonlocalized == "ERROR"


def is_transient(error: BaseException) -> bool:
    """Whether another attempt of the same may succeed without anybody's doing."""
    if isinstance(error, PoolError):
        return _is_transient_of_pool(error)
    driver = driver_error(error)
    if driver is None:
        return False
    code = code_of(driver)
    if code is not None:
        return sqlstate.is_transient(code)
    # No server has spoken: not there, or the connection was lost. Django's own pool says so when it is exhausted, too.
    lost = isinstance(driver, psycopg.OperationalError) and isinstance(error, (OperationalError, psycopg.Error))
    return lost and not type(driver).__module__.startswith("psycopg_pool")


def _is_transient_of_pool(error: PoolError) -> bool:
    if isinstance(error, DatabaseUnavailable):
        cause = error.__cause__
        code = code_of(cause)
        # To repeat what was refused for its password locks accounts. Other causes are a provider's of passwords.
        return (cause is None or isinstance(cause, psycopg.Error)) and (code is None or sqlstate.is_transient(code))
    # Not PoolExhausted: more load does not help a pool that has no connection to give. Nor time limits.
    return isinstance(error, (CircuitOpen, ConnectionLost, ServerConnectionsExhausted))


def why_not(error: Exception, attempt: Done, on: ErrorTypes) -> str | None:
    """
    Why an attempt that ended in this error is not repeated; None: it may be.

    Args:
        attempt: what it has done.
        on: types of errors that are repeated in addition.
    """
    if isinstance(error, RetryingInsideTransaction):
        return "it was refused"
    if attempt.committed or getattr(error, "committed", False):
        return "it has been committed"
    if attempt.commit_unknown or isinstance(error, CommitUnknown):
        return "nobody knows whether it has been committed"
    if attempt.lost_a_session():
        return "a connection that was pinned before it was lost, and with it what its session held"
    if not is_idempotent():
        if attempt.kept:
            return f"{attempt.kept} has been committed"
        if attempt.unknown or (getattr(error, "maybe_committed", False) and error is not attempt.harmless):
            return "a statement may have been committed"
    if not (isinstance(error, on) or is_transient(error)):
        return "such an error is not repeated"
    return None


class Done:
    """What an attempt has done so far that another can't undo."""

    committed = False
    """Its own transaction."""
    commit_unknown = False
    """Its COMMIT was sent and not answered."""
    kept = ""
    """A statement or transaction of another kind, in words."""
    unknown = False
    """A statement outside of a transaction failed that may have taken effect all the same."""
    harmless: BaseException | None = None
    """Error of one that may run twice."""

    def lost_a_session(self) -> bool:
        """Whether session state from before it is gone."""
        return False
