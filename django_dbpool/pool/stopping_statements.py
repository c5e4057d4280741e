"""
Stop what the server does for a connection that is about to be closed. Closing alone doesn't: a backend that computes
does not look at its socket (https://www.postgresql.org/docs/current/runtime-config-connection.html,
``client_connection_check_interval``).
"""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.pq import ExecStatus, TransactionStatus

from .readable import readable

AGAIN = 0.1
"""
Seconds for which a cancellation is waited for before it is repeated. One that overtakes its statement is lost: the
server looks at it before it has read the statement, finds nothing to cancel, and then begins.
"""

_ACTIVE = TransactionStatus.ACTIVE
_NEVER_OVER = (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH)


def stop_statement(conn: Connection[Any], timeout: float) -> bool:
    """
    Cancel the running statement until the server says that it is over. Results are thrown away.

    Args:
        timeout: seconds in all. If the server is frozen or gone, closing is all that is left.

    Returns:
        Whether nothing runs any more, as far as it can be told; a COPY ends with its connection.
    """
    deadline = monotonic() + timeout
    with suppress(psycopg.Error, OSError, ValueError):
        while conn.pgconn.transaction_status == _ACTIVE and (left := deadline - monotonic()) > 0:
            conn.cancel_safe(timeout=left)
            if _is_over(conn, min(deadline, monotonic() + AGAIN)):
                return True
    return bool(conn.pgconn.transaction_status != _ACTIVE)


def _is_over(conn: Connection[Any], until: float) -> bool:
    pgconn = conn.pgconn
    while (left := until - monotonic()) > 0 and readable(conn.fileno(), left):
        pgconn.consume_input()
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None or result.status in _NEVER_OVER:
                return True
    return False
