"""In which database the fleet's table is, where nobody says so."""

from __future__ import annotations

from typing import Any

import pytest

from django_dbpool.conf.fleet import database_of
from django_dbpool.core.fleet import FleetConfig

OURS: dict[str, Any] = {"ENGINE": "django_dbpool.backends.postgresql"}
OFF: dict[str, Any] = {**OURS, "POOL": {"enabled": False}}
OTHER: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3"}


@pytest.mark.parametrize(
    ("databases", "alias"),
    [
        ({"default": OURS, "shop": OURS}, "default"),
        ({"default": OTHER, "shop": OURS}, "shop"),
        ({"default": OFF, "shop": OURS}, "shop"),  # a connection for each snapshot would be opened and closed
        ({"default": OFF}, "default"),
        ({"default": OTHER}, None),
    ],
)
def test_default_if_it_has_a_pool(databases: dict[str, Any], alias: str | None) -> None:
    assert database_of(FleetConfig(), databases) == alias
    assert database_of(FleetConfig(using="audit"), databases) == "audit"
