"""What one call to the shop has come to."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("reads", "orders", "vacuums")


@dataclass(frozen=True)
class Operation:
    """Times are those of time.monotonic(), which all processes of a machine share."""

    kind: str
    began: float
    ended: float
    error: str | None = None
    retry_after: float | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.began
