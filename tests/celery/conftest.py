"""Who sends tasks to the workers."""

from __future__ import annotations

import pytest
from celery import Celery

from tests.fixtures.broker import Broker, use_broker


@pytest.fixture
def client(broker: Broker) -> Celery:
    return use_broker(Celery("client", set_as_current=False), broker.environment)
