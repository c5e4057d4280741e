"""The Django application: exports from its start on."""

from __future__ import annotations

from django.apps import AppConfig


class PrometheusConfig(AppConfig):
    name = "django_dbpool.contrib.prometheus"
    label = "django_dbpool_prometheus"
    verbose_name = "Database connection pool: Prometheus"

    def ready(self) -> None:
        from . import checks, register  # noqa: F401  (checks register themselves)

        register()
