from typing import Any

from django.db.backends.postgresql import base

from django_dbpool.backends.mixin import PooledDatabaseMixin


class DatabaseWrapper(PooledDatabaseMixin, base.DatabaseWrapper):
    def get_connection_params(self) -> dict[str, Any]:
        """As engines do that fetch a password."""
        params = super().get_connection_params()
        if secret := params.pop("of_its_own", None):
            raise LookupError(f"no {secret} today")
        return params
