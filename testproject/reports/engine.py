"""What the pages say about the engine of the process that made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connection

NAMES = {
    "stock": "Django's own engine, one connection per thread",
    "stock-pool": "Django's own engine with its pool",
    "dbpool": "django_dbpool",
}


@dataclass(frozen=True)
class EngineFacts:
    name: str
    pool: Any
    """The pool's numbers, on our engine."""


def facts() -> EngineFacts:
    database = settings.DATABASES[connection.alias]
    if database["ENGINE"].startswith("django_dbpool."):
        pool = getattr(connection, "pool", None)
        return EngineFacts(NAMES["dbpool"], pool.snapshot() if pool else None)
    return EngineFacts(NAMES["stock-pool" if database["OPTIONS"].get("pool") else "stock"], None)
