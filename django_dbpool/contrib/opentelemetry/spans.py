"""
Spans for what kept somebody waiting. They are made afterwards, in a thread of their own, with the times of the events
and in the trace of the code that waited, which is not kept waiting for them.
"""

from __future__ import annotations

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from ...core.events import (
    CircuitChanged,
    ConnectionFailed,
    ConnectionOpened,
    Event,
    Refused,
    Retried,
    Subscription,
    Waited,
    subscribe,
)
from .names import ERROR_TYPE, POOL_NAME, STATUS_CODE

Attributes = dict[str, str | int | float]


class Spans:
    """Handles events until it is closed."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.subscription: Subscription = subscribe("opentelemetry", self._handle, context=True)

    def close(self) -> None:
        self.subscription.close()

    def _handle(self, event: Event) -> None:
        published_in = self.subscription.context
        if published_in is None:
            return
        parent: Context = published_in.run(contexts.get_current)
        if not trace.get_current_span(parent).get_span_context().is_valid:
            return  # outside of any trace, as what the pool does by itself: a trace of one span tells nothing
        if isinstance(event, CircuitChanged):
            self._circuit(event, parent)
            return
        told = _told(event)
        if told is not None:
            name, start, end, attributes = told
            self._span(name, start, end, parent, {POOL_NAME: event.alias, **attributes})

    def _circuit(self, event: CircuitChanged, parent: Context) -> None:
        """An event of the span that it happened in, or where that has ended meanwhile, a span without duration."""
        attributes: Attributes = {
            POOL_NAME: event.alias,
            "django_dbpool.circuit.before": event.before,
            "django_dbpool.circuit.after": event.after,
        }
        span: Span = trace.get_current_span(parent)
        if span.is_recording():
            span.add_event("dbpool circuit", attributes, timestamp=_nanoseconds(event.at))
        else:
            self._span("dbpool circuit", event.at, event.at, parent, attributes)

    def _span(self, name: str, start: float, end: float, parent: Context, attributes: Attributes) -> None:
        span = self._tracer.start_span(name, parent, attributes=attributes, start_time=_nanoseconds(start))
        if ERROR_TYPE in attributes:
            span.set_status(Status(StatusCode.ERROR, str(attributes[ERROR_TYPE])))
        span.end(_nanoseconds(end))


def _told(event: Event) -> tuple[str, float, float, Attributes] | None:
    """Name, start, end and attributes of an event's span."""
    match event:
        case Waited(seconds=seconds):
            return "dbpool wait", event.at - seconds, event.at, {}
        case Refused(waited=waited, error=error):
            return "dbpool wait", event.at - waited, event.at, {ERROR_TYPE: error}
        case ConnectionOpened(seconds=seconds, reserved=reserved):
            return "dbpool connect", event.at - seconds, event.at, {"django_dbpool.reserved": reserved}
        case ConnectionFailed(seconds=seconds, error=error, code=code):
            return "dbpool connect", event.at - seconds, event.at, {ERROR_TYPE: error, **_status(code)}
        case Retried(what=what, attempt=attempt, delay=delay, code=code):
            attributes: Attributes = {"django_dbpool.retry.what": what, "django_dbpool.retry.attempt": attempt}
            # Connecting tells of it after the pause, a block before.
            start = event.at if what == "block" else event.at - delay
            return "dbpool retry", start, start + delay, {**attributes, **_status(code)}
    return None


def _status(code: str | None) -> Attributes:
    return {} if code is None else {STATUS_CODE: code}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
