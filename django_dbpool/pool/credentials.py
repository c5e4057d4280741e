"""
A password that is asked for instead of written down: ``DATABASES[alias]["PASSWORD"]`` as a function without
arguments. It is asked for each physical connection and never kept for the next one. No text made here contains what
the function returned, or the function itself: ``repr()`` of a ``partial`` shows its arguments.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psycopg

UNUSED_FOR = 10.0
"""Seconds for which an answer is kept that could not be sent to the server."""


class NoPassword(psycopg.OperationalError):
    """The function behind PASSWORD did not give one; its own error, if it was one, is ``__cause__``."""


def origin(error: BaseException | None) -> BaseException | None:
    """What a report should show as the cause: the provider's own error rather than ours that wraps it."""
    return error.__cause__ or error if isinstance(error, NoPassword) else error


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What a provider returned. The user is None if the setting's USER applies."""

    password: str
    user: str | None = None

    def merged_into(self, params: dict[str, Any]) -> dict[str, Any]:
        return {**params, "password": self.password} | ({} if self.user is None else {"user": self.user})


def ask(provider: Callable[[], object], setting: str) -> Credentials:
    """
    Call a provider.

    Args:
        provider: returns the password, or a pair of user and password where both change together.
        setting: how the error names the setting.

    Raises:
        NoPassword: it raised, or returned anything else.
    """
    try:
        answer = provider()
    except Exception as error:
        raise NoPassword(f"{setting}: {name_of(provider)} raised {type(error).__name__}.") from error
    credentials = _read(answer)
    if credentials is None:
        wrong = _description(answer)
        answer = None  # debug pages show the variables of each frame
        raise NoPassword(
            f"{setting}: {name_of(provider)} returned {wrong}. "
            "Return the password as a string, or the pair (user, password)."
        )
    return credentials


def name_of(provider: object) -> str:
    """The function's name without any of its arguments."""
    name = getattr(provider, "__qualname__", None)
    return f"{name}()" if isinstance(name, str) else f"the {type(provider).__name__} object"


def _read(answer: object) -> Credentials | None:
    if isinstance(answer, str) and answer:
        return Credentials(answer)
    if isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(part, str) and part for part in answer):
        return Credentials(password=answer[1], user=answer[0])
    return None


def _description(answer: object) -> str:
    if inspect.iscoroutine(answer):
        answer.close()  # else Python warns that nobody awaited it
        return "a coroutine; it must be an ordinary function"
    if answer == "":
        return "an empty string"
    return f"an object of type {type(answer).__name__}"


class Rotation:
    """
    One provider of one pool, asked a second time when the server refuses its first answer: the password may have been
    changed between asking and connecting. Attempts of different threads don't meet here.
    """

    def __init__(self, provider: Callable[[], object], setting: str) -> None:
        self._provider = provider
        self._setting = setting
        self._attempt = threading.local()
        self._unsent: deque[tuple[float, Credentials]] = deque(maxlen=1)

    def ask(self) -> Credentials:
        """For the attempt to connect that comes next in this thread."""
        attempt = self._attempt.__dict__
        fresh = attempt.pop("fresh", None)
        attempt["again"] = fresh is not None
        credentials: Credentials = fresh or self._unused() or ask(self._provider, self._setting)
        attempt["used"] = credentials
        return credentials

    def _unused(self) -> Credentials | None:
        """
        What another attempt never came to send, if that was just now: a server that is away is tried many times, which
        is no reason to have a vault make as many passwords.
        """
        try:
            asked_at, credentials = self._unsent.pop()
        except IndexError:
            return None
        return credentials if monotonic() - asked_at < UNUSED_FOR else None

    def changed(self, error: BaseException) -> bool:
        """Whether this thread's attempt, which failed so, should be repeated; at most once, with the new answer."""
        attempt = self._attempt.__dict__
        used = attempt.pop("used", None)
        if used is not None and not password_was_refused(error):
            self._unsent.append((monotonic(), used))
            return False
        if used is None or attempt.get("again"):
            return False
        try:
            fresh = ask(self._provider, self._setting)
        except NoPassword:
            return False  # the server's refusal says more
        if fresh == used:
            return False
        attempt["fresh"] = fresh
        return True


def password_was_refused(error: BaseException) -> bool:
    """
    Whether a failed attempt to connect got as far as giving the server a password.

    libpq has no SQLSTATE for errors of connecting, and their text is in the server's language. This is asked for
    functions only, and only a different answer leads to another attempt: being wrong costs a call of the function.
    """
    pgconn = getattr(error, "pgconn", None)
    return isinstance(error, psycopg.OperationalError) and pgconn is not None and bool(pgconn.used_password)
