"""What runs on the server for a connection that is given up is over, not only unseen."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import psycopg
import pytest

from django_dbpool.pool.stopping_statements import stop_statement
from testproject.postgres import EmbeddedServer

ACTIVE = psycopg.pq.TransactionStatus.ACTIVE


def test_a_cancellation_that_overtakes_its_statement_is_repeated(server: EmbeddedServer) -> None:
    """The server forgets a request to cancel that comes while it waits for a statement."""
    with server.connect() as connection:
        pid = connection.info.backend_pid
        cancel, sent = connection.cancel_safe, threading.Event()

        def counted(**limits: Any) -> None:
            cancel(**limits)
            sent.set()

        connection.cancel_safe = counted  # type: ignore[method-assign]
        os.kill(pid, signal.SIGSTOP)
        try:
            connection.pgconn.send_query(b"SELECT pg_sleep(600)")
            over: list[bool] = []
            stopping = threading.Thread(target=lambda: over.append(stop_statement(connection, 10)))
            stopping.start()
            assert sent.wait(5)
        finally:
            os.kill(pid, signal.SIGCONT)
        stopping.join(15)
        assert over == [True]
        assert connection.pgconn.transaction_status != ACTIVE


@pytest.mark.parametrize(
    "sql", ["SELECT generate_series(1, 100000000)", "SELECT pg_sleep(600)"], ids=["many rows", "no rows"]
)
def test_a_statement(server: EmbeddedServer, sql: str) -> None:
    with server.connect() as connection:
        connection.pgconn.send_query(sql.encode())
        assert stop_statement(connection, 10)
        assert connection.pgconn.transaction_status != ACTIVE


def test_a_copy_ends_with_its_connection(server: EmbeddedServer) -> None:
    with server.connect() as connection:
        connection.pgconn.send_query(b"COPY (SELECT generate_series(1, 100000000)) TO STDOUT")
        assert stop_statement(connection, 10)
        connection.close()


def test_a_frozen_server_is_given_up_in_time(server: EmbeddedServer) -> None:
    with server.connect() as connection:
        connection.pgconn.send_query(b"SELECT pg_sleep(600)")
        server.freeze()
        try:
            assert not stop_statement(connection, 0.3)
        finally:
            server.thaw()
        assert stop_statement(connection, 10)
