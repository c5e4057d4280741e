"""
Names by the semantic conventions, as literals: their Python package pins the version of the SDK.
https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
"""

from __future__ import annotations

SCOPE = "django_dbpool"
"""Of instrumentation."""

POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"
ERROR_TYPE = "error.type"
STATUS_CODE = "db.response.status_code"
"""The SQLSTATE."""
