"""A stand-in for the store of the recordings: slow, and it needs no database. Files are below a folder."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from testproject.campaigns.folder import folder, note

SECONDS = 0.005
"""For each file."""


def remove(names: Iterable[str]) -> None:
    """Twice does no harm."""
    for name in names:
        time.sleep(SECONDS)
        (files(folder()) / name).unlink(missing_ok=True)
        note(journal(folder()), {"file": name})


def files(where: Path) -> Path:
    return where / "audio"


def journal(where: Path) -> Path:
    return where / "removed.jsonl"
