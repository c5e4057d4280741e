"""POOL: every key, every kind of mistake, all mistakes at once."""

from __future__ import annotations

import dataclasses
import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_dbpool.core.breaker import BreakerPolicy
from django_dbpool.core.config import PoolConfig, Prepare
from django_dbpool.core.groups import GroupLimits
from django_dbpool.core.readers import ConfigError, Fault
from django_dbpool.core.retry import RetryPolicy

DEFAULTS = {
    "enabled": True,
    "mode": "transaction",
    "min_size": 1,
    "max_size": 10,
    "timeout": 10.0,
    "max_waiting": 0,
    "max_lifetime": 3600.0,
    "max_idle": 300.0,
    "connect_timeout": 5.0,
    "keepalives_idle": 30,
    "tcp_user_timeout": 10.0,
    "queue_target": 0.05,
    "queue_interval": 2.0,
    "reserve_size": 1,
    "groups": None,
    "check_idle": 30.0,
    "pooler": None,
    "statement_timeout": None,
    "lock_timeout": None,
    "idle_in_transaction_timeout": None,
    "transaction_timeout": None,
    "command_timeout": None,
    "prepare": None,
    "session": {},
    "reset": "dirty",
    "retry": {"enabled": True, "attempts": 16, "max_delay": 1.0, "total": 4.0, "base_delay": 0.05},
    "breaker": {
        "enabled": True,
        "failure_ratio": 0.5,
        "minimum_throughput": 5,
        "sampling_duration": 30.0,
        "break_duration": 60.0,
        "probe_interval": 0.25,
    },
    "commit_status": False,
    "pin_max": 60.0,
    "leak_after": 60.0,
    "warm": False,
}
POSITIVE_SECONDS = ("timeout", "max_lifetime", "max_idle", "connect_timeout", "queue_interval", "pin_max", "leak_after")
SECONDS = ("tcp_user_timeout", "check_idle")
SERVER_LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_timeout", "transaction_timeout")
LIMITS = (*SERVER_LIMITS, "command_timeout", "queue_target")
COUNTS = ("min_size", "max_waiting", "reserve_size", "keepalives_idle")

