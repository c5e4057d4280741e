"""What an engine that uses ``PooledDatabaseMixin`` gets without asking for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .client import PooledClient
from .creation import PooledCreationMixin
from .operations import PooledOperationsMixin

if TYPE_CHECKING:
    from django.db.backends.postgresql.schema import DatabaseSchemaEditor as Base
else:
    Base = object


class PooledSchemaEditorMixin(Base):
    """The engine's schema editor, quoting values without pinning the connection."""

    def quote_value(self, value: Any) -> str:
        # Django's reads connection.connection, which is None where atomic() has not leased yet: the adapters of the
        # connection (PostGIS, hstore) would be missing.
        connection: Any = self.connection
        if not connection._pooled:
            return super().quote_value(value)
        with connection.cursor():
            return super().quote_value(value)


PARTS: dict[str, type] = {
    "SchemaEditorClass": PooledSchemaEditorMixin,
    "client_class": PooledClient,
    "creation_class": PooledCreationMixin,
    "ops_class": PooledOperationsMixin,
}
"""Class attributes of Django's wrapper, and what goes before the class that an engine has there."""


def mix_into(engine: type) -> None:
    """Give an engine our parts, each before its own."""
    for name, mixin in PARTS.items():
        kind: Any = getattr(engine, name, None)
        if kind is not None and not issubclass(kind, mixin):
            mixed = type(kind.__name__, (mixin, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})
            setattr(engine, name, mixed)
