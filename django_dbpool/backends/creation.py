"""Test databases are set up without the time limits of the site: migrations may take long."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..conf import without_time_limits

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base
else:
    Base = object


class PooledCreationMixin(Base):
    """For the creation class of an engine that uses ``PooledDatabaseMixin``."""

    def create_test_db(self, *args: Any, **kwargs: Any) -> str:
        """Create it on connections of a pool of its own, closed at the end; the tests run with the limits."""
        settings_dict = self.connection.settings_dict
        given = settings_dict.get("POOL")
        relaxed = without_time_limits(given)
        create: Callable[..., str] = super().create_test_db
        if relaxed is given:
            return create(*args, **kwargs)
        self.connection.close()
        settings_dict["POOL"] = relaxed
        try:
            return create(*args, **kwargs)
        finally:
            self.connection.close()
            self.connection.close_pool()
            settings_dict["POOL"] = given
