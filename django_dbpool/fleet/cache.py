"""
Snapshots in a cache that all processes share. A cache can't be searched, so there is an index: sixteen lists of
instances, to which each process adds itself when it doesn't find itself there. Two that do so at the same time lose one
entry, which is back an interval later.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from django.core.cache import caches

from .stores import Row

PREFIX = "django_dbpool:fleet:"
SHARDS = "0123456789abcdef"
INDEX_LIVES = 86_400
LISTED = 500
"""Instances in one list; the oldest go."""


class CacheStore:
    """
    Args:
        alias: of the cache.
        fresh: seconds within which a process that is at work publishes again.
        clock: unix time; injected by tests.
    """

    def __init__(self, alias: str, *, fresh: float, clock: Callable[[], float] = time.time) -> None:
        self.alias = alias
        self.description = f"cache {alias!r}"
        self._fresh = fresh
        self._clock = clock

    def put(self, instance: str, document: str, *, delay: float, expire: float) -> None:
        cache = caches[self.alias]
        text = json.dumps({"taken": self._clock() - delay, "document": document})
        cache.set(_of_process(instance), text, timeout=max(1, round(expire)))
        cache.set(_freshness(instance), 1, timeout=max(1, round(min(expire, self._fresh) - delay)))
        shard = _index(instance[:1])
        listed = _listed(cache.get(shard))
        if instance not in listed:
            known = cache.get_many([_of_process(each) for each in listed])
            living = [each for each in listed if _of_process(each) in known]
            cache.set(shard, json.dumps([*living, instance][-LISTED:]), timeout=INDEX_LIVES)

    def read(self, longest: int, most: int) -> list[Row]:
        """
        A cache doesn't tell its clock, and hosts' clocks may be wrong. But it drops keys by its own: whether one that
        lives as long as a process may be silent is there bounds the age.
        """
        cache = caches[self.alias]
        lists = cache.get_many([_index(shard) for shard in SHARDS])
        instances = sorted({instance for text in lists.values() for instance in _listed(text)})
        found = cache.get_many([key(each) for each in instances for key in (_of_process, _freshness)])
        rows = []
        for instance in instances:
            text = found.get(_of_process(instance))
            if isinstance(text, str) and len(text) <= 2 * longest:
                rows.append(self._row(text, fresh=_freshness(instance) in found))
        return sorted(rows, key=lambda row: row.age)[:most]

    def _row(self, text: str, *, fresh: bool) -> Row:
        try:
            envelope = json.loads(text)
            document, taken = envelope["document"], float(envelope["taken"])
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return Row(None, 0.0)
        age = self._clock() - taken
        if not -1e9 < age < 1e9:
            age = 0.0
        return Row(document, min(max(0.0, age), self._fresh) if fresh else max(age, self._fresh + 1))

    def close(self) -> None:
        caches[self.alias].close()


def _of_process(instance: str) -> str:
    return f"{PREFIX}process:{instance}"


def _freshness(instance: str) -> str:
    return f"{PREFIX}fresh:{instance}"


def _index(shard: str) -> str:
    return f"{PREFIX}index:{shard}"


def _listed(text: Any) -> list[str]:
    """Whatever somebody has put there."""
    if not isinstance(text, str) or len(text) > 20 * LISTED + 2:
        return []
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if not isinstance(listed, list):
        return []
    return [each for each in listed if isinstance(each, str) and len(each) == 16 and each.isascii() and each.isalnum()]
