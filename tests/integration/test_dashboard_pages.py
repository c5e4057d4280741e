"""What is on the dashboard's pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import Client

from tests.fixtures.api import publish
from tests.fixtures.dashboard import PAGES, client_of, site, url

pytestmark = pytest.mark.django_db(databases=["default", "other"])


@pytest.fixture(autouse=True)
def pages() -> Iterator[None]:
    with site():
        yield


@pytest.fixture
def operator() -> Client:
    return client_of("operator")


@pytest.mark.parametrize("page", PAGES)
def test_pages(page: str, operator: Client) -> None:
    publish()
    response = operator.get(url(page))
    assert response.status_code == 200
