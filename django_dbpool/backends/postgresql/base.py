"""ENGINE = "django_dbpool.backends.postgresql": Django's PostgreSQL backend with leased connections."""

from __future__ import annotations

from django.db.backends.postgresql import base, creation, operations

from ..client import PooledClient
from ..creation import PooledCreationMixin
from ..mixin import PooledDatabaseMixin
from ..operations import PooledOperationsMixin


class DatabaseOperations(PooledOperationsMixin, operations.DatabaseOperations):
    """Django's, composing SQL without pinning the connection."""


class DatabaseCreation(PooledCreationMixin, creation.DatabaseCreation):
    """Django's, setting up test databases without time limits."""


class DatabaseWrapper(PooledDatabaseMixin, base.DatabaseWrapper):
    """Django's, lending a connection for a statement or a transaction."""

    client_class = PooledClient
    creation_class = DatabaseCreation
    ops_class = DatabaseOperations
