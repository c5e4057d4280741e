"""Liveness: this process answers. Nothing that a restart would not cure may be asked here."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Live:
    """That it could be made is the answer."""

    pid: int
    timestamp: float
    """Unix time."""
    status: str = "ok"

    @property
    def ok(self) -> bool:
        return True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def live() -> Live:
    """
    This process answers. No database, no pool, no lock, no setting: nothing in here can block or fail, so that a full
    pool or a database that is away never gets a healthy process killed, which would make either of them worse.

    Example:
        return JsonResponse(live().to_json())
    """
    return Live(os.getpid(), time.time())
