"""
The folder that stands for everything outside of the database: the broker, the post office, the recordings.

DBPOOL_CAMPAIGNS_FOLDER names it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VARIABLE = "DBPOOL_CAMPAIGNS_FOLDER"


def folder() -> Path:
    return Path(os.environ.get(VARIABLE, "."))


def note(path: Path, line: dict[str, Any]) -> None:
    """In one write: the lines of several processes don't mix, and one that is killed leaves no half of a line."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps({**line, "process": os.getpid()}).encode() + b"\n")
    finally:
        os.close(descriptor)


def notes(path: Path) -> Iterator[dict[str, Any]]:
    """What is there so far. Of a line that is just being written a reader may see the part up to the end of a page."""
    if path.exists():
        with path.open() as lines:
            for line in lines:
                if not line.endswith("\n"):
                    return
                yield json.loads(line)
