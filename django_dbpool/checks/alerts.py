"""Thresholds of alerts that can never be exceeded. What is refused at run time too is found by ``project``."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, register

from ..core.alerts.reading import faults_of_alerts
from ..core.readers import ConfigError
from .pools import message
from .project import read_project


@register("dbpool")
def check_alerts(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    try:
        project = read_project()
    except ConfigError:
        return []
    return [message(fault) for fault in faults_of_alerts(project.alerts)]
