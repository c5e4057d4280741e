"""Answers 503, with the time to come back, where the database could not serve a request."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from ...cancellation import cancel_with_task
from ...errors import raised_in_request
from . import stream, uncaught
from .answer import respond
from .failure import failure_of

__all__ = ["DatabasePoolMiddleware"]


class DatabasePoolMiddleware:
    """
    Place it first in ``MIDDLEWARE``: it answers for what is raised in views, templates, commits and every middleware
    after it. Synchronous and asynchronous.

    What is answered and how: docs/failures.md.
    """

    sync_capable = True
    async_capable = True

    random = staticmethod(random.random)
    """From 0 to 1: spreads Retry-After. Replaced in tests."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = cast("Callable[[HttpRequest], Any]", get_response)
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)
        uncaught.listen()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self.is_async:
            return self.__acall__(request)
        raised: list[BaseException] = []
        raised_in_request.set(raised)
        response: HttpResponseBase | None
        try:
            response = cast("HttpResponseBase", self.get_response(request))
        except Exception as error:
            # Only if an error handler has failed as well: Django turns what any middleware raises into a response.
            response = self._respond(request, error)
            if response is None:
                raise
        else:
            if raised and response.status_code >= 400:
                response = self._corrected(request, response, raised)
        finally:
            raised_in_request.set(None)
        return stream.guard(response, request) if isinstance(response, StreamingHttpResponse) else response

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        raised: list[BaseException] = []
        raised_in_request.set(raised)
        response: HttpResponseBase | None
        try:
            # The client may go away: then Django cancels this task, and what the server does for it is in vain.
            async with cancel_with_task():
                response = await self.get_response(request)
        except Exception as error:
            response = await sync_to_async(self._respond, thread_sensitive=False)(request, error)
            if response is None:
                raise
        else:
            if raised and response.status_code >= 400:
                response = await sync_to_async(self._corrected, thread_sensitive=False)(request, response, raised)
        finally:
            raised_in_request.set(None)
        return stream.guard(response, request) if isinstance(response, StreamingHttpResponse) else response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """For a view, its template and its commit. Django calls it in a thread if the view is asynchronous."""
        return self._respond(request, exception)

    def _respond(self, request: HttpRequest, error: BaseException) -> HttpResponse | None:
        failure = failure_of(error)
        return None if failure is None else respond(request, failure, self.random)

    def _corrected(
        self, request: HttpRequest, response: HttpResponseBase, raised: list[BaseException]
    ) -> HttpResponseBase:
        """What another middleware raised has become an error page by now; make it the right one."""
        error = uncaught.error_behind(request, response, raised)
        better = None if error is None else self._respond(request, error)
        return response if better is None else uncaught.replace(response, better)
