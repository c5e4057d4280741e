"""Snapshots in a cache that processes share: text, no pickled objects; whose age no host's clock can falsify."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_dbpool.fleet import FleetUnavailable, processes, snapshot
from django_dbpool.fleet.cache import CacheStore, _index
from django_dbpool.fleet.publisher import Publisher
from django_dbpool.fleet.snapshot import encoded
from tests.faults.helpers import Clock
from tests.fixtures.workers import PATIENCE

FRESH = 12.5


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[str]:
    """A cache of files, as good as any other that two processes can see."""
    backend = "django.core.cache.backends.filebased.FileBasedCache"
    settings: dict[str, Any] = {
        "CACHES": {"default": {"BACKEND": backend, "LOCATION": str(tmp_path)}},
        "DBPOOL": {"FLEET": {"store": "cache"}},
    }
    with override_settings(**settings):
        yield "default"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(shared: str, clock: Clock) -> CacheStore:
    return CacheStore(shared, fresh=FRESH, clock=clock)


def put(store: CacheStore, instance: str, *, delay: float = 0.0, expire: float = 30.0, **changes: Any) -> None:
    text = encoded({**snapshot(), "instance": instance, **changes})
    store.put(instance, text, delay=delay, expire=expire)
    store.close()


def test_each_process_is_found_with_its_latest_state(store: CacheStore, clock: Clock) -> None:
    for number in range(3):
        put(store, "a" * 16, host="one", pid=number)
        put(store, "b" * 16, host="two")
        put(store, "a" + "c" * 15, host="three")
    clock.advance(4)
    found = processes(store=store)
    assert [(each.identity.host, each.age, each.stale) for each in found] == [
        ("one", 4, False),
        ("three", 4, False),
        ("two", 4, False),
    ]
    assert found[0].identity.pid == 2


@pytest.mark.parametrize("error", [-86_400, 86_400, 1e12])
def test_a_wrong_clock_makes_nobody_old(shared: str, clock: Clock, error: float) -> None:
    put(CacheStore(shared, fresh=FRESH, clock=lambda: clock() + error), "a" * 16)
    (process,) = processes(store=CacheStore(shared, fresh=FRESH, clock=clock))
    assert 0 <= process.age <= FRESH
    assert not process.stale


def test_by_the_caches_clock_the_silent_are_stale(store: CacheStore, clock: Clock) -> None:
    put(store, "a" * 16)
    caches["default"].delete("django_dbpool:fleet:fresh:" + "a" * 16)  # its time is over
    clock.advance(-3600)
    (process,) = processes(store=store)
    assert process.stale


def test_who_is_gone_leaves_the_index_with_the_next_that_comes(store: CacheStore) -> None:
    put(store, "a0" * 8)
    caches["default"].delete("django_dbpool:fleet:process:" + "a0" * 8)
    assert processes(store=store) == ()
    put(store, "a1" * 8)
    assert json.loads(caches["default"].get(_index("a"))) == ["a1" * 8]


def test_what_is_stored_is_text(store: CacheStore) -> None:
    put(store, "a" * 16)
    for key in ("django_dbpool:fleet:process:" + "a" * 16, _index("a")):
        value = caches["default"].get(key)
        assert isinstance(value, str)
        json.loads(value)


@pytest.mark.parametrize("value", [None, 7, [], {"a": object}, "[" * 9999, "[1, null, [], {}]", '["../../etc"]', b"[]"])
def test_whatever_lies_in_the_cache_is_left_out(store: CacheStore, value: Any) -> None:
    put(store, "b" * 16)
    caches["default"].set(_index("a"), value)
    caches["default"].set("django_dbpool:fleet:process:" + "b" * 15 + "c", value)
    caches["default"].set(_index("b"), json.dumps(["b" * 15 + "c", "b" * 16]))
    (process,) = processes(store=store)
    assert process.identity.instance == "b" * 16
    caches["default"].set(
        "django_dbpool:fleet:process:" + "b" * 16, json.dumps({"taken": "x", "document": value is None})
    )
    assert processes(store=store) == ()


def test_a_cache_that_fails_keeps_its_address_to_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = {"BACKEND": f"{__name__}.Broken", "LOCATION": "redis://user:secret@cache"}
    with override_settings(CACHES={"default": broken}, DBPOOL={"FLEET": {"store": "cache"}}):
        with pytest.raises(FleetUnavailable) as caught:
            processes()
        assert "secret" not in str(caught.value)
        publisher = Publisher(CacheStore("default", fresh=FRESH), interval=0.0, expire=30)
        try:
            publisher.tick()
            assert publisher.wait(PATIENCE)
        finally:
            publisher.close()
    assert publisher.published == 0
    assert "secret" not in caplog.text


class Broken:
    """What a client of Redis raises has its URL in it."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        self.location = location

    def get_many(self, keys: list[str]) -> None:
        raise ConnectionError(f"can't connect to {self.location}")

    def set(self, *args: object, **kwargs: object) -> None:
        raise ConnectionError(f"can't connect to {self.location}")

    def close(self, **kwargs: object) -> None: ...


def test_a_cache_of_one_process_is_refused() -> None:
    with override_settings(DBPOOL={"FLEET": {"store": "cache"}}), pytest.raises(ImproperlyConfigured, match="LocMem"):
        processes()
