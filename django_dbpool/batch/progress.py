"""What is told of a run: while it goes on, of an item that fails, at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

M = TypeVar("M")

Reason = Literal["done", "stopped", "deadline", "paused", "cancelled", "shutdown"]
"""
Why it ended: everything was done; ``should_stop`` said so; out of time; somebody wants it paused or cancelled; this
process is being shut down.
"""
KEPT_FAILURES = 1000
"""Failed items that a result tells of by themselves; ``BatchFailure`` has all of a run with a checkpoint."""


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a run is. Items are counted, over all processes that have worked on it."""

    name: str | None
    """Of the run; None without a checkpoint."""
    done: int
    failed: int
    """Items that were skipped."""
    total: int | None
    """All of them, as far as that was known at the start."""
    batches: int
    """Transactions of this call."""
    seconds: float
    """Of this call."""
    rate: float
    """Items a second, of this call."""
    seconds_left: float | None
    """At that rate; None if it can't be told."""


@dataclass(frozen=True, slots=True)
class FailedItem(Generic[M]):
    """An item whose handler failed although it was alone in its batch."""

    item: M
    """As the handler has left it."""
    key: tuple[Any, ...]
    error: Exception


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How a call of ``run_batches()`` ended, when it did not raise."""

    name: str | None
    reason: Reason
    done: int
    """Items that were handled, by all processes that have worked on the run."""
    failed: int
    """Items that were skipped, likewise."""
    total: int | None
    handled: int
    """Items that this call has handled."""
    batches: int
    """Transactions of this call."""
    seconds: float
    resumed: bool
    """The run had been begun by an earlier call."""
    failures: tuple[tuple[tuple[Any, ...], str], ...]
    """Key and type of error of those that this call has skipped; at most the first thousand."""
    dry_run: bool

    @property
    def finished(self) -> bool:
        return self.reason == "done"
