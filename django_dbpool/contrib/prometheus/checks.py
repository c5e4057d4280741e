"""Whether the directory that processes share their metrics in can be used."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Warning, register  # noqa: A004

from . import directory


@register("dbpool")
def check_directory(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """A warning: an error would keep ``manage.py migrate`` from running where only metrics are missing."""
    fault = directory.fault()
    return [] if fault is None else [Warning(fault, hint=directory.REMEDY, id="dbpool.W047")]
