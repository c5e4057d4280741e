"""``DBPOOL["FLEET"]``: whether processes can find each other."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, register

from ..conf.fleet import faults_of_fleet
from ..core.readers import ConfigError
from .pools import message
from .project import read_project


@register("dbpool")
def check_fleet(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    try:
        fleet = read_project().fleet
    except ConfigError:
        return []  # check_project says so
    return [message(fault, "DBPOOL") for fault in faults_of_fleet(fleet, settings.DATABASES)]