GOOD: list[tuple[str, Any, Any]] = [
    ("enabled", False, False),
    ("commit_status", True, True),
    ("warm", True, True),
    ("mode", "session", "session"),
    ("max_size", 1, 1),
    ("max_size", 262_143, 262_143),
    ("keepalives_idle", 32_767, 32_767),
    *((key, None, None) for key in ("pooler", "prepare", *LIMITS)),
    *((key, 1.5, 1.5) for key in LIMITS),
    *((key, 0.001, 0.001) for key in (*SERVER_LIMITS, "tcp_user_timeout")),
    ("pooler", "transaction", "transaction"),
    ("pooler", "session", "session"),
    ("reset", "always", "always"),
    ("retry", False, RetryPolicy(enabled=False)),
    ("retry", {"attempts": 2, "total": 1}, RetryPolicy(attempts=2, total=1.0)),
    ("breaker", True, BreakerPolicy()),
    ("breaker", {"failure_ratio": 1, "probe_interval": None}, BreakerPolicy(failure_ratio=1.0, probe_interval=None)),
    ("prepare", {"after": 0}, Prepare(after=0, max=100)),
    ("prepare", {"after": 2, "max": 10}, Prepare(2, 10)),
    ("groups", {"limits": {"reports/*": 2}}, GroupLimits({"reports/*": 2})),
    ("groups", {"default": 3, "by": "shop.clients.name_of"}, GroupLimits(default=3, by="shop.clients.name_of")),
    ("groups", {"default": 3, "by": len}, GroupLimits(default=3, by=len)),
    ("groups", None, None),
    ("session", {}, {}),
    ("session", {"search_path": ["app", 'o"dd']}, {"search_path": '"app", "o""dd"'}),
    ("session", {"App.Tenant": 7, "b": True, "c": 0.5}, {"app.tenant": "7", "b": "on", "c": "0.5"}),
    ("session", {"app.x": False, "app.y": "ä"}, {"app.x": "off", "app.y": "ä"}),
    *((key, 0, 0) for key in COUNTS),
    *((key, 7, 7) for key in COUNTS),
    *((key, 0.25, 0.25) for key in (*POSITIVE_SECONDS, *SECONDS)),
    *((key, 3, 3.0) for key in (*POSITIVE_SECONDS, *SECONDS)),
    *((key, 0, 0.0) for key in SECONDS),
]
HUGE = int("9" * 400)  # larger than any float
NO_SECONDS = ["5", None, True, math.nan, math.inf, -1, -0.5, [5], HUGE]
NO_COUNT = ["5", None, True, 1.0, -1, (5,)]
NO_PREPARE: list[Any] = [True, 5, {}, [], {"after": -1}, {"max": 0}, {"max": "10"}, {"before": 1}]
NO_VARIABLE: list[Any] = [None, b"x", {}, [1], "\0", "\ud800", math.nan, math.inf, 10**30]
NO_LIMITS: list[Any] = [{}, {"a": 0}, {"a": True}, {"": 1}, {7: 1}, ["a"]]
NO_GROUPS: list[Any] = [
    *({}, True, 3, {"by": "unit"}, {"default": 0}, {"by": "route", "default": 1}, {"by": None, "default": 1}),
    *({"limits": limits} for limits in NO_LIMITS),
]
BAD: list[tuple[str, Any]] = [
    *(("retry", value) for value in ({}, None, 3, {"attempts": 0}, {"atempts": 2}, {"total": "4"}, {"max_delay": 0})),
    *(("breaker", value) for value in ({}, None, "no", {"failure_ratio": 0}, {"failure_ratio": 1.5})),
    *(("breaker", value) for value in ({"minimum_throughput": 1}, {"probe_interval": 0}, {"enabled": 1})),
    *(("groups", value) for value in NO_GROUPS),
    *((key, value) for key in ("enabled", "commit_status", "warm") for value in (1, 0, None, "yes")),
    *(("mode", value) for value in ("Transaction", "", None, True, ["session"], "statement")),
    *((key, value) for key in (*COUNTS, "max_size") for value in NO_COUNT),
    ("max_size", 0),
    *((key, value) for key in (*POSITIVE_SECONDS, *SECONDS) for value in NO_SECONDS),
    *((key, 0) for key in (*POSITIVE_SECONDS, *LIMITS)),
    *((key, value) for key in LIMITS for value in NO_SECONDS if value is not None),
    *((key, 0.0004) for key in (*SERVER_LIMITS, "tcp_user_timeout")),  # would be rounded to 0, no limit
    *((key, 2_147_484) for key in (*SERVER_LIMITS, "tcp_user_timeout")),  # more than 32 bits of milliseconds
    ("max_size", 262_144),
    ("keepalives_idle", 32_768),  # Linux refuses to connect
    *(("pooler", value) for value in ("", "statement", True, ["session"])),
    *(("reset", value) for value in (None, "", "Always", False)),
    *(("prepare", value) for value in NO_PREPARE),
    *(("prepare", {"after": value}) for value in (None, True, 1.5)),
    *(("session", value) for value in (None, "search_path=app", ["search_path"], True)),
    *(("session", {name: "x"}) for name in ("", "a b", "1a", "a.", "a;b", 7, None, b"a", "ä")),
    *(("session", {"a": value}) for value in NO_VARIABLE),
    ("session", {"a": 1, "A": 2}),
]


def faults_of(options: object, **kwargs: Any) -> tuple[Fault, ...]:
    with pytest.raises(ConfigError) as caught:
        PoolConfig.from_mapping(options, **kwargs)
    return caught.value.faults


def test_defaults_are_those_of_the_documentation() -> None:
    assert dataclasses.asdict(PoolConfig()) == DEFAULTS


