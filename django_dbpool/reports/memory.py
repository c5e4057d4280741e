"""The last reading of the store, in case that the next one fails."""

from __future__ import annotations

import os
from dataclasses import replace
from time import monotonic
from typing import NamedTuple

from ..conf import fleet_config
from ..fleet.documents import Process
from ..fleet.reading import understood
from ..fleet.stores import Row, Store, overdue_after

LARGEST = 4 * 1024 * 1024
"""Characters that are kept; of a fleet that says more, those that said it last."""


class _Kept(NamedTuple):
    pid: int
    at: float
    rows: list[Row]
    left_out: int


_kept: _Kept | None = None


class Remembering:
    """
    A store whose last successful reading is kept: the texts, which are there anyway and smaller than what they stand
    for.
    """

    def __init__(self, store: Store) -> None:
        self.description = store.description
        self._store = store
        self.put = store.put
        self.close = store.close

    def read(self, longest: int, most: int) -> list[Row]:
        global _kept
        rows = self._store.read(longest, most)
        kept, size = [], 0
        for row in rows:
            size += len(row.document) if isinstance(row.document, str) else LARGEST
            if size > LARGEST:
                break
            kept.append(row)
        _kept = _Kept(os.getpid(), monotonic(), kept, len(rows) - len(kept))
        return rows


def last() -> tuple[tuple[Process, ...], float, int] | None:
    """The processes as they were, with their ages now; the age of the reading; and how many were too many to keep."""
    kept = _kept
    if kept is None or kept.pid != os.getpid():
        return None
    age = max(0.0, monotonic() - kept.at)
    overdue = overdue_after(fleet_config())
    found = [process for row in reversed(kept.rows) if (process := understood(row, overdue)) is not None]
    living = {each.identity.instance: replace(each, age=each.age + age) for each in found if each.state != "ended"}
    return tuple(sorted(living.values(), key=lambda each: (each.identity.host, each.identity.pid))), age, kept.left_out


def forget() -> None:
    global _kept
    _kept = None
