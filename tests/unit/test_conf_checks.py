"""Settings of an alias: where they are read, what the system check says, how Django's own key is adopted."""

from __future__ import annotations

import copy
import io
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, registry
from django.core.exceptions import ImproperlyConfigured
from django.core.management import ManagementUtility, call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from django_dbpool import conf
from django_dbpool.checks.pools import check_pools
from django_dbpool.core.config import PoolConfig

ENGINE = "django_dbpool.backends.postgresql"
Configure = Callable[..., list[CheckMessage]]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Adds an alias `x` to the settings and returns what the check says of it."""

    def add(**database: Any) -> list[CheckMessage]:
        monkeypatch.setitem(settings.DATABASES, "x", {"ENGINE": ENGINE, "NAME": "x", **database})
        return check_pools()

    return add


def ids(messages: list[CheckMessage]) -> list[str | None]:
    return [message.id for message in messages]


# -- checks ------------------------------------------------------------------------------------------------


def test_the_check_is_registered_under_its_own_tag() -> None:
    assert check_pools in registry.registry.get_checks()
    assert "dbpool" in registry.registry.tags_available()
    assert check_pools() == [], "the settings of the tests themselves"


def test_e001_has_one_message_per_fault_with_its_hint(configure: Configure) -> None:
    assert configure(POOL={"maxsize": 3, "timeout": 0}) == [
        Error(
            'DATABASES["x"]["POOL"]: unknown key \'maxsize\'.',
            hint="Did you mean 'max_size'?",
            id="dbpool.E001",
        ),
        Error(
            'DATABASES["x"]["POOL"]: timeout = 0 is not a number of seconds.',
            hint="Write a finite number above 0.",
            id="dbpool.E001",
        ),
    ]


def test_e001_for_an_empty_dictionary_and_for_a_wrong_type(configure: Configure) -> None:
    refused: list[object] = [{}, None, 10, "transaction"]
    for pool in refused:
        (message,) = configure(POOL=pool)
        assert (message.id, message.level) == ("dbpool.E001", 40)
        assert message.hint is not None and "True for the defaults" in message.hint


def test_e001_also_while_the_pool_is_switched_off(configure: Configure) -> None:
    assert ids(configure(POOL={"enabled": False, "timout": 1})) == ["dbpool.E001"]


def test_the_check_and_the_first_use_say_the_same(configure: Configure) -> None:
    for database in ({"POOL": {"maxsize": 3, "mode": 1}}, {"OPTIONS": {"pool": {"maxsize": 3}}}):
        adopted: dict[str, Any] = {"NAME": "x", "OPTIONS": {}, **copy.deepcopy(database)}
        conf.adopt_django_option(adopted, "default")
        messages = configure(**adopted)
        with pytest.raises(ImproperlyConfigured) as caught:
            conf.pool_config(adopted, "x")
        assert str(caught.value) == "; ".join(f"{message.msg} {message.hint}" for message in messages)


@pytest.mark.parametrize("age", [None, 60, -1])
def test_e002_for_persistent_connections_with_a_pool(configure: Configure, age: int | None) -> None:
    for entry in ({}, {"POOL": True}, {"POOL": {"max_size": 3}}):
        assert configure(CONN_MAX_AGE=age, **entry) == [
            Error(
                f'DATABASES["x"]: CONN_MAX_AGE = {age!r}. Pooling doesn\'t support persistent connections.',
                hint=conf.CONN_MAX_AGE_HINT,
                id="dbpool.E002",
            )
        ]
    for stock in ({"POOL": False}, {"POOL": {"enabled": False}}, {"OPTIONS": {"pool": False}}):
        assert configure(CONN_MAX_AGE=age, **stock) == []


def test_e002_names_the_way_out() -> None:
    assert "max_lifetime" in conf.CONN_MAX_AGE_HINT
    assert "POOL = {'enabled': False}" in conf.CONN_MAX_AGE_HINT


def test_other_engines_are_nobody_elses_business(configure: Configure) -> None:
    for engine in ("django.db.backends.postgresql", "django.db.backends.sqlite3", "no.such.engine", "", None):
        assert configure(ENGINE=engine, CONN_MAX_AGE=60, POOL={"nonsense": 1}) == []


def test_an_engine_that_derives_from_ours_is_checked(configure: Configure) -> None:
    assert ids(configure(ENGINE="tests.derived_engine", POOL={"nonsense": 1})) == ["dbpool.E001"]
    assert configure(ENGINE="tests.derived_engine", OPTIONS={"of_its_own": 1}) == []
    assert ids(configure(ENGINE="tests.derived_engine", OPTIONS={"connection_limit": 1})) == ["dbpool.E005"]


def test_manage_py_check_fails_and_shows_message_hint_and_id(configure: Configure) -> None:
    configure(POOL={"max_size": "ten"}, CONN_MAX_AGE=5)
    with pytest.raises(SystemCheckError) as caught:
        call_command("check")
    text = str(caught.value)
    assert '(dbpool.E001) DATABASES["x"]["POOL"]: max_size = \'ten\' is not a whole number in range.' in text
    assert "HINT: Write an integer of at least 1 and at most 262143." in text
    assert "dbpool.E002" not in text, "one thing after the other"


@pytest.mark.parametrize("tag", [[], ["--tag", "dbpool"]])
def test_manage_py_check_from_its_command_line(
    configure: Configure, tag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    utility = ManagementUtility(["manage.py", "check", *tag])
    utility.execute()
    assert "no issues" in capsys.readouterr().out
    configure(POOL={})
    with pytest.raises(SystemExit) as caught:
        utility.execute()
    assert caught.value.code == 1
    assert re.search(r"dbpool\.E001.*empty dictionary", capsys.readouterr().err)


def test_checks_need_no_server(configure: Configure) -> None:
    configure(HOST="192.0.2.1", POOL={"max_size": 3})
    call_command("check", "--tag", "dbpool", stdout=io.StringIO())


# -- OPTIONS["pool"] ---------------------------------------------------------------------------------------


def adopted(**database: Any) -> dict[str, Any]:
    conf.adopt_django_option(database, "default")
    return database


@pytest.mark.parametrize("value", [True, {"max_size": 3}, {"min_size": 2, "max_size": 4, "timeout": 1}])
def test_djangos_option_is_moved_so_that_only_engine_changes(value: Any) -> None:
    database = adopted(NAME="x", OPTIONS={"pool": value, "sslmode": "disable"})
    assert database == {
        "NAME": "x",
        "OPTIONS": {"sslmode": "disable"},
        "POOL": value,
        "POOL_FROM_OPTIONS": True,
    }
    assert conf.pooling_enabled(database)
    assert conf.pool_config(database, "x") == PoolConfig.from_mapping(value)
    assert adopted(**database) == database, "again, at the next wrapper"


@pytest.mark.parametrize("value", [False, None])
def test_a_switched_off_pool_stays_djangos_and_means_stock(value: Any) -> None:
    database: dict[str, Any] = {"NAME": "x", "OPTIONS": {"pool": value}, "POOL": {"max_size": 3}}
    assert adopted(**copy.deepcopy(database)) == database
    assert not conf.pooling_enabled(database)


@pytest.mark.parametrize("options", [{}, {"OPTIONS": None}, {"OPTIONS": {}}, {"OPTIONS": {"sslmode": "x"}}])
def test_without_djangos_option_nothing_changes(options: dict[str, Any]) -> None:
    assert adopted(NAME="x", **copy.deepcopy(options)) == {"NAME": "x", **options}


def test_with_both_keys_options_wins_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "django_dbpool.conf"):
        database = adopted(NAME="shop", OPTIONS={"pool": {"max_size": 3}}, POOL={"max_size": 9})
    assert database["POOL"] == {"max_size": 3}
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("django_dbpool.conf", logging.WARNING)
    assert record.getMessage() == (
        'DATABASES["default"] has both OPTIONS["pool"] and POOL; OPTIONS["pool"] is used. Keep only POOL.'
    )


@pytest.mark.parametrize("key", sorted(conf.INHERITED_OPTIONS))
def test_options_of_psycopg_pool_without_a_counterpart_are_accepted_there_only(key: str) -> None:
    database = adopted(NAME="x", OPTIONS={"pool": {key: object(), "max_size": 3}})
    assert conf.pool_config(database, "x").max_size == 3
    with pytest.raises(ImproperlyConfigured, match=f"unknown key '{key}'"):
        conf.pool_config({"POOL": {key: 1}, "OPTIONS": {}}, "x")


def test_a_fault_in_djangos_option_is_reported_under_its_own_name() -> None:
    database = adopted(NAME="x", OPTIONS={"pool": {"maxsize": 3}})
    with pytest.raises(ImproperlyConfigured, match=re.escape('DATABASES["x"]["OPTIONS"]["pool"]: unknown')):
        conf.pool_config(database, "x")


def test_the_settings_are_adopted_when_the_app_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery looks for the key in the settings, not in a wrapper."""
    ours = {"ENGINE": ENGINE, "NAME": "x", "OPTIONS": {"pool": True}}
    stock = {"ENGINE": "django.db.backends.postgresql", "NAME": "x", "OPTIONS": {"pool": True}}
    monkeypatch.setitem(settings.DATABASES, "ours", ours)
    monkeypatch.setitem(settings.DATABASES, "stock", stock)
    apps.get_app_config("django_dbpool").ready()
    assert "pool" not in ours["OPTIONS"]
    assert stock["OPTIONS"] == {"pool": True}


