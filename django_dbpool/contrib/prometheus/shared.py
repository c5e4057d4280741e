"""
Where several processes are scraped as one (``PROMETHEUS_MULTIPROC_DIR``): each writes its numbers into its own files in
that directory, and whoever is asked adds all files up.

prometheus_client does so value by value, at every change. We keep exact numbers of our own, at less cost, and add to
the files what has come since the last time: nothing is done per lease. The values are the ones that its own Counter,
Gauge and Histogram are made of; what those don't offer is to add many observations to a bucket at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import values

from ...core.logs import get_logger
from ...pool.measures import Measures
from . import directory
from .families import FAMILIES, Durations, Family, Labels, buckets_of

logger = get_logger("django_dbpool.prometheus")

PATIENCE = 1.0
"""Seconds that a writer waits for another one; a signal handler may have interrupted it."""

Key = tuple[str, Labels]

_writing = threading.Lock()
_forking: int | None = None
"""The thread that has the lock while it forks. Another one may fork as well, and has waited for the lock in vain."""


def _before_fork() -> None:
    # prometheus_client has one lock for all values of a process, and a child that is forked while some thread has it
    # can never take it. So that this thread is never ours, nothing is written while a process forks.
    global _forking
    if _writing.acquire(timeout=PATIENCE):
        _forking = threading.get_ident()


def _in_parent() -> None:
    global _forking
    if _forking == threading.get_ident():
        _forking = None
        _writing.release()


def _in_child() -> None:
    global _writing, _forking
    _writing, _forking = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)


class SharedFiles:
    """
    What this process has added to its files so far.

    Args:
        read: the process's numbers, which never become less until it forks.
        families: what is exported.
    """

    def __init__(
        self, read: Callable[[], Iterable[Measures]], families: Sequence[Family | Durations] = FAMILIES
    ) -> None:
        self._read = read
        self._families = families
        self._values: dict[Key, Any] = {}
        self._written: dict[Key, float] = {}
        self._pid = os.getpid()
        self._said: str | None = None

    def write(self) -> bool:
        """
        Bring the files up to date; False if another thread is at it, and takes its time, or if they can't be written:
        that is logged once, and tried again with each call.
        """
        lock = _writing
        if not lock.acquire(timeout=PATIENCE):
            return False
        try:
            fault = self._fault()
        finally:
            lock.release()
        if fault != self._said:
            self._said = fault
            if fault is not None:
                logger.warning("%s %s", fault, directory.REMEDY)
        return fault is None

    def _fault(self) -> str | None:
        """Why nothing could be written; None if it was."""
        if fault := directory.fault():
            return fault
        try:
            self._write()
        except (OSError, ValueError) as error:
            # ValueError: a forked child's values, whose new files could not be opened, have their parent's, closed.
            self._values.clear()
            words = getattr(error, "strerror", None) or str(error)
            return f"PROMETHEUS_MULTIPROC_DIR can't be written to ({words}): no metrics are exported."
        return None

    def _write(self) -> None:
        if self._pid != os.getpid():
            # Its own files, which prometheus_client has begun, and its own numbers: both begin with nothing.
            self._pid = os.getpid()
            self._written.clear()
        for measures in self._read():
            for family in self._families:
                if isinstance(family, Durations):
                    self._write_durations(family, measures)
                else:
                    self._write_numbers(family, measures)

    def _write_numbers(self, family: Family, measures: Measures) -> None:
        counts = family.kind == "counter"
        for labels, number in family.read(measures):
            named = (measures.alias, *labels)
            if counts:
                self._add(family, "_total", family.label_names, named, number)
            else:
                self._set(family, named, number)

    def _write_durations(self, family: Durations, measures: Measures) -> None:
        histogram = family.read(measures)
        for bound, count in buckets_of(histogram):
            self._add(family, "_bucket", (*family.label_names, "le"), (measures.alias, bound), count)
        self._add(family, "_sum", family.label_names, (measures.alias,), histogram.total)

    def _add(self, family: Family | Durations, suffix: str, names: Labels, labels: Labels, number: float) -> None:
        key = (family.name + suffix, labels)
        value = self._values.get(key)
        if value is None:
            kind = "histogram" if isinstance(family, Durations) else family.kind
            value = self._values[key] = values.ValueClass(kind, family.name, key[0], names, labels, family.help)
        more = number - self._written.get(key, 0)
        # Added and not set: the file may be that of an ended process which had the same pid.
        if more > 0:
            value.inc(more)
            self._written[key] = number

    def _set(self, family: Family, labels: Labels, number: float) -> None:
        key = (family.name, labels)
        value = self._values.get(key)
        if value is None:
            # Of the processes that live. Whose files belong to the dead, mark_process_dead() is told.
            value = self._values[key] = values.ValueClass(
                family.kind,
                family.name,
                family.name,
                family.label_names,
                labels,
                family.help,
                multiprocess_mode="livesum",
            )
        if self._written.get(key) != number:
            value.set(number)
            self._written[key] = number
