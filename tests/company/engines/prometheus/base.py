"""ENGINE = "myproject.engines.prometheus": queries, errors and physical connections counted by django-prometheus."""

from __future__ import annotations

from django_prometheus.db.backends.postgresql import base

from django_dbpool.backends.mixin import PooledDatabaseMixin


class DatabaseWrapper(PooledDatabaseMixin, base.DatabaseWrapper):
    pass
