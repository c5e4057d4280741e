"""System checks of the settings, with the texts that the same faults have at run time."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from .conf import CONN_MAX_AGE_HINT, name_of_setting, pooling_enabled
from .core.config import PoolConfig
from .core.readers import ConfigError


@register("dbpool")
def check_pools(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """dbpool.E001: a fault in an alias's POOL. dbpool.E002: CONN_MAX_AGE with a pool."""
    messages: list[CheckMessage] = []
    for alias, database in settings.DATABASES.items():
        if not database.get("ENGINE", "").startswith("django_dbpool."):
            continue
        where, ignored = name_of_setting(database, alias)
        try:
            PoolConfig.from_mapping(database.get("POOL", True), where=where, ignored=ignored)
        except ConfigError as error:
            messages += [
                Error(f"{where}: {fault.message}", hint=fault.hint, id="dbpool.E001") for fault in error.faults
            ]
            continue
        if pooling_enabled({"OPTIONS": {}, **database}) and database.get("CONN_MAX_AGE", 0) != 0:
            messages.append(
                Error(
                    f"DATABASES[{alias!r}]: CONN_MAX_AGE = {database['CONN_MAX_AGE']!r} with a pool.",
                    hint=CONN_MAX_AGE_HINT,
                    id="dbpool.E002",
                )
            )
    return messages
