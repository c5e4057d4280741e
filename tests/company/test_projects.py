"""One small project for each companion: migrate, requests through WSGI, statements by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.company.conftest import Project

pytestmark = pytest.mark.ci


def web(project: Project, settings: str) -> dict[str, Any]:
    """What the companion has found, of a site that works."""
    seen = project.scenario(settings, "web")
    assert seen["statuses"] == [200, 200, 200, 500]
    assert seen["texts"] == ["first", "second"]
    assert seen["count"] == 2
    assert seen["pins"] == []
    assert seen["left"] == seen["leases_left"] == 0
    assert seen["size"] == 1
    found: dict[str, Any] = seen["found"]
    return found


def test_sentry(project: Project, tested_with: Any) -> None:
    tested_with("sentry-sdk")
    found = web(project, "sentry_settings")
    statements = [text for text in found["spans"] if "notes_note" in text]
    assert sum("INSERT" in text for text in statements) == 2
    assert sum("FOR UPDATE" in text for text in statements) == 2
    assert found["spans"].count("COMMIT") == 2
    assert found["names"] == [project.database]
    assert found["errors"] == ["on purpose"]


def test_debug_toolbar(project: Project, tested_with: Any) -> None:
    tested_with("django-debug-toolbar")
    queries = web(project, "toolbar_settings")["queries"]
    assert sum(text.startswith("INSERT") for text in queries) == 2
    assert sum("FOR UPDATE" in text for text in queries) == 2
    assert sum("'first'" in text for text in queries) == 1


def test_opentelemetry(project: Project, tested_with: Any) -> None:
    tested_with("opentelemetry-instrumentation-psycopg", "opentelemetry-instrumentation-django")
    found = web(project, "otel_settings")
    assert found["requests"] == ["GET fail/", "GET notes/", "GET notes/", "GET notes/"]
    assert found["names"] == [project.database]
    assert sum("INSERT" in text for text in found["statements"]) == 2
    assert sum("FOR UPDATE" in text for text in found["statements"]) == 2


def test_prometheus(project: Project, tested_with: Any) -> None:
    tested_with("django-prometheus")
    metrics = web(project, "prometheus_settings")["metrics"]
    labels = '{alias="default",vendor="postgresql"}'
    assert float(metrics[f"django_db_new_connections_total{labels}"]) == 1
    assert float(metrics[f"django_db_execute_total{labels}"]) > 10
    assert not [name for name in metrics if name.startswith("django_db_errors_total")]
