"""Reads ``DATABASES[alias]["POOL"]`` and ``DBPOOL``. Nothing is read at import."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .core.config import PoolConfig
from .core.project import ProjectConfig
from .core.readers import ConfigError

logger = logging.getLogger("django_dbpool.conf")

# Options of psycopg_pool that Django passes through and that are no keys of POOL: ``check`` is used, the others have
# no counterpart, because the work they tune is not done by psycopg_pool's threads. Accepted in OPTIONS["pool"], so
# that changing ENGINE is enough.
INHERITED_OPTIONS = frozenset(
    {"name", "num_workers", "reconnect_timeout", "reconnect_failed", "check", "open", "close_returns"}
)

CONN_MAX_AGE_HINT = (
    "Remove CONN_MAX_AGE (the pool keeps connections; POOL['max_lifetime'] limits their age), or switch the pool off "
    "with POOL = {'enabled': False}."
)


def adopt_django_option(settings_dict: MutableMapping[str, Any]) -> None:
    """
    Move ``OPTIONS["pool"]``, the key of Django's own pool, to ``POOL``.

    Celery closes the pool around every task while it finds the key in the settings
    (https://github.com/celery/celery/issues/10554).
    """
    options = settings_dict.get("OPTIONS")
    if not options or "pool" not in options:
        return
    if options["pool"] is False or options["pool"] is None:
        return  # stock behaviour was asked for, and the stock code reads this key
    if "POOL" in settings_dict:
        logger.warning(
            'database %r has both OPTIONS["pool"] and POOL; OPTIONS["pool"] is used. Keep only POOL.',
            settings_dict.get("NAME"),
        )
    settings_dict["POOL"] = options.pop("pool")
    settings_dict[_ADOPTED] = True


_ADOPTED = "POOL_FROM_OPTIONS"


def pooling_enabled(settings_dict: MutableMapping[str, Any]) -> bool:
    """Whether an alias is pooled. Cheap: asked before each unit of work."""
    option = (settings_dict.get("OPTIONS") or {}).get("pool", True)
    if option is False or option is None:
        return False
    pool = settings_dict.get("POOL", True)
    if pool is False:
        return False
    return not (isinstance(pool, dict) and pool.get("enabled") is False)


def name_of_setting(settings_dict: MutableMapping[str, Any], alias: str) -> tuple[str, frozenset[str]]:
    """How messages name the setting that ``POOL`` was read from, and the keys in it that are not ours."""
    if settings_dict.get(_ADOPTED):
        return f'DATABASES[{alias!r}]["OPTIONS"]["pool"]', INHERITED_OPTIONS
    return f'DATABASES[{alias!r}]["POOL"]', frozenset()


def pool_config(settings_dict: MutableMapping[str, Any], alias: str) -> PoolConfig:
    """
    The pool's settings of one alias.

    Raises:
        ImproperlyConfigured: naming every faulty key with its remedy.
    """
    where, ignored = name_of_setting(settings_dict, alias)
    try:
        config = PoolConfig.from_mapping(
            settings_dict.get("POOL", True),
            where=where,
            default_min_size=default_min_size(),
            ignored=ignored,
        )
    except ConfigError as error:
        raise ImproperlyConfigured(str(error)) from error
    if time_limits_apply():
        return config
    unlimited: dict[str, Any] = dict.fromkeys(TIME_LIMITS)
    return dataclasses.replace(config, **unlimited)


def given_check(settings_dict: MutableMapping[str, Any], default: Any) -> Any:
    """The ``check`` callback of ``OPTIONS["pool"]``, which Django accepts since 6.1; else ``default``."""
    options = settings_dict.get("POOL")
    return options.get("check", default) if isinstance(options, dict) else default


def default_min_size() -> int:
    """0 for management commands and runserver, which should hold nothing when idle, else 1."""
    return 0 if management_command() is not None else 1


def management_command() -> str | None:
    """The command that this process was started for, "" if none was named; None outside of ``manage.py``."""
    program = Path(sys.argv[0]) if sys.argv else Path()
    by_module = program.parts[-2:] == ("django", "__main__.py")
    if by_module or program.name in {"manage.py", "django-admin", "django-admin.py"}:
        return sys.argv[1] if len(sys.argv) > 1 else ""
    return None


TIME_LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_timeout",
    "transaction_timeout",
    "command_timeout",
)

# Of the management commands those that run the site's own code as the site does. ``test`` sets up its database
# without limits, see backends/creation.py.
_SERVING = frozenset({"runserver", "runserver_plus", "testserver", "test"})


def time_limits_apply() -> bool:
    """Not to migrations, dumps and other commands, which take their time."""
    command = management_command()
    return command is None or command in _SERVING


def without_time_limits(pool: Any) -> Any:
    """``POOL`` as it is written, less its time limits; the very same object if it has none."""
    if not isinstance(pool, dict) or not any(pool.get(key) for key in TIME_LIMITS):
        return pool
    return {"enabled": True, **{key: value for key, value in pool.items() if key not in TIME_LIMITS}}


_project: ProjectConfig | None = None


def project_config() -> ProjectConfig:
    """
    ``DBPOOL``, read once.

    Raises:
        ImproperlyConfigured: naming every faulty key with its remedy.
    """
    global _project
    if _project is None:
        try:
            _project = ProjectConfig.from_mapping(getattr(settings, "DBPOOL", {}))
        except ConfigError as error:
            raise ImproperlyConfigured(str(error)) from error
    return _project


def _forget(*, setting: str, **_: Any) -> None:
    global _project
    if setting == "DBPOOL":
        _project = None


setting_changed.connect(_forget, dispatch_uid="django_dbpool.conf")
