"""Asking the processes of this project on this host."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any

from ..conf import places, project_config
from ..core.words import one_line
from . import protocol

TIMEOUT = 3.0
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """What one process of this host said."""

    pid: int
    path: Path
    result: Any = None
    error: str = ""
    """A code, such as "no answer", "unknown verb"; empty if all went well."""
    message: str = ""
    """Words for the error, without characters that could steer a terminal."""

    @property
    def ok(self) -> bool:
        return not self.error

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "pid": self.pid,
            "path": str(self.path),
            "result": self.result,
            "error": self.error,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class LocalProcesses:
    """The processes that were found, by pid, and the places that were not looked into."""

    answers: tuple[LocalAnswer, ...]
    refused: tuple[str, ...] = field(default=())
    """Why a directory was not trusted."""


def ask_local(verb: str, *, timeout: float = TIMEOUT, pid: int | None = None, **arguments: Any) -> LocalProcesses:
    """
    Ask every process of this project on this host that has a socket. The database is not needed for it.

    Args:
        verb: "status", "holders", "stack", "drain", "cancel" or "terminate".
        timeout: seconds for each; they are asked at the same time, sixteen at once.
        pid: ask only this process.
        arguments: of the verb.

    Example:
        >>> for process in ask_local("holders", stacks=True).answers:
        ...     print(process.pid, process.result if process.ok else process.error)
    """
    found, refused = _sockets(pid)
    line = protocol.encode({"verb": verb, **arguments})
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="dbpool-ask") as executor:
        answers = list(executor.map(lambda each: _ask(each[0], each[1], line, timeout), found))
    known = (answer for answer in answers if answer is not None)
    return LocalProcesses(tuple(sorted(known, key=lambda answer: answer.pid)), tuple(refused))


def local_processes(*, timeout: float = TIMEOUT) -> LocalProcesses:
    """
    The snapshots of all processes of this project on this host that have used a database.

    Args:
        timeout: seconds. A process that is stopped, or too busy to run a thread, is in the result with the error
            "no answer".

    Example:
        >>> for process in local_processes().answers:
        ...     print(process.pid, process.result["pools"] if process.ok else process.message)
    """
    return ask_local("status", timeout=timeout)


@dataclass(frozen=True, slots=True)
class Located:
    """Where on this host one process listens, as far as could be seen."""

    answer: LocalAnswer | None
    """The process's own, with its snapshot; None if it isn't among those that answer."""
    silent: tuple[LocalAnswer, ...] = ()
    """Those of which nobody knows whether one is it."""
    refused: tuple[str, ...] = ()
    """Why a directory was not trusted."""


def locate(instance: str, *, timeout: float = 1.0) -> Located:
    """
    Look for a process of this project on this host. All are asked at the same time, and nobody waits for the others
    once it has answered.

    Args:
        instance: of the process.
        timeout: seconds. A process that can answer does within a few milliseconds.
    """
    found, refused = _sockets(None)
    todo, answers = deque(found), SimpleQueue[LocalAnswer | None]()
    deadline = monotonic() + timeout
    line = protocol.encode({"verb": "status", "process": instance})

    def ask() -> None:
        with suppress(IndexError):
            while True:
                pid, path = todo.popleft()
                answers.put(_ask(pid, path, line, max(0.01, deadline - monotonic())))

    for _ in range(min(AT_ONCE, len(found))):
        # Daemons: those that wait for a frozen process must not hold up the end of this one.
        threading.Thread(target=ask, name="dbpool-locate", daemon=True).start()
    silent: list[LocalAnswer] = []
    for _ in found:
        try:
            answer = answers.get(timeout=max(0.01, deadline - monotonic() + 0.1))
        except Empty:
            break
        if answer is not None and answer.ok:
            todo.clear()
            return Located(answer, tuple(silent), tuple(refused))
        if answer is not None and answer.error != protocol.NOT_ME:
            silent.append(answer)
    return Located(None, tuple(sorted(silent, key=lambda answer: answer.pid)), tuple(refused))


def _sockets(only: int | None) -> tuple[list[tuple[int, Path]], list[str]]:
    found: dict[int, Path] = {}
    refused = []
    setting = project_config().socket
    try:
        bases = places.bases_of_client(setting if isinstance(setting, str) else True)
    except places.NoPlace as error:
        return [], [one_line(str(error))]
    for base in bases:
        try:
            # The default base is private itself: else somebody could swap what is below it.
            for each in [base / places.project_digest()] if isinstance(setting, str) else [base]:
                if os.path.lexists(each):
                    places.check_private(each)
            for pid, path in places.listed(base / places.project_digest()):
                if only in (None, pid):
                    found.setdefault(pid, path)
        except places.NoPlace as error:
            refused.append(one_line(str(error)))
    return sorted(found.items()), refused


def _ask(pid: int, path: Path, line: bytes, timeout: float) -> LocalAnswer | None:
    """One process's answer; None if there is no such process any more."""
    deadline = monotonic() + timeout
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            _connect(connection, path, deadline)
            if protocol.peer_uid(connection) not in (None, os.geteuid()):
                return LocalAnswer(pid, path, error="not trusted", message="The socket is another user's.")
            protocol.send(connection, line, deadline)
            document = protocol.decode(protocol.receive(connection, protocol.LONGEST_ANSWER, deadline))
    except FileNotFoundError:
        return None
    except ConnectionRefusedError:
        return _refused(pid, path)
    except (protocol.TooSlow, TimeoutError, BlockingIOError):
        return LocalAnswer(pid, path, error="no answer", message=f"It did not answer within {round(timeout, 1):g} s.")
    except protocol.BadLine:
        return LocalAnswer(pid, path, error="bad answer", message="It hung up, or what it said is not understood.")
    except OSError as error:
        return LocalAnswer(pid, path, error="no connection", message=one_line(str(error.strerror)))
    return _understood(pid, path, document)


def _connect(connection: socket.socket, path: Path, deadline: float) -> None:
    """Where the queue of the other side is full, Linux refuses those who have a time limit at once."""
    while True:
        connection.settimeout(max(0.01, deadline - monotonic()))
        try:
            connection.connect(str(path))
        except BlockingIOError:
            if monotonic() >= deadline:
                raise
            sleep(0.02)
        else:
            return


def _understood(pid: int, path: Path, document: dict[str, Any]) -> LocalAnswer:
    if document.get("ok") is True:
        return LocalAnswer(pid, path, result=document.get("result"))
    error, message = str(document.get("error") or "failed"), str(document.get("message") or "")
    return LocalAnswer(pid, path, error=one_line(error), message=one_line(message))


def _refused(pid: int, path: Path) -> LocalAnswer | None:
    """Nobody listens there. A process that was killed has left its socket behind; whoever sees it takes it away."""
    if places.process_exists(pid):
        # Its number may have gone to another process since, which is none of ours; or it is about to end.
        return LocalAnswer(pid, path, error="no connection", message="It doesn't listen on its socket (any more).")
    with suppress(OSError):
        path.unlink()
    return None
