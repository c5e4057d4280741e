"""How many sockets have something to read, with whatever the system has for asking."""

from __future__ import annotations

import socket

import pytest

from django_dbpool.pool import entry
from django_dbpool.pool.entry import count_readable


@pytest.fixture(params=["poll", "select"])
def asked_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "select":
        monkeypatch.setattr(entry, "_poll_of_the_system", lambda: None)


@pytest.mark.usefixtures("asked_by")
def test_who_has_something_is_counted() -> None:
    assert count_readable([]) == 0
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with (
            socket.create_connection(listener.getsockname()) as quiet,
            socket.create_connection(listener.getsockname()) as told,
        ):
            first, _ = listener.accept()
            second, _ = listener.accept()
            with first, second:
                second.sendall(b"x")
                told.recv(1, socket.MSG_PEEK)
                assert count_readable([quiet.fileno(), told.fileno()]) == 1
                second.close()
                first.close()
                quiet.recv(1)
                assert count_readable([quiet.fileno(), told.fileno()]) == 2


@pytest.mark.usefixtures("asked_by")
def test_one_that_was_closed_meanwhile_is_not_counted() -> None:
    gone = socket.socket()
    fileno = gone.fileno()
    gone.close()
    assert count_readable([fileno]) == 0
