"""ENGINE = "django_dbpool.backends.postgresql": Django's PostgreSQL backend with leased connections."""

from __future__ import annotations

from django.db.backends.postgresql import base

from ..mixin import PooledDatabaseMixin


class DatabaseWrapper(PooledDatabaseMixin, base.DatabaseWrapper):
    """Django's, lending a connection for a statement or a transaction."""
