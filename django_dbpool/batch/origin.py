"""Who has begun a run, so that it can be begun again when its runner is dead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LONGEST_TASK = 300


@dataclass(frozen=True, slots=True)
class Origin:
    """
    What a run's row says of how to go on with it; nothing here reads it.

    Example:
        run_batches(rows, handler, checkpoint="letters 7", origin=Origin("shop.tasks.letters", {"args": [7]}))
    """

    task: str = ""
    """Name that a starter knows; empty: nobody but the caller knows how."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What JSON can say: ``args``, ``kwargs``, ``options``."""
