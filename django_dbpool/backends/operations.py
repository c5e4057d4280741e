"""The database operations that concern connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
