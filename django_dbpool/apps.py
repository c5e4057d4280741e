"""The Django application: registers checks and request tracking; starts nothing."""

from __future__ import annotations

from collections.abc import Mapping

from django.apps import AppConfig


class DatabasePoolConfig(AppConfig):
    name = "django_dbpool"
    verbose_name = "Database connection pool"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.conf import settings

        from . import __version__, checks, conf, units  # noqa: F401  (checks register themselves)
        from .backends import sampler
        from .conf.engines import is_ours
        from .core import process

        for alias, database in settings.DATABASES.items():
            options = database.get("OPTIONS")
            # In this order: to ask about an engine may import it.
            if isinstance(options, Mapping) and "pool" in options and is_ours(database.get("ENGINE")):
                conf.adopt_django_option(database, alias)
        units.track_requests()
        sampler.start()
        process.determine_role = conf.role_of_process
        process.version = __version__
