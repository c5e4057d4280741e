"""One piece of advice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from .facts import Confidence

Kind = Literal["change", "keep", "look"]


@dataclass(frozen=True, slots=True)
class Advice:
    """What to set, or to look at, and why."""

    alias: str
    setting: str
    """A key of ``POOL``, or what it is about where no setting helps: ``code``, ``pooler``, ``server``."""
    kind: Kind
    """change: write ``proposed``. keep: it fits. look: something else than a setting has to change."""
    current: Any
    proposed: Any
    reason: str
    confidence: Confidence
    """measured: for minutes, with thousands of leases; estimated: for less; prior: nothing was measured."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
