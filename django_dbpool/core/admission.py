"""How the code that runs now has marked itself for admission to the pools."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Admission:
    reserved: bool = False
    priority: bool = False
    group: str | None = None
    outer: Admission | None = None
    """What was marked around the block that set this one."""


UNMARKED = Admission()

admission: ContextVar[Admission] = ContextVar("dbpool_admission", default=UNMARKED)
"""Read only by callers that have to wait, or whose pool has limits for groups."""
