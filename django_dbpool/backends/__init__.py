"""Database engines. ``PooledDatabaseMixin`` is for engines that derive from these."""

from ..conf.packages import require_packages

require_packages()
