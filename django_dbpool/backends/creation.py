"""Test databases are set up without the time limits of the site: migrations may take long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..conf import without_time_limits

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base
else:
    Base = object


class PooledCreationMixin(Base):
    """For the creation class of an engine that uses ``PooledDatabaseMixin``."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        # On the object, and only where it is needed: Django's warnings about arguments name the caller of its method,
        # which would be ours.
        if self._relaxed() is not connection.settings_dict.get("POOL"):
            self.create_test_db = self._create_without_limits  # type: ignore[method-assign]

    def _relaxed(self) -> Any:
        return without_time_limits(self.connection.settings_dict.get("POOL"))

    def _create_without_limits(self, *args: Any, **kwargs: Any) -> str:
        """Create it on connections of a pool of its own, closed at the end; the tests run with the limits."""
        settings_dict = self.connection.settings_dict
        given = settings_dict.get("POOL")
        self.connection.close()
        settings_dict["POOL"] = self._relaxed()
        try:
            create: Any = super().create_test_db
            return str(create(*args, **kwargs))
        finally:
            self.connection.close()
            self.connection.close_pool()
            settings_dict["POOL"] = given
