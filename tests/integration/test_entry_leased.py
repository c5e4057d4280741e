"""What is read of a lease while it begins or ends, by somebody who does not hold it."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import pytest
from django.db import connections

from django_dbpool.pool.entry import Lease, PoolEntry
from django_dbpool.pool.managed import ManagedPool
from tests.fixtures.pools import execute

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def entry(single: str) -> PoolEntry:
    """A connection that nobody has leased."""
    execute(single, "SELECT 1")
    (entry,) = connections[single].pool.entries
    return entry


def test_free(entry: PoolEntry) -> None:
    assert entry.leased() is None
    assert entry.holder("a", 0.0) is None


def test_end_line_by_line(single: str, entry: PoolEntry) -> None:
    """Never the number of the next lease with the owner of this one: an aim at both would hit the next."""
    seen: list[Lease | None] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code is not ManagedPool.release.__code__:
            return None
        seen.append(entry.leased())
        return trace

    with connections[single].cursor() as cursor:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            cursor.execute("SELECT 1")
        finally:
            sys.settrace(before)
    leases = {(lease.generation, lease.owner.ident) for lease in seen if lease is not None}
    assert leases == {(entry.generation - 1, threading.get_ident())}
    assert seen[-1] is None


def test_changes_hands_while_it_is_read(single: str, entry: PoolEntry) -> None:
    """Whatever is said of a lease is said of one and the same, whenever it is asked."""
    owners: dict[int, int] = {}
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            with connections[single].cursor() as cursor, connections[single]._held():
                cursor.execute("SELECT 1")
                held = connections[single]._entry
                owners[held.generation] = threading.get_ident()
        connections[single].close()

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    seen: list[tuple[int, int]] = []
    try:
        while len(seen) < 3000 or len({generation for generation, _ in seen}) < 20:
            lease = entry.leased()
            if lease is not None:
                seen.append((lease.generation, lease.owner.ident))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    known = [(generation, ident) for generation, ident in seen if generation in owners]
    assert len({generation for generation, _ in known}) >= 10
    assert all(owners[generation] == ident for generation, ident in known)
