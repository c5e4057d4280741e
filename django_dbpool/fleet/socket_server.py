"""
Each process answers on a socket of its own, so that whoever is on the host can ask it while the database doesn't
answer and while every worker thread is busy.

One daemon thread waits for clients; each client has a thread while it is there, and is not there for long. Nobody
else's time depends on them.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from ..conf import places, project_config
from ..core import reporter
from ..core.logs import get_logger
from ..core.words import one_line
from ..pool import stopping
from . import protocol
from .protocol import BadLine, TooSlow
from .verbs import NotDone, Verb, perform

logger = get_logger("django_dbpool.commands")

MOST_CLIENTS = 8
"""At one time. One more, and the one that has been silent for longest has to go."""

BACKLOG = 64

JOB = "socket"
INTERVAL = 15.0
"""Seconds between two looks whether the file is still there."""

READ_TIMEOUT = 2.0
WRITE_TIMEOUT = 5.0

RECOVERY = 0.2
"""Seconds of rest after accept() fails: with no descriptor left it would fail at once again."""


class _Client:
    """One connection, and whether anything would be broken off if it were closed."""

    def __init__(self, connection: socket.socket, uid: int | None) -> None:
        self.connection = connection
        self.uid = uid
        self.at_work = False
        self.has_to_go = False

    def hang_up(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


class SocketServer:
    """
    Args:
        directory: of ``places.make_directory``.
    """

    def __init__(self, directory: Path) -> None:
        self.pid = os.getpid()
        self.path = directory / f"{self.pid}.sock"
        self._clients: dict[_Client, None] = {}
        self._lock = threading.Lock()
        """Of the mapping above; held for a few lines."""
        self._closed = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._inode = self._bind(directory)
        except BaseException:
            self._listener.close()
            raise
        self._thread = threading.Thread(target=self._accept, name="dbpool-socket", daemon=True)

    def _bind(self, directory: Path) -> tuple[int, int]:
        """Under its name it appears when it answers: whoever is refused there knows that its process is gone."""
        new = directory / f"{self.pid}.new"
        with suppress(FileNotFoundError):
            new.unlink()
        self._listener.bind(str(new))
        new.chmod(0o600)
        self._listener.listen(BACKLOG)
        found = new.lstat()
        new.rename(self.path)
        return found.st_dev, found.st_ino

    def start(self) -> None:
        self._thread.start()

    def is_reachable(self) -> bool:
        """Whether the file is still there. Those who tidy up /tmp take sockets, too."""
        try:
            found = self.path.lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._inode and self._thread.is_alive()

    def stop(self) -> None:
        """Close everything and take the file away, if it is still ours."""
        self._closed.set()
        if self.is_reachable():
            # Wakes the thread where shutdown() of a listening socket, below, does not: on macOS.
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waker:
                waker.settimeout(0.1)
                waker.connect(str(self.path))
            with suppress(OSError):
                self.path.unlink()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for client in tuple(self._clients):
            client.hang_up()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(1.0)
        self._listener.close()

    def forget(self) -> None:
        """In a forked child: close its copies, and leave the parent its file and its clients."""
        self._closed.set()
        for each in (self._listener, *(client.connection for client in tuple(self._clients))):
            with suppress(OSError):
                os.close(each.detach())

    # -- clients --------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed.is_set() and os.getpid() == self.pid:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                self._closed.wait(RECOVERY)
                continue
            try:
                self._admit(connection)
            except Exception:
                logger.exception("a client of the socket could not be served")
                connection.close()

    def _admit(self, connection: socket.socket) -> None:
        uid = protocol.peer_uid(connection)
        if self._closed.is_set() or uid not in (None, 0, os.geteuid()):
            connection.close()
            return
        client = _Client(connection, uid)
        if not self._has_place_for(client):
            _refuse(connection)
            return
        try:
            threading.Thread(target=self._serve, args=(client,), name="dbpool-socket-client", daemon=True).start()
        except RuntimeError:  # no more threads
            self._leave(client)

    def _has_place_for(self, client: _Client) -> bool:
        """Who is silent has to go for it; those who are being served don't."""
        silent = None
        with self._lock:
            staying = [each for each in self._clients if not each.has_to_go]
            if len(staying) >= MOST_CLIENTS:
                silent = next((each for each in staying if not each.at_work), None)
                if silent is None or len(self._clients) >= 4 * MOST_CLIENTS:
                    return False
                silent.has_to_go = True
            self._clients[client] = None
        if silent is not None:
            silent.hang_up()
        return True

    def _serve(self, client: _Client) -> None:
        try:
            self._converse(client)
        except (OSError, TooSlow):
            pass
        except Exception:
            logger.exception("a client of the socket could not be served")
        finally:
            self._leave(client)

    def _leave(self, client: _Client) -> None:
        with self._lock:
            self._clients.pop(client, None)
        # Not close() alone: a child that was forked meanwhile may have a copy.
        client.hang_up()
        client.connection.close()

    def _converse(self, client: _Client) -> None:
        try:
            request = protocol.decode(
                protocol.receive(client.connection, protocol.LONGEST_REQUEST, monotonic() + READ_TIMEOUT)
            )
        except BadLine:
            answer = _failed("bad request", "A request is one line with a JSON object.")
        else:
            client.at_work = True
            answer = answer_to(request, client.uid)
            client.at_work = False
        protocol.send(client.connection, answer, monotonic() + WRITE_TIMEOUT)


