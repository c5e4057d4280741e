"""Database engines. ``PooledDatabaseMixin`` is for engines that derive from these."""