def test_true_and_false() -> None:
    assert PoolConfig.from_mapping(True) == PoolConfig()
    assert PoolConfig.from_mapping(False) == PoolConfig(enabled=False)


@pytest.mark.parametrize(("key", "value", "read"), GOOD)
def test_good_values(key: str, value: Any, read: Any) -> None:
    config = PoolConfig.from_mapping({key: value})
    assert getattr(config, key) == read
    assert type(getattr(config, key)) is type(read)
    unchanged = dataclasses.asdict(config) | {key: DEFAULTS[key]}
    assert unchanged == DEFAULTS, "nothing else"


def test_every_key_is_tested() -> None:
    untested = ({key for key, *_ in GOOD} ^ set(DEFAULTS)) | ({key for key, _ in BAD} ^ set(DEFAULTS))
    assert not untested


@pytest.mark.parametrize(("key", "value"), BAD, ids=[f"{key}={value!a:.20}" for key, value in BAD])
def test_bad_values(key: str, value: Any) -> None:
    (fault,) = faults_of({key: value})
    assert fault.key == key
    assert fault.id == "dbpool.E001"
    assert fault.message.startswith(f"{key} = {value!r}"[:200])
    assert fault.hint


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("timeout", "10s", "Write 10: a number of seconds, not a string."),
        ("timeout", "500ms", "Write 0.5: a number of seconds, not a string."),
        ("timeout", "2 min", "Write 120: a number of seconds, not a string."),
        ("max_lifetime", "1H", "Write 3600: a number of seconds, not a string."),
        ("timeout", "10", "Write 10: a number of seconds, not a string."),
        ("timeout", "soon", "Write a finite number above 0."),
        ("timeout", timedelta(minutes=1), "Write 60.0, or use timedelta.total_seconds()."),
        ("timeout", 0, "Write a finite number above 0."),
        ("check_idle", -1, "Write a finite number of at least 0."),
        ("statement_timeout", 3_600_000, "Write at most 2147483: seconds, not milliseconds."),
        ("lock_timeout", 0.0001, "Write at least 0.001: shorter times are rounded to 0, which would mean no limit."),
        ("max_size", "20", "Write an integer of at least 1 and at most 262143. Environment variables and URLs give"),
        ("max_waiting", -1, "Write an integer of at least 0."),
        ("pooler", "pgbouncer", 'Write "transaction" (PgBouncer, RDS Proxy'),
        ("prepare", {"after": "2"}, 'Write {"after": 2, "max": 10}'),
        ("prepare", 2, 'Write {"after": 2, "max": 10}'),
        ("session", {"a b": 1}, 'such as "app.tenant"'),
        ("session", {"a": None}, "Write a string, a number"),
    ],
)
def test_the_hint_says_what_to_write(key: str, value: Any, hint: str) -> None:
    (fault,) = faults_of({key: value})
    assert fault.hint.startswith(hint) or hint in fault.hint


def test_an_integer_that_python_refuses_to_print() -> None:
    for options in (
        {"max_size": 10**5000},
        {"timeout": 10**5000},
        {10**5000: 1},
        {"session": {"a": 10**5000}},
        {"session": {10**5000: 1}},
    ):
        (fault,) = faults_of(options)
        assert "<int>" in fault.message or "<dict>" in fault.message


def test_what_was_written_is_shown_in_part() -> None:
    (fault,) = faults_of({"mode": "x" * 10_000})
    assert len(fault.message) < 300


def test_a_value_that_has_no_repr() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    (fault,) = faults_of({"mode": Broken()})
    assert fault.message.startswith("mode = <Broken> ")


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PoolConfig().timeout = 1.0  # type: ignore[misc]


def test_the_default_min_size_is_the_callers_and_never_above_max_size() -> None:
    assert PoolConfig.from_mapping(True, default_min_size=0).min_size == 0
    assert PoolConfig.from_mapping({"max_size": 2}, default_min_size=4).min_size == 2
    assert PoolConfig.from_mapping({"min_size": 3}, default_min_size=0).min_size == 3


