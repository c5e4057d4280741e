"""Reads ``DATABASES[alias]["POOL"]`` and ``DBPOOL``. Nothing is read at import."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .core.config import PoolConfig
from .core.project import ProjectConfig
from .core.readers import ConfigError, Fault

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
        if faults := faults_of_prepare(settings_dict):
            raise ConfigError(where, tuple(faults))
    except ConfigError as error:
        raise ImproperlyConfigured(str(error)) from error
    return config


def faults_of_credentials(settings_dict: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with USER beside a PASSWORD that may be a function."""
    if not callable(settings_dict.get("USER")):
        return []
    return [
        Fault(
            "USER",
            "USER is a function.",
            "Let the function in PASSWORD return the pair (user, password): asked one by one they could belong to "
            "different credentials.",
        )
    ]


def faults_of_prepare(settings_dict: Mapping[str, Any]) -> list[Fault]:
    """Why ``POOL["prepare"]`` can't work with the alias's other settings. Its own form is read elsewhere."""
    pool = settings_dict.get("POOL")
    if not isinstance(pool, Mapping) or pool.get("prepare") is None or pool.get("enabled") is False:
        return []
    options = settings_dict.get("OPTIONS") or {}
    faults = []
    if options.get("server_side_binding") is not True:
        faults.append(
            Fault(
                "prepare",
                'prepare has no effect without OPTIONS["server_side_binding"]: Django puts the parameters into the '
                "text of each statement, so that none is sent twice.",
                'Set OPTIONS["server_side_binding"] = True, or remove prepare.',
            )
        )
    if pool.get("pooler") == "transaction":
        faults.append(
            Fault(
                "prepare",
                'prepare with pooler = "transaction": a prepared statement stays on one server connection, the next '
                "transaction may get another.",
                "Remove prepare, or connect to the server directly.",
            )
        )
    if "prepare_threshold" in options:
        faults.append(
            Fault(
                "prepare",
                'prepare beside OPTIONS["prepare_threshold"], which sets the same.',
                'Keep prepare and remove OPTIONS["prepare_threshold"].',
            )
        )
    return faults


def copied(value: Any) -> Any:
    """A copy of an alias's settings in which containers are new and all else is shared: functions, adapters."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def given_check(settings_dict: MutableMapping[str, Any], default: Any) -> Any:
    """The ``check`` callback of ``OPTIONS["pool"]``, which Django accepts since 6.1; else ``default``."""
    options = settings_dict.get("POOL")
    return options.get("check", default) if isinstance(options, dict) else default


def default_min_size() -> int:
    """0 for management commands and runserver, which should hold nothing when idle, else 1."""
    program = Path(sys.argv[0]).name if sys.argv else ""
    return 0 if program in {"manage.py", "django-admin", "django-admin.py"} else 1


def runserver_is_starting() -> bool:
    """
    Whether this is the thread in which runserver looks at the migrations before it serves anything. It closes its
    connections then, and means it: a development server that nobody uses should hold none.
    """
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if not command.startswith("runserver"):
        return False
    thread = threading.current_thread()  # the autoreloader runs the command in a thread of this name
    return thread is threading.main_thread() or thread.name == "django-main-thread"


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
