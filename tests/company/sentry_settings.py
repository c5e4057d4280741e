"""Sentry, initialized in the settings as its documentation says, before any of Django's modules is imported."""

from __future__ import annotations

from typing import Any

import sentry_sdk
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.transport import Transport

from tests.company.settings import *  # noqa: F403
from tests.company.settings import database

DATABASES = {"default": database()}

events: list[Any] = []


class Memory(Transport):
    def capture_envelope(self, envelope: Any) -> None:
        found = [item.get_event() or item.get_transaction_event() for item in envelope.items]
        events.extend(event for event in found if event)


sentry_sdk.init(
    dsn="https://public@localhost/1",
    transport=Memory,
    traces_sample_rate=1.0,
    integrations=[DjangoIntegration(db_transaction_spans=True)],
)


def found() -> dict[str, Any]:
    sentry_sdk.flush()
    spans = [span for event in events for span in event.get("spans", ()) if span["op"] == "db"]
    errors = [event["exception"]["values"][-1]["value"] for event in events if event.get("exception")]
    return {
        "spans": [span["description"] for span in spans],
        "names": sorted({span["data"].get("db.name") for span in spans}),
        "errors": errors,
    }
