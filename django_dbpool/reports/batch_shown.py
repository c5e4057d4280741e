"""A run of batches as it is shown, its parts and its failed items; and how it is named."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import urlencode

from ..batch import PartStatus, RunStatus
from ..batch.status import TROUBLE
from ..core.words import one_line
from ..models import BatchFailure

LONGEST_ERROR = 500


@dataclass(frozen=True, slots=True)
class BatchPartRow:
    """One range of a run's keys."""

    part: int
    condition: str
    """running, pausing, cancelling, dead, given up, failed, paused, stopped, waiting, done or cancelled."""
    runner: str
    """Host, process id and instance of the last one."""
    heartbeat_age: float
    """Seconds since it was heard of."""
    in_batch: bool
    """Its transaction is open at this moment."""
    done: int
    failed: int
    batches: int
    rate: float | None
    """Items per second."""
    restarts: int
    """How often it was sent again since it last got ahead."""
    reason: str
    """Why the last runner stopped."""
    last_key: str | None
    """Up to this one everything is done."""
    upper: str | None
    """The last one."""

    @property
    def place(self) -> str:
        """Where the runner is: host and process id, as processes are named elsewhere."""
        host, _, rest = self.runner.partition(" ")
        return f"{host}:{rest.partition(' ')[0]}" if rest else host


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One run. Times are seconds."""

    key: str
    """To name it by in an action."""
    name: str
    alias: str
    """Of its database."""
    model: str
    task: str
    """Which does it; empty: other code does."""
    state: str
    """open, done or cancelled."""
    wanted: str
    """run, pause or cancel."""
    condition: str
    """The worst one of its parts."""
    done: int
    failed: int
    """Items that were skipped."""
    total: int | None
    """All that there were at its start, if that is known."""
    percent: float | None
    batches: int
    rate: float | None
    """Items per second, of all that are at work."""
    seconds_left: float | None
    created: float
    """Unix time, by the clock of its database."""
    ended: float | None
    takeover_after: float
    """So long nothing is heard of a runner that counts as dead."""
    heartbeat_age: float | None
    """Of the one at work that was heard of the longest time ago; where nobody is, of the last one."""
    at_work: int
    """Parts that somebody works on."""
    failures: int
    """Items that are written down with their error."""
    parts: tuple[BatchPartRow, ...]

    @property
    def runners(self) -> tuple[BatchPartRow, ...]:
        """Parts that somebody works on, or should."""
        return tuple(each for each in self.parts if each.condition in ("running", "pausing", "cancelling", "dead"))

    @property
    def title(self) -> str:
        """Its name, as it is shown."""
        return one_line(self.name, 200)

    @property
    def handled(self) -> int:
        """Items that are done or were skipped."""
        return self.done + self.failed

    @property
    def age(self) -> float:
        """Seconds since it was begun."""
        return max(0.0, time.time() - self.created)

    @property
    def took(self) -> float | None:
        """Seconds from its beginning to its end."""
        return None if self.ended is None else max(0.0, self.ended - self.created)

    @property
    def query(self) -> str:
        """Of the address of its page."""
        return urlencode({"alias": self.alias, "name": self.name})

    @property
    def may_pause(self) -> bool:
        return self.state == "open" and self.wanted == "run"

    @property
    def may_resume(self) -> bool:
        return self.state == "open" and (self.wanted != "run" or self.condition in (*TROUBLE, "stopped"))

    @property
    def may_cancel(self) -> bool:
        return self.state == "open" and self.wanted != "cancel"

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BatchFailureRow:
    """An item that a run could not do."""

    key: str
    skipped: bool
    """The run went on without it."""
    error_type: str
    error: str
    place: str
    """Where in the code it was raised."""
    times: int
    at: float
    """Unix time of the last attempt."""

    @property
    def age(self) -> float:
        """Seconds since then."""
        return max(0.0, time.time() - self.at)

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


def key_of_batch(alias: str, name: str) -> str:
    """To name a run by in an action."""
    return json.dumps([alias, name])


def batch_of(key: str) -> tuple[str, str]:
    """
    Alias and name of a key.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(key)
    except RecursionError as error:
        raise ValueError(key) from error
    if not (isinstance(found, list) and len(found) == 2 and all(isinstance(each, str) for each in found)):
        raise ValueError(key)
    for each in found:
        each.encode()  # JSON may have half surrogates, which no database takes: a ValueError
    return found[0], found[1]


def row_of(run: RunStatus) -> BatchRow:
    return BatchRow(
        key=key_of_batch(run.using, run.name),
        name=run.name,
        alias=run.using,
        model=one_line(run.model),
        task=one_line(run.task),
        state=run.state,
        wanted=run.wanted,
        condition=run.condition,
        done=run.done,
        failed=run.failed,
        total=run.total,
        percent=None if run.share is None else 100 * run.share,
        batches=run.batches,
        rate=run.rate,
        seconds_left=run.seconds_left,
        created=run.created.timestamp(),
        ended=run.ended.timestamp() if run.ended else None,
        takeover_after=run.takeover_after,
        heartbeat_age=run.heartbeat_age,
        at_work=len(run.runners),
        failures=run.failures,
        parts=tuple(map(_part, run.ranges)),
    )


def _part(part: PartStatus) -> BatchPartRow:
    values = {each.name: getattr(part, each.name) for each in fields(BatchPartRow)}
    told = {"last_key": _key(part.last_key), "upper": _key(part.upper)}
    return BatchPartRow(**{**values, **told, "runner": one_line(part.runner), "reason": one_line(part.reason)})


def _key(stored: Any) -> str | None:
    """Of one field its value, of several all."""
    if stored is None:
        return None
    return one_line(", ".join(each if isinstance(each, str) else json.dumps(each) for each in stored))


def failure_of(row: BatchFailure) -> BatchFailureRow:
    return BatchFailureRow(
        key=_key(row.key) or "",
        skipped=row.skipped,
        error_type=one_line(row.error_type),
        error=one_line(row.error, LONGEST_ERROR),
        place=one_line(row.place),
        times=row.times,
        at=row.created.timestamp(),
    )
