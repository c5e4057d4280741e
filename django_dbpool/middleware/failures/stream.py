"""Streaming responses: a failure after the first byte can only be logged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

from django.http import FileResponse, HttpRequest, StreamingHttpResponse

from ...cancellation import stream_with_task
from .failure import failure_of
from .report import new_reference, report


def guard(response: StreamingHttpResponse, request: HttpRequest) -> StreamingHttpResponse:
    """Log what the body's iterator raises from the database. It is raised further: see ``_failed``."""
    if not isinstance(response, FileResponse):  # whose file the server may send by itself
        parts = response.streaming_content
        if isinstance(parts, AsyncIterator):
            response.streaming_content = _aguarded(parts, request)
        else:
            response.streaming_content = _guarded(parts, request)
    return response


def _guarded(parts: Iterator[bytes], request: HttpRequest) -> Iterator[bytes]:
    try:
        yield from parts
    except Exception as error:
        _failed(error, request)
        raise


async def _aguarded(parts: AsyncIterator[bytes], request: HttpRequest) -> AsyncIterator[bytes]:
    try:
        # Until the client goes away, and its connection is not held for what nobody reads.
        async with aclosing(stream_with_task(parts)) as watched:
            async for part in watched:
                yield part
    except Exception as error:
        _failed(error, request)
        raise


def _failed(error: Exception, request: HttpRequest) -> None:
    # The server ends the transfer when the iterator raises, so that the client sees it broken off. Ending the iterator
    # instead would make half of an export look like the whole.
    failure = failure_of(error)
    if failure is not None:
        report(request, failure, new_reference(), streamed=True)
