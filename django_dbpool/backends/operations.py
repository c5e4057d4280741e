"""The database operations that concern connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import ClientCursor

from .reading import READS, repeatable

if TYPE_CHECKING:
    from django.db.backends.postgresql.operations import DatabaseOperations as Base
    from django.db.models.sql.compiler import SQLCompiler
else:
    Base = object


class PooledOperationsMixin(Base):
    """For the operations class of an engine that uses ``PooledDatabaseMixin``."""

    def compiler(self, compiler_name: str) -> type[SQLCompiler]:
        # Whatever module the engine takes its compilers from: deriving engines have their own.
        kind = super().compiler(compiler_name)
        return repeatable(kind) if compiler_name in READS else kind

    def compose_sql(self, sql: str, params: Any) -> str:
        connection = self.connection
        with connection.cursor() as cursor:
            entry = getattr(cursor, "entry", None)
            # Django's own makes its cursor on cursor.connection: the same by way of the facade.
            raw = cursor.connection if entry is None else entry.conn
            return ClientCursor(raw).mogrify(sql, params)
