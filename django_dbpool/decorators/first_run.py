"""What a view leaves in its request, so that another run can be refused or begin as the first one did."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from django.http import HttpRequest

from ..errors import raised_in_request
from ..middleware.failures.failure import Failure

# Reading the body uses the stream up; what came of it stays.
_OF_THE_BODY = frozenset({"_body", "_data", "_files", "_post", "_read_started", "_stream"})

# Where Django's session and messages say that there is something to be saved.
_FLAGS = (("session", "modified"), ("_messages", "added_new"))


class FirstRun:
    """Around one run of a view."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self._attributes = dict(vars(request))
        self._raised = list(raised_in_request.get() or ())
        self._flags = [
            (keeper, flag, getattr(keeper, flag))
            for name, flag in _FLAGS
            if hasattr(keeper := self._attributes.get(name), flag)
        ]

    def __enter__(self) -> Self:
        # Lowered, to see whether it is the view that raises them; middleware before it may have done so as well.
        for keeper, flag, _ in self._flags:
            setattr(keeper, flag, False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for keeper, flag, before in self._flags:
            setattr(keeper, flag, getattr(keeper, flag) or before)

    def left_something(self) -> bool:
        """Whether the session or the messages were changed, or the body was read in parts."""
        now = vars(self._request)
        if any(now.get(name) is not self._attributes.get(name) for name, _ in _FLAGS):
            return True
        if any(getattr(keeper, flag) for keeper, flag, _ in self._flags):
            return True
        return bool(now.get("_read_started")) and "_body" not in now and not self._attributes.get("_read_started")

    def restore(self) -> None:
        """
        Take the attributes away that the view has set, put back those that it has changed, and have the middleware
        forget what was raised.
        """
        raised = raised_in_request.get()
        if raised is not None:
            raised[:] = self._raised
        now = vars(self._request)
        body = {name: value for name, value in now.items() if name in _OF_THE_BODY}
        now.clear()
        now.update(self._attributes | body)

    def log_again(self, logger: logging.Logger, failure: Failure, attempt: int) -> None:
        request = self._request
        match = request.resolver_match
        logger.info(
            "%s %s is run again after run %d: %s",
            request.method,
            request.path.encode("unicode_escape").decode("ascii"),
            attempt,
            failure.name,
            extra={
                "attempt": attempt,
                "error_type": failure.name,
                "severity": "expected" if failure.is_expected else "info",
                "connection_terminated": failure.connection_terminated,
                "sqlstate": failure.sqlstate,
                "method": request.method,
                "path": request.path,
                "route": None if match is None else match.route,
                "request": request,
            },
        )
