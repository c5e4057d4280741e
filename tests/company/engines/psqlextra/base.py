"""ENGINE = "myproject.engines.psqlextra": the models, indexes and partitions of django-postgres-extra."""

from __future__ import annotations

from psqlextra.backend import base

from django_dbpool.backends.mixin import PooledDatabaseMixin


class DatabaseWrapper(PooledDatabaseMixin, base.DatabaseWrapper):
    pass
