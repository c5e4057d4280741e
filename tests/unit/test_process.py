"""Which process this is: one answer, whoever asks first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from django_dbpool.core import process
from django_dbpool.core.process import Kind


def test_threads_that_ask_first_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Barrier(2, timeout=20)

    def determine_role() -> Kind:
        both.wait()
        return "web"

    monkeypatch.setattr(process, "determine_role", determine_role)
    monkeypatch.setattr(process, "_known", {})
    with ThreadPoolExecutor(2) as executor:
        first, second = (executor.submit(process.this_process) for _ in range(2))
        assert first.result() is second.result() is process.this_process()