# -- switches and defaults ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("database", "enabled"),
    [
        ({}, True),
        ({"POOL": True}, True),
        ({"POOL": {"max_size": 2}}, True),
        ({"POOL": {"enabled": True}}, True),
        ({"POOL": {"enabled": False, "max_size": 2}}, False),
        ({"POOL": False}, False),
        ({"POOL": {}}, True),  # refused with a message when read, not silently switched off
    ],
)
def test_pooling_enabled(database: dict[str, Any], enabled: bool) -> None:
    assert conf.pooling_enabled({"OPTIONS": {}, **database}) is enabled


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["manage.py", "runserver"], 0),
        (["/srv/app/manage.py", "migrate"], 0),
        (["/usr/bin/django-admin", "shell"], 0),
        (["django-admin.py"], 0),
        (["/usr/bin/gunicorn"], 1),
        (["celery"], 1),
        (["-c"], 1),
        ([], 1),
    ],
)
def test_default_min_size(argv: list[str], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", argv)
    assert conf.default_min_size() == expected
    assert conf.pool_config({"POOL": True}, "x").min_size == expected
    assert conf.pool_config({"POOL": {"min_size": 2}}, "x").min_size == 2


def test_dbpool_may_be_missing() -> None:
    """Most projects have none."""
    with override_settings():
        del settings.DBPOOL
        assert not any("DBPOOL" in message.msg for message in registry.run_checks(tags=["dbpool"]))
