"""
What each process has counted since it began, for programs that add it up themselves. Prometheus gets its own format,
by way of ``django_dbpool.contrib.prometheus``, where that is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from django.apps import apps
from django.http import HttpRequest, HttpResponse
from django.utils.module_loading import import_string

from ..core.tally import BOUNDS
from ..fleet import Process
from ..pool.measures import Measures

EXPORTER = "django_dbpool.contrib.prometheus"
TEXT_FORMATS = ("application/openmetrics-text", "text/plain")
"""Which Prometheus asks for."""


@dataclass(frozen=True, slots=True)
class Times:
    """Durations by size."""

    bounds: tuple[float, ...]
    """Seconds: the upper ends of the buckets, inclusive. The last bucket is of what is above all of them."""
    counts: tuple[int, ...]
    """In each bucket, one more than there are bounds."""
    count: int
    seconds: float
    """All together."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Counted:
    """What one process has counted of one alias since it began. No count ever becomes less."""

    process: str
    instance: str
    """New in every process: where it differs, counts begin anew."""
    role: str
    started: float
    """Unix time."""
    age: float
    """Seconds since the process said so."""
    alias: str
    leases: int
    """Connections handed out."""
    statements: int
    opened: int
    closed: int
    failed: int
    """Attempts to connect."""
    timeouts: int
    """Callers that waited for a connection to the end of their time."""
    lost: int
    """Connections that ended while somebody worked with them."""
    lost_expected: int
    """Connections that ended while they were idle."""
    overdue: int
    """Leases and pins that were reported as held for long."""
    slow: int
    """Statements that took longer than DBPOOL["SLOW_STATEMENT"]."""
    repeated: int
    """Units in which one statement was executed more often than DBPOOL["REPEATED_STATEMENTS"]."""
    refused: Mapping[str, int]
    """Callers who got no connection, by the name of the error."""
    retried: Mapping[str, int]
    """By what was tried again: connect, read, block."""
    closed_by: Mapping[str, int]
    """The closed ones by reason."""
    wait: Times
    """How long each lease was waited for."""
    use: Times
    """How long leases lasted that have ended."""
    connect: Times
    """How long it took to open each connection."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_COUNTS = tuple(each.name for each in fields(Counted) if each.type == "int")
_BY_NAME = tuple(each.name for each in fields(Counted) if each.type == "Mapping[str, int]")
_TIMES = tuple(each.name for each in fields(Counted) if each.type == "Times")
_MOST_NAMES = 100


def counted(processes: tuple[Process, ...]) -> list[Callable[[], Counted]]:
    """One for each alias of each process, made when it is called: only a page of them is."""
    return [make for process in processes for make in _of_process(process)]


def _of_process(process: Process) -> Iterator[Callable[[], Counted]]:
    told: dict[str, Mapping[str, Any]] = {}
    pools = process.document.get("pools")
    for pool in pools if isinstance(pools, list) else ():
        if isinstance(pool, dict) and isinstance(alias := pool.get("alias"), str):
            measured = pool.get("measures")
            if isinstance(measured, dict):
                told[alias] = measured  # of several pools of one alias each tells the same
    for alias, measured in sorted(told.items()):
        yield lambda alias=alias, measured=measured: _counted(process, alias, measured)  # type: ignore[misc]


def _counted(process: Process, alias: str, measured: Mapping[str, Any]) -> Counted:
    """Whoever may write to the store may write anything: what is no count is 0."""
    identity = process.identity
    values: dict[str, Any] = {name: _count(measured.get(name)) for name in _COUNTS}
    values |= {name: _counts_by_name(measured.get(name)) for name in _BY_NAME}
    values |= {name: _times(measured.get(name)) for name in _TIMES}
    return Counted(
        process=process.name,
        instance=identity.instance,
        role=identity.role,
        started=identity.started,
        age=process.age,
        alias=alias,
        **values,
    )


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def _counts_by_name(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {str(name): _count(count) for name, count in list(value.items())[:_MOST_NAMES]}


def _times(value: object) -> Times:
    told = value if isinstance(value, dict) else {}
    counts, seconds = told.get("counts"), told.get("seconds")
    if told.get("bounds") != list(BOUNDS) or not isinstance(counts, list) or len(counts) != len(BOUNDS) + 1:
        counts = [0] * (len(BOUNDS) + 1)  # of another version, whose buckets could not be added to these
    numbers = tuple(_count(each) for each in counts)
    total = float(seconds) if isinstance(seconds, (int, float)) and seconds > 0 else 0.0
    return Times(BOUNDS, numbers, sum(numbers), total)


def for_prometheus(request: HttpRequest) -> HttpResponse | None:
    """What the exporter answers, if it is installed and the request prefers its format."""
    if not _prefers_text(request) or not apps.is_installed(EXPORTER):
        return None
    response: HttpResponse = import_string(f"{EXPORTER}.metrics")(request)
    return response


def _prefers_text(request: HttpRequest) -> bool:
    # Not get_preferred_type(): Prometheus names versions, and what has parameters matches no type that has none.
    for accepted in request.accepted_types:
        name = f"{accepted.main_type}/{accepted.sub_type}"
        if name in TEXT_FORMATS:
            return True
        if name in ("application/json", "application/*", "*/*"):
            return False
    return False


assert {*_COUNTS, *_BY_NAME, *_TIMES} <= {*Measures.__slots__, "timeouts"}, "a count that nobody publishes"
