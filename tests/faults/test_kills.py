"""Connections killed at random, under load: reads go on, and every write is accounted for."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from django.db import connections, transaction

from django_dbpool.errors import CommitUnknown, ConnectionLost
from tests.app.models import Item, Log
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task

MAKE = {"max_size": 8, "retry": True, "breaker": True}
"""As by default; ten threads for eight connections."""


@pytest.fixture(autouse=True)
def tables(database: Database) -> Iterator[None]:
    database.observer.execute("CREATE TABLE app_item (id serial PRIMARY KEY, name text, n int)")
    database.observer.execute("CREATE TABLE app_log (id serial PRIMARY KEY, key text)")
    database.observer.execute("INSERT INTO app_item (name, n) SELECT 'x', n FROM generate_series(1, 50) AS n")
    yield
    database.observer.execute("DROP TABLE app_item, app_log")


class Load:
    """Threads that read and write, and what they were told of each write, by its key."""

    def __init__(self, database: Database) -> None:
        self.alias = database.alias
        self.told: dict[str, str] = {}
        self.hooks: list[str] = []
        self.reads = 0
        self.moved = threading.Semaphore(0)
        """Released by each piece of work that has come to its end."""
        self._numbers = itertools.count()
        self._stop = threading.Event()
        works: list[Callable[[], None]] = [self._read] * 4
        for write in (self.alone, self.block, self.hooked):
            works += [lambda write=write: self._write(write)] * 2  # type: ignore[misc]
        self.tasks = [Task(self._run, work) for work in works]

    def check(self) -> None:
        for task in self.tasks:
            if not task.is_alive():
                task.result()

    def has_seen_everything(self) -> bool:
        """Also reads and writes that were not disturbed, and each way in which one can be."""
        told = Counter((key.split("-")[0], what) for key, what in tuple(self.told.items()))
        kinds = ("alone", "block", "hooked")
        return (
            self.reads >= 100
            and all(told[kind, "yes"] >= 20 for kind in kinds)
            and bool(told["block", "no"] and told["hooked", "no"] and told["alone", "maybe"])
        )

    def stop(self) -> None:
        self._stop.set()
        for task in self.tasks:
            task.join(PATIENCE)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                work()
                self.moved.release()
        finally:
            connections[self.alias].close()

    def _read(self) -> None:
        items = Item.objects.using(self.alias)
        assert len(list(items.order_by("n"))) == 50
        assert items.filter(n__gt=0).count() == 50
        assert items.exists()
        assert items.get(n=50).n == 50
        assert set(items.values_list("name", flat=True)) == {"x"}
        self.reads += 5

    def _write(self, write: Callable[[str], None]) -> None:
        key = f"{write.__name__}-{next(self._numbers)}"
        try:
            write(key)
        except CommitUnknown:
            self.told[key] = "maybe, in COMMIT"
        except ConnectionLost as error:
            self.told[key] = "maybe" if error.maybe_committed else "no"
        else:
            self.told[key] = "yes"

    def alone(self, key: str) -> None:
        Log.objects.using(self.alias).create(key=key)

    def block(self, key: str) -> None:
        with transaction.atomic(using=self.alias):
            Item.objects.using(self.alias).get(n=1)
            self.alone(key)
            with transaction.atomic(using=self.alias):
                self.alone(f"{key}+")

    def hooked(self, key: str) -> None:
        with transaction.atomic(using=self.alias):
            self.alone(key)
            transaction.on_commit(lambda: self.hooks.append(key), using=self.alias)

    def account(self, observer: Any) -> Counter[tuple[str, str]]:
        """Compare with the rows that there are; how often each kind of write was told what."""
        found = Counter(key for (key,) in observer.execute("SELECT key FROM app_log"))
        expected = {"yes": {1}, "no": {0}, "maybe": {0, 1}, "maybe, in COMMIT": {0, 1}}
        for key, told in self.told.items():
            count = found.pop(key, 0)
            assert count in expected[told], (key, told, count)
            if key.startswith("block"):
                assert found.pop(f"{key}+", 0) == count, key
            if key.startswith("hooked"):
                assert self.hooks.count(key) == (told == "yes"), (key, told)
        assert not found, "rows that nobody has written"
        return Counter((key.split("-")[0], told) for key, told in self.told.items())


@pytest.mark.ci
@pytest.mark.parametrize(("kills", "pool"), [(1000, {}), (300, {"commit_status": True})])
def test_random_kills(make_database: MakeDatabase, kills: int, pool: dict[str, Any]) -> None:
    """No read fails. Each write is there once, or not, as its client was told; where that was "maybe", either."""
    database = make_database(**MAKE, **pool)
    chance, killed, began = random.Random(7), 0, monotonic()
    load = Load(database)
    try:
        while killed < kills or not load.has_seen_everything():
            load.check()
            assert monotonic() - began < 60, load.told
            # On a slow machine the killer would be so much faster than who connects that a read is killed eight times
            # in a row, which is all that it may try.
            load.moved.acquire(timeout=1)
            if pids := sorted(database.backends()):
                row = database.observer.execute("SELECT pg_terminate_backend(%s)", [chance.choice(pids)]).fetchone()
                killed += row == (True,)
    finally:
        load.stop()
    for task in load.tasks:
        task.result()
    told = load.account(database.observer)
    print(f"{killed} kills in {monotonic() - began:.1f} s, {load.reads} reads, {dict(told)}")
    assert not told["alone", "no"] + told["block", "maybe"] + told["hooked", "maybe"], told
    database.assert_whole()


@pytest.mark.ci
def test_idle_connections_killed(make_database: MakeDatabase) -> None:
    """Six of them; the next eight requests are served in a tenth of a second. The best of some rounds counts."""
    database = make_database(**{**MAKE, "max_size": 6})
    seconds = []
    for _ in range(5):
        for pid in database.serve_at_once(6):
            database.observer.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        began = monotonic()
        for _ in range(8):
            assert database.fetch("SELECT 1") == 1
            database.connection.close()
        seconds.append(monotonic() - began)
    print(seconds)
    assert min(seconds) < 0.1, seconds
    database.assert_whole()
