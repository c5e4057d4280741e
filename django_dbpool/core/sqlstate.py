"""
What the five characters of an SQLSTATE mean for us: the one table that retries, the breaker and HTTP answers consult.

All codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import re

CONNECTION_CLASS = "08"
PROTOCOL_VIOLATION = "08P01"
"""A bug in a driver or a pooler: another attempt would meet it again."""

SERIALIZATION = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
    }
)
SERVER_FULL = frozenset(
    {
        "53300",  # too_many_connections; also reserved slots, and the limits of a role or a database
    }
)
INSUFFICIENT_RESOURCES = SERVER_FULL | {
    "53000",  # insufficient_resources
    "53100",  # disk_full
    "53200",  # out_of_memory
    "53400",  # configuration_limit_exceeded
}
SHUTDOWN = frozenset(
    {
        "57P01",  # admin_shutdown: also pg_terminate_backend()
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now: starting up, shutting down, in recovery
    }
)
SERVER_TIMEOUT = {
    "25P03": "idle_in_transaction_timeout",
    "25P04": "transaction_timeout",  # since PostgreSQL 17
    "57P05": "idle_session_timeout",
}
"""The server ends the session, not only the statement. With the key of POOL that sets the limit, if one does."""
SYSTEM = frozenset(
    {
        "58000",  # system_error
        "58030",  # io_error
    }
)
QUERY_CANCELED = frozenset(
    {
        "57014",  # query_canceled: statement_timeout, pg_cancel_backend()
    }
)
LOCK_NOT_AVAILABLE = frozenset(
    {
        "55P03",  # lock_not_available: lock_timeout, NOWAIT
    }
)
READ_ONLY = frozenset(
    {
        "25006",  # read_only_sql_transaction: a standby, or a primary that has become one
    }
)
CREDENTIALS = frozenset(
    {
        "3D000",  # invalid_catalog_name: no such database
        # and all of class 28, invalid authorization: role unknown, password wrong, pg_hba.conf refuses
    }
)
_ANSWERED_503 = SERVER_TIMEOUT.keys() | QUERY_CANCELED | LOCK_NOT_AVAILABLE | READ_ONLY
_TRANSIENT = SERIALIZATION | INSUFFICIENT_RESOURCES | SHUTDOWN | SYSTEM


def is_transient(code: str | None) -> bool:
    """Another attempt, of a whole transaction or of connecting, may succeed without anybody's doing."""
    return code is not None and (code in _TRANSIENT or _is_connection(code))


def is_unreachable(code: str | None) -> bool:
    """The server is down, on its way down or up, or the way to it is broken."""
    return code is not None and (code in SHUTDOWN or _is_connection(code))


def is_credentials(code: str | None) -> bool:
    """Role, password or database refused: never repeated, because repeating locks accounts."""
    return code is not None and (code in CREDENTIALS or code.startswith("28"))


def is_server_full(code: str | None) -> bool:
    """The server has no connection left for us."""
    return code in SERVER_FULL


def is_serialization(code: str | None) -> bool:
    """Another transaction was in the way; the whole block may be repeated."""
    return code in SERIALIZATION


def is_server_timeout(code: str | None) -> bool:
    """The server closed the connection because a time limit passed that was set on purpose."""
    return code in SERVER_TIMEOUT


def is_read_only(code: str | None) -> bool:
    """A write met a server that only reads: on a primary's alias, a failover."""
    return code in READ_ONLY


def is_expected_termination(code: str | None) -> bool:
    """The server ended the connection deliberately: an administrator, a restart or one of its time limits."""
    return code in SERVER_TIMEOUT or code in ("57P01", "57P03")


def is_unavailable_answer(code: str | None) -> bool:
    """An HTTP request that fails with it is answered 503: it is nobody's mistake, and later it may work."""
    return is_transient(code) or code in _ANSWERED_503


def _is_connection(code: str) -> bool:
    return code.startswith(CONNECTION_CLASS) and code != PROTOCOL_VIOLATION


# libpq keeps the SQLSTATE of a refused connection to itself: psycopg's error has only the text, one or two lines for
# each host tried, "connection to server at ... failed: FATAL:  <message>". The messages are those of PostgreSQL's
# postinit.c, auth.c and miscinit.c and of PgBouncer's, as a server with English messages sends them.
_REFUSALS = tuple(
    (code, re.compile(pattern))
    for code, pattern in (
        ("53300", r"too many clients already|remaining connection slots are reserved|too many connections for "),
        ("53300", r"no more connections allowed"),  # PgBouncer: max_client_conn, max_db_connections
        ("57P03", r"the database system is (?:starting up|shutting down|in recovery mode|not (?:yet )?accepting)"),
        ("57P01", r"terminating connection due to administrator command"),
        ("57P05", r"terminating connection due to idle-session timeout"),
        ("28P01", r"password authentication failed|no password supplied"),
        ("28000", r'role ".*" (?:does not exist|is not permitted to log in)'),
        ("28000", r"no pg_hba\.conf entry|pg_hba\.conf rejects|\w+ authentication failed"),
        ("28000", r"permission denied for database|no such user"),
        ("3D000", r'database ".*" (?:does not exist|is not currently accepting connections)'),
        ("3D000", r"no such database"),  # PgBouncer
    )
)


def of_refused_connection(message: str) -> str | None:
    """
    The SQLSTATE of a connection that the server refused, read from the driver's text.

    Args:
        message: ``str(error)`` of psycopg's ``OperationalError`` without an ``sqlstate``.

    Returns:
        None if no server spoke (connection refused, unknown host, no answer) or if its words are not known here,
        such as those of a server whose ``lc_messages`` is not English.
    """
    # With several hosts there is one line for each; the last one tried is the verdict, as it is libpq's.
    for line in reversed(message.splitlines()):
        for code, pattern in _REFUSALS:
            if pattern.search(line):
                return code
    return None
