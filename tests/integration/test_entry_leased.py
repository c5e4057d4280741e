"""What is read of a lease while it begins or ends, by somebody who does not hold it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from django.db import connections

from django_dbpool.core.ledger import Owner
from django_dbpool.pool.entry import PoolEntry
from tests.fixtures.pools import execute

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def entry(single: str) -> Iterator[PoolEntry]:
    """A connection that nobody has leased."""
    execute(single, "SELECT 1")
    (entry,) = connections[single].pool.entries
    yield entry
    entry.owner, entry.first = None, -1


def test_free(entry: PoolEntry) -> None:
    assert entry.leased() is None
    assert entry.holder("a", 0.0) is None


def test_between_two_leases(entry: PoolEntry) -> None:
    """The number is the next one's already, the owner still the last one's: an aim at both would hit the next."""
    entry.owner = Owner()
    assert entry.leased() is None
    holder = entry.holder("a", 0.0)
    assert holder is not None
    assert holder.generation == -1


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
    seen = []
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
