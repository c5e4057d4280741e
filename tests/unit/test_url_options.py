"""Parameters of pools in database URLs, as dj-database-url and django-environ really pass them on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import dj_database_url
import environ  # type: ignore[import-untyped]
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from hypothesis import given, settings
from hypothesis import strategies as st

from django_dbpool import conf
from django_dbpool.conf import from_url_options
from django_dbpool.core.config import PoolConfig
from testproject.postgres import Server

ENGINE = "django_dbpool.backends.postgresql"
BASE = "postgres://shop:secret@db.internal:5432/shop"


def by_dj_database_url(url: str) -> dict[str, Any]:
    return dict(dj_database_url.parse(url, engine=ENGINE))


def by_environ(url: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        return dict(environ.Env.db_url_config(url, engine=ENGINE))


@pytest.fixture(params=[by_dj_database_url, by_environ], ids=["dj-database-url", "django-environ"])
def parse(request: pytest.FixtureRequest) -> Callable[[str], dict[str, Any]]:
    parser: Callable[[str], dict[str, Any]] = request.param
    return parser


Parse = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize(
    ("query", "pool", "options"),
    [
        ("connection_limit=20", {"max_size": 20}, {}),
        ("pool_timeout=20", {"timeout": 20}, {}),
        ("pool_timeout=2.5", {"timeout": 2.5}, {}),
        ("pgbouncer=true", {"pooler": "transaction"}, {}),
        ("pgbouncer=1", {"pooler": "transaction"}, {}),
        ("pgbouncer=false", None, {}),
        (
            "connection_limit=20&pool_timeout=20&pgbouncer=true&sslmode=require&connect_timeout=5",
            {"max_size": 20, "timeout": 20, "pooler": "transaction"},
            {"sslmode": "require", "connect_timeout": 5},
        ),
        ("connect_timeout=2.5", None, {"connect_timeout": 2.5}),
        ("server_side_binding=true&prepare_threshold=3", None, {"server_side_binding": True, "prepare_threshold": 3}),
        ("server_side_binding=false", None, {"server_side_binding": False}),
        ("pool=true", None, {"pool": True}),
        ("application_name=shop&options=-c%20work_mem%3D5MB", None, None),
        ("xyzzy=1", None, {"xyzzy": 1}),
    ],
)
def test_parameters_of_pools_are_moved(
    parse: Parse, query: str, pool: dict[str, Any] | None, options: dict[str, Any] | None
) -> None:
    parsed = parse(f"{BASE}?{query}")
    before = copy.deepcopy(parsed)
    entry = from_url_options(parsed)
    assert parsed == before, "the argument isn't changed"
    assert entry.get("POOL") == pool
    assert entry["OPTIONS"] == (before["OPTIONS"] if options is None else options)
    others = set(entry) - {"POOL", "OPTIONS"}
    assert {key: entry[key] for key in others} == {key: before[key] for key in others}
    assert from_url_options(entry) == entry, "again"
    if pool:
        PoolConfig.from_mapping(entry["POOL"])


@pytest.mark.parametrize("query", ["", "?sslmode=require"])
def test_without_them_nothing_changes(parse: Parse, query: str) -> None:
    parsed = parse(BASE + query)
    assert from_url_options(parsed) == parsed


def test_no_url_at_all() -> None:
    assert from_url_options({}) == {}


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("connection_limit=many", "database URL: connection_limit = 'many' is not one number. Write it once"),
        ("connection_limit=0", "database URL: connection_limit = 0 is not a whole number in range. Write an integer"),
        ("connection_limit=2.5", "connection_limit = 2.5 is not a whole number in range."),
        ("connection_limit=-1", "connection_limit = -1 is not a whole number in range."),
        ("pool_timeout=0", "pool_timeout = 0 is not a number of seconds. Write a finite number above 0."),
        ("pool_timeout=10s", "pool_timeout = '10s' is not one number."),
        ("pool_timeout=nan", "pool_timeout = nan is not a number of seconds."),
        ("pgbouncer=yes", "pgbouncer = 'yes' is neither true nor false. Write pgbouncer=true."),
        ("pgbouncer=2", "pgbouncer = 2 is neither true nor false."),
        ("server_side_binding=on", "server_side_binding = 'on' is neither true nor false."),
        ("pool=maybe", "pool = 'maybe' is neither true nor false."),
        ("connect_timeout=soon", "connect_timeout = 'soon' is not one number."),
    ],
)
def test_what_can_not_be_used_is_named(parse: Parse, query: str, text: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        from_url_options(parse(f"{BASE}?{query}"))
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


def test_all_of_them_are_named_at_once(parse: Parse) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"connection_limit = 0 .*; .*pgbouncer = 'x' "):
        from_url_options(parse(f"{BASE}?connection_limit=0&pgbouncer=x"))


def test_what_is_given_twice_is_refused() -> None:
    """dj-database-url makes a list of it; django-environ takes the first."""
    with pytest.raises(ImproperlyConfigured, match=r"connection_limit = \[5, 6\] is not one number"):
        from_url_options(by_dj_database_url(f"{BASE}?connection_limit=5&connection_limit=6"))


@pytest.mark.parametrize(
    ("pool", "merged"),
    [
        (True, {"max_size": 20}),
        (False, {"enabled": False, "max_size": 20}),
        ({"max_size": 5, "timeout": 3}, {"max_size": 20, "timeout": 3}),
    ],
)
def test_the_url_wins_over_the_code_and_the_kill_switch_over_the_url(parse: Parse, pool: Any, merged: Any) -> None:
    entry = from_url_options({**parse(f"{BASE}?connection_limit=20"), "POOL": pool})
    assert entry["POOL"] == merged
    assert conf.pooling_enabled(entry) is (pool is not False)


@pytest.mark.parametrize("pool", [None, 5, "on", []])
def test_a_pool_that_is_no_dictionary_is_not_repaired(parse: Parse, pool: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="POOL must be a dictionary"):
        from_url_options({**parse(f"{BASE}?connection_limit=20"), "POOL": pool})
    assert from_url_options({**parse(BASE), "POOL": pool}).get("POOL", "kept") == pool, "nothing to merge: E001 says so"


def test_without_the_helper_the_first_use_names_it(parse: Parse) -> None:
    entry = parse(f"{BASE}?connection_limit=20")
    with pytest.raises(ImproperlyConfigured, match=r"connection_limit is no connection option.*from_url_options\(\)"):
        conf.pool_config(entry, "x")


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["true", "9" * 5000, "1e999", "nan", b"1", {}, [1, 2]]),
    st.builds(pow, st.just(10), st.just(5000)),
)
names = st.sampled_from(
    ["connection_limit", "pool_timeout", "pgbouncer", "server_side_binding", "pool", "connect_timeout", "sslmode"]
)


@settings(derandomize=True, database=None, max_examples=400)
@given(st.dictionaries(names, anything, max_size=4) | anything, anything)
def test_whatever_the_options_are_they_are_read_or_refused_by_name(options: Any, pool: Any) -> None:
    try:
        entry = from_url_options({"ENGINE": ENGINE, "NAME": "x", "OPTIONS": options, "POOL": pool})
    except ImproperlyConfigured as error:
        assert str(error).startswith("database URL: ")  # noqa: PT017  # refusing is one of two good outcomes
    else:
        left = entry["OPTIONS"] if isinstance(entry["OPTIONS"], dict) else {}
        assert not {"connection_limit", "pool_timeout", "pgbouncer"} & set(left)


@pytest.mark.django_db(transaction=True)
def test_a_url_as_far_as_a_query(parse: Parse, session_server: Server, make_alias: Callable[..., str]) -> None:
    secret = f":{session_server.password}" if session_server.password else ""
    url = (
        f"postgres://{session_server.user}{secret}@{session_server.host}:{session_server.port}/{session_server.dbname}"
        "?connection_limit=3&pool_timeout=7&connect_timeout=5&server_side_binding=true&application_name=by_url"
    )
    alias = make_alias(**from_url_options(parse(url)))
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT current_setting('application_name')")
        assert cursor.fetchone() == ("by_url",)
    pool = connections[alias].pool
    assert (pool.config.max_size, pool.config.timeout) == (3, 7.0)
