"""What is said of a configuration where it is used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_dbpool import conf

Check = Callable[..., list[CheckMessage]]


def at_run_time(database: dict[str, Any]) -> str | None:
    """What the engine refuses with when it makes the pool, or None if it makes it."""
    entry = {"NAME": "x", "OPTIONS": {}, **copy.deepcopy(database)}
    conf.adopt_django_option(entry, "default")
    try:
        if fault := conf.max_age_fault("x", entry.get("CONN_MAX_AGE", 0)):
            return f"{fault.text('')} {fault.hint}"
        conf.pool_config(entry, "x")
    except ImproperlyConfigured as error:
        return str(error)
    return None


def project_at_run_time(given: Any) -> str | None:
    with override_settings(DBPOOL=given):
        try:
            conf.session_from_request()
            conf.fleet_config()
            conf.readiness_config()
        except ImproperlyConfigured as error:
            return str(error)
    return None
