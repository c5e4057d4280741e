"""ENGINE = "django_dbpool.backends.postgresql": Django's PostgreSQL backend with leased connections."""

from __future__ import annotations

from django.db.backends.postgresql import base, operations

from ..client import PooledClient
from ..mixin import PooledDatabaseMixin
from ..operations import PooledOperationsMixin


class DatabaseOperations(PooledOperationsMixin, operations.DatabaseOperations):
    """Django's, composing SQL without pinning the connection."""


class DatabaseWrapper(PooledDatabaseMixin, base.DatabaseWrapper):
    """Django's, lending a connection for a statement or a transaction."""

    client_class = PooledClient
    ops_class = DatabaseOperations
