"""Whatever is written is accepted or refused by name: the checks and the first use agree."""

from __future__ import annotations

import copy
import string
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.test import override_settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_dbpool import conf
from django_dbpool.core.config import PoolConfig
from django_dbpool.core.project import ProjectConfig
from tests.unit.broken_configurations.rows import OURS
from tests.unit.broken_configurations.running import at_run_time, project_at_run_time

unprintable = st.builds(pow, st.just(10), st.just(5000))  # Python refuses to make a text of it
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, 10**400, 2**31, 2**63]),
    unprintable,
    st.floats(),
    st.text(max_size=6),
    st.text(alphabet=string.ascii_lowercase + "_0123456789. =", max_size=8),
    st.binary(max_size=4),
    st.sampled_from(["transaction", "session", "always", "web", "10s", "true", "\ud800", "\0", 1j, object(), print]),
)
keys = st.one_of(
    st.sampled_from([*PoolConfig.__dataclass_fields__, "after", "max", "search_path", "statement_timeout", "role"]),
    st.text(max_size=4),
    st.integers(),
    st.binary(max_size=3),
    st.none(),
    st.tuples(st.integers()),
    st.floats(),
    unprintable,
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)
option_names = st.sampled_from(
    [
        "pool",
        "options",
        "isolation_level",
        "server_side_binding",
        "prepare_threshold",
        "connect_timeout",
        "keepalives",
        "tcp_user_timeout",
        "assume_role",
        "service",
        "connection_limit",
        "sslmode",
    ]
)
anything_in_options = st.dictionaries(option_names | keys, values, max_size=4) | values
project_keys = st.sampled_from([name.upper() for name in ProjectConfig.__dataclass_fields__])
entries = st.fixed_dictionaries(
    {},
    optional={
        "POOL": st.dictionaries(keys, values, max_size=5) | values,
        "OPTIONS": anything_in_options,
        "CONN_MAX_AGE": values,
        "HOST": values,
        "PORT": values,
        "TIME_ZONE": values,
        "DISABLE_SERVER_SIDE_CURSORS": values,
        "pooling": values,
    },
)
often = hypothesis_settings(
    derandomize=True,
    database=None,
    max_examples=600,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@often
@given(entries)
def test_whatever_an_alias_says_is_accepted_or_refused_by_name(database: dict[str, Any]) -> None:
    """The check and the first use agree, and neither raises anything but ImproperlyConfigured."""
    entry = {"ENGINE": OURS, "NAME": "x", **copy.deepcopy(database)}
    conf.adopt_django_option(entry, "default")
    with pytest.MonkeyPatch.context() as patch, override_settings(DBPOOL={"BUDGET": 5, "THREADS": 3}):
        patch.setattr(settings, "DATABASES", {"x": entry})
        messages = run_checks(tags=["dbpool"])
    assert all(message.msg and message.hint and message.id for message in messages)
    # From E020 on it is the server or libpq that refuses, in its own words.
    errors = {
        f"{message.msg} {message.hint}"
        for message in messages
        if message.is_serious() and str(message.id) < "dbpool.E020"
    }
    if not conf.pooling_enabled(entry):
        return  # stock behaviour: nothing of POOL is used
    refused = at_run_time(database)
    assert bool(refused) is bool(errors)
    if refused and "CONN_MAX_AGE" not in refused:
        assert all(text in refused for text in errors if "CONN_MAX_AGE" not in text)


@often
@given(st.dictionaries(project_keys | keys, values, max_size=5) | values)
def test_whatever_dbpool_says_is_accepted_or_refused_by_name(given_: Any) -> None:
    with pytest.MonkeyPatch.context() as patch, override_settings(DBPOOL=given_, MIDDLEWARE=["a.B"]):
        patch.setattr(settings, "DATABASES", {"x": {"ENGINE": OURS, "NAME": "x"}})
        messages = run_checks(tags=["dbpool"])
    errors = "; ".join(f"{message.msg} {message.hint}" for message in messages if message.is_serious())
    assert (project_at_run_time(given_) or "") == errors
