"""
What a process goes without: DBPOOL_WEBHOOKS_WITHOUT, names separated by commas.

door        accept events as in the incident: raw connections
threads     start background work as in the incident: threads that nobody manages
middleware  without DatabasePoolMiddleware
retry       connect once, read once, run each transaction once
"""

from __future__ import annotations

import os

from testproject.databases import POOLED_BACKEND, database_from

SWITCHES = ("door", "threads", "middleware", "retry")

CURED = database_from(os.environ)["ENGINE"] == POOLED_BACKEND
"""On the stock engine everything is as it was in the incident."""

_without = frozenset(os.environ.get("DBPOOL_WEBHOOKS_WITHOUT", "").split(","))


def has(cure: str) -> bool:
    assert cure in SWITCHES, cure
    return CURED and cure not in _without
