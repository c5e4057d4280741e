"""The Django application: registers checks and request tracking; starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.abc import MetaPathFinder
from typing import Any

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured

from .core.logs import get_logger

logger = get_logger("django_dbpool")

OPERATIONS = 50
"""Of one process that are published."""


class DatabasePoolConfig(AppConfig):
    name = "django_dbpool"
    verbose_name = "Database connection pool"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.conf import settings

        from . import __version__, checks, conf, units  # noqa: F401  (checks register themselves)
        from .conf.engines import is_ours
        from .conf.packages import faults_of_packages
        from .core import process

        for alias, database in settings.DATABASES.items():
            options = database.get("OPTIONS")
            # In this order: to ask about an engine may import it.
            if isinstance(options, Mapping) and "pool" in options and is_ours(database.get("ENGINE")):
                conf.adopt_django_option(database, alias)
        process.determine_role = conf.role_of_process
        process.version = __version__
        units.track_requests()
        _follow_celery()
        if not faults_of_packages():  # else the check says so, before anything fails for it
            self._observe()

    def _observe(self) -> None:
        """
        What looks from time to time is registered; the first lease of a process starts it.

        All that it needs is imported here: a process that forks while another thread imports (gunicorn --preload)
        leaves its children with a module that is half there.
        """
        from . import asking, conf, metrics_log, operations
        from .alerts import service
        from .backends import sampler
        from .core import reporter
        from .fleet import cache, publisher, register_section, socket_server, table  # noqa: F401
        from .reports import sections

        if conf.management_command() == "dbpool":
            return  # it looks at the others, and is none of them: nothing of it is published or asked for
        sampler.start()
        operations.observe(in_tests=False)
        register_section("operations", lambda: [each.to_json() for each in operations.running()[:OPERATIONS]])
        sections.register()
        socket_server.register()
        metrics_log.follow_settings()
        reporter.register("alerts", partial(service.job, asking.begin), interval=service.INTERVAL)
        with suppress(ImproperlyConfigured):  # said by the check, and by whatever else reads DBPOOL
            fleet = conf.project_config().fleet
            if fleet.store is not None:
                reporter.register("fleet", publisher.tick, interval=fleet.interval)


def _follow_celery() -> None:
    """
    Celery's signals are connected where Celery is used, and nobody else imports it for that. A worker, and whoever
    makes an application first, has imported it by now; of others this waits until they become a worker.
    """
    if "celery" in sys.modules:
        _connect_celery()
    elif not any(isinstance(finder, _WorkerAwaited) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WorkerAwaited())


def _connect_celery() -> None:
    try:
        import_module("django_dbpool.contrib.celery").connect()
    except ImportError as error:
        logger.warning("Celery is too old or incomplete, so its workers are not looked after: %s", error)


class _WorkerAwaited(MetaPathFinder):
    """Finds nothing; sees what is looked for."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "celery.worker" and self in sys.meta_path:
            sys.meta_path.remove(self)
            _connect_celery()
