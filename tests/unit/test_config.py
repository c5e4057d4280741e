"""POOL: every key, every kind of mistake, all mistakes at once."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_dbpool.core.config import PoolConfig
from django_dbpool.core.readers import ConfigError, Fault

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
    "check_idle": 30.0,
    "pin_max": 60.0,
    "leak_after": 60.0,
}
POSITIVE_SECONDS = ("timeout", "max_lifetime", "max_idle", "connect_timeout", "pin_max", "leak_after")
SECONDS = ("tcp_user_timeout", "check_idle")
COUNTS = ("min_size", "max_waiting", "keepalives_idle")

GOOD: list[tuple[str, Any, Any]] = [
    ("enabled", False, False),
    ("mode", "session", "session"),
    ("max_size", 1, 1),
    *((key, 0, 0) for key in COUNTS),
    *((key, 7, 7) for key in COUNTS),
    *((key, 0.25, 0.25) for key in (*POSITIVE_SECONDS, *SECONDS)),
    *((key, 3, 3.0) for key in (*POSITIVE_SECONDS, *SECONDS)),
    *((key, 0, 0.0) for key in SECONDS),
]
HUGE = int("9" * 400)  # larger than any float
NO_SECONDS = ["5", None, True, math.nan, math.inf, -1, -0.5, [5], HUGE]
NO_COUNT = ["5", None, True, 1.0, -1, (5,)]
BAD: list[tuple[str, Any]] = [
    *(("enabled", value) for value in (1, 0, None, "yes")),
    *(("mode", value) for value in ("Transaction", "", None, True, ["session"], "statement")),
    *((key, value) for key in (*COUNTS, "max_size") for value in NO_COUNT),
    ("max_size", 0),
    *((key, value) for key in (*POSITIVE_SECONDS, *SECONDS) for value in NO_SECONDS),
    *((key, 0) for key in POSITIVE_SECONDS),
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
    assert unchanged == DEFAULTS


def test_every_key_is_tested() -> None:
    assert {key for key, *_ in GOOD} == {key for key, _ in BAD} == set(DEFAULTS)


@pytest.mark.parametrize(("key", "value"), BAD, ids=[f"{key}={value!r:.20}" for key, value in BAD])
def test_bad_values(key: str, value: Any) -> None:
    (fault,) = faults_of({key: value})
    assert fault.key == key
    assert fault.message.startswith(f"{key} = {value!r} ")
    assert fault.hint


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
    [("maxsize", "max_size"), ("max_sise", "max_size"), ("time_out", "timeout"), ("max_life", "max_lifetime")],
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
    st.sampled_from(["transaction", "session"]),
    st.lists(st.integers(), max_size=2),
)
mappings = st.dictionaries(st.sampled_from([*DEFAULTS, "", "unknown", "max_siz"]), anything, max_size=6)


@settings(derandomize=True, deadline=None, database=None, max_examples=300)
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
