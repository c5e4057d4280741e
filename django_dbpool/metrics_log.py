"""
``DBPOOL["LOG_INTERVAL"]``: what the pools of a process have done since the last time, as a block of text or as JSON, on
the logger ``django_dbpool.metrics`` at INFO. A process that is not used logs nothing.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .conf import project_config
from .core import reporter
from .core.logs import get_logger
from .core.process import this_process
from .core.project import LogFormat
from .core.tally import Histogram
from .pool.measures import Measures, measures

__all__ = ["MetricsLog", "follow_settings"]

logger = get_logger("django_dbpool.metrics")

JOB = "log"
PATIENCE = 0.5
"""Seconds that a block may take to be written before nobody waits for that any more."""

SHORTEST = 1.0
"""Seconds that a block is about at least: a job is called for the first time with the first lease."""

_ACTIVITY = ("leases", "statements", "opened", "closed", "timeouts")
_TROUBLE = ("failed", "lost", "lost_expected", "overdue", "slow", "repeated")
SINCE = (*_ACTIVITY, *_TROUBLE)
"""Numbers of ``Measures`` of which the part since the last block is told."""

Report = dict[str, Any]


class MetricsLog:
    """
    Logs, each time it is called, what has been done since the time before.

    Args:
        layout: "text" makes one record of several lines, "json" one of one line for each alias.
        read: the numbers of this process.
        clock: seconds; injected by tests.
        write: takes each record.
    """

    def __init__(
        self,
        layout: LogFormat = "text",
        *,
        read: Callable[[], Iterable[Measures]] = measures,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], object] = logger.info,
    ) -> None:
        self._layout = layout
        self._read = read
        self._clock = clock
        self._write = write
        self._thread: threading.Thread | None = None
        self.begin()
        _logs.add(self)

    def begin(self) -> None:
        """Nothing has been done yet: at the start, and in a forked child."""
        self._at = self._clock()
        self._before: dict[str, Measures] = {}

    def __call__(self) -> None:
        if self._clock() - self._at < SHORTEST:
            return
        if self._thread is not None and self._thread.is_alive():
            return  # some handler of logging doesn't come back; the next block will be of a longer time
        records = self._records()
        if records:
            self._hand_over(records)

    def _records(self) -> list[str]:
        now = self._clock()
        seconds, self._at = now - self._at, now
        reports = []
        for reading in self._read():
            report = report_of(reading, self._before.get(reading.alias))
            self._before[reading.alias] = reading
            if not _idle(report):
                reports.append(report)
        if not reports:
            return []
        if self._layout == "json":
            return [json.dumps({**_whose(seconds), **report}) for report in reports]
        return [as_text(reports, seconds)]

    def _hand_over(self, records: list[str]) -> None:
        # In a thread of its own: handlers write to disks and networks, and other jobs wait for this one.
        thread = threading.Thread(target=self._emit, args=(records,), name="dbpool-log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is about to end and starts no threads
            self._emit(records)
            return
        self._thread = thread
        thread.join(PATIENCE)

    def _emit(self, records: list[str]) -> None:
        for record in records:
            self._write(record)


_logs: weakref.WeakSet[MetricsLog] = weakref.WeakSet()


def _in_child() -> None:
    for log in tuple(_logs):
        log.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def report_of(now: Measures, before: Measures | None) -> Report:
    """One alias as it is, and what has been done since the earlier reading, as values for JSON."""

    def since(name: str) -> int:
        count: int = getattr(now, name) - (getattr(before, name) if before else 0)
        return count

    def durations(name: str) -> Histogram:
        histogram: Histogram = getattr(now, name)
        return histogram.since(getattr(before, name)) if before else histogram

    def named(name: str) -> dict[str, int]:
        earlier: Mapping[str, int] = getattr(before, name) if before else {}
        counts: Mapping[str, int] = getattr(now, name)
        return {key: count - earlier.get(key, 0) for key, count in counts.items() if count > earlier.get(key, 0)}

    pool, wait, hold = now.snapshot, durations("wait"), durations("use")
    return {
        "alias": now.alias,
        "used": pool.in_use if pool else 0,
        "idle": pool.idle if pool else 0,
        "opening": pool.opening if pool else 0,
        "max": pool.max_size if pool else 0,
        "waiting": pool.waiting if pool else 0,
        "circuit": now.circuit,
        **{name: since(name) for name in SINCE},
        "wait_mean": wait.mean,
        "wait_p95": wait.quantile(0.95),
        "hold_mean": hold.mean,
        "hold_p95": hold.quantile(0.95),
        "refused": named("refused"),
        "retried": named("retried"),
    }


def _idle(report: Report) -> bool:
    told = ("used", "opening", "waiting", "refused", "retried", *SINCE)
    return not any(report[name] for name in told)


def _whose(seconds: float) -> Report:
    process = this_process()
    return {
        "event": logger.name,
        "at": time.time(),
        "host": process.host,
        "pid": process.pid,
        "role": process.role,
        "seconds": round(seconds, 3),
    }


def as_text(reports: Iterable[Report], seconds: float) -> str:
    """For somebody who reads it at night: what is usual in two lines per alias, what is wrong in further ones."""
    process = this_process()
    lines = [f"pools of {process.role} {process.pid} on {process.host}, last {_duration(seconds)}"]
    for report in reports:
        lines += _lines(report, seconds)
    return "\n".join(lines)


def _lines(report: Report, seconds: float) -> Iterator[str]:
    if report["max"]:
        yield "  {alias}: {used} of {max} in use, {idle} idle, {waiting} waiting, circuit {circuit}".format_map(report)
    else:
        yield f"  {report['alias']}: closed"
    rate = report["leases"] / seconds if seconds > 0 else 0.0
    yield (
        f"    {report['leases']} leases ({rate:.1f}/s), {report['statements']} statements; "
        f"waited {_spread(report, 'wait')}; held {_spread(report, 'hold')}"
    )
    if report["refused"]:
        yield "    REFUSED: " + ", ".join(f"{count} {error}" for error, count in report["refused"].items())
    if told := _named(report, failed="attempts to connect failed", lost="lost in use", lost_expected="lost while idle"):
        yield f"    CONNECTIONS: {told}"
    if told := _named(report, opened="opened", closed="closed", overdue="held too long"):
        yield f"    connections: {told}"
    if told := _named(report, slow="slow", repeated="repeated"):
        yield f"    statements: {told}"
    if report["retried"]:
        yield "    tried again: " + ", ".join(f"{count} {what}" for what, count in report["retried"].items())


def _named(report: Report, **names: str) -> str:
    return ", ".join(f"{report[key]} {name}" for key, name in names.items() if report[key])


def _spread(report: Report, what: str) -> str:
    if not report["leases"]:
        return "-"
    return f"{_duration(report[what + '_mean'])} on average, p95 {_duration(report[what + '_p95'])}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def follow_settings(**changed: Any) -> None:
    """Log as ``DBPOOL`` says, from now on."""
    if changed.get("setting", "DBPOOL") != "DBPOOL":
        return
    try:
        config = project_config()
    except ImproperlyConfigured:
        return  # said by the check, and by whatever reads DBPOOL next
    if config.log_interval is None:
        reporter.unregister(JOB)
    else:
        reporter.register(JOB, MetricsLog(config.log_format), interval=config.log_interval, last=True)


setting_changed.connect(follow_settings, dispatch_uid="django_dbpool.metrics_log")
