"""``DBPOOL["READINESS"]``: what makes a process not ready for requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .readers import hinting, nested, optional, reject, seconds

_HINT = 'Write {"aliases": ["default"]}, or leave it out: the servers of all aliases have to answer.'


@dataclass(frozen=True, slots=True)
class ReadinessConfig:
    aliases: tuple[str, ...] | None = None
    """Whose servers have to answer; None: all that have our engine."""
    longest_wait: float | None = None
    """Seconds; not ready while the first caller in a pool's queue has waited for longer. None: a queue is no reason."""

    @classmethod
    def read(cls, raw: Any) -> ReadinessConfig:
        return cls(**nested(raw, _READERS, _HINT))


def _aliases(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, (list, tuple)) or not all(isinstance(each, str) for each in raw):
        raise reject("is no list of aliases.", 'Write ["default"], or [] if no server has to answer.')
    return tuple(raw)


_READERS: dict[str, Callable[[Any], Any]] = {
    "aliases": optional(_aliases),
    "longest_wait": optional(hinting(seconds(above_zero=True), "None lets callers wait.")),
}
