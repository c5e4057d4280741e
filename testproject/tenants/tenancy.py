"""Which tenant: for a request, for a task, for a schema that is being made."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Concatenate, ParamSpec, TypeVar

from django.core.management import call_command
from django.db import connection
from django.http import HttpRequest

from django_dbpool import transaction

P = ParamSpec("P")
R = TypeVar("R")

TENANTS = {"red.localhost": 1, "blue.localhost": 2}
"""By host. From a table it would be a cached look-up."""


def variables_of(tenant: int) -> dict[str, Any]:
    """What every statement of a tenant finds set. The schema is a list: its elements become quoted names."""
    return {"search_path": [f"tenant_{tenant}", "public"], "app.tenant": tenant}


def session_of(request: HttpRequest) -> dict[str, Any] | None:
    """``DBPOOL["SESSION_FROM_REQUEST"]``. A host that nobody owns gets no variables, and so no rows."""
    tenant = TENANTS.get(request.get_host().partition(":")[0])
    return None if tenant is None else variables_of(tenant)


def for_tenant(function: Callable[Concatenate[int, P], R]) -> Callable[Concatenate[int, P], R]:
    """For tasks and commands: the first argument is the tenant."""

    @functools.wraps(function)
    def wrapper(tenant: int, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with transaction.session(**variables_of(tenant)):
            return function(tenant, *args, **kwargs)

    return wrapper


SCHEMA_MODELS = {"note"}
_in_schema: ContextVar[bool] = ContextVar("in_schema", default=False)


class TenantRouter:
    """Tables of ``SCHEMA_MODELS`` are made in the tenants' schemas and nowhere else, all others only outside."""

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **hints: Any) -> bool | None:
        if app_label != "tenants":
            return None
        return (model_name in SCHEMA_MODELS) == _in_schema.get()


def migrate_schema(tenant: int) -> None:
    """Make a tenant's schema, or bring it up to date. As the owner of the tables."""
    name = f"tenant_{tenant}"
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE SCHEMA IF NOT EXISTS "{name}"')
    token = _in_schema.set(True)
    try:
        # Without public: each schema has its own django_migrations.
        with transaction.session(search_path=[name]):
            call_command("migrate", "tenants", verbosity=0)
    finally:
        _in_schema.reset(token)
