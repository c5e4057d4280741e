"""The joint result of a run that several tasks share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery.result import assert_will_not_block

from .sending import part_id

if TYPE_CHECKING:
    from ...batch import RunStatus

LOOK_EVERY = 0.5
"""Seconds between two looks of who waits."""
HOPELESS = frozenset({"failed", "given up"})


class BatchRunFailed(RuntimeError):
    """
    A part of a run can't go on by itself. The others may be at work; what they do is kept.

    Attributes:
        status: of the run at that moment.
    """

    def __init__(self, status: RunStatus) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        parts = [f"part {each.part}: {each.reason}" for each in self.status.ranges if each.condition in HOPELESS]
        return f"Batch run {self.status.name!r}: {'; '.join(parts)}. Its failures say which items it was."


@dataclass(frozen=True)
class FannedOut:
    """
    What ``BatchTask.fan_out()`` returns. It is made of names only, so it may be stored, and made again from them.

    Attributes:
        name: of the run.
        using: alias of its database.
        parts: ranges, and so tasks.
    """

    name: str
    using: str
    parts: int

    @property
    def task_ids(self) -> list[str]:
        """Of the tasks, by the number of their part; ``AsyncResult(id)`` has what each one says."""
        return [part_id(self.name, part) for part in range(self.parts)]

    def status(self) -> RunStatus:
        """Of all parts together, from the run's rows."""
        from ...batch import status

        return status(self.name, self.using)

    def get(
        self,
        timeout: float | None = None,
        *,
        every: float = LOOK_EVERY,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> RunStatus:
        """
        Wait until all parts have ended, holding nothing meanwhile. Not in a task: it would keep a place in the worker
        that one of the parts may wait for.

        Args:
            timeout: seconds; None: for ever.
            every: seconds between two looks at the run's rows.

        Returns:
            The status at the end: ``done`` or ``cancelled``.

        Raises:
            TimeoutError: not yet.
            BatchRunFailed: an error has ended a part, and nobody has gone on with it for ``takeover_after`` seconds.
            RuntimeError: in a task.
        """
        assert_will_not_block()
        deadline = None if timeout is None else clock() + timeout
        while True:
            found = self.status()
            if found.state != "open":
                return found
            # A task that failed for a reason that passes is sent again in a moment.
            if any(each.condition in HOPELESS and each.heartbeat_age > found.takeover_after for each in found.ranges):
                raise BatchRunFailed(found)
            if deadline is not None and clock() >= deadline:
                raise TimeoutError(f"batch run {self.name!r} has not ended: {found.done} of {found.total} are done")
            sleep(every if deadline is None else max(0.0, min(every, deadline - clock())))
