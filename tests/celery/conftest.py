"""Who sends tasks to the workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from tests.fixtures.broker import Broker, use_broker
from tests.fixtures.celery_state import celery_of_its_own


@pytest.fixture
def client(broker: Broker) -> Celery:
    return use_broker(Celery("client", set_as_current=False), broker.environment)


@pytest.fixture(autouse=True)
def _celery_of_its_own() -> Iterator[None]:
    with celery_of_its_own():
        yield
