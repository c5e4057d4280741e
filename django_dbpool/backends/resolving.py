"""Which pool a wrapper works with: the one whose connections are made as its settings say."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS

from ..conf import adopt_django_option, copied, given_check, max_age_fault, pool_config, pooling_enabled
from ..pool.managed import ManagedPool
from ..pool.registry import close_pools, get_pool
from ..pool.resetting import ResettingPool
from .startup import StartupMixin


class ResolvingMixin(StartupMixin):
    """The pool behind a wrapper, found anew when the settings have changed."""

    _resolved: tuple[dict[str, Any], str, ManagedPool] | None
    """The settings and the time zone that were seen last, and what they have led to."""
    _configured_max_age: object

    @property
    def _pooled(self) -> bool:
        """Decided when asked, not at creation: tests and ``_nodb_cursor`` change the settings of a copy."""
        if self._pool is not None:
            return True
        return self.alias != NO_DB_ALIAS and pooling_enabled(self.settings_dict)

    @property
    def pool(self) -> ManagedPool | None:
        if self._pool is not None:
            return self._pool
        if self._is_template:
            return None  # Django's get_new_connection() connects by itself then
        if self._pooled:
            self._refuse_max_age(self.settings_dict.get("CONN_MAX_AGE", 0))
        return self._resolve_pool()

    def _refuse_max_age(self, value: object) -> None:
        if fault := max_age_fault(self.alias, value):
            raise ImproperlyConfigured(f"{fault.text('')} {fault.hint}")

    def _resolve_pool(self) -> ManagedPool | None:
        settings_dict = self.settings_dict
        if settings_dict["OPTIONS"].get("pool"):
            adopt_django_option(settings_dict, self.alias)
        if self.alias == NO_DB_ALIAS or not pooling_enabled(settings_dict):
            return None
        if self._resolved is not None:
            seen, zone, pool = self._resolved
            if seen == settings_dict and zone == self.timezone_name and not pool.gate.closed:
                return pool
        pool = get_pool(self._pool_key(), self._make_pool)
        seen = {key: dict(value) if isinstance(value, dict) else value for key, value in settings_dict.items()}
        self._resolved = seen, self.timezone_name, pool
        return pool

    def _pool_key(self) -> Hashable:
        """Everything that makes a physical connection what it is."""
        settings_dict = self.settings_dict
        parts = [settings_dict.get(key) for key in ("NAME", "HOST", "PORT", "USER", "PASSWORD", "OPTIONS", "POOL")]
        return (self.alias, cast("Hashable", type(self)), self.timezone_name, settings.USE_TZ, *map(_frozen, parts))

    def _make_pool(self) -> ManagedPool:
        # As configured: tests change it on a living wrapper, which has been working with a pool all along.
        self._refuse_max_age(self._configured_max_age)
        config = pool_config(self.settings_dict, self.alias)
        options = self.settings_dict["OPTIONS"]
        if "connect_timeout" in options:
            config = dataclasses.replace(config, connect_timeout=float(options["connect_timeout"]))
        # A wrapper of the pool's own: this one goes with its thread.
        template = type(self)(copied(self.settings_dict), self.alias)
        template._is_template = True
        health_check = ManagedPool.check_connection if self.settings_dict["CONN_HEALTH_CHECKS"] else None
        kind = ResettingPool if config.reset == "always" else ManagedPool
        return kind(
            config,
            alias=self.alias,
            connect_kwargs=template._physical_connection_params,
            connect=template._new_physical_connection,
            prepare=template._prepare_physical_connection,
            on_refused=template._refused,
            check=given_check(self.settings_dict, health_check),
        )

    def close_pool(self) -> None:
        """Close this alias's pools; leased connections are closed when they come back."""
        close_pools(self.alias)
        if self._entry is None:
            self._pool = None


def _frozen(value: Any) -> Hashable:
    """A hashable stand-in for a setting's value."""
    if isinstance(value, dict):
        return tuple(sorted(((str(key), _frozen(item)) for key, item in value.items()), key=lambda pair: pair[0]))
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(map(_frozen, value))
    if callable(value):
        # Equality is whatever its class makes of it, and its hash may fail. The pool keeps it alive, so ids hold.
        return ("callable", id(getattr(value, "__self__", value)), id(getattr(value, "__func__", value)))
    return value if isinstance(value, Hashable) else ("object", id(value))
