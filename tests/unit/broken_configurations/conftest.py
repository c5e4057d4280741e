"""What the checks say of a configuration."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.test import override_settings

from django_dbpool import conf
from tests.unit.broken_configurations.rows import OURS
from tests.unit.broken_configurations.running import Check


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Check:
    """What the static checks say of a project whose only database is x."""
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)

    def run(database: dict[str, Any], **others: Any) -> list[CheckMessage]:
        entry = {"ENGINE": OURS, "NAME": "x", **copy.deepcopy(database)}
        conf.adopt_django_option(entry, "default")  # as apps.ready() does
        monkeypatch.setattr(settings, "DATABASES", {"x": entry})
        with override_settings(**({"DBPOOL": {"BUDGET": 1000}} | others)):
            return run_checks(tags=["dbpool"])

    return run
