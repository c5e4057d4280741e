"""Engines that derive from ours, with the packages they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import ProgrammingError, connections, transaction
from prometheus_client import REGISTRY

from django_dbpool.errors import DatabaseUnavailable
from tests.company.conftest import Project
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import backend, in_use, size, value
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.ci

PROMETHEUS = "tests.company.engines.prometheus"
SMALL = {"max_size": 2, "min_size": 0, "timeout": 2}


def metric(name: str, alias: str, **labels: str) -> float:
    found = REGISTRY.get_sample_value(f"django_db_{name}_total", {"alias": alias, "vendor": "postgresql", **labels})
    return found or 0.0


class TestPrometheus:
    def test_statements_and_errors_are_counted_once(self, make_alias: MakeAlias, tested_with: Any) -> None:
        tested_with("django-prometheus")
        alias = make_alias(ENGINE=PROMETHEUS, POOL=SMALL)
        for _ in range(5):
            assert value(alias, "SELECT 1") == 1
        with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
            cursor.execute("CREATE TABLE counted (n int)")
            cursor.executemany("INSERT INTO counted VALUES (%s)", [[1], [2], [3]])
            with pytest.raises(ProgrammingError), transaction.atomic(using=alias):
                cursor.execute("SELECT nothing FROM counted")
            cursor.execute("DROP TABLE counted")
        # atomic() inside another sends SAVEPOINT and ROLLBACK TO, RELEASE, on cursors of Django's.
        assert metric("execute", alias) == 5 + 1 + 3 + 1 + 1 + 3
        assert metric("execute_many", alias) == 3
        assert metric("errors", alias, type="UndefinedColumn") == 1
        seconds = {"alias": alias, "vendor": "postgresql"}
        assert REGISTRY.get_sample_value("django_db_query_duration_seconds_count", seconds) == 5 + 1 + 1 + 1 + 1 + 3
        assert in_use(alias) == 0

    def test_connections_are_counted_when_made_not_when_lent(
        self, make_alias: MakeAlias, make_worker: Callable[[], Worker]
    ) -> None:
        alias = make_alias(ENGINE=PROMETHEUS, POOL=SMALL)
        worker = make_worker()
        for _ in range(4):
            backend(alias)
        with transaction.atomic(using=alias):
            backend(alias)
            worker(backend, alias)
        assert metric("new_connections", alias) == size(alias) == 2

    def test_failed_connections_are_counted(self, make_alias: MakeAlias) -> None:
        alias = make_alias(ENGINE=PROMETHEUS, NAME="there_is_no_such_database", POOL=SMALL)
        with pytest.raises(DatabaseUnavailable):
            value(alias, "SELECT 1")
        made = metric("new_connections", alias)
        assert made >= 1
        assert metric("new_connection_errors", alias) == made


def test_tenants_see_their_own_rows(project: Project, tested_with: Any) -> None:
    """Requests of six threads for three tenants on two connections."""
    tested_with("django-tenants")
    found = project.scenario("tenants_settings", "tenants")
    assert found["foreign"] == []
    assert found["rolled_back"]
    assert found["counts"] == [1 + added for added in found["added"]]
    assert found["pins"] == []
    assert found["size"] == 2
    assert found["leases_left"] == 0


def test_psqlextra_upserts_and_partitions(project: Project, python_for_psqlextra: str) -> None:
    project.python = python_for_psqlextra
    found = project.scenario("psqlextra_settings", "psqlextra")
    assert found["counters"] == ["c0", "c1", "c2", "once"]
    assert found["found"] == {"partitions_measurement_m1": 10, "partitions_measurement_m2": 1}
    print(f"tested with {found['versions']}")
    assert found["key"] == ["at"]
    assert found["names"] == ["m1", "m2"]
    assert found["pins"] == []
    assert found["size"] <= 2
    assert found["leases_left"] == 0
