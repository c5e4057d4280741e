"""
Broken configurations, each with the check that names it. What is refused is refused at run time with the same text,
and nothing is repaired in silence or ends in a bare TypeError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from django_dbpool.conf.packages import faults_of_packages
from tests.unit.broken_configurations.rows import TABLE, Broken
from tests.unit.broken_configurations.running import Check, at_run_time, project_at_run_time

FLEET_ERRORS = {26, 27, 28}
TOKEN_ERRORS = {34, 35}
FLEET_WARNINGS = {36, 37, 38}
READINESS_ERRORS = {36}
READINESS_WARNINGS = {46}
TOKEN_WARNINGS = {44, 45}


def numbered(rows: list[Broken]) -> list[Any]:
    return [pytest.param(row, id=f"{number} {row.check} {row.text}") for number, row in enumerate(rows, 1)]


def test_the_table_is_long_and_names_each_check_that_settings_can_show() -> None:
    assert len(TABLE) >= 100
    assert len({(row.check, row.text, row.hint) for row in TABLE}) >= 95
    in_table = {row.check for row in TABLE} | {"dbpool.W003", "dbpool.E007"}  # these two below
    assert {int(check[-3:]) for check in in_table if check[7] == "E"} == {
        *range(1, 16),
        *FLEET_ERRORS,
        32,
        33,
        *READINESS_ERRORS,
        *TOKEN_ERRORS,
    }
    assert {int(check[-3:]) for check in in_table if check[7] == "W"} == {
        *range(1, 9),
        *range(10, 20),
        24,
        33,
        *FLEET_WARNINGS,
        39,
        43,
        *READINESS_WARNINGS,
        *TOKEN_WARNINGS,
    }


@pytest.mark.parametrize("row", numbered(TABLE))
def test_each_is_named_with_its_check_text_and_hint(row: Broken, check: Check) -> None:
    messages = check(row.database, **row.settings)
    (found,) = [message for message in messages if message.id == row.check and row.text in message.msg]
    assert row.hint in str(found.hint)
    assert found.is_serious() is row.check.startswith("dbpool.E")
    also = {"dbpool.W003"} if row.check == "dbpool.W002" else set()
    assert {message.id for message in messages} <= {row.check} | also, "and nothing that isn't there"


@pytest.mark.parametrize("row", numbered([row for row in TABLE if not row.settings]))
def test_an_error_in_an_alias_is_refused_at_run_time_with_the_same_text(row: Broken, check: Check) -> None:
    errors = [message for message in check(row.database) if message.is_serious()]
    said = "; ".join(f"{message.msg} {message.hint}" for message in errors)
    if row.database.get("ENGINE"):
        return
    assert (at_run_time(row.database) or "") == said
    assert bool(errors) is row.check.startswith("dbpool.E")


@pytest.mark.parametrize("row", numbered([row for row in TABLE if "DBPOOL" in row.settings]))
def test_an_error_in_dbpool_is_refused_at_run_time_with_the_same_text(row: Broken, check: Check) -> None:
    errors = [message for message in check(row.database, **row.settings) if message.is_serious()]
    said = "; ".join(f"{message.msg} {message.hint}" for message in errors)
    assert (project_at_run_time(row.settings["DBPOOL"]) or "") == said


def test_all_faults_of_an_alias_are_told_at_once(check: Check) -> None:
    database = {"POOL": {"prepare": {"after": 2}, "session": {"role": "x"}}, "OPTIONS": {"xyzzy": 1}}
    messages = check(database)
    assert sorted(str(message.id) for message in messages) == ["dbpool.E005", "dbpool.E008", "dbpool.E010"]
    assert all(message.msg in str(at_run_time(database)) for message in messages)


def test_an_app_that_nobody_uses(check: Check) -> None:
    (message,) = check({"ENGINE": "django.db.backends.sqlite3"})
    assert (message.id, "remove the app" in str(message.hint)) == ("dbpool.W003", True)


@pytest.mark.parametrize(
    ("versions", "text"),
    [
        ({}, "psycopg 3.2 or later is needed and isn't installed."),
        ({"psycopg2": "2.9.10"}, "psycopg2 is: it has no pool that could be used."),
        ({"psycopg2-binary": "2.9.10"}, "psycopg2 is: it has no pool that could be used."),
        ({"psycopg": "3.1.20", "psycopg_pool": "3.3.3"}, "psycopg 3.2 or later is needed, 3.1.20 is installed."),
        ({"psycopg": "3.2"}, "psycopg_pool 3.3.3 or later is needed and isn't installed."),
        ({"psycopg": "3.3.9", "psycopg_pool": "3.3.2"}, "psycopg_pool 3.3.3 or later is needed, 3.3.2 is installed."),
    ],
)
def test_packages_that_are_missing_or_old(versions: dict[str, str], text: str) -> None:
    (fault, *_) = faults_of_packages(versions.get)
    assert (fault.id, fault.where) == ("dbpool.E007", "django_dbpool")
    assert text in fault.message
    assert "pip install" in fault.hint


@pytest.mark.parametrize("version", ["3.3.3", "3.3.3.post1", "3.4.0.dev1", "3.10", "4.0"])
def test_packages_that_are_new_enough(version: str) -> None:
    assert faults_of_packages(lambda _: version) == []


def test_the_first_query_refuses_with_the_text_of_the_check(
    check: Check, make_alias: Callable[..., str], django_db_blocker: Any
) -> None:
    """The same on the way that a query takes."""
    alias = make_alias(POOL={"prepare": {"after": 2}}, OPTIONS={"connection_limit": 20})
    (unknown, unbound) = check({"POOL": {"prepare": {"after": 2}}, "OPTIONS": {"connection_limit": 20}})
    with pytest.raises(ImproperlyConfigured) as caught:
        connections[alias].cursor()
    for message in (unknown, unbound):
        assert f"{message.msg} {message.hint}".replace('["x"]', f'["{alias}"]') in str(caught.value)
