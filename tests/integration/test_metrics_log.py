"""Numbers of real pools, by themselves, in the log."""

from __future__ import annotations

import json
import logging

import pytest
from django.db import connections
from django.test import override_settings

from django_dbpool import metrics_log
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import execute


def test_settings_are_all_it_takes(
    make_alias: MakeAlias, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_log, "SHORTEST", 0.0)
    alias = make_alias(POOL={"max_size": 3})
    caplog.set_level(logging.INFO, "django_dbpool.metrics")

    def told() -> dict[str, int]:
        """Of all blocks together."""
        found = [
            json.loads(record.getMessage())
            for record in tuple(caplog.records)
            if record.name == metrics_log.logger.name
        ]
        return {name: sum(each[name] for each in found if each["alias"] == alias) for name in ("leases", "opened")}

    with override_settings(DBPOOL={"LOG_INTERVAL": 0.05, "LOG_FORMAT": "json"}):
        for _ in range(5):
            execute(alias, "SELECT 1")
        assert wait_until(lambda: told() == {"leases": 5, "opened": 1}, PATIENCE), told()
        connections[alias].close_pool()
        assert wait_until(lambda: 'closed": 1' in caplog.text, PATIENCE)
    assert metrics_log.JOB not in metrics_log.reporter._jobs