def test_min_size_above_max_size() -> None:
    (fault,) = faults_of({"min_size": 3, "max_size": 2})
    assert fault == Fault("min_size", "min_size (3) is above max_size (2).", "Lower min_size or raise max_size.")
    (fault,) = faults_of({"min_size": 11})
    assert fault.message == "min_size (11) is above max_size (10)."


@pytest.mark.parametrize("options", [None, 5, "transaction", ["max_size"], {"max_size"}])
def test_what_is_no_dictionary(options: object) -> None:
    (fault,) = faults_of(options)
    assert fault.message == f"must be a dictionary, not {type(options).__name__}."
    assert "True for the defaults" in fault.hint


def test_an_empty_dictionary_is_refused_as_ambiguous() -> None:
    (fault,) = faults_of({})
    assert fault.message == "is an empty dictionary, which could mean defaults or off."
    assert fault.hint == "Write True for the defaults or False to switch pooling off."


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("MAX_SIZE", "max_size"),
        ("maxsize", "max_size"),
        ("max_sise", "max_size"),
        ("time_out", "timeout"),
        ("max_life", "max_lifetime"),
    ],
)
def test_an_unknown_key_is_told_its_nearest_name(key: str, near: str) -> None:
    assert faults_of({key: 1}) == (Fault(key, f"unknown key {key!r}.", f"Did you mean {near!r}?"),)


def test_an_unknown_key_that_resembles_none_is_told_all_names() -> None:
    (fault,) = faults_of({"xyzzy": 1})
    assert all(key in fault.hint for key in DEFAULTS)
    (fault,) = faults_of({7: 1})
    assert (fault.key, fault.message) == ("7", "unknown key 7.")


def test_ignored_keys_are_skipped_unread() -> None:
    config = PoolConfig.from_mapping({"num_workers": "?", "max_size": 2}, ignored=frozenset({"num_workers"}))
    assert config.max_size == 2
    assert [fault.key for fault in faults_of({"num_workers": 3})] == ["num_workers"]


def test_all_faults_are_reported_together_and_in_the_text() -> None:
    options = {"maxsize": 4, "timeout": "10", "min_size": 20, "mode": "fast"}
    with pytest.raises(ConfigError) as caught:
        PoolConfig.from_mapping(options, where="POOL of x")
    error = caught.value
    assert [fault.key for fault in error.faults] == ["maxsize", "timeout", "mode", "min_size"]
    assert error.where == "POOL of x"
    assert str(error) == "; ".join(f"POOL of x: {fault.message} {fault.hint}" for fault in error.faults)
    assert isinstance(error, ValueError)


def test_a_faulty_max_size_is_not_compared() -> None:
    assert [fault.key for fault in faults_of({"min_size": 20, "max_size": "4"})] == ["max_size"]


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["transaction", "session", "always"]),
    st.lists(st.integers() | st.text(max_size=3), max_size=2),
    st.dictionaries(st.sampled_from(["after", "max", "search_path", "a.b"]), st.integers() | st.text(max_size=3)),
)
mappings = st.dictionaries(st.sampled_from([*DEFAULTS, "", "unknown", "max_siz"]), anything, max_size=6)


@settings(derandomize=True, database=None, max_examples=300)
@given(mappings | anything)
def test_whatever_is_written_is_read_or_refused_with_a_name(options: object) -> None:
    try:
        config = PoolConfig.from_mapping(options)
    except ConfigError as error:
        assert error.faults  # noqa: PT017  # refusing is one of two good outcomes
        assert all(fault.message and fault.hint for fault in error.faults)  # noqa: PT017
    else:
        assert 0 <= config.min_size <= config.max_size >= 1
        for key in POSITIVE_SECONDS:
            assert 0 < getattr(config, key) < math.inf
        # What was read can be written back.
        assert PoolConfig.from_mapping(dataclasses.asdict(config)) == config
        for key in SERVER_LIMITS:
            assert getattr(config, key) is None or round(getattr(config, key) * 1000) >= 1
