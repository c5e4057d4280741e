"""Whether the directory that DBPOOL["SOCKET"] names can have sockets in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.core.checks import CheckMessage, register

from ..conf import places
from ..core.readers import ConfigError, Fault, shown
from .pools import message
from .project import read_project


@register("dbpool")
def check_socket(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """dbpool.W039. A directory that isn't there yet is no fault: checks run on other machines, too."""
    try:
        directory = read_project().socket
    except ConfigError:
        return []
    if not isinstance(directory, str):
        return []
    try:
        places.check_length(Path(directory) / places.project_digest())
        if os.path.lexists(directory):
            places.check_parent(Path(directory))
    except places.NoPlace as error:
        fault = Fault(
            "SOCKET",
            f"SOCKET = {shown(directory)}: {error}. No process can be asked on its host.",
            "Name a short path to a directory of the user that the processes run as, which nobody else may write to.",
            "dbpool.W039",
        )
        return [message(fault, "DBPOOL")]
    return []
