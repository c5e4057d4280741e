"""ENGINE = "django_dbpool.backends.postgis": Django's PostGIS backend with leased connections."""

from __future__ import annotations

from typing import Any

from django.contrib.gis.db.backends.postgis import base
from psycopg import Connection

from ..mixin import PooledDatabaseMixin


class DatabaseWrapper(PooledDatabaseMixin, base.DatabaseWrapper):
    """
    Django's, lending a connection for a statement or a transaction.

    Django registers the adapters of geometry, geography and raster in ``get_new_connection()``, which runs once per
    physical connection here. Connections that are older than the extension are replaced by ones that know its types.
    """

    _type_infos: dict[str, dict[str, Any]]

    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection[Any]:
        # Django remembers for good that a type was missing. Another process may have created the extension since.
        for known in self._type_infos.values():
            if known.get(self.alias, self) is None:
                known.pop(self.alias, None)
        connection: Connection[Any] = super().get_new_connection(conn_params)
        return connection

    def register_geometry_adapters(self, pg_connection: Any, clear_caches: bool = False) -> None:
        """
        Make the types known to one connection.

        Args:
            pg_connection: of psycopg. Else, as when Django passes on what it read from ``connection.connection``,
                the leased one is meant, and none if none is leased.
            clear_caches: the extension was just created, by ``prepare_database()`` or a migration.
        """
        if not issubclass(type(pg_connection), Connection):
            pg_connection = self._entry.conn if self._entry is not None else None
        if pg_connection is not None:
            super().register_geometry_adapters(pg_connection, clear_caches)
        if not (clear_caches and self._pooled):
            return
        for known in self._type_infos.values():
            known.pop(self.alias, None)  # new connections look for themselves: the extension may be rolled back
        if self.in_atomic_block:
            self._pin("types of an extension that is not committed")
            self.on_commit(self._replace_connections)
        else:
            self._replace_connections()

    def _replace_connections(self) -> None:
        pool = self._resolve_pool()
        if pool is not None:
            pool.drain()
