"""Reads ``DATABASES[alias]["POOL"]`` and ``DBPOOL``. Nothing is read at import."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from ..core import process
from ..core.config import TIME_LIMITS, PoolConfig
from ..core.fleet import FleetConfig
from ..core.logs import get_logger
from ..core.project import ProjectConfig
from ..core.readers import ConfigError, Fault, shown
from ..core.readiness import ReadinessConfig
from .alias import Alias
from .credentials import copied, faults_of_credentials
from .fleet import faults_of_fleet
from .groups import with_function
from .process import (
    management_command,
    program,
    runserver_is_starting,
    serves_requests,
    time_limits_apply,
    without_time_limits,
)
from .readiness import faults_of_readiness
from .rules import faults_of_alias
from .urls import from_url_options

__all__ = [
    "CONN_MAX_AGE_HINT",
    "INHERITED_OPTIONS",
    "adopt_django_option",
    "copied",
    "default_min_size",
    "faults_of_credentials",
    "fleet_config",
    "from_url_options",
    "given_check",
    "management_command",
    "max_age_fault",
    "name_of_setting",
    "pool_config",
    "pooling_enabled",
    "project_config",
    "readiness_config",
    "role_of_process",
    "runserver_is_starting",
    "session_from_request",
    "session_function_fault",
    "without_time_limits",
]

logger = get_logger("django_dbpool.conf")

SessionFunction = Callable[[Any], Mapping[str, Any]]

# Options of psycopg_pool that Django passes through and that are no keys of POOL: ``check`` is used, the others have
# no counterpart, because the work they tune is not done by psycopg_pool's threads. Accepted in OPTIONS["pool"], so
# that changing ENGINE is enough.
INHERITED_OPTIONS = frozenset(
    {"name", "num_workers", "reconnect_timeout", "reconnect_failed", "check", "open", "close_returns"}
)

CONN_MAX_AGE_HINT = (
    'Remove CONN_MAX_AGE (the pool keeps connections; POOL["max_lifetime"] limits their age), or switch the pool off '
    "with POOL = {'enabled': False}."
)


MAX_AGE = "dbpool.E002"
BAD_FUNCTION = "dbpool.E004"


def max_age_fault(alias: str, value: object) -> Fault | None:
    """The fault of ``CONN_MAX_AGE`` beside a pool, if it is one. The words in the middle are Django's."""
    if value == 0:
        return None
    return Fault(
        "CONN_MAX_AGE",
        f"CONN_MAX_AGE = {shown(value)}. Pooling doesn't support persistent connections.",
        CONN_MAX_AGE_HINT,
        MAX_AGE,
        f'DATABASES["{alias}"]',
    )


def adopt_django_option(settings_dict: MutableMapping[str, Any], alias: str) -> None:
    """
    Move ``OPTIONS["pool"]``, the key of Django's own pool, to ``POOL``.

    Celery closes the pool around every task while it finds the key in the settings
    (https://github.com/celery/celery/issues/10554).
    """
    options = settings_dict.get("OPTIONS")
    if not isinstance(options, MutableMapping) or "pool" not in options:
        return
    if options["pool"] is False or options["pool"] is None:
        return  # stock behaviour was asked for, and the stock code reads this key
    if "POOL" in settings_dict:
        logger.warning('DATABASES["%s"] %s %s', alias, GIVEN_IN_BOTH, KEEP_POOL)
        settings_dict[GIVEN_TWICE] = True
    settings_dict["POOL"] = options.pop("pool")
    settings_dict[_ADOPTED] = True


_ADOPTED = "POOL_FROM_OPTIONS"
GIVEN_TWICE = "POOL_GIVEN_TWICE"
"""Entries of an alias's settings that remember where POOL came from."""

GIVEN_IN_BOTH = 'has both OPTIONS["pool"] and POOL; OPTIONS["pool"] is used.'
KEEP_POOL = "Keep only POOL."


def pooling_enabled(settings_dict: Mapping[str, Any]) -> bool:
    """Whether an alias is pooled. Cheap: asked before each unit of work."""
    options = settings_dict.get("OPTIONS")
    if options:
        option = options.get("pool", True) if isinstance(options, Mapping) else True
        if option is False or option is None:
            return False
    pool = settings_dict.get("POOL", True)
    if pool is False:
        return False
    return not (isinstance(pool, (dict, Mapping)) and pool.get("enabled") is False)


