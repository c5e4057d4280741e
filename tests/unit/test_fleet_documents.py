"""What a process says of itself, and how what others say is read: nothing is believed, nothing crashes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_dbpool.core.fleet import FleetConfig
from django_dbpool.core.readers import Rejected
from django_dbpool.fleet import Process, register_section, snapshot
from django_dbpool.fleet.documents import Malformed, parse
from django_dbpool.fleet.ring import SPAN, Ring
from django_dbpool.fleet.snapshot import LARGEST, _sections, encoded, plain
from django_dbpool.pool.reporting import PoolSnapshot
from tests.faults.helpers import Clock

POOL = {
    "alias": "default", "pid": 7, "mode": "transaction", "min_size": 1, "max_size": 4, "reserve_size": 1, "size": 2,
    "reserved": 0, "in_use": 1, "idle": 1, "opening": 0, "waiting": 0, "circuit": "closed", "backends": [11, 12],
}  # fmt: skip
HOLDER = {
    "alias": "default", "backend_pid": 11, "thread": "t", "thread_ident": 1, "unit": "GET /a/", "since_seconds": 2.5,
    "pinned": None, "state": "idle in transaction", "generation": 3,
}  # fmt: skip
VALID = {
    "format": 1, "host": "web-1", "pid": 7, "role": "web", "started": 1.0, "version": "1", "instance": "0" * 16,
    "at": 2.0, "sequence": 9, "state": "active", "pools": [POOL], "holders": [HOLDER], "holders_left_out": 2,
    "dedicated": {"default": [13]}, "sections": {"operations": [{"name": "import"}]},
}  # fmt: skip


@pytest.fixture
def sections() -> Iterator[None]:
    before = dict(_sections)
    _sections.clear()
    yield
    _sections.clear()
    _sections.update(before)


def test_what_was_said_is_read() -> None:
    process = parse(json.dumps(VALID), age=1.5)
    assert (process.name, process.age, process.sequence, process.holders_left_out) == ("web-1:7", 1.5, 9, 2)
    assert process.pools[0].backends == (11, 12)
    assert process.holders[0].generation == 3
    assert process.dedicated == {"default": (13,)}
    assert process.document["sections"] == {"operations": [{"name": "import"}]}
    assert parse(encoded(snapshot())).state == "active", "its own too"


def changed(path: str, value: Any) -> dict[str, Any]:
    document: Any = json.loads(json.dumps(VALID))
    *outer, last = path.split(".")
    inner = document
    for key in outer:
        inner = inner[int(key) if key.isdigit() else key]
    inner[last] = value
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize(
    "key", ["host", "pid", "role", "started", "version", "instance", "state", "sequence", "format"]
)
@pytest.mark.parametrize("value", [None, [], {}, True, math.inf, 10**400])
def test_a_process_without_an_identity_is_none(key: str, value: Any) -> None:
    with pytest.raises(Malformed):
        parse(changed(key, value))


@pytest.mark.parametrize(
    "path", [*(f"pools.0.{key}" for key in ("alias", "in_use", "circuit")), *(f"holders.0.{key}" for key in HOLDER)]
)
def test_a_part_that_is_wrong_is_left_out(path: str) -> None:
    process = parse(changed(path, {"a": 1}))
    assert (len(process.pools), len(process.holders)) in ((0, 1), (1, 0))
    assert process.identity.host == "web-1"


def test_names_can_neither_steer_a_terminal_nor_begin_a_line() -> None:
    hostile = "\x1b[2J\r\nok\u202e\ud800" * 100
    for path in ("host", "holders.0.unit", "holders.0.thread", "pools.0.alias", "pools.0.circuit"):
        process = parse(changed(path, hostile))
        for text in (process.name, str(process.holders), str(process.pools)):
            assert text.isprintable()
        json.dumps(process.to_json()).encode("ascii")
    assert len(parse(changed("host", "h" * 50_000)).identity.host) <= 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@hypothesis_settings(max_examples=150, derandomize=True, database=None)
@given(st.dictionaries(st.sampled_from(sorted(VALID)), json_values, max_size=5), json_values)
def test_whatever_is_said_is_read_or_refused(changes: dict[str, Any], other: Any) -> None:
    for document in (VALID | changes, json.dumps(VALID | changes), other, json.dumps(other)):
        try:
            process = parse(document)
        except Malformed:
            continue
        assert isinstance(process, Process)
        json.dumps(process.to_json(), allow_nan=False)


def test_a_document_is_never_larger_than_allowed(sections: None) -> None:
    register_section("huge", lambda: {"x": ["x" * 200] * 200})
    holders = [{**HOLDER, "unit": "u" * 200, "sql": "s" * 500}] * 50
    document = {**snapshot(), "holders": holders}
    text = encoded(document)
    assert len(text) <= LARGEST
    process = parse(text)
    assert process.document["left_out"] == ["sections"]
    assert (len(process.holders), process.holders_left_out) == (50, 0)
    process = parse(encoded(document, 8192))
    assert process.document["left_out"] == ["sections", "sql", "holders"]
    assert (len(process.holders), process.holders_left_out) == (10, 40)
    assert len(encoded({**document, "pools": [POOL] * 5000, "dedicated": {"a": list(range(99_999))}}, 4096)) <= 4096


def test_of_sections_that_are_too_long_the_beginning_stays(sections: None) -> None:
    """Who holds what is known to the end; of long lists those who matter most stay as long as anything does."""
    register_section("own limit", lambda: [{"n": n, "t": "t" * 90} for n in range(100)], largest=2000)
    register_section("no list", lambda: {"t": "t" * 200}, largest=100)
    register_section("long", lambda: [{"n": n, "t": "t" * 190} for n in range(250)])
    register_section("short", lambda: {"a": 1})
    document = {**snapshot(), "holders": [{**HOLDER, "sql": "s" * 300}] * 50}
    assert document["left_out"] == ["own limit", "no list"]
    assert len(json.dumps(document["sections"]["own limit"], separators=(",", ":"))) <= 2000
    assert [row["n"] for row in document["sections"]["own limit"]] == list(range(18))
    process = parse(encoded(document))
    assert process.document["left_out"] == ["own limit", "no list", "sections"]
    assert process.document["sections"]["short"] == {"a": 1}
    assert [row["n"] for row in process.document["sections"]["long"]] == list(range(19))
    assert process.holders[49].sql == "s" * 300
    process = parse(encoded(document, 20_000))
    assert process.document["left_out"] == ["own limit", "no list", "sections", "sql"]
    assert [each.sql is None for each in process.holders] == [False] * 10 + [True] * 40


def test_a_section_that_fails_is_left_out(sections: None, caplog: pytest.LogCaptureFixture) -> None:
    register_section("good", lambda: [{"a": 1}])
    register_section("silent", lambda: None)
    register_section("raises", lambda: 1 / 0)
    register_section("no json", lambda: math.nan)
    register_section("odd", lambda: {"o": object(), "s": {"set"}})
    for _ in range(3):
        assert snapshot()["sections"] == {"good": [{"a": 1}], "odd": {"o": "<object>", "s": ["set"]}}
    assert len(caplog.records) == 2, "each once a minute"


def test_lines_stay_lines() -> None:
    assert plain({"a\nb": ("x\x1b[0m", None, 1.5, True)}) == {"a\\nb": ["x\\x1b[0m", None, 1.5, True]}


def pool_of(in_use: int, alias: str = "default") -> PoolSnapshot:
    return PoolSnapshot(alias, 1, "transaction", 1, 4, 1, 4, 0, in_use, 0, 0, 2 * in_use)


def test_the_series_is_of_a_quarter_of_an_hour() -> None:
    clock = Clock()
    ring = Ring(5.0, clock)
    for number in range(400):
        ring.sample([pool_of(number % 5)])
        clock.advance(5)
    series = ring.to_json()["series"]
    assert len(series["ago"]) == SPAN / 5
    assert series["ago"][0] <= SPAN
    assert series["ago"][-1] == 5
    assert series["pools"]["default"]["in_use"][-3:] == [2, 3, 4]
    assert series["pools"]["default"]["waiting"][-1] == 8
    clock.advance(SPAN)
    assert ring.to_json()["series"] == {"ago": [], "pools": {}}


def test_between_two_points_the_highest_counts() -> None:
    clock = Clock()
    ring = Ring(0.1, clock)
    for in_use in (1, 4, 2):
        ring.sample([pool_of(in_use), pool_of(in_use, "other")])
        clock.advance(1)
    clock.advance(5)
    ring.sample([pool_of(0)])
    series = ring.to_json()["series"]
    assert series["pools"] == {
        "default": {"in_use": [4, 0], "waiting": [8, 0]},
        "other": {"in_use": [4, None], "waiting": [8, None]},
    }


def test_what_was_missed_is_told_with_the_next() -> None:
    clock = Clock()
    ring = Ring(5.0, clock)
    assert ring.to_json()["missed"] == {"snapshots": 0, "seconds": 0.0, "error": None}
    ring.failed("OperationalError")
    clock.advance(7)
    ring.failed("CircuitOpen")
    assert ring.to_json()["missed"] == {"snapshots": 2, "seconds": 7.0, "error": "CircuitOpen"}
    assert ring.succeeded() is not None
    assert ring.succeeded() is None


def test_settings_are_read() -> None:
    assert FleetConfig.read(None) == FleetConfig(store=None)
    assert FleetConfig.read({"store": "cache", "cache": "shared"}) == FleetConfig(store="cache", cache="shared")
    for raw in ({}, "database", {"store": "redis"}, {"interval": 0}, {"expire": 1e9}, {"using": 7}, {"usin": "a"}):
        with pytest.raises(Rejected):
            FleetConfig.read(raw)
