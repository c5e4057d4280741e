"""ENGINE = "myproject.engines.tenants": the schemas of django-tenants in transaction mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_tenants.postgresql_backend import base
from django_tenants.utils import quote_schema_name

from django_dbpool.backends.mixin import PooledDatabaseMixin


class DatabaseWrapper(PooledDatabaseMixin, base.DatabaseWrapper):
    """
    django-tenants executes SET search_path with each cursor. Here the tenant's path is a declared session variable,
    set on a connection only where another tenant's was.
    """

    def set_tenant(self, tenant: Any, include_public: bool = True) -> None:
        super().set_tenant(tenant, include_public)
        names = [quote_schema_name(name) for name in self._get_cursor_search_paths()]
        self._tenant_variables = {"search_path": ", ".join(names)}

    def session_variables(self) -> Mapping[str, str]:
        return self._tenant_variables
