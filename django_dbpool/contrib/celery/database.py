"""Tasks that use a database for moments, and run again when it fails for a reason that passes."""

from __future__ import annotations

from celery.contrib.django.task import DjangoTask


class DatabaseTask(DjangoTask):  # type: ignore[misc]  # Celery has no types
    abstract = True
