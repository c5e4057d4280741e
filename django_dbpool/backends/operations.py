"""The one database operation that reaches for the raw connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import ClientCursor

if TYPE_CHECKING:
    from django.db.backends.postgresql.operations import DatabaseOperations as Base
else:
    Base = object


class PooledOperationsMixin(Base):
    """For the operations class of an engine that uses ``PooledDatabaseMixin``."""

    def compose_sql(self, sql: str, params: Any) -> str:
        connection = self.connection
        with connection.cursor() as cursor:
            entry = getattr(cursor, "entry", None)
            # Django's own makes its cursor on cursor.connection: the same by way of the facade.
            raw = cursor.connection if entry is None else entry.conn
            return ClientCursor(raw).mogrify(sql, params)