def name_of_setting(settings_dict: Mapping[str, Any], alias: str) -> tuple[str, frozenset[str]]:
    """How messages name the setting that ``POOL`` was read from, and the keys in it that are not ours."""
    if settings_dict.get(_ADOPTED):
        return f'DATABASES["{alias}"]["OPTIONS"]["pool"]', INHERITED_OPTIONS
    return f'DATABASES["{alias}"]["POOL"]', frozenset()


def pool_config(settings_dict: Mapping[str, Any], alias: str) -> PoolConfig:
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
        faults = faults_of_alias(Alias(alias, config, settings_dict))
        if refused := tuple(fault for fault in faults if fault.refused):
            raise ConfigError(where, refused)
    except ConfigError as error:
        raise ImproperlyConfigured(str(error)) from error
    config = with_function(config)
    if time_limits_apply():
        return config
    unlimited: dict[str, Any] = dict.fromkeys(TIME_LIMITS)
    return dataclasses.replace(config, **unlimited)


def given_check(settings_dict: Mapping[str, Any], default: Any) -> Any:
    """The ``check`` callback of ``OPTIONS["pool"]``, which Django accepts since 6.1; else ``default``."""
    options = settings_dict.get("POOL")
    return options.get("check", default) if isinstance(options, Mapping) else default


def default_min_size() -> int:
    """0 for management commands and runserver, which should hold nothing when idle, else 1."""
    return 0 if management_command() is not None else 1


def role_of_process() -> process.Kind:
    """``DBPOOL["ROLE"]`` where that is said, else what this process was started for."""
    with suppress(ImproperlyConfigured):
        role = project_config().role
        if role is not None:
            return role
    command = management_command()
    if command is not None and not command.startswith("runserver"):
        return "command"
    return "worker" if program() == "celery" else "web" if command is not None or serves_requests() else "process"


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


def fleet_config() -> FleetConfig:
    """
    ``DBPOOL["FLEET"]``, whose aliases exist.

    Raises:
        ImproperlyConfigured: naming every fault with its remedy.
    """
    fleet = project_config().fleet
    if refused := tuple(fault for fault in faults_of_fleet(fleet, settings.DATABASES) if fault.refused):
        raise ImproperlyConfigured(str(ConfigError("DBPOOL", refused)))
    return fleet


def readiness_config() -> ReadinessConfig:
    """
    ``DBPOOL["READINESS"]``, whose aliases exist.

    Raises:
        ImproperlyConfigured: naming every fault with its remedy.
    """
    readiness = project_config().readiness
    if refused := tuple(fault for fault in faults_of_readiness(readiness, settings.DATABASES) if fault.refused):
        raise ImproperlyConfigured(str(ConfigError("DBPOOL", refused)))
    return readiness


def session_from_request() -> SessionFunction | None:
    """
    The function that ``DBPOOL["SESSION_FROM_REQUEST"]`` is or names.

    Raises:
        ImproperlyConfigured: it can't be imported, or isn't a function.
    """
    function = _imported(project_config())
    if isinstance(function, Fault):
        raise ImproperlyConfigured(str(ConfigError("DBPOOL", (function,))))
    return function


def session_function_fault(config: ProjectConfig) -> Fault | None:
    """What is wrong with the function that ``SESSION_FROM_REQUEST`` names."""
    function = _imported(config)
    return function if isinstance(function, Fault) else None


def _imported(config: ProjectConfig) -> SessionFunction | Fault | None:
    path = config.session_from_request
    if not isinstance(path, str):
        return path
    try:
        function: Any = import_string(path)
    except Exception as error:  # noqa: BLE001  # whatever the module raises when it is imported
        return _bad_function(path, f"can't be imported: {error}")
    return function if callable(function) else _bad_function(path, "is not a function.")


def _bad_function(path: str, problem: str) -> Fault:
    return Fault(
        "SESSION_FROM_REQUEST",
        f"SESSION_FROM_REQUEST = {path!r} {problem}",
        "Write the dotted path of a function that takes a request and returns a dictionary of session variables.",
        BAD_FUNCTION,
    )


def _forget(*, setting: str, **_: Any) -> None:
    global _project
    if setting == "DBPOOL":
        _project = None


setting_changed.connect(_forget, dispatch_uid="django_dbpool.conf")
