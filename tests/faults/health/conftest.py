"""No probe outlives its test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_dbpool.health import readiness
from django_dbpool.pool import probing
from testproject.processes import wait_until
from tests.faults.health.probes import probe_threads
from tests.faults.helpers import PATIENCE


@pytest.fixture(autouse=True)
def closed_probes() -> Iterator[None]:
    """Every probe of a test ends with it."""
    yield
    probing.close(timeout=PATIENCE)
    readiness._warmed.clear()
    assert wait_until(lambda: not probe_threads(), PATIENCE), probe_threads()
