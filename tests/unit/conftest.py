"""For tests that need no server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings


@pytest.fixture
def templates() -> Iterator[None]:
    backend = {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
    with override_settings(TEMPLATES=[backend]):
        yield
