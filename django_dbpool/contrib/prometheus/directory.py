"""The directory that processes share their metrics in: whether it can be used."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")

REMEDY = (
    "Make it before the server starts, empty, one for each group of processes that are scraped together; or remove the "
    "variable where there is one process."
)


def fault() -> str | None:
    """What is wrong with it, in a sentence that begins with the variable's name; None if nothing is, or none is set."""
    for variable in VARIABLES:
        if variable in os.environ:
            path = os.environ[variable]
            if path and Path(path).is_dir() and os.access(path, os.R_OK | os.W_OK | os.X_OK):
                return None
            return (
                f"{variable} = {path!r} is not a directory that this process may read and write: no metrics are "
                "exported."
            )
    return None
