from django.db.backends.postgresql import base

from django_dbpool.backends.mixin import PooledDatabaseMixin


class DatabaseWrapper(PooledDatabaseMixin, base.DatabaseWrapper):
    pass
