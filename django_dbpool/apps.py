"""The Django application: registers checks and request tracking; starts nothing."""

from __future__ import annotations

from django.apps import AppConfig


class DatabasePoolConfig(AppConfig):
    name = "django_dbpool"
    verbose_name = "Database connection pool"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.conf import settings

        from . import checks, conf, units  # noqa: F401  (checks register themselves)

        for alias in settings.DATABASES:
            if settings.DATABASES[alias].get("ENGINE", "").startswith("django_dbpool."):
                conf.adopt_django_option(settings.DATABASES[alias])
        units.track_requests()
