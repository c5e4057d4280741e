"""What the application does when Django starts."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings

from django_dbpool.apps import DatabasePoolConfig

OURS = "django_dbpool.backends.postgresql"
DERIVED = "tests.derived_engine"
COMPANY = "tests.company.engines.prometheus"


def started_with(monkeypatch: pytest.MonkeyPatch, **database: Any) -> dict[str, Any]:
    """An entry of DATABASES as it is after ready()."""
    config = apps.get_app_config("django_dbpool")
    assert isinstance(config, DatabasePoolConfig)
    monkeypatch.setattr(settings, "DATABASES", {"default": database})
    config.ready()
    return database


@pytest.mark.parametrize("engine", [OURS, DERIVED, COMPANY])
def test_djangos_option_is_adopted(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    """Also for an engine that derives: Celery, for one, looks into the settings before anybody makes a wrapper."""
    if engine == COMPANY:
        pytest.importorskip("django_prometheus")
    entry = started_with(monkeypatch, ENGINE=engine, OPTIONS={"pool": {"max_size": 3}, "sslmode": "require"})
    assert entry["POOL"] == {"max_size": 3}
    assert entry["OPTIONS"] == {"sslmode": "require"}


@pytest.mark.parametrize(
    "engine", ["django.db.backends.postgresql", "django.db.backends.sqlite3", "no.such.engine", "", None, 7]
)
def test_other_engines_keep_theirs(monkeypatch: pytest.MonkeyPatch, engine: object) -> None:
    """And one that can't be imported is Django's to report, where it is used."""
    entry = started_with(monkeypatch, ENGINE=engine, OPTIONS={"pool": True})
    assert entry == {"ENGINE": engine, "OPTIONS": {"pool": True}}


@pytest.mark.parametrize("options", [{}, {"sslmode": "require"}, None, "pool", 7])
def test_engines_are_not_imported_without_need(monkeypatch: pytest.MonkeyPatch, options: object) -> None:
    for name in [name for name in sys.modules if name.startswith(DERIVED)]:
        monkeypatch.delitem(sys.modules, name)
    started_with(monkeypatch, ENGINE=DERIVED, OPTIONS=options)
    assert f"{DERIVED}.base" not in sys.modules
