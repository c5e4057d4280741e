"""
Celery: tasks that hold no connection for longer than a transaction, that outlive what passes, and long jobs in batches
that no kill makes lose or repeat a row. See docs/celery.md.

In a worker, whatever the kind of its pool: each child has one pool of connections and keeps it between tasks, a
shutdown waits for the tasks that run, runs of dead runners are taken up again. ``INSTALLED_APPS`` is enough for that;
to import this beside the Celery application does no harm.

Example:
    from django_dbpool.contrib.celery import BatchTask, DatabaseTask
"""

from __future__ import annotations

from django.apps import apps

from . import draining, wiring  # noqa: F401  (they connect themselves)
from .batches import BatchTask, batch_task
from .database import DatabaseTask
from .joint import BatchRunFailed, FannedOut
from .reaper import reap

__all__ = ["BatchRunFailed", "BatchTask", "DatabaseTask", "FannedOut", "batch_task", "reap"]


def connect() -> None:
    """Once the models are there; called by the application and by whoever imports this later."""
    from ...batch import register_starter
    from .sending import send

    register_starter("", send)


if apps.ready:
    connect()
