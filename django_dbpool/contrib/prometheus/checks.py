"""Whether the directory that processes share their metrics in can be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.core.checks import CheckMessage, Error, register

VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


@register("dbpool")
def check_directory(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    for variable in VARIABLES:
        if variable not in os.environ:
            continue
        path = os.environ[variable]
        if Path(path).is_dir() and os.access(path, os.W_OK | os.X_OK):
            return []
        return [
            Error(
                f"{variable} = {path!r} is not a directory that this process may write to: no metrics are exported.",
                hint="Make it before the server starts, empty, one for each group of processes that are scraped "
                "together; or remove the variable where there is one process.",
                id="dbpool.E024",
            )
        ]
    return []
