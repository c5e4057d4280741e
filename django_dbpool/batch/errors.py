"""What goes wrong with a run itself, not with its work."""

from __future__ import annotations

from django.db.transaction import TransactionManagementError


class BatchRefused(TransactionManagementError):
    """
    ``run_batches()`` was called where it can't keep its promises: in a transaction, with a connection that would be
    held for the whole run, or with a handler that has left its transaction unusable.
    """


class BatchRunTaken(RuntimeError):
    """
    Another runner has this run. It is at work, or it has taken over because nothing was heard of this one for too
    long; nothing of the batch that this was raised in is left.

    Attributes:
        name: of the run.
        runner: who has it: host, process id, instance; empty if that isn't known.
        age: seconds since it was heard of; None if that isn't known.
    """

    def __init__(self, name: str, text: str, runner: str = "", age: float | None = None) -> None:
        super().__init__(name, text, runner, age)
        self.name = name
        self.runner = runner
        self.age = age
        self._text = text

    def __str__(self) -> str:
        return f"Batch run {self.name!r}: {self._text}"


class BatchRunMismatch(ValueError):
    """
    A run of that name has worked on another model, or by another key, so that where it stopped means nothing here. Or
    it is divided in other parts.
    """


class BatchRunMissing(LookupError):
    """There is no run of that name on that database: it was never begun there, or was deleted since it ended."""


class BatchRunEnded(ValueError):
    """The run has ended, so it can't be paused, resumed or cancelled any more."""
