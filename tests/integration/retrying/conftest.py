"""Databases on which transactions fail, by all engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.app.failing import RAISE
from tests.integration.retrying.work import ENGINES, MakePool, Observer


@pytest.fixture(autouse=True)
def functions(observer: Observer) -> Iterator[None]:
    """raise_for_test() and a table whose rows fail at COMMIT."""
    observer.execute(RAISE)
    yield
    observer.execute("DROP TABLE fails_at_commit")
    observer.execute("DROP FUNCTION raise_at_commit")


@pytest.fixture(params=ENGINES)
def alias(request: pytest.FixtureRequest, make_pool: MakePool) -> str:
    """With the pool in both modes, with the pool switched off, and on Django's own engine."""
    return make_pool(size=2, **ENGINES[request.param])
