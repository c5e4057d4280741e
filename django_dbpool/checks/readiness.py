"""``DBPOOL["READINESS"]``: whether a process can ever be ready, or not."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, register

from ..conf.readiness import faults_of_readiness
from ..core.readers import ConfigError
from .pools import message
from .project import read_project


@register("dbpool")
def check_readiness(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    try:
        readiness = read_project().readiness
    except ConfigError:
        return []  # check_project says so
    return [message(fault, "DBPOOL") for fault in faults_of_readiness(readiness, settings.DATABASES)]
