"""OpenTelemetry for requests and for psycopg, with SQL comments."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.company.settings import *  # noqa: F403
from tests.company.settings import database

DATABASES = {"default": database()}

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))


def prepare() -> None:
    """As in wsgi.py or manage.py."""
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor

    PsycopgInstrumentor().instrument(tracer_provider=provider, enable_commenter=True)
    DjangoInstrumentor().instrument(tracer_provider=provider, is_sql_commentor_enabled=True)


def found() -> dict[str, Any]:
    spans = exporter.get_finished_spans()
    requests = {span.context.span_id: span.name for span in spans if span.name.startswith("GET")}
    in_requests = [span for span in spans if span.parent is not None and span.parent.span_id in requests]
    return {
        "requests": sorted(requests.values()),
        "statements": [str((span.attributes or {}).get("db.statement")) for span in in_requests],
        "names": sorted({str((span.attributes or {}).get("db.name")) for span in in_requests}),
    }
