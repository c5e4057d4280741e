"""Asking processes by their sockets: those that answer wrongly, late, or never."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from django_dbpool.conf import places
from django_dbpool.core.process import this_process
from django_dbpool.fleet import protocol, socket_client, socket_server, verbs
from django_dbpool.fleet.socket_client import ask_local, local_processes, locate
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE


@contextmanager
def impostor(path: Path, answer: bytes) -> Iterator[None]:
    """Something at the place of a process, that says this to each client."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(PATIENCE)
                    connection.recv(100)
                    with suppress(OSError):
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
    path.unlink()


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (b"", "bad answer", "hung up"),
        (b"[1]\n", "bad answer", "hung up"),
        (b"y" * (protocol.LONGEST_ANSWER + 2), "bad answer", "hung up"),
        (b'{"ok": "yes"}\n', "failed", ""),
        (b'{"ok": false, "error": "a\\u001b[2J", "message": "b\\nc"}\n', "a\\x1b[2J", "b\\nc"),
        (b'{"ok": false, "error": {"a": 1}, "message": 7}\n', "{'a': 1}", "7"),
    ],
)
def test_answers_that_nobody_understands(base: Path, said: bytes, error: str, message: str) -> None:
    directory = places.make_directory(base, given=True)
    with impostor(directory / "77.sock", said):
        (answer,) = local_processes().answers
    assert (answer.pid, answer.ok, answer.error) == (77, False, error)
    assert message in answer.message


def test_a_process_that_is_stopped(base: Path) -> None:
    directory = places.make_directory(base, given=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "77.sock"))
        listener.listen()
        (answer,) = local_processes(timeout=0.2).answers
    assert (answer.error, answer.message) == ("no answer", "It did not answer within 0.2 s.")


@contextmanager
def frozen(base: Path, count: int) -> Iterator[list[int]]:
    """Processes of this project that listen, and are stopped."""
    directory, pids = places.make_directory(base, given=True), []
    try:
        for _ in range(count):
            if (pid := os.fork()) == 0:
                with suppress(BaseException):
                    socket_server.ensure_running()
                    signal.pause()
                os._exit(1)
            pids.append(pid)
        for pid in pids:
            assert wait_until((directory / f"{pid}.sock").exists, PATIENCE)
            os.kill(pid, signal.SIGSTOP)
            os.waitpid(pid, os.WUNTRACED)  # it is
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_many_that_are_frozen_are_waited_for_together(base: Path, path: Path) -> None:
    with frozen(base, 40) as pids:
        began = time.monotonic()
        found = ask_local("status", timeout=2.0)
        assert time.monotonic() - began < 3.9, "less than twice"
        assert {answer.pid: answer.error for answer in found.answers} == {
            **dict.fromkeys(pids, "no answer"),
            os.getpid(): "",
        }
        # One that answers is found at once, however many stand before it.
        began = time.monotonic()
        located = locate(this_process().instance, timeout=60.0)
        assert time.monotonic() - began < 30.0
        assert located.answer is not None
        assert located.answer.pid == os.getpid()


def test_more_than_are_asked_at_one_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next is asked when one has answered; those whose turn does not come have not answered."""
    monkeypatch.setattr(socket_client, "AT_ONCE", 1)
    with impostor(path.parent / "77.sock", b'{"ok": true, "result": 1}\n'):
        assert [(answer.pid == 77, answer.ok) for answer in local_processes().answers] == [(True, True), (False, True)]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path.parent / "77.sock"))
        listener.listen()
        found = local_processes(timeout=0.2).answers
        assert [answer.error for answer in found] == ["no answer", "no answer"]


def test_one_whose_queue_is_full_for_a_while(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again until there is room."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path.parent / "77.sock"))
        listener.listen(0)
        first.connect(str(path.parent / "77.sock"))  # and with that it is full
        first.shutdown(socket.SHUT_WR)

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(b'{"ok": true, "result": 1}\n')

        thread = threading.Thread(target=serve)

        def provide() -> dict[str, Any]:
            """Of this process, which is asked after the other."""
            thread.start()
            return {}

        monkeypatch.setattr(verbs, "snapshot_provider", provide)
        found = local_processes(timeout=PATIENCE).answers
        thread.join(PATIENCE)
        assert [(answer.pid, answer.ok) for answer in found] == [(77, True), (os.getpid(), True)]


def test_the_servers_user_is_looked_at_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def uid(connection: socket.socket) -> int:
        asks = threading.current_thread() is threading.main_thread()
        return os.geteuid() + asks

    monkeypatch.setattr(protocol, "peer_uid", uid)
    (answer,) = local_processes().answers
    assert (answer.error, answer.message) == ("not trusted", "The socket is another user's.")
