"""Asking the processes of this project on this host."""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, DefaultSelector
from time import monotonic
from typing import Any

from ..conf import places, project_config
from ..core.words import one_line
from . import protocol

TIMEOUT = 3.0

AT_ONCE = 256
"""Processes that are waited for at one time: each takes a descriptor of this process, which needs some for its work."""

AGAIN = 0.02
"""Seconds after which it is tried again where the queue of the other side is full."""

LATE = 0.5
"""Seconds beyond the deadline in which what has come by then is read."""


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
        timeout: seconds, for all together: they are asked at the same time.
        pid: ask only this process.
        arguments: of the verb.

    Example:
        >>> for process in ask_local("holders", stacks=True).answers:
        ...     print(process.pid, process.result if process.ok else process.error)
    """
    found, refused = _sockets(pid)
    answers = _ask(found, protocol.encode({"verb": verb, **arguments}), timeout)
    return LocalProcesses(tuple(sorted(answers, key=lambda answer: answer.pid)), tuple(refused))


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
    silent: list[LocalAnswer] = []
    with closing(_ask(found, protocol.encode({"verb": "status", "process": instance}), timeout)) as answers:
        for answer in answers:
            if answer.ok:
                return Located(answer, tuple(silent), tuple(refused))
            if answer.error != protocol.NOT_ME:
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


# -- all at once, in the calling thread -------------------------------------------------------------------------------

Turn = tuple[socket.socket, int]
"""A connection, and what it has to be ready for; 0: there is nothing to wait for, it has to be tried again."""


class _NotTrusted(Exception):
    """Somebody else listens there."""


@dataclass(frozen=True, slots=True)
class _Asked:
    pid: int
    path: Path
    talk: Generator[Turn, None, dict[str, Any]]


def _ask(found: Sequence[tuple[int, Path]], line: bytes, timeout: float) -> Generator[LocalAnswer, None, None]:
    """The answers, as they come; last those who have not answered. Processes that are gone say nothing."""
    deadline = monotonic() + timeout
    later = deque(found)
    due: list[_Asked] = []
    full: list[_Asked] = []
    with ExitStack() as talks, DefaultSelector() as selector:
        while True:
            for asked in due:
                if (answer := _go_on(asked, selector, full)) is not None:
                    yield answer
            due = []
            left = deadline - monotonic()
            while left > 0 and later and len(due) + len(full) + len(selector.get_map()) < AT_ONCE:
                pid, path = later.popleft()
                due.append(_Asked(pid, path, talks.enter_context(closing(_talk(path, line)))))
            if not (due or full or selector.get_map()):
                break
            ready = selector.select(0 if due else min(left, AGAIN) if full else left)
            for key, _ in ready:
                selector.unregister(key.fileobj)  # before it is closed: its number may be the next one's
                due.append(key.data)
            if left > 0:
                due, full = due + full, []
            elif not due or left < -LATE:
                break
        silent = [*full, *due, *(key.data for key in selector.get_map().values())]
    for pid, path in [*((asked.pid, asked.path) for asked in silent), *later]:
        yield LocalAnswer(pid, path, error="no answer", message=f"It did not answer within {round(timeout, 1):g} s.")


def _go_on(asked: _Asked, selector: BaseSelector, full: list[_Asked]) -> LocalAnswer | None:
    """Its answer, or what it waits for is noted."""
    try:
        connection, event = next(asked.talk)
    except StopIteration as end:
        return _understood(asked.pid, asked.path, end.value)
    except (OSError, protocol.BadLine, _NotTrusted) as error:
        return _failed(asked.pid, asked.path, error)
    if event:
        selector.register(connection, event, asked)
    else:
        full.append(asked)
    return None


def _talk(path: Path, line: bytes) -> Generator[Turn, None, dict[str, Any]]:
    """With one process; its answer. Nothing in it waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        # Where the queue of the other side is full, Linux refuses those who don't wait.
        while (code := connection.connect_ex(str(path))) not in (0, errno.EISCONN):
            if code not in (errno.EAGAIN, errno.EINPROGRESS, errno.EALREADY):
                raise OSError(code, os.strerror(code))
            yield connection, 0
        if protocol.peer_uid(connection) not in (None, os.geteuid()):
            raise _NotTrusted
        unsent = memoryview(line)
        while unsent:
            try:
                unsent = unsent[connection.send(unsent) :]
            except BlockingIOError:
                yield connection, EVENT_WRITE
        said = bytearray()
        while True:
            yield connection, EVENT_READ
            try:
                chunk = connection.recv(protocol.CHUNK)
            except BlockingIOError:
                continue
            said += chunk
            line_end = said.find(b"\n", len(said) - len(chunk))
            if line_end >= 0:
                return protocol.decode(bytes(said[:line_end]))
            if not chunk or len(said) > protocol.LONGEST_ANSWER:
                raise protocol.BadLine


def _failed(pid: int, path: Path, error: Exception) -> LocalAnswer | None:
    """In words; None if there is no such process any more."""
    match error:
        case FileNotFoundError():
            return None
        case ConnectionRefusedError():
            return _refused(pid, path)
        case _NotTrusted():
            return LocalAnswer(pid, path, error="not trusted", message="The socket is another user's.")
        case OSError():
            return LocalAnswer(pid, path, error="no connection", message=one_line(error.strerror or str(error)))
    return LocalAnswer(pid, path, error="bad answer", message="It hung up, or what it said is not understood.")


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
