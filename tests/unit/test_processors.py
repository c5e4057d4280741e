"""How busy processors are, as the kernel says, or doesn't."""

from __future__ import annotations

from pathlib import Path

import pytest

from django_dbpool.core import processors


def test_without_a_word_of_the_kernel_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, and in a container that hides it."""
    path = tmp_path / "stat"
    monkeypatch.setattr(processors, "_STAT", path)
    assert processors.processor_times() is None
    path.write_text("cpu nonsense\n")
    assert processors.processor_times() is None
    # user nice system idle iowait irq softirq steal guest guest_nice
    path.write_text("cpu  100 10 50 800 40 0 5 20 7 3\ncpu0 1 2 3 4\n")
    assert processors.processor_times() == (185.0, 1025.0)
