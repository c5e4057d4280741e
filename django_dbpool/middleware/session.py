"""Session variables that follow from the request: the tenant's schema, the id that row-level security compares with."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from inspect import isawaitable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.http import FileResponse, HttpRequest
from django.http.response import HttpResponseBase, StreamingHttpResponse

from ..conf import session_from_request
from ..core.session import declared
from ..transaction import session

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class SessionVariablesMiddleware:
    """
    Runs the rest of the request, its streamed body included, inside ``transaction.session()`` with what the function
    ``DBPOOL["SESSION_FROM_REQUEST"]`` returns for it: variables of the default database, or None.

    Place it behind whatever the function needs (``AuthenticationMiddleware`` for ``request.user``). The function may
    query the database, without the variables of course; under ASGI it may be a coroutine function, and must be one if
    it queries.

    Example:
        DBPOOL = {"SESSION_FROM_REQUEST": "shop.tenants.session_of"}

        def session_of(request):
            return {"app.tenant": request.tenant.pk}
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._asynchronous = iscoroutinefunction(get_response)
        if self._asynchronous:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._asynchronous:
            return self._respond(request)
        with _session(_function()(request)):
            response = cast("HttpResponseBase", self.get_response(request))
            return _keep_while_streaming(response)

    async def _respond(self, request: HttpRequest) -> HttpResponseBase:
        values = _function()(request)
        with _session(await values if isawaitable(values) else values):
            response = await cast("Awaitable[HttpResponseBase]", self.get_response(request))
            return _keep_while_streaming(response)


def _function() -> Callable[[HttpRequest], Any]:
    function = session_from_request()
    if function is None:
        raise ImproperlyConfigured(
            'SessionVariablesMiddleware needs DBPOOL["SESSION_FROM_REQUEST"], a function that takes the request and '
            "returns a dictionary of session variables. Set it, or remove the middleware."
        )
    return function


def _session(values: Mapping[str, Any] | None) -> session:
    if values is not None and not isinstance(values, Mapping):
        raise ImproperlyConfigured(
            'The function of DBPOOL["SESSION_FROM_REQUEST"] must return a dictionary of session variables or None, '
            f"not {type(values).__name__}."
        )
    return session(**(values or {}))


def _keep_while_streaming(response: HttpResponseBase) -> HttpResponseBase:
    """The body of a streaming response is made after the middleware has returned: its queries need the variables."""
    # Reading a file queries nothing, and to replace its content would keep the server from using sendfile().
    if isinstance(response, StreamingHttpResponse) and not isinstance(response, FileResponse):
        content = response.streaming_content
        variables = declared.get()
        if isinstance(content, AsyncIterator):
            response.streaming_content = _stream_async(content, variables)
        else:
            response.streaming_content = _stream(iter(content), variables)
    return response


class _Inside:
    """
    The variables of a body, set only while a part of it is made: between parts this thread or task belongs to somebody
    else. What the body has declared by then, in a block around its yield, it finds again.
    """

    def __init__(self, variables: Any) -> None:
        self.variables = variables

    def __enter__(self) -> None:
        self.outer = declared.get()
        declared.set(self.variables)

    def __exit__(self, *exc_info: object) -> None:
        self.variables = declared.get()
        declared.set(self.outer)


def _stream(content: Iterator[Any], variables: Any) -> Iterator[Any]:
    inside, end = _Inside(variables), object()
    while True:
        with inside:
            part = next(content, end)
        if part is end:
            return
        yield part


async def _stream_async(content: AsyncIterator[Any], variables: Any) -> AsyncIterator[Any]:
    inside, end = _Inside(variables), object()
    try:
        while True:
            with inside:
                part = await anext(content, end)
            if part is end:
                return
            yield part
    finally:
        if isinstance(content, AsyncGenerator):
            with inside:
                await content.aclose()
