"""The site, on a database with and without a transaction for each request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings

from tests.app import failing
from tests.integration.replay.site import MakePool, Observer, Site, site


@pytest.fixture(autouse=True)
def setting(observer: Observer) -> Iterator[Site]:
    site.__init__()  # type: ignore[misc]
    observer.execute(failing.RAISE)
    middleware = ["django_dbpool.middleware.DatabasePoolMiddleware"]
    with override_settings(
        ROOT_URLCONF="tests.integration.replay.site", MIDDLEWARE=middleware, ALLOWED_HOSTS=["testserver"]
    ):
        yield site


@pytest.fixture
def atomic(make_pool: MakePool) -> str:
    site.alias = make_pool(ATOMIC_REQUESTS=True)
    return site.alias


@pytest.fixture
def autocommit(make_pool: MakePool) -> str:
    site.alias = make_pool()
    return site.alias
