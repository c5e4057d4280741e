"""What is no mistake, and is not reported as one."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.test import override_settings

from django_dbpool.core.project import ProjectConfig
from tests.unit.broken_configurations import rows
from tests.unit.broken_configurations.rows import BOUND, FIRST, OURS, SHARED, not_a_function
from tests.unit.broken_configurations.running import Check

FINE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"DBPOOL": {}}),
    ({"POOL": True}, {"DBPOOL": {}}),
    ({"POOL": False, "CONN_MAX_AGE": 600}, {"DBPOOL": {}}),
    ({"POOL": {"enabled": False, "max_size": 2, "prepare": {"after": 2}}}, {"DBPOOL": {}}),
    ({"OPTIONS": {"pool": True}}, {}),
    ({"OPTIONS": {"pool": {"max_size": 12, "num_workers": 3}}}, {}),
    ({"OPTIONS": {"pool": False}, "POOL": False}, {}),
    ({"OPTIONS": {"sslmode": "require", "application_name": "x", "connect_timeout": "5", "service": "x"}}, {}),
    ({"OPTIONS": {"isolation_level": 4, "assume_role": "x", "prepare_threshold": None, "keepalives": 1}}, {}),
    ({"POOL": {"timeout": 2}}, {}),  # connect_timeout stays at its default of 5
    ({"POOL": {"connect_timeout": 3}, "OPTIONS": {"connect_timeout": "3"}}, {}),
    ({"POOL": {"tcp_user_timeout": 3}, "OPTIONS": {"tcp_user_timeout": 3000}}, {}),
    ({"POOL": {"keepalives_idle": 0, "tcp_user_timeout": 0}, "OPTIONS": {"keepalives": 0}}, {}),
    (
        {
            "POOL": {
                "lock_timeout": 2,
                "statement_timeout": 5,
                "idle_in_transaction_timeout": 9,
                "transaction_timeout": 10,
                "command_timeout": 6,
            }
        },
        {},
    ),
    ({"POOL": {"statement_timeout": 1800, "max_lifetime": 604_800}}, {}),
    ({"POOL": {"statement_timeout": 5}, "OPTIONS": {"options": "-c statement_timeout_x=1 -c work_mem=4MB"}}, {}),
    ({"POOL": {"prepare": {"after": 2}}, **BOUND}, {}),
    ({"POOL": {"prepare": {"after": 2}, "pooler": "session"}, **BOUND}, {}),
    ({"POOL": {"pooler": "transaction", "max_size": 2}, **SHARED}, {"DBPOOL": {}}),
    (
        {"POOL": {"session": {"search_path": ["a"], "statement_timeout": "5s", "default_transaction_read_only": True}}},
        {},
    ),
    ({"POOL": {"max_size": 2}}, {"DBPOOL": {"BUDGET": 20}}),
    ({"POOL": {"max_size": 2}}, {"DBPOOL": {"ROLE": "worker"}}),
    ({"POOL": {"max_size": 2}}, {"DBPOOL": {"THREADS": 2}}),
    ({"POOL": {"max_size": 2}}, {"DBPOOL": {}, "DEBUG": True}),
    ({"POOL": {"max_size": 16, "mode": "session"}}, {"DBPOOL": {"THREADS": 16}}),
    ({"POOL": {"max_size": 10}}, {"DBPOOL": {"THREADS": 64}}),  # transaction mode shares
    ({}, {"DBPOOL": {"PROCESSES": 4, "BUDGET": 44, "WORKER_TIMEOUT": 30}}),
    ({}, {"DBPOOL": {"ROLE": "worker"}, "MIDDLEWARE": ["a.B"]}),
    ({}, {"DBPOOL": {}, "MIDDLEWARE": [FIRST, "a.B"]}),
    ({}, {"DBPOOL": {}, "MIDDLEWARE": []}),
    ({}, {"DBPOOL": {"FLEET": None}}),
    ({}, {"DBPOOL": {"FLEET": {"using": "x", "interval": 1, "expire": 2}}}),
    ({"POOL": {"reserve_size": 0}}, {"DBPOOL": {"FLEET": {"store": None}}}),
    ({}, {"DBPOOL": {"READINESS": {"aliases": ["x"], "longest_wait": 9}}}),
    ({"POOL": {"timeout": 20}}, {"DBPOOL": {"READINESS": {"aliases": [], "longest_wait": 30}}}),
    (
        {},
        {
            "DBPOOL": {"FLEET": {"store": "cache"}},
            "CACHES": {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache"}},
        },
    ),
    ({}, {"DBPOOL": {"SESSION_FROM_REQUEST": f"{rows.__name__}.not_a_function"}}),
    ({}, {"DBPOOL": {"SESSION_FROM_REQUEST": not_a_function, "RAW_ACCESS": "error"}}),
]


@pytest.mark.parametrize(("database", "others"), FINE, ids=range(len(FINE)))
def test_what_is_no_mistake_is_not_reported(database: dict[str, Any], others: dict[str, Any], check: Check) -> None:
    assert check(database, **others) == []


def test_web_concurrency_counts_where_processes_is_not_set(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    for hint, project_, taken in (("4", {}, 44), ("4", {"PROCESSES": 6}, 66), ("4", {"ROLE": "worker"}, None)):
        monkeypatch.undo()
        monkeypatch.setenv("WEB_CONCURRENCY", hint)
        monkeypatch.setattr(settings, "DATABASES", {"x": {"ENGINE": OURS, "NAME": "x"}})
        with override_settings(DBPOOL={"BUDGET": 11, **project_}):
            texts = [message.msg for message in run_checks(tags=["dbpool"])]
        assert [f"may take {taken} connections" in text for text in texts] == ([True] if taken else [])


@pytest.mark.parametrize("hint", ["", "auto", "-1", "0", "4.5", "٤", "9" * 50])
def test_a_web_concurrency_that_says_nothing_counts_as_one_process(hint: str) -> None:
    assert ProjectConfig().process_count({"WEB_CONCURRENCY": hint}) == (1, "")


def test_the_budget_is_of_one_server(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def databases(*hosts: str) -> dict[str, Any]:
        entry = {
            "ENGINE": OURS,
            "NAME": "x",
            "PORT": 5432,
            "OPTIONS": {"sslmode": "verify-full", "sslrootcert": "system"},
        }
        return {f"d{i}": {**entry, "HOST": host} for i, host in enumerate(hosts)}

    for hosts, over in ((["a", "b"], 0), (["a", "a"], 1), (["a", "b", "a", "b"], 2)):
        monkeypatch.setattr(settings, "DATABASES", databases(*hosts))
        with override_settings(DBPOOL={"BUDGET": 15}):
            assert [message.id for message in run_checks(tags=["dbpool"])] == ["dbpool.W010"] * over