def answer_to(request: dict[str, Any], uid: int | None) -> bytes:
    """The line that answers a request; nothing that goes wrong inside goes out."""
    arguments = {key: value for key, value in request.items() if key != "verb"}

    def log(name: str, verb: Verb) -> None:
        if verb.for_other_hosts:
            level = logging.WARNING if verb.changes else logging.INFO
            told = one_line(repr(arguments))
            logger.log(level, "%s %s, asked for by user %s on this host", name, told, "?" if uid is None else uid)

    try:
        answer = protocol.encode({"ok": True, "result": perform(request.get("verb"), arguments, before=log)})
    except NotDone as error:
        return _failed(error.error, error.message)
    except Exception as error:
        # Its text may name anything; the log of the process is the place for it.
        logger.exception("a request on the socket failed")
        return _failed("failed", f"{type(error).__name__}; see the log of process {os.getpid()}.")
    if len(answer) > protocol.LONGEST_ANSWER:
        return _failed("too long", "The answer is too long for this protocol.")
    return answer


def _failed(error: str, message: str) -> bytes:
    return protocol.encode({"ok": False, "error": error, "message": message})


def _refuse(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setblocking(False)
        connection.send(_failed("busy", "Too many clients at one time."))
    connection.close()


# -- of this process ----------------------------------------------------------------------------------------------

_server: SocketServer | None = None
_starting = threading.Lock()
_said: str | None = None
_ended = False


def ensure_running() -> None:
    """
    Open this process's socket if it should have one and has none. Cheap when there is nothing to do; called from time
    to time while the process uses databases.
    """
    global _server, _said
    if _ended:  # the last round of the reporter's jobs comes after it
        return
    setting = project_config().socket
    with _starting:
        server = _server
        if setting is False:
            _server = None
            if server is not None:
                server.stop()
            return
        if server is not None:
            if server.is_reachable():
                return
            server.stop()
            _server = None
        try:
            given = isinstance(setting, str)
            directory = places.make_directory(places.base_of_server(setting), given=given)
            server = SocketServer(directory)
            server.start()
            _server, _said = server, None
            places.tidy(directory)
        except (places.NoPlace, OSError, RuntimeError) as error:
            if _said != str(error):
                _said = str(error)
                logger.warning('this process can\'t be asked on the host, DBPOOL["SOCKET"]: %s', one_line(_said))


def stop() -> None:
    """Close this process's socket."""
    global _server
    with _starting:
        server, _server = _server, None
    if server is not None and server.pid == os.getpid():
        server.stop()


def running() -> Path | None:
    """The socket of this process, if it has one."""
    server = _server
    return server.path if server is not None and server.pid == os.getpid() else None


def register() -> None:
    """Have it opened with the first lease of each process; not under Django's test runner."""
    reporter.register(JOB, _job, interval=INTERVAL, idle=True)


def _job() -> None:
    from django.core import mail

    if hasattr(mail, "outbox"):  # the one thing of Django's test environment that can be seen
        reporter.unregister(JOB)
    elif stopping.announced is None:  # the reporter's last round comes when the socket has been closed
        ensure_running()


def _at_exit() -> None:
    global _ended
    _ended = True
    stop()


def _after_fork() -> None:
    global _server, _starting, _said, _ended
    _starting = threading.Lock()
    _ended = False
    server, _server = _server, None
    _said = None
    if server is not None:
        server.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
if sys.platform != "win32":
    atexit.register(_at_exit)
